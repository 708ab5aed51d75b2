"""The program's process: signals reach it, even while it starts."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from server.programs import child
from server.programs.child import run_child


class SignalingEnvironment(Mapping[str, str]):
    """This process's environment; a signal arrives while it is read for a starting program."""

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


@pytest.fixture
def bare(tmp_path: Path) -> str:
    """A PATH that has a shell and `sleep`, but no `setpriv`."""
    for name in ("sh", "sleep"):
        (tmp_path / name).symlink_to(shutil.which(name) or f"/bin/{name}")
    return str(tmp_path)


STARTER = """
import asyncio, os
from server.programs.child import run_child
asyncio.run(run_child(["sh", "-c", "echo $$; exec sleep 600"], os.environ))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux's kernel does it")
async def test_without_setpriv_the_program_ends_too_when_we_are_killed(bare: str) -> None:
    us = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", STARTER),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(child.__file__).parents[2],
        env={**os.environ, "PATH": bare},
    )
    assert us.stdout is not None
    async with asyncio.timeout(60):
        program = int(await us.stdout.readline())
        os.kill(program, 0)
        us.kill()
        await us.wait()
        while _is_running(program):
            await asyncio.sleep(0.05)


def _is_running(identity: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{identity}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False


async def test_without_setpriv_the_exit_code_is_the_programs(bare: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", bare)
    assert await run_child(["sh", "-c", "exit 7"], os.environ) == 7
    if sys.platform == "linux":
        assert await run_child(["no-such-program-here"], os.environ) == 127
