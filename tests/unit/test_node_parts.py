"""The node's parts that need no process: timers, log shipping, fetching keys, the entry point."""

import socket
import threading
import time

import pytest
from botocore.exceptions import ClientError

from prefect_coiled.errors import NodeError
from prefect_coiled.node.logs import BATCH_EVENTS, EVENT_BYTES, LogShipper
from prefect_coiled.node.main import main
from prefect_coiled.node.secrets import fetch_secrets
from prefect_coiled.node.silence import bear, patience
from prefect_coiled.node.timers import Timers
from prefect_coiled.plan.node_config import NodeSecrets


def test_no_client_counts_from_the_first_client_on():
    timers = Timers(0, no_client_timeout=10, cluster_timeout=None, grace=100)
    assert timers.check(50, 0) is None
    assert timers.check(51, 1) is None
    assert timers.check(60, 0) is None
    assert timers.check(69.9, 0) is None
    assert timers.check(70, 0) == "no-client"


def test_a_client_that_comes_back_starts_the_count_anew():
    timers = Timers(0, no_client_timeout=10, cluster_timeout=None)
    timers.check(1, 1)
    timers.check(2, 0)
    timers.check(11, 1)
    assert timers.check(13, 0) is None
    assert timers.check(22.9, 0) is None
    assert timers.check(23, 0) == "no-client"


def test_a_client_that_is_gone_without_a_word_counts_from_its_last_one():
    timers = Timers(0, no_client_timeout=10, cluster_timeout=None)
    assert timers.check(30, 1, heard=14) is None
    assert timers.check(31, 0, heard=22) is None
    assert timers.check(32, 0, heard=22) == "no-client"


@pytest.mark.parametrize(
    ("timeout", "seconds"), [(120.0, 240.0), (3.0, 30.0), (600.0, 1200.0), (None, 240.0)]
)
def test_a_client_may_be_away_for_its_timeout_and_come_back_as_long_after(timeout, seconds):
    assert patience(timeout) == seconds


def test_without_any_client_the_count_starts_after_the_grace():
    timers = Timers(0, no_client_timeout=10, cluster_timeout=None, grace=100)
    assert timers.check(100, 0) is None
    assert timers.check(110, 0) == "no-client"


def test_a_client_that_came_and_went_between_two_looks_counts() -> None:
    timers = Timers(0, no_client_timeout=10, cluster_timeout=None, grace=600)
    assert timers.check(1, 0) is None
    timers.client_came()
    assert timers.check(5, 0) is None
    timers.client_came()
    assert timers.check(16, 0) is None
    assert timers.check(25, 0) is None
    assert timers.check(26, 0) == "no-client"


def test_no_timeout_means_never_and_the_cluster_timeout_holds_with_clients():
    assert Timers(0, None, None).check(1e9, 0) is None
    assert Timers(5, None, 10).check(15, 3) == "cluster-timeout"


def refusal(code):
    return ClientError({"Error": {"Code": code, "Message": "no"}}, "op")


class Cloud:
    """A CloudWatch that records, and fails as told."""

    def __init__(self, *failures):
        self.failures = list(failures)
        self.batches = []
        self.streams = []

    def put_log_events(self, logGroupName, logStreamName, logEvents):  # noqa: N803
        if self.failures:
            raise self.failures.pop(0)
        self.batches.append(logEvents)

    def create_log_stream(self, logGroupName, logStreamName):  # noqa: N803
        self.streams.append(logStreamName)

    def messages(self):
        return [event["message"] for batch in self.batches for event in batch]


def ship(cloud, lines, timeout_s=5.0, **options):
    shipper = LogShipper(lambda: cloud, "g", "i-1", interval_s=0.01, **options)
    for line in lines:
        shipper.line(line)
    shipper.start()
    return shipper, shipper.close(timeout_s)


class WithAClock(Cloud):
    """A CloudWatch that leaves out what is more than two hours from its own time, as AWS does."""

    now = 1_000_000_000_000

    def put_log_events(self, logGroupName, logStreamName, logEvents):  # noqa: N803
        old = [event for event in logEvents if event["timestamp"] < self.now - 7_200_000]
        new = [event for event in logEvents if event["timestamp"] > self.now + 7_200_000]
        self.batches.append([event for event in logEvents if event not in (*old, *new)])
        info = {"tooOldLogEventEndIndex": len(old)} if old else {}
        info |= {"tooNewLogEventStartIndex": len(logEvents) - len(new)} if new else {}
        return {"rejectedLogEventsInfo": info} if info else {}


@pytest.mark.parametrize("off", [-86400 * 365, 86400])
def test_lines_from_before_the_clock_was_set_come_as_of_then(off):
    cloud = WithAClock()
    clock = [cloud.now / 1000 + off]
    shipper = LogShipper(lambda: cloud, "g", "s", interval_s=0.01, clock=lambda: clock[0])
    for text in ("first", "second"):
        shipper.line(text)
    clock[0] = cloud.now / 1000
    shipper.line("third")
    shipper.start()
    assert shipper.close(5)
    assert cloud.messages() == ["first", "second", "third"]
    times = [event["timestamp"] for batch in cloud.batches for event in batch]
    assert times == sorted(times)


def test_lines_of_a_clock_that_stays_wrong_are_lost_and_nothing_waits_for_them():
    cloud = WithAClock()
    shipper = LogShipper(lambda: cloud, "g", "s", interval_s=0.01, clock=lambda: cloud.now / 1000 + 86400)
    shipper.line("lost")
    shipper.start()
    assert shipper.close(5)
    assert cloud.messages() == []


def test_a_machine_makes_its_stream_first_and_sends_lines_in_order():
    cloud = Cloud()
    _, done = ship(cloud, ["a", "", "c"])
    assert done
    assert cloud.messages() == ["a", " ", "c"]
    assert cloud.streams == ["i-1"]


def test_a_stream_that_is_gone_is_made_again():
    cloud = Cloud(refusal("ResourceNotFoundException"))
    _, done = ship(cloud, ["a"])
    assert done
    assert cloud.messages() == ["a"]
    assert cloud.streams == ["i-1", "i-1"]


def test_batches_keep_the_limits_of_cloudwatch():
    cloud = Cloud()
    lines = ["x" * 90_000] * 30 + ["y"] * (BATCH_EVENTS + 5)
    _, done = ship(cloud, lines)
    assert done
    assert len(cloud.messages()) == len(lines)
    for batch in cloud.batches:
        assert len(batch) <= 10_000
        assert sum(len(e["message"]) + 26 for e in batch) <= 1_048_576
        assert [e["timestamp"] for e in batch] == sorted(e["timestamp"] for e in batch)


def test_a_very_long_line_is_split_and_nothing_of_it_is_lost():
    cloud = Cloud()
    ship(cloud, ["z" * (3 * EVENT_BYTES + 7)])
    assert "".join(cloud.messages()) == "z" * (3 * EVENT_BYTES + 7)
    assert max(map(len, cloud.messages())) <= 262_144 - 26


def test_a_clock_that_is_set_back_does_not_disorder_events():
    times = iter([100.0, 50.0, 101.0])
    cloud = Cloud()
    ship(cloud, ["a", "b", "c"], clock=lambda: next(times))
    assert [e["timestamp"] for e in cloud.batches[0]] == [100_000, 100_000, 101_000]


def test_lines_survive_an_outage():
    cloud = Cloud(*[refusal("ServiceUnavailableException")] * 3)
    _, done = ship(cloud, ["a", "b"])
    assert done
    assert cloud.messages() == ["a", "b"]


def test_while_cloudwatch_is_down_the_buffer_is_bounded_and_the_loss_is_told():
    cloud = Cloud()
    _, done = ship(cloud, [f"line {i:04}" for i in range(1000)], buffer_bytes=100 * 36)
    assert done
    found = cloud.messages()
    assert found[-1] == "line 0999"
    assert found[0].startswith("(")
    assert int(found[0][1:].split()[0]) + len(found) - 1 == 1000


def test_closing_is_bounded_when_cloudwatch_hangs():
    release = threading.Event()

    class Hung(Cloud):
        def put_log_events(self, **kwargs):
            release.wait(10)

    began = time.monotonic()
    ship(Hung(), ["a"], timeout_s=0.3)
    assert time.monotonic() - began < 2
    release.set()


@pytest.mark.parametrize("times", [1, 2])
def test_a_batch_that_cloudwatch_refuses_for_good_does_not_hold_up_the_rest_and_is_told(times):
    cloud = Cloud(*[refusal("InvalidParameterException")] * times)
    _, done = ship(cloud, ["bad", "bad"])
    assert done
    # What cannot even be told is let go.
    assert [m[:21] for m in cloud.messages()] == ["(2 log lines were los"] * (2 - times)


def test_lines_of_more_than_a_day_go_in_batches_that_cloudwatch_takes():
    hours = iter([0, 23, 25, 48])
    cloud = Cloud()
    ship(cloud, ["a", "b", "c", "d"], clock=lambda: next(hours) * 3600.0)
    assert [[e["message"] for e in batch] for batch in cloud.batches] == [["a", "b"], ["c", "d"]]


class Store:
    def __init__(self, *replies):
        self.replies = list(replies)

    def get_parameter(self, Name, WithDecryption):  # noqa: N803
        assert WithDecryption
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return {"Parameter": {"Value": reply}}


def test_keys_are_asked_for_again_while_the_role_is_new():
    secrets = NodeSecrets(ca="c", cert="c", key="k")
    store = Store(refusal("AccessDeniedException"), refusal("ParameterNotFound"), secrets.encode())
    assert fetch_secrets(lambda: store, "/p", sleep=lambda _: None) == secrets


def test_keys_that_never_come_are_an_error_with_awss_last_answer():
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds

    store = Store(*[refusal("AccessDeniedException")] * 100)
    with pytest.raises(NodeError, match=r"AccessDeniedException.*ssm:GetParameter"):
        fetch_secrets(lambda: store, "/p", wait_s=60, clock=lambda: now[0], sleep=sleep)
    assert now[0] <= 60


def test_a_configuration_that_cannot_be_read_powers_the_machine_off(tmp_path, monkeypatch, capsys):
    stand_in = tmp_path / "shutdown"
    stand_in.write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/off\n')
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    config = tmp_path / "node.json"
    config.write_text('{"role": "chef"}')
    assert main(["--config", str(config)]) == 1
    assert (tmp_path / "off").read_text() == "-h now\n"
    assert "reason=boot-failed" in capsys.readouterr().out


@pytest.mark.parametrize("hours", [1, 19, 24 * 7, 10 * 365 * 24])
def test_a_connection_bears_a_silence_of_any_length_as_far_as_the_kernel_does(hours: int) -> None:
    with socket.socket() as connection:
        bear(connection, patience(hours * 3600.0))
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            borne = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) / 1000
            assert borne == min(hours * 7200, (2**31 - 1) / 1000)
