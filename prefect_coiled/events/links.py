"""Links into AWS's console, for logs and messages. Pure: makes no call, and holds no secret."""

from __future__ import annotations

from urllib.parse import quote


def log_group_url(region: str, group: str) -> str:
    """Where the console shows a CloudWatch log group."""
    # The console wants what is behind the hash encoded twice, "%" as "$".
    return (
        f"https://{region}.console.aws.amazon.com/cloudwatch/home?region={region}"
        f"#logsV2:log-groups/log-group/{_encoded(group)}"
    )


def log_stream_url(region: str, group: str, stream: str) -> str:
    """Where the console shows the log stream of one machine."""
    return f"{log_group_url(region, group)}/log-events/{_encoded(stream)}"


def _encoded(name: str) -> str:
    return quote(quote(name, safe=""), safe="").replace("%", "$")
