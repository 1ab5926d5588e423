"""Who hears what is told and takes it out of the process or into a cell: Prefect, CloudWatch, a notebook."""
