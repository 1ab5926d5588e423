"""Prefect blocks: the account (where machines run and who pays) and the registry (where images are kept).

Importing this module registers both block types; it is what the `prefect.collections` entry point
names. `load_account` is how the rest of the library gets at an account.
"""

from prefect_coiled.blocks.account import Ec2DaskAccount
from prefect_coiled.blocks.loading import account_from_block, aload_account, load_account
from prefect_coiled.blocks.registry import Ec2DaskRegistry

__all__ = ["Ec2DaskAccount", "Ec2DaskRegistry", "account_from_block", "aload_account", "load_account"]
