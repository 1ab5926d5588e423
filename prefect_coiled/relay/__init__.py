"""Takes what tasks ask of the Prefect API to the flow's own process, which asks the API for them.

    a task ─▶ forwarder, on the worker's loopback: a token of its own
                  ─▶ exchange, in the scheduler, by Dask's mutual TLS
                         ─▶ answering, in the flow's process: rules; the key is added here ─▶ the API

No machine holds a key of the API, and none needs a way to it: all goes by the connections that Dask has. What
tasks do not need is refused (see `rules`).

The worker's half (`forwarder`, `event_queue`) and the scheduler's (`exchange`) import nothing that a bare
worker lacks. Knows nothing of task runners.
"""
