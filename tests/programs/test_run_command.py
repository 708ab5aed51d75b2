"""The command itself: its own process, the program's process, and how one ends with the other."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from server.cli import app
from server.programs.printed_environment import printed_environment, told_to_end
from tests.support.processes import PROGRAM, Place, free_port


@pytest.fixture
def place(tmp_path: Path) -> Place:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    made = Place(data, free_port())
    made.configure()
    (data / "config.toml").chmod(0o600)
    return made


@asynccontextmanager
async def start_run(place: Place, *command: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *PROGRAM, "run", "--data", str(place.data), *command,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=place.environment(),
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_standard_streams_and_the_exit_code_are_the_programs(place: Place) -> None:
    async with start_run(place, "--json", "--agent", "one", "--", "sh", "-c", "cat; echo told >&2; exit 3") as process:
        async with asyncio.timeout(60):
            out, err = await process.communicate(b"given")
        assert (process.returncode, out) == (3, b"given")
        assert b"told" in err
        assert b'"exit_code": 3' in err


async def test_what_cannot_be_run_as_wanted_is_said_instead(place: Place) -> None:
    mark = place.data / "ran"
    for options, code, said in (
        (["--", "no-such-program-here"], 127, "no such program"),
        (["--", "sh", "-c"], 1, "add --agent NAME"),
        (["--account", "nobody", "--"], 1, 'no connected account is called "nobody"'),
        (["--print-env", "--agent", "one", "--"], 1, "either --print-env or a command"),
        (["--device", "--"], 1, "require --url"),
        (["--url", "http://vault.example", "--"], 1, "use https for --url"),
    ):
        arguments = ["run", "--data", str(place.data), "--no-browser", *options, "touch", str(mark)]
        ran = await asyncio.to_thread(CliRunner().invoke, app, arguments)
        assert ran.exit_code == code
        assert said in ran.stderr
    assert not mark.exists()


async def test_the_environment_is_printed_and_works_until_it_is_ended(place: Place) -> None:
    async with start_run(place, "--print-env", "--agent", "one") as process:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            printed = (await process.stdout.read()).decode()  # until the end, as $(...) reads
        variables = dict(line.removeprefix("export ").split("=", 1) for line in printed.splitlines() if "=" in line)
        assert variables["VAULT_RUN_PID"] == str(process.pid)
        assert variables["HTTPS_PROXY"].startswith("http://run:")
        assert Path(variables["SSL_CERT_FILE"]).exists()
        process.terminate()
        async with asyncio.timeout(60):
            assert await process.wait() == 0
        assert not Path(variables["SSL_CERT_FILE"]).exists()


async def test_a_signal_that_the_shell_ignores_for_us_ends_nothing() -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with told_to_end():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        signal.signal(signal.SIGINT, signal.default_int_handler)
        async with asyncio.timeout(30):
            with told_to_end() as ended:  # the twin
                os.kill(os.getpid(), signal.SIGINT)
                await ended.wait()
    finally:
        signal.signal(signal.SIGINT, before)


async def test_whoever_reads_the_environment_can_end_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def write(self, text: str, /) -> int:
            os.kill(os.getpid(), signal.SIGTERM)  # without a handler, this would end the tests
            return super().write(text)

        def fileno(self) -> int:
            return file.fileno()

    with (tmp_path / "out").open("w") as file:
        monkeypatch.setattr(sys, "stdout", Terminal())
        async with asyncio.timeout(30):
            assert await printed_environment({}, as_json=True)([], {}) == 0


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGTERM, id="told", marks=pytest.mark.long),  # test_child.py tests it without the command
        pytest.param(signal.SIGKILL, id="killed"),
    ],
)
async def test_the_program_ends_with_us(place: Place, number: signal.Signals) -> None:
    async with start_run(place, "--agent", "one", "--", "sh", "-c", "echo $$; exec sleep 600") as process:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            child = int(await process.stdout.readline())
            process.send_signal(number)
            await process.wait()
            while is_running(child):
                await asyncio.sleep(0.05)
        assert process.returncode == (128 + number if number is signal.SIGTERM else -number)


def is_running(identity: int) -> bool:
    try:
        os.kill(identity, 0)
        return "Z" not in Path(f"/proc/{identity}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
