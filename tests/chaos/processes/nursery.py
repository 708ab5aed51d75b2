"""Starts processes of a vault fast: everything is imported once, and each process is a fork that opens it again.

`python -m tests.chaos.processes.nursery` reads one JSON object a line and forks for each; `open_nursery` is the
driver's side. A process runs `mortal`, `remote`, or `interruptions` until its driver disconnects or kills it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from tests.chaos.world import PATIENCE, ROOT, environment
from tests.support.processes import end

LINE = 1 << 24  # bytes of one command or answer


class Mortal:
    """One process of a vault, as its driver sees it."""

    def __init__(self, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.pid = pid
        self._reader, self._writer = reader, writer
        self._handle = os.pidfd_open(pid)
        self.is_gone = False

    def tell(self, **command: object) -> None:
        """Send a command without waiting for its answer yet."""
        self._writer.write(json.dumps(command).encode() + b"\n")

    async def answer(self) -> dict[str, Any]:
        """The next answer; raises EOFError if the process is gone."""
        async with asyncio.timeout(PATIENCE):
            line = await self._reader.readline()
        if not line:
            raise EOFError("the process ended")
        return json.loads(line)

    async def ask(self, **command: object) -> dict[str, Any]:
        self.tell(**command)
        return await self.answer()

    def signal(self, number: signal.Signals) -> None:
        signal.pidfd_send_signal(self._handle, number)

    async def kill(self) -> None:
        """Kill it with SIGKILL, and wait until the kernel has removed it."""
        if not self.is_gone:
            with suppress(ProcessLookupError):
                self.signal(signal.SIGKILL)
            await self.wait_until_gone()

    async def wait_until_gone(self) -> None:
        """Wait for it to end."""
        if self.is_gone:
            return
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._handle, ended.set)
        try:
            async with asyncio.timeout(PATIENCE):
                await ended.wait()
        finally:
            loop.remove_reader(self._handle)
        self.is_gone = True
        os.close(self._handle)
        self._writer.close()


class Nursery:
    """The process that forks, and the socket to which its children report."""

    def __init__(self, process: asyncio.subprocess.Process, socket: Path) -> None:
        self._process = process
        self.socket = socket
        self._waiting: dict[int, asyncio.Future[Mortal]] = {}
        self._count = 0
        self.children: list[Mortal] = []

    async def start(self, about: Mapping[str, object]) -> Mortal:
        """Fork a new process, which starts to open its vault and answers `ready` once it is open."""
        assert self._process.stdin is not None
        self._count += 1
        number = self._count
        self._waiting[number] = asyncio.get_running_loop().create_future()
        order = {**about, "number": number, "socket": str(self.socket)}
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        async with asyncio.timeout(PATIENCE):
            born = await self._waiting[number]
        del self._waiting[number]
        self.children = [*(one for one in self.children if not one.is_gone), born]
        return born

    async def greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Let a child identify itself."""
        hello = json.loads(await reader.readline())
        self._waiting[hello["number"]].set_result(Mortal(hello["pid"], reader, writer))


@asynccontextmanager
async def open_nursery() -> AsyncGenerator[Nursery]:
    """Use in a block; processes still running at its end are killed."""
    with tempfile.TemporaryDirectory(prefix="tvn", dir="/tmp") as folder:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.chaos.processes.nursery",
            stdin=asyncio.subprocess.PIPE, cwd=ROOT, env=environment(),
        )  # fmt: skip
        nursery = Nursery(process, Path(folder) / "s")
        try:
            async with await asyncio.start_unix_server(nursery.greet, nursery.socket, limit=LINE):
                try:
                    yield nursery
                finally:
                    for child in nursery.children:
                        await child.kill()
        finally:
            if process.stdin is not None:
                process.stdin.close()
            await end(process)


def _fork(order: Mapping[str, Any], programs: Mapping[str, Callable[[Mapping[str, Any]], None]]) -> None:
    if os.fork() != 0:
        return
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        if skew := order.get("clock"):  # seconds by which this process's clock is off
            true = time.time
            time.time = lambda: true() + skew
        programs[order.get("program", "mortal")](order)
        code = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Import, then fork on demand."""
    from tests.chaos.crashes import interruptions
    from tests.chaos.processes import mortal, remote

    programs = {"mortal": mortal.live, "remote": remote.live, "interruptions": interruptions.live}
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nothing waits for the children here
    gc.freeze()
    for line in sys.stdin:
        _fork(json.loads(line), programs)


if __name__ == "__main__":
    main()
