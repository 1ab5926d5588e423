"""What happens to an account's resources, told once: whoever shows or keeps it subscribes.

    aws.door, provision, tasks, cluster ─▶ tell(Event) ─▶ Stream ─▶ log lines, terminal, notebook, `report`,
                                                                    Prefect's artifacts, notifications

A subscriber hears of an event in the thread and the context of whoever tells, before `tell` returns, in the
order of telling. What goes wrong in it is its own affair. Here is the stream, and in which words and rows
things are told; what sends or draws them is in `subscribers` and `progress`.
"""

from prefect_coiled.events.stream import EVERYWHERE, Event, Stream, Watch, hearing, here, step, tell

__all__ = ["EVERYWHERE", "Event", "Stream", "Watch", "hearing", "here", "step", "tell"]
