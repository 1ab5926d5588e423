"""`Cluster`: Dask's cluster contract (`distributed.deploy`) over EC2 machines."""

from prefect_coiled.cluster.cluster import Cluster

__all__ = ["Cluster"]
