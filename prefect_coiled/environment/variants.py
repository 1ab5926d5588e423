"""Local builds: several builds of one version, told apart by a label ("2.3.0+cu121", "2.3.0+cpu").

See https://packaging.python.org/en/latest/specifications/version-specifiers/#local-version-identifiers.
"""

from __future__ import annotations

import re
from dataclasses import replace

from prefect_coiled.environment.index_settings import Index, Source
from prefect_coiled.environment.indexes import Indexes

# Each build has an index of its own: https://docs.astral.sh/uv/guides/integration/pytorch/
_TORCH = re.compile(r"torch|torch(vision|audio|text|data|ao|rec|codec|tune|-\w+)|pytorch-\w+")
_TORCH_LABEL = re.compile(r"cpu|xpu|cu\d{2,3}|rocm\d[\d.]*")
_TORCH_INDEX = "https://download.pytorch.org/whl/{label}"


def label_of(version: str) -> str:
    """The label of a version or of a pin, or ""."""
    return version.partition("+")[2]


def public_of(pin: str) -> str:
    """The pin without the label."""
    return pin.partition("+")[0]


def home_of(name: str, label: str) -> str:
    """The address of the public index that is known to have a build, or ""."""
    known = _TORCH.fullmatch(name) and _TORCH_LABEL.fullmatch(label)
    return _TORCH_INDEX.format(label=label) if known else ""


def where_to_say(name: str, label: str, indexes: Indexes) -> str:
    """What to do so that a local build is found."""
    url = home_of(name, label) or "ADDRESS"
    index = f"pytorch-{label}" if url != "ADDRESS" else "builds"
    if indexes.tool == "uv":
        return (
            f'Say which index has it, in pyproject.toml: [[tool.uv.index]] name = "{index}", url = "{url}", '
            f'explicit = true; and [tool.uv.sources] {name} = {{ index = "{index}" }}.'
        )
    return f"Say which index has it: PIP_EXTRA_INDEX_URL={url} in the environment, or in pip.conf."


def with_backend(indexes: Indexes, name: str, label: str) -> Indexes | None:
    """The indexes with that of a build, where uv was told to choose among PyTorch's itself; else None.

    Args:
        label: Of its build here; without one, the backend that was told.
    """
    backend = indexes.settings.torch_backend
    url = home_of(name, label or backend) if backend else ""
    if not url:
        return None
    index = Index(url, name=f"pytorch-{label or backend}", explicit=True)
    settings = indexes.settings
    more = {**settings.sources, name: (Source(index.name),)}
    return replace(indexes, settings=replace(settings, indexes=(*settings.indexes, index), sources=more))
