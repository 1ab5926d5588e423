"""A thousand machines that boot at once get their keys and their log streams at AWS's rates."""

from __future__ import annotations

import heapq
import random

import pytest

from prefect_coiled.node.pacing import first_pause, pauses


def boot(machines: int, rate: float, *, together: bool = False) -> tuple[float, int, int]:
    """Let machines make one call each against a token bucket.

    Args:
        machines: How many, launched by 100, half a second apart.
        rate: Calls a second that AWS answers; as many at once.
        together: Whether all of them come at the same moment.

    Returns:
        Seconds until the last has its answer, refused calls, and calls in the busiest second.
    """
    chance = random.Random(1).random
    queue = []
    for n in range(machines):
        begun = 0.0 if together else n // 100 * 0.5 + first_pause(n % 100)
        queue.append((begun, n, pauses(chance=chance)))
    heapq.heapify(queue)
    tokens, at, refused = rate, 0.0, 0
    calls: dict[int, int] = {}
    while queue:
        now, n, rest = heapq.heappop(queue)
        tokens, at = min(rate, tokens + (now - at) * rate), now
        calls[int(now)] = calls.get(int(now), 0) + 1
        if tokens >= 1:
            tokens -= 1
        else:
            refused += 1
            heapq.heappush(queue, (now + next(rest), n, rest))
    return at, refused, max(calls.values())


@pytest.mark.parametrize("machines", [1, 4, 20])
def test_a_few_machines_wait_for_nothing(machines: int) -> None:
    seconds, refused, _ = boot(machines, 40)
    assert refused == 0
    assert seconds <= 1


def test_a_hundred_are_refused_nothing() -> None:
    assert boot(100, 40)[1] == 0


def test_a_thousand_have_their_keys_at_parameter_stores_rate() -> None:
    seconds, refused, busiest = boot(1000, 40)
    assert seconds < 60  # 25 at the very least; a machine gives up after 300
    assert refused < 2500
    assert busiest < 400  # so that other programs of the AWS account get their answers too


def test_even_without_a_spread_the_pauses_alone_bring_all_through() -> None:
    assert boot(1000, 40, together=True)[0] < 90


def test_a_thousand_make_their_log_streams_at_the_rate_of_cloudwatch() -> None:
    assert boot(1000, 50)[0] < 60
