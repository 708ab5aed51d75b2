"""`python -m providers.simulator`: run the simulator by itself until interrupted."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys

from providers.simulator.accounts import CLIENT_ID, CLIENT_SECRET
from providers.simulator.local_server import running_simulator


async def _serve(*, port: int, as_json: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with running_simulator(port=port) as simulator:
        facts = {
            "url": simulator.url,
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            "providers": simulator.settings(),
        }
        text = json.dumps(facts) if as_json else f"Sandbox Slack and Google at {simulator.url} (Ctrl-C stops it)"
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
        await stop.wait()


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m providers.simulator", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free port")
    parser.add_argument("--json", action="store_true", help="print the address and settings as one JSON line")
    arguments = parser.parse_args()
    asyncio.run(_serve(port=arguments.port, as_json=arguments.json))


if __name__ == "__main__":
    main()
