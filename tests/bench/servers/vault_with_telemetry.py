"""The contender of `vault`, with the telemetry that the environment asks for; run in the same way."""

from __future__ import annotations

import asyncio
import socket
import sys
from contextlib import nullcontext
from pathlib import Path

import uvloop

from server.app import build_app, open_deployment
from server.runtime.garbage import tune
from server.runtime.uvicorn_server import Listener
from tests.bench.servers.vault import seed, settings_of


async def main(port: int, upstream: int, data: Path) -> None:
    """Seed, print the token, and serve until told to stop."""
    async with open_deployment(settings_of(port, upstream), data=data, is_measured=True) as deployment:
        token, proxied = await seed(deployment)
        async with nullcontext() if deployment.telemetry is None else deployment.telemetry.run(deployment):
            print(token, proxied, sep="\n", flush=True)
            listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            listening.bind(("127.0.0.1", port))
            tune()
            await Listener(build_app(deployment), [listening]).run()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])))
