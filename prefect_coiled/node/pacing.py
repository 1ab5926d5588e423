"""How a machine paces its calls to AWS when hundreds boot at once.

Parameter Store answers 40 reads a second of an AWS account, and CloudWatch Logs makes 50 streams:
https://docs.aws.amazon.com/general/latest/gr/ssm.html#limits_ssm,
https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/cloudwatch_limits_cwl.html
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

# Machines of one call to RunInstances whose first call to AWS falls into the same second.
FIRST_CALLS = 20.0
# Seconds between two tries, at most (give or take a half).
LONGEST = 8.0


def first_pause(index: int) -> float:
    """Seconds that a machine waits before its first call."""
    return max(0, index) / FIRST_CALLS


def pauses(
    first: float = 1.0, longest: float = LONGEST, chance: Callable[[], float] = random.random
) -> Iterator[float]:
    """Seconds between tries, longer and longer, and never the same for two machines."""
    pause = first
    while True:
        yield pause * (0.5 + chance())
        pause = min(pause * 2, longest)
