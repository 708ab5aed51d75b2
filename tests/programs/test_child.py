"""The program's process: signals reach it, also while it starts."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from server.programs.child import run_child


class SignalingEnvironment(Mapping[str, str]):
    """This process's environment; a signal arrives while it is read for a program that starts."""

    def __init__(self, number: signal.Signals) -> None:
        self._number = number

    def __getitem__(self, name: str) -> str:
        return os.environ[name]

    def __len__(self) -> int:
        return len(os.environ)

    def __iter__(self) -> Iterator[str]:
        signal.raise_signal(self._number)
        return iter(os.environ)


async def test_a_signal_that_arrives_while_the_program_starts_reaches_it() -> None:
    missed: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: missed.append(number))
    try:
        assert await run_child(["sleep", "30"], SignalingEnvironment(signal.SIGUSR1)) == 128 + signal.SIGUSR1
        assert await run_child(["true"], os.environ) == 0
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert missed == []


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGUSR2])
async def test_a_running_program_gets_our_signals(tmp_path: Path, number: signal.Signals) -> None:
    mark = tmp_path / "ready"
    script = f"trap 'kill $!; exit 9' {number.name.removeprefix('SIG')}; sleep 60 & touch {mark}; wait"
    running = asyncio.create_task(run_child(["sh", "-c", script], os.environ))
    async with asyncio.timeout(60):
        while not mark.exists():
            await asyncio.sleep(0.01)
        signal.raise_signal(number)
        assert await running == 9
