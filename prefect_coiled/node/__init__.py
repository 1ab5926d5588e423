"""What runs on a machine of the cluster, and looks after its end.

`main` is the entry point; `agent` tells the story. It may import errors, records and plan, boto3 and
distributed, and nothing else of this library.
"""
