"""Backend options: what may be chosen, whether it is right, and where each value came from.

`models` holds the options themselves and their validation; `precedence` merges the four places
they can be given in. Everything here is decided before the first call to AWS, and every error is
an `OptionsError` of one line. Imports nothing of AWS, Prefect or distributed.
"""

from prefect_coiled.options.file import cluster_defaults
from prefect_coiled.options.ingress import DEFAULT_PORTS, IngressRule
from prefect_coiled.options.models import (
    REGIONS,
    BackendOptions,
    Egress,
    NetworkIds,
    Region,
    RegistryKind,
    RegistryOptions,
    SpotPolicy,
)
from prefect_coiled.options.precedence import MergedOptions, Row, merge

__all__ = [
    "DEFAULT_PORTS",
    "REGIONS",
    "BackendOptions",
    "Egress",
    "IngressRule",
    "MergedOptions",
    "NetworkIds",
    "Region",
    "RegistryKind",
    "RegistryOptions",
    "Row",
    "SpotPolicy",
    "cluster_defaults",
    "merge",
]
