"""Work in a fork of this process, which keeps all that was imported and nothing that the work changes."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

HUNG = "hung"
BROKE = "broke"


def in_child(work: Callable[[], object], *, seconds: float) -> object:
    """What the work returns (JSON); HUNG after so many seconds or when the child's own alarm rang; BROKE."""
    with tempfile.NamedTemporaryFile(prefix="token-vault-child-") as answer:
        child = os.fork()
        if child == 0:
            _work_and_end(work, Path(answer.name))
        status = _wait_for_child(child, seconds)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)  # programs that its tests started
        if status is None or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM):
            return HUNG
        text = Path(answer.name).read_text(encoding="utf-8")
        return json.loads(text) if text else BROKE


def _work_and_end(work: Callable[[], object], answer: Path) -> None:
    code = 1
    try:
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
    """A clock, in seconds, that stands still while the process waits for a processor, where Linux tells how long."""
    now = time.monotonic()
    with suppress(OSError, IndexError):
        now -= int(Path(f"/proc/{process}/schedstat").read_text(encoding="ascii").split()[1]) / 1e9
    return now


def _wait_for_child(child: int, seconds: float) -> int | None:
    began = own_seconds(child)
    while own_seconds(child) - began < seconds:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.02)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None
