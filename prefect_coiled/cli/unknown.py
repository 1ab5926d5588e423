"""What is said of a word that is no command: where a person finds what was probably meant."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

# Words of other tools, or of none, for what there is here by another name.
_MEANT = {
    "version": "--version",
    "help": "--help",
    "status": "ls",
    "clusters": "ls",
    "cluster": "ls",
    "init": "setup aws",
    "login": "setup aws",
    "configure": "setup aws",
    "config": "account explain",
    "delete": "stop",
    "down": "stop",
    "create": "demo",
    "up": "demo",
}


class Group(TyperGroup):
    """A group of commands that says of an unknown one where it is."""

    def invoke(self, ctx: Any) -> Any:
        """As Typer does, but for the words of what is refused.

        Raises:
            Exception: Of Click, which Typer brings or has as a part, by its version.
        """
        try:
            return super().invoke(ctx)
        except Exception as error:
            said = getattr(error, "message", None)
            if isinstance(said, str):
                error.message = said.replace("Value error, ", "")  # type: ignore[attr-defined]
            raise

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As Typer does, with the whole command where another group has it.

        Raises:
            Exception: Of Click's, as in `invoke`.
        """
        try:
            return super().resolve_command(ctx, args)
        except Exception as error:
            said = getattr(error, "message", None)
            if isinstance(said, str) and "Did you mean" not in said:
                hint = _hint(ctx.find_root().command, self, args[0])
                error.message = f"{said} {hint}".rstrip()  # type: ignore[attr-defined]
            raise


def _hint(root: Any, group: Any, word: str) -> str:
    found = [word] if group is not root and word in root.commands else []
    for name, one in root.commands.items():
        inner = getattr(one, "commands", {})
        if not one.hidden and word in inner and not inner[word].hidden:
            found.append(f"{name} {word}")
    if not found and word in _MEANT:
        found = [_MEANT[word]]
    if not found and group is not root and group.name == "setup" and not word.startswith("-"):
        found = [f"setup aws --account {word}"]
    return f"There is {' and '.join(f'`prefect-coiled {one}`' for one in found)}." if found else ""
