"""Shows the progress of a long command: a changing line on standard error if that is a terminal, otherwise nothing."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager

from vault.records import Tell, tell_nobody


@contextmanager
def show_progress() -> Generator[Tell]:
    """A line that shows the progress; callable from any thread. It is removed at the end of the block."""
    if not sys.stderr.isatty():
        yield tell_nobody
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("", total=None, count="")

        def tell(step: str, done: int, total: int | None) -> None:
            count = f"{done:,}" if total is None else f"{done:,} of {total:,}"
            shown.update(task, description=step, completed=done, total=total, count=count)

        yield tell
