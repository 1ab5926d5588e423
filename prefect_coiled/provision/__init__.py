"""Provisioning as Prefect flows: set up an account, create and delete a cluster, add workers, sweep."""

from prefect_coiled.provision.account import set_up_account
from prefect_coiled.provision.clusters import add_workers, create_cluster
from prefect_coiled.provision.removal import delete_cluster, remove_cluster, sweep

__all__ = ["add_workers", "create_cluster", "delete_cluster", "remove_cluster", "set_up_account", "sweep"]
