"""The program itself: it uses our standard streams, receives our signals, and ends with this process."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

_FORWARDED: Final = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGINT", "SIGQUIT")
_OF_TERMINAL: Final = frozenset({signal.SIGINT, signal.SIGQUIT})
_PARENT_DEATH: Final = Path(__file__).parent / "parent_death.py"
_PATIENCE: Final = 10.0  # seconds that a program has to end


async def run_child(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run the program until it ends. Returns its exit code, or 128 plus the number of the signal that ended it."""
    loop = asyncio.get_running_loop()
    numbers = [signal.Signals[name] for name in _FORWARDED if hasattr(signal, name)]
    starting: asyncio.Future[asyncio.subprocess.Process] = loop.create_future()

    def tell(number: signal.Signals) -> None:
        starting.add_done_callback(lambda started: _forward(started.result(), number))  # immediately if it has started

    for number in numbers:
        loop.add_signal_handler(number, tell, number)
    try:
        process = await asyncio.create_subprocess_exec(*_dying_with_us(command), env=dict(environment))
        starting.set_result(process)
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            await _end(process)
            raise
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
    return code if code >= 0 else 128 - code


def find_program(name: str) -> str | None:
    """The file that would run; None if there is none."""
    return shutil.which(name)


def _dying_with_us(command: Sequence[str]) -> Sequence[str]:
    """On Linux, have the kernel end the program if this process is killed; `setpriv` of util-linux is faster."""
    if sys.platform != "linux":
        return command
    if (setter := shutil.which("setpriv")) is not None:
        return [setter, "--pdeathsig", "TERM", "--", *command]
    return [sys.executable, "-I", "-S", str(_PARENT_DEATH), str(os.getpid()), *command]


def _forward(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    if number in _OF_TERMINAL and _is_in_foreground():
        return  # the terminal already signaled the program
    with suppress(ProcessLookupError):
        process.send_signal(number)


def _is_in_foreground() -> bool:
    """Whether the terminal's keys (such as Ctrl-C) signal our process group, which includes the program."""
    for stream in (0, 1, 2):
        with suppress(OSError):
            if os.isatty(stream):
                return os.tcgetpgrp(stream) == os.getpgrp()
    return False


async def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
    await wait_or_kill(process, patience=_PATIENCE)


async def wait_or_kill(process: asyncio.subprocess.Process, *, patience: float, is_group: bool = False) -> None:
    """Wait for the process to end, and kill it after `patience` seconds; with `is_group`, kill the group it leads."""
    try:
        async with asyncio.timeout(patience):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            if is_group:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
        await process.wait()
