"""A cluster that several deployments share by its name: kept warm by day, stopped at night.

    python flows/shared_cluster.py warm --name shared
    python flows/shared_cluster.py stop --name shared

Flows attach to it by `CoiledTaskRunner(name="shared")`, or by the parameter `cluster: {name: shared}`.
"""

from __future__ import annotations

import argparse

from prefect import flow

from prefect_coiled import Cluster, ClusterSettings, load_account
from prefect_coiled.options import merge
from prefect_coiled.provision import delete_cluster


@flow(name="keep warm", flow_run_name="keep {name} warm", log_prints=True)
def keep_warm(name: str = "shared", cluster: ClusterSettings = ClusterSettings()) -> int:
    """See that the cluster runs, with all of its workers. Run again, it makes what is missing.

    The cluster stays when this flow ends. `stop_cluster` ends it; if nobody does, it ends after 13 hours.

    Returns:
        How many workers it has.
    """
    wanted = cluster.over(n_workers=4, idle_timeout="13 hours", cluster_timeout="13 hours")
    wanted |= {"name": name, "shutdown_on_close": False, "quiet": True}
    with Cluster(**wanted) as running:
        if len(running.workers) < wanted["n_workers"]:
            running.scale(wanted["n_workers"])
        print(f"{name}: {len(running.workers)} workers, {running.cost().short} so far")
        return len(running.workers)


@flow(name="stop cluster", flow_run_name="stop {name}", log_prints=True)
def stop_cluster(name: str = "shared", cluster: ClusterSettings = ClusterSettings()) -> str:
    """Remove the cluster. Finds nothing to do where it does not run.

    Returns:
        What was removed.
    """
    wanted = cluster.over()
    account = load_account(wanted.get("account"))
    region = merge(wanted.get("backend_options"), account.options).options.region
    removed = str(delete_cluster(account.slug, region, name))
    print(f"{name}: removed {removed}")
    return removed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["warm", "stop"])
    parser.add_argument("--name", default="shared")
    options = parser.parse_args()
    (keep_warm if options.what == "warm" else stop_cluster)(options.name)
