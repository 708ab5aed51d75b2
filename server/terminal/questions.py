"""Asks the person at the terminal, again until the answer can be right."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager

import typer

from server.runtime.printable import printable


def ask(question: str, *, problem_of: Callable[[str], str | None], is_secret: bool = False, default: str = "") -> str:
    """The stripped answer; asks again until `problem_of` accepts it. Ctrl-C ends the command."""
    while True:
        with _interruptible():
            given = typer.prompt(question, err=True, hide_input=is_secret, default=default or None)
        answer = str(given).strip()
        problem = problem_of(answer)
        if problem is None:
            return answer
        sys.stderr.write(f"{printable(problem[0].upper() + problem[1:])}.\n")


@contextmanager
def _interruptible() -> Generator[None]:
    """Let Ctrl-C end the command: asyncio would cancel its task, which can't happen while a question waits."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
