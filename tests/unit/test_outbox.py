"""The states of task runs go to the API in batches, and are kept until the API shows them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.exceptions import PrefectHTTPStatusError

from prefect_coiled.task_runner import event_requests, events, recording
from prefect_coiled.task_runner.event_batches import Batch, Event
from prefect_coiled.task_runner.events import Outbox


class Api:
    """An API that records, loses and refuses events as it is told to."""

    def __init__(self) -> None:
        self.batches: list[list[dict[str, Any]]] = []
        self.recorded: set[str] = set()
        self.states: list[str] = []
        self.down = self.loses = False
        self.refuses: str | None = None
        # With which status, and how often; None for ever.
        self.status, self.refused = 422, 0
        self.times: int | None = None

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *error: Any) -> None: ...

    def request(self, method: str, path: str, **sent: Any) -> Any:
        if self.down:
            raise httpx.ConnectError("down")
        if path == "/events":
            batch = json.loads(sent["content"])
            if self.refuses in {event["id"] for event in batch} and self.refused != self.times:
                self.refused += 1
                response = httpx.Response(self.status, request=httpx.Request(method, "http://api/events"))
                raise PrefectHTTPStatusError("refused", request=response.request, response=response)
            self.batches.append(batch)
            if not self.loses:
                self.recorded |= {event["run"] for event in batch if event["final"]}
                self.states += [event["id"] for event in batch]
            return None
        if method == "GET":
            return httpx.Response(200, json=[{"id": state} for state in self.states])
        asked = sent["json"]["task_runs"]["id"]["any_"]
        return httpx.Response(200, json=len(self.recorded & set(asked)))


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    made = Api()
    monkeypatch.setattr(events, "get_client", lambda **_: made)
    # Nothing goes again but where a test is about that: on a busy machine any time may pass between steps.
    soon = {"_ASK": 0.05, "_GATHER": 0.01, "_PAUSE": 0.02, "_IDLE": 0.2}
    for name, value in {**soon, "_AGAIN": 60.0}.items():
        monkeypatch.setattr(events, name, value)
    return made


@pytest.fixture
def again_soon(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """What seems lost goes again after a moment."""
    monkeypatch.setattr(events, "_AGAIN", 0.2)


def event(run: UUID, final: bool = True, related: str = "[]") -> Event:
    state = uuid4()
    body = f'{{"id":"{state}","run":"{run}","final":{str(final).lower()},"related":{related}}}'
    return Event(run, state, body.encode(), final, related.count("{"))


def outbox(related: list[dict[str, str]] | None = None) -> Outbox:
    return Outbox(copy_context(), lambda: related or [])


def test_states_go_in_batches_with_what_they_are_related_to(api: Api) -> None:
    box = outbox([{"prefect.resource.id": "prefect.flow-run.1"}])
    runs = [uuid4() for _ in range(120)]
    box.add([each for run in runs for each in (event(run, False), event(run, True, '[{"a":"b"}]'))])
    assert box.settle(20)
    assert len(box) == 0
    # The ends in two, and what was before them in two.
    assert [len(batch) for batch in api.batches] == [100, 20, 100, 20]
    own = [each for batch in api.batches for each in batch if each["run"] == str(runs[0])]
    first, second = sorted(own, key=lambda each: bool(each["final"]))
    assert first["related"] == [{"prefect.resource.id": "prefect.flow-run.1"}]
    assert second["related"] == [{"a": "b"}, {"prefect.resource.id": "prefect.flow-run.1"}]


def test_states_of_runs_that_go_on_go_in_the_order_in_which_they_came(api: Api) -> None:
    box, runs = outbox(), [uuid4() for _ in range(3)]
    came = [event(run, False) for _ in range(4) for run in runs]
    box.add(came)
    assert box.settle(20)
    assert [each["id"] for batch in api.batches for each in batch] == [str(one.state) for one in came]


def test_the_ends_of_many_runs_go_before_what_they_were_earlier(api: Api) -> None:
    api.down = True
    box = outbox()
    runs, running = [uuid4() for _ in range(300)], uuid4()
    box.add([each for run in runs for each in (event(run, False), event(run, False), event(run))])
    box.add([event(running, False)])
    api.down = False
    assert box.settle(20)
    order = [each for batch in api.batches for each in batch]
    assert len(order) == 901
    # The first hundred may have been on their way before the others came.
    assert str(running) in {each["run"] for each in order[:200]}
    ends = [number for number, each in enumerate(order) if each["final"]]
    assert len(ends) == 300
    assert max(ends) <= 300
    # None is told before what it was earlier, where these are told after all ends.
    past = [each["run"] for each in order[max(ends) + 1 :]]
    assert past == [run for run in map(str, runs) for _ in range(past.count(run))]


def test_what_runs_were_before_waits_for_ends_on_their_way_but_not_for_ever(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.loses = True
    box, run = outbox(), uuid4()
    box.add([event(run, False), event(run)])
    _until(lambda: box.requests["questions"] > 3)
    assert [each["final"] for batch in api.batches for each in batch] == [True]
    monkeypatch.setattr(events, "_PATIENCE", 0.0)
    _until(lambda: len(api.batches) == 2)
    assert [each["final"] for each in api.batches[1]] == [False]


def test_for_how_long_nothing_waited_is_no_patience(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    later, real = [0.0], time.monotonic
    clock = SimpleNamespace(monotonic=lambda: real() + later[0], sleep=time.sleep)
    monkeypatch.setattr(events, "time", clock)
    api.loses = True
    box, run = outbox(), uuid4()
    later[0] = 10 * events._PATIENCE
    box.add([event(run, False), event(run)])
    _until(lambda: box.requests["questions"] > 3)
    assert [each["final"] for batch in api.batches for each in batch] == [True]


def test_what_runs_were_before_goes_when_the_api_has_their_ends(api: Api) -> None:
    box, run = outbox(), uuid4()
    box.add([event(run, False), event(run)])
    # Nobody waits for it.
    _until(lambda: not len(box))
    assert [each["final"] for batch in api.batches for each in batch] == [True, False]


def test_what_runs_were_before_goes_after_the_ends_of_others_also_when_it_was_handed_over(api: Api) -> None:
    api.loses = True
    first, second, third = outbox(), outbox(), outbox()
    early, late = uuid4(), uuid4()
    first.add([event(early, False), event(early)])
    _until(lambda: first.requests["questions"] > 0)
    api.down = True
    second.add([event(late, False), event(late)])
    handed = [*first.hand_over(), *second.hand_over()]
    api.down = api.loses = False
    api.recorded.add(str(early))
    third.take(handed)
    assert third.settle(20)
    told = [(each["run"], each["final"]) for batch in api.batches[1:] for each in batch]
    assert told[0] == (str(late), True)
    assert sorted(told[1:]) == sorted([(str(early), False), (str(late), False)])


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_api_gets_more_at_a_time_only_where_something_had_to_wait(api: Api) -> None:
    box = outbox()
    for _ in range(5):
        box.add([event(uuid4())])
        assert box.settle(20)
    assert box._window == events._WINDOW
    box.add([event(uuid4()) for _ in range(1_000)])
    assert box.settle(20)
    assert box._window > events._WINDOW


@pytest.mark.usefixtures("again_soon")
def test_states_of_runs_that_go_on_are_kept_until_the_api_shows_them(api: Api) -> None:
    api.loses = True
    box = outbox()
    box.add([event(uuid4(), False)])
    assert not box.settle(0.1)
    assert len(box) == 1
    api.loses = False
    assert box.settle(20)
    assert len(api.states) == 1


def test_an_api_that_is_down_gets_them_later(api: Api) -> None:
    api.down = True
    box = outbox()
    box.add([event(uuid4())])
    assert not box.settle(0.3)
    api.down = False
    assert box.settle(20)
    assert len(api.recorded) == 1


@pytest.mark.usefixtures("again_soon")
def test_what_the_api_lost_goes_again(api: Api) -> None:
    api.loses = True
    box, run = outbox(), uuid4()
    box.add([event(run)])
    assert not box.settle(0.1)
    api.loses = False
    assert box.settle(20)
    assert api.recorded == {str(run)}
    assert len(api.batches) >= 2


@pytest.mark.usefixtures("again_soon")
def test_runs_that_the_api_never_shows_are_given_up(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_TIMES", 2)
    api.loses = True
    box = outbox()
    box.add([event(uuid4())])
    assert box.settle(20)
    assert len(api.batches) == 2


def test_one_event_that_is_refused_does_not_keep_the_others(api: Api) -> None:
    box, runs = outbox(), [uuid4() for _ in range(3)]
    some = [event(run) for run in runs]
    api.refuses = json.loads(some[1].body)["id"]
    box.add(some)
    assert not box.settle(0.3)
    assert api.recorded == {str(runs[0]), str(runs[2])}


@pytest.mark.parametrize("status", [401, 403, 408, 410, 429])
def test_a_refusal_that_is_not_about_the_events_keeps_them_all_for_later(api: Api, status: int) -> None:
    box, runs = outbox(), [uuid4() for _ in range(3)]
    some = [event(run) for run in runs]
    api.refuses, api.status, api.times = json.loads(some[1].body)["id"], status, 2
    box.add(some)
    assert box.settle(20)
    # Nothing went by itself.
    assert [len(batch) for batch in api.batches] == [3]
    assert api.recorded == {str(run) for run in runs}
    assert api.refused == 2


def test_events_that_go_by_themselves_stop_where_the_api_wants_a_pause() -> None:
    some = [event(uuid4()) for _ in range(3)]
    sent: list[int] = []

    class Refuses:
        def request(self, method: str, path: str, content: bytes, headers: Any) -> None:
            sent.append(len(json.loads(content)))
            if status := {1: 422, 3: 429}.get(len(sent)):
                response = httpx.Response(status, request=httpx.Request(method, "http://api/events"))
                raise PrefectHTTPStatusError("refused", request=response.request, response=response)

    with pytest.raises(PrefectHTTPStatusError):
        event_requests.send(Refuses(), some, [])  # type: ignore[arg-type]
    assert sent == [3, 1, 1]


@pytest.mark.usefixtures("again_soon")
def test_more_are_in_flight_only_as_the_api_records_them(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_WINDOW", 150)
    api.loses = True
    box = outbox()
    box.add([event(uuid4()) for _ in range(1_000)])
    assert not box.settle(0.15)
    assert len({each["run"] for batch in api.batches for each in batch}) == 200
    api.loses = False
    assert box.settle(30)
    assert len(api.recorded) == 1_000


def test_what_is_handed_over_is_all_that_is_not_recorded_and_goes_from_there(api: Api) -> None:
    api.down = True
    first, second = outbox(), outbox()
    runs = [uuid4() for _ in range(5)]
    first.add([event(run) for run in runs])
    handed = first.hand_over()
    assert [each.run for batch in handed for each in batch.events] == runs
    assert len(first) == 0
    api.down = False
    second.take(handed)
    assert second.settle(20)
    assert api.recorded == {str(run) for run in runs}


def test_what_was_sent_before_it_was_handed_over_does_not_go_twice(api: Api) -> None:
    api.loses = True
    first, second, run = outbox(), outbox(), uuid4()
    first.add([event(run)])
    assert not first.settle(0.1)
    handed = first.hand_over()
    assert all(batch.age is not None for batch in handed)
    second.take(handed)
    # The API was only slow.
    api.recorded.add(str(run))
    assert second.settle(20)
    assert len(api.batches) == 1


@pytest.mark.usefixtures("again_soon")
def test_what_was_handed_over_and_is_lost_goes_again(api: Api) -> None:
    second, run = outbox(), uuid4()
    second.take([Batch([event(run)], age=60.0)])
    assert second.settle(20)
    assert api.recorded == {str(run)}


def test_nothing_goes_again_while_the_api_records_what_came_before(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_AGAIN", 1.0)
    monkeypatch.setattr(events, "_ASK", 0.01)
    api.loses = True
    box, runs = outbox(), [uuid4() for _ in range(250)]
    box.add([event(run) for run in runs])
    assert not box.settle(0.1)
    # Slowly, and all in all for longer than after which something goes again.
    for first in range(0, 250, 50):
        assert not box.settle(0.5)
        api.recorded |= {str(run) for run in runs[first : first + 50]}
    assert box.settle(20)
    assert len(api.batches) == 3


def test_when_one_that_was_lost_is_recorded_those_sent_before_it_go_again_at_once(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_AGAIN", 2.0)
    box, runs = outbox(), [uuid4() for _ in range(20)]
    box.take([Batch([event(run)], age=60.0) for run in runs])
    assert box.settle(20)
    assert api.recorded == {str(run) for run in runs}


def test_an_outbox_that_has_nothing_to_do_has_no_thread(api: Api) -> None:
    box = outbox()
    for _ in range(2):
        box.add([event(uuid4())])
        assert box.settle(20)
        thread = box._thread
        assert thread is None or thread is not threading.current_thread()
        if thread is not None:
            thread.join(20)
        assert box._thread is None
    assert len(api.recorded) == 2


def test_a_flood_is_gathered_as_long_as_it_lasts_and_not_for_ever(api: Api) -> None:
    box = outbox()
    box._added = came = 100.0
    few, many = events._FLOOD - 1, events._BATCH
    assert box._gather_for(came, few) == events._GATHER
    assert box._gather_for(came, many) == events._LONGEST_FLOOD
    # It is over: what makes a batch goes at once.
    assert box._gather_for(came + 2 * events._GATHER, many) == 0.0
    box.add([event(uuid4()) for _ in range(3 * many)])
    assert box.settle(20)
    assert [len(batch) for batch in api.batches] == [many] * 3


def test_a_process_waits_for_an_api_that_is_gone_once_and_not_for_each_of_its_flows(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.down = True
    boxes = [outbox() for _ in range(5)]
    for box in boxes:
        box.add([event(uuid4())])
    settle, waited = Outbox.settle, iter(range(1000))
    monkeypatch.setattr(recording, "_outboxes", boxes)
    monkeypatch.setattr(recording, "time", SimpleNamespace(monotonic=lambda: 20.0 * next(waited)))
    monkeypatch.setattr(Outbox, "settle", lambda box, timeout: False)
    recording.wait_until_recorded()
    # Looked at once each 20 seconds, and 60 are the bound.
    assert next(waited) <= 6
    api.down = False
    assert all(settle(box, 20) for box in boxes)
