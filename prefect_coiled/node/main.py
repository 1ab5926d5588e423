"""Entry point `prefect-coiled-node`: reads the configuration and runs the agent."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Run this machine; whatever happens, it powers off at the end.

    Args:
        arguments: Of the command line; by default those of the process.

    Returns:
        0 when it ended in order and the machine is powering off.
    """
    parser = argparse.ArgumentParser(prog="prefect-coiled-node", description=main.__doc__)
    parser.add_argument("--config", required=True, help="file with the configuration as JSON, or - for stdin")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=SECONDS", help="override a timing of the agent"
    )
    given = parser.parse_args(arguments)

    from prefect_coiled.errors import NodeError
    from prefect_coiled.node.agent import Agent, power_off
    from prefect_coiled.plan.node_config import NodeConfig

    try:
        text = sys.stdin.read() if given.config == "-" else Path(given.config).read_text(encoding="utf-8")
        config = NodeConfig.from_json(text)
        settings = {name: float(value) for name, _, value in (item.partition("=") for item in given.set)}
    except (NodeError, OSError, ValueError) as error:
        print(f"prefect-coiled: reason=boot-failed error={str(error)!r}; powering off", flush=True)
        power_off()
        return 1
    return Agent(config, settings=settings).run()


if __name__ == "__main__":
    sys.exit(main())
