"""The steps of provisioning as Prefect tasks. The work is in `aws`; the order is in `provision`."""
