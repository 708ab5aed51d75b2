"""A person's terminal: real commands in a shell with an empty environment, and answers to their questions."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Answer = Callable[[str], str]
"""What to type at a question, from what was shown before it."""


@dataclass(frozen=True)
class CommandOutput:
    """What a command showed and its exit code; None while it runs."""

    text: str
    code: int | None


@dataclass
class Terminal:
    """One window. Exported variables and the folder persist between lines."""

    folder: Path  # the window's state
    environment: dict[str, str]
    cwd: Path
    running: list[subprocess.Popen[bytes]] = field(default_factory=list[subprocess.Popen[bytes]])

    async def type(
        self, line: str, *, answers: Sequence[tuple[str, Answer]] = (), patience: float = 240, feed: bytes | None = None
    ) -> CommandOutput:
        """Type a line and wait for its end. `answers`: what to type if the screen ends with that text.

        A question that is repeated ends the command with Ctrl-C: the person was told what is wrong and looks it up. A
        Ctrl-C between the question and the following read gets lost in C's `read`, so it is typed until it takes
        effect.
        """
        return await asyncio.to_thread(self._type_line, line, answers, patience, feed)

    async def start(self, line: str, *, until: str, patience: float = 30) -> CommandOutput:
        """Type a line whose program keeps running, and wait until it shows the pattern `until` or ends."""
        return await asyncio.to_thread(self._start, line, until, patience)

    async def close(self) -> None:
        """Stop what is still running here."""
        for process in self.running:
            if process.poll() is None:
                process.terminate()
                await asyncio.to_thread(_wait_for_end, process)
        self.running.clear()

    def _type_line(
        self, line: str, answers: Sequence[tuple[str, Answer]], patience: float, feed: bytes | None
    ) -> CommandOutput:
        state = self.folder / "state"
        kept = f'{line}\n__code=$?; env -0 > "{state}"; pwd > "{state}.cwd"; exit $__code\n'
        process, master = self._open(kept)
        waiting, shown, last, stopping = list(answers), b"", "", False
        if feed is not None:
            os.write(master, feed)
        with contextlib.closing(_Screen(master)) as screen:
            ends_at = time.monotonic() + patience
            while (piece := screen.read(ends_at, type_meanwhile=b"\x03" if stopping else b"")) is not None:
                shown += piece
                text = shown.decode(errors="replace")
                ending = text.rstrip("\r")
                if waiting and ending.endswith(waiting[0][0]):
                    last, answer = waiting.pop(0)
                    os.write(master, answer(text).encode() + b"\n")
                elif last and ending.endswith(last):
                    stopping = True
                    os.write(master, b"\x03")
        code = _wait_for_end(process)
        if state.exists():
            pairs = (item.split("=", 1) for item in state.read_bytes().decode().split("\0") if "=" in item)
            self.environment = {name: value for name, value in pairs if name not in {"_", "SHLVL", "OLDPWD", "PWD"}}
            self.cwd = Path(Path(f"{state}.cwd").read_text(encoding="utf-8").rstrip("\n"))
            state.unlink()
        return CommandOutput(_plain(shown), code)

    def _start(self, line: str, until: str, patience: float) -> CommandOutput:
        process, master = self._open(f"exec {line}")
        self.running.append(process)
        shown, ends_at = b"", time.monotonic() + patience
        screen = _Screen(master)
        while not re.search(until, _plain(shown)):
            piece = screen.read(ends_at)
            if piece is None:
                screen.close()
                return CommandOutput(_plain(shown), _wait_for_end(process))
            shown += piece
        return CommandOutput(_plain(shown), None)

    def _open(self, script: str) -> tuple[subprocess.Popen[bytes], int]:
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 240, 0, 0))
        process = subprocess.Popen(
            ["bash", "--noprofile", "--norc", "-c", script],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=self.cwd,
            env=self.environment,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(slave)
        return process, master


def _take_terminal() -> None:
    """Make this the controlling terminal, where passwords are asked for instead of on standard input."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class _Screen:
    def __init__(self, master: int) -> None:
        self._master = master

    def read(self, ends_at: float, *, type_meanwhile: bytes = b"") -> bytes | None:
        """Read output; None if the program has ended. `type_meanwhile` is typed every second. Raises TimeoutError."""
        while not self._has_something(min(ends_at, time.monotonic() + 1) if type_meanwhile else ends_at):
            if time.monotonic() >= ends_at:
                raise TimeoutError("the command did not end")
            os.write(self._master, type_meanwhile)
        try:
            return os.read(self._master, 65536) or None
        except OSError:  # EIO: the other side is closed
            return None

    def _has_something(self, until: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(0.0, until - time.monotonic()))
        return bool(ready)

    def close(self) -> None:
        os.close(self._master)


def _wait_for_end(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait(timeout=5)


def _plain(shown: bytes) -> str:
    """The text without colors, with plain line endings."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode(errors="replace")).replace("\r\n", "\n")


def empty_environment(home: Path, *, path: str, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a fresh login, without anything from the shell that runs this."""
    return {"HOME": str(home), "PATH": path, "TERM": "dumb", "LANG": "C.UTF-8"} | dict(more or {})
