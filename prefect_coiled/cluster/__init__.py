"""`Cluster`: Dask's cluster contract (`distributed.deploy`) over EC2 machines."""

from prefect_coiled.dask_files import dask_files_told

with dask_files_told():
    from prefect_coiled.cluster.cluster import Cluster

__all__ = ["Cluster"]
