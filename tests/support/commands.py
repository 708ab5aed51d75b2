"""Commands of the program: in this process, or in a separate one on a terminal, as a person sees and answers them."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import termios
from collections.abc import Sequence
from contextlib import suppress

from typer.testing import CliRunner, Result

from server.cli import app
from tests.conftest import Store
from tests.support.processes import Place


async def run(place: Place | Store, *command: str, feed: str | None = None) -> Result:
    """Run the command in this process, in a separate thread because it starts its own event loop."""
    arguments = [*command, "--data", str(place.data)]
    return await asyncio.to_thread(CliRunner().invoke, app, arguments, input=feed)


async def content(place: Place | Store, *command: str, feed: str | None = None) -> object:
    """The output of a successful command with `--json`."""
    result = await run(place, *command, "--json", feed=feed)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


async def run_on_terminal(
    place: Place, *command: str, answers: Sequence[tuple[str, str]] = (), columns: int = 100
) -> tuple[int, str]:
    """The exit code and everything that a person sees; each answer is typed once its question is shown."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, columns))
    known = {name: value for name, value in place.environment().items() if name not in {"COLUMNS", "LINES"}}
    process = await asyncio.create_subprocess_exec(
        *place.arguments(*command),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=known | {"TERM": "xterm"},
        start_new_session=True,
    )
    os.close(theirs)

    def read() -> str:
        seen, unanswered, waiting = b"", b"", list(answers)
        with suppress(OSError):  # how Linux reports that the other end is closed
            while part := os.read(ours, 65536):
                seen += part
                unanswered += part
                if waiting and f"{waiting[0][0]}: ".encode() in unanswered:
                    unanswered = b""
                    os.write(ours, f"{waiting.pop(0)[1]}\n".encode())
        assert not waiting, seen
        return re.sub(r"\x1b\[[0-9;]*m", "", seen.decode())

    async with asyncio.timeout(60):
        seen = await asyncio.to_thread(read)
        code = await process.wait()
    os.close(ours)
    return code, seen
