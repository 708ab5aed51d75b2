"""`run --print-env`: an environment for a shell that runs several programs, for as long as this process lives."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import sys
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

PID: Final = "VAULT_RUN_PID"  # the process to end: `kill $VAULT_RUN_PID`
_ENDS: Final = ("SIGTERM", "SIGINT", "SIGHUP")


def printed_environment(
    inherited: Mapping[str, str], *, as_json: bool
) -> Callable[[Sequence[str], Mapping[str, str]], Awaitable[int]]:
    """Instead of running a program, print what differs from the `inherited` environment, and wait to be ended."""

    async def hold(_: Sequence[str], environment: Mapping[str, str]) -> int:
        with told_to_end() as ended:  # before the text with the PID is printed
            sys.stdout.write(text_of(inherited, {**environment, PID: str(os.getpid())}, as_json=as_json))
            sys.stdout.flush()
            _leave_standard_output()
            await ended.wait()
        return 0

    return hold


def text_of(inherited: Mapping[str, str], environment: Mapping[str, str], *, as_json: bool) -> str:
    """The added, changed, and removed variables, as lines for a POSIX shell or as one line of JSON."""
    changed = {name: value for name, value in environment.items() if inherited.get(name) != value}
    removed = sorted(inherited.keys() - environment.keys())
    if as_json:
        return json.dumps({"environment": changed, "removed": removed}) + "\n"
    lines = [f"export {name}={shlex.quote(value)}" for name, value in changed.items() if name.isidentifier()]
    return "\n".join([*lines, *(f"unset {name}" for name in removed if name.isidentifier()), ""])


def _leave_standard_output() -> None:
    """Let a shell that reads our whole output, such as `eval "$(...)"`, continue."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


@contextmanager
def told_to_end() -> Generator[asyncio.Event]:
    """An event that a signal sets. Ignored signals stay ignored, as a shell requires for jobs started with `&`."""
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    named = [signal.Signals[name] for name in _ENDS if hasattr(signal, name)]
    numbers = [one for one in named if signal.getsignal(one) is not signal.SIG_IGN]
    for number in numbers:
        loop.add_signal_handler(number, ended.set)
    try:
        yield ended
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
