"""`CoiledTaskRunner`: runs a Prefect flow's tasks on a Dask cluster of EC2 machines.

    runner ─▶ connection: the cluster, made once in a thread, in the flow's context
       │ ├──▶ opening: the options of this flow run, the Prefect API, the cluster itself
       │ ├──▶ shipping: what travels to a worker, and what runs there
       │ └──▶ futures ─▶ lost_tasks: terminal states for what Dask gave up
       └────▶ ledger, flow_end: no flow run ends well while a task of it is unsettled

A runner is made wherever its flow is imported, on workers too, so nothing of AWS is imported here.
"""

from prefect_coiled.task_runner.runner import CoiledTaskRunner

__all__ = ["CoiledTaskRunner"]
