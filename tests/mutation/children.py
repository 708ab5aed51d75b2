"""Run work in a fork of this process, which keeps all imports and discards everything that the work changes.

Also ends a run early with everything that it started, if it gets SIGTERM.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Literal

ENDING = 60  # seconds for a process to end what it started
HUNG = "hung"
BROKE = "broke"


def in_child(work: Callable[[], object], *, seconds: float, step: Path | None = None) -> object:
    """Returns what the work returns (JSON), HUNG after this time or after a step's own limit, or BROKE."""
    with tempfile.NamedTemporaryFile(prefix="token-vault-child-") as answer:
        child = os.fork()
        if child == 0:
            _work_and_end(work, Path(answer.name))
        try:
            status = _wait_for_child(child, seconds, step)
        except KeyboardInterrupt:
            _kill(child)
            raise
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)  # programs that its tests started
        if status is None:
            return HUNG
        text = Path(answer.name).read_text(encoding="utf-8")
        return json.loads(text) if text else BROKE


def _work_and_end(work: Callable[[], object], answer: Path) -> None:
    code = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setpgid(0, 0)
        silence = os.open(os.devnull, os.O_RDWR)
        for one in (0, 1):
            os.dup2(silence, one)
        result = json.dumps(work())
        answer.write_text(result, encoding="utf-8")
        code = 0
    except BaseException:  # noqa: BLE001  a child must not come back into the parent's code
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def own_seconds(process: int | Literal["self"] = "self") -> float:
    """A clock, in seconds, that stops while the process waits for a CPU, on Linux, which says for how long."""
    now = time.monotonic()
    with suppress(OSError, IndexError):
        now -= int(Path(f"/proc/{process}/schedstat").read_text(encoding="ascii").split()[1]) / 1e9
    return now


def own_seconds_since(began: float) -> float:
    """Never negative: the two parts of the clock are read one after the other, with a possible wait in between."""
    return max(0.0, own_seconds() - began)


def begin_step(path: Path, name: str, *, seconds: float) -> None:
    """In the child: begin a step that may take this long; it ends when the next one begins."""
    unfinished = path.with_suffix(".part")
    unfinished.write_text(f"{seconds}\n{name}", encoding="utf-8")
    unfinished.replace(path)


def step_name(path: Path) -> str:
    """The step that began last; empty if none has begun."""
    return path.read_text(encoding="utf-8").partition("\n")[2] if path.exists() else ""


def _wait_for_child(child: int, seconds: float, step: Path | None) -> int | None:
    began = own_seconds(child)
    end, current = began + seconds, 0
    while (now := own_seconds(child)) < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        if step is not None and step.exists() and (written := step.stat().st_mtime_ns) != current:
            current = written
            end = min(began + seconds, now + float(step.read_text(encoding="utf-8").partition("\n")[0]))
        time.sleep(0.02)
    _kill(child)
    return None


def _kill(child: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def end_when_told() -> None:
    """From now on, the first SIGTERM or SIGINT raises KeyboardInterrupt, so that `finally` and `atexit` end the rest.

    Later ones, which would interrupt that, do nothing.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for one in (signal.SIGTERM, signal.SIGINT):
            signal.signal(one, lambda *_: None)
        raise KeyboardInterrupt

    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, interrupt)


def wait_for_all(running: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait for these processes; when this one is told to end, they end first."""
    try:
        for one in running:
            one.wait()
    except KeyboardInterrupt:
        for one in running:
            one.terminate()
        for one in running:
            try:
                one.wait(timeout=ENDING)
            except subprocess.TimeoutExpired:
                one.kill()
        raise
