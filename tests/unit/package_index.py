"""A package index for tests: wheels in folders, some of them with a password. Nothing leaves this machine."""

from __future__ import annotations

import base64
import functools
import hashlib
import http.server
import io
import os
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

USER, PASSWORD = "reader-of-wheels", "canary-4f1a"
# Who may read what is below a folder of the index.
READERS = {"private": (USER, PASSWORD), "second-private": ("other-reader", "canary-77c2")}


def wheel(
    folder: Path,
    name: str,
    version: str,
    tag: str = "py3-none-any",
    requires: Sequence[str] = (),
    files: Mapping[str, str] | None = None,
) -> Path:
    """Write a wheel with a module that says its version, and other files; gives its path."""
    folder.mkdir(parents=True, exist_ok=True)
    file, info = name.replace("-", "_"), f"{name.replace('-', '_')}-{version}.dist-info"
    path = folder / f"{file}-{version}-{tag}.whl"
    needs = "".join(f"Requires-Dist: {one}\n" for one in requires)
    with zipfile.ZipFile(path, "w") as made:
        made.writestr(f"{file}.py", f"version = {version!r}\n")
        for path, content in (files or {}).items():
            made.writestr(path, content)
        made.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
        made.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        made.writestr(f"{info}/RECORD", "")
    return path


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves folders as an index does; `seen` holds what was asked for, and whether it was let in."""

    seen: list[tuple[str, bool]] = []

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        part = self.path.split("/")[1]
        wanted = "Basic " + base64.b64encode(":".join(READERS.get(part, ("", ""))).encode()).decode()
        let_in = self.headers.get("Authorization") == wanted
        self.seen.append((self.path, let_in))
        if part in READERS and not let_in:
            self.send_response(401)
            self.send_header("WWW-Authenticate", "Basic")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        # Some indexes refuse what they do not have.
        if part == "refusing" and not Path(self.translate_path(self.path)).exists():
            self.send_error(403)
            return
        super().do_GET()

    do_HEAD = do_GET  # noqa: N815

    def list_directory(self, path: str | os.PathLike[str]) -> io.BytesIO:
        """As indexes do (PEP 503): each file with its hash, but for those of which it is said otherwise."""
        links = []
        for file in sorted(Path(path).iterdir()):
            if file.is_dir():
                links.append(f"{file.name}/")
            elif file.name.startswith("hashless-"):
                links.append(file.name)
            else:
                links.append(f"{file.name}#sha256={hashlib.sha256(file.read_bytes()).hexdigest()}")
        text = "".join(f'<a href="{link}">{link.partition("#")[0].rstrip("/")}</a>\n' for link in links)
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        return io.BytesIO(text.encode())


@contextmanager
def serve(root: Path) -> Iterator[str]:
    """Serve a folder; gives the address."""
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(root))
    )
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
