"""Prefect blocks: the account (where machines run and who pays), where images are, and where results are.

Importing this module registers the block types; it is what the `prefect.collections` entry point
names. `load_account` is how the rest of the library gets at an account.
"""

from prefect_coiled.blocks.account import Ec2DaskAccount
from prefect_coiled.blocks.loading import account_from_block, aload_account, load_account
from prefect_coiled.blocks.registry import Ec2DaskRegistry
from prefect_coiled.blocks.results import Ec2DaskResults

__all__ = [
    "Ec2DaskAccount",
    "Ec2DaskRegistry",
    "Ec2DaskResults",
    "account_from_block",
    "aload_account",
    "load_account",
]
