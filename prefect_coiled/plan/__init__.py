"""Pure planning: (options, what exists) -> what to make. No clock, no network, no randomness of its own.

Nothing here imports boto3, prefect or distributed.
"""
