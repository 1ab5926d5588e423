"""Provisioning as Prefect flows: set up an account, create, scale and delete clusters, sweep, destroy."""

from prefect_coiled.provision.bake import bake_image
from prefect_coiled.provision.cluster_removal import delete_cluster, remove_cluster
from prefect_coiled.provision.clusters import add_workers, create_cluster
from prefect_coiled.provision.destruction import destroy_account
from prefect_coiled.provision.firewall import change_ingress
from prefect_coiled.provision.inventory import take_inventory
from prefect_coiled.provision.planning import plan_destruction, plan_set_up, plan_sweep
from prefect_coiled.provision.set_up import set_up_account
from prefect_coiled.provision.sweeping import sweep

__all__ = [
    "add_workers",
    "bake_image",
    "change_ingress",
    "create_cluster",
    "delete_cluster",
    "destroy_account",
    "plan_destruction",
    "plan_set_up",
    "plan_sweep",
    "remove_cluster",
    "set_up_account",
    "sweep",
    "take_inventory",
]
