"""`bench`: the performance of this machine, measured with a temporary vault."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from server.terminal.context import Setup, fail, say

if TYPE_CHECKING:
    from server.sizing.measurements import Figures, Rate


def bench(
    setup: Setup,
    *,
    seconds: Annotated[
        int, typer.Option("--seconds", min=1, max=60, help="Seconds per measurement; there are six.")
    ] = 3,
    database: Annotated[
        str | None,
        typer.Option(
            "--database",
            envvar="TOKEN_VAULT_BENCH_DATABASE",
            help="A PostgreSQL server, as postgresql://USER@HOST/NAME, for a temporary database.",
            show_default="SQLite in a temporary folder",
        ),
    ] = None,
) -> None:
    """Measure this machine with a temporary vault."""
    from server.commands.client_config import program
    from server.sizing.load import LoadFailed
    from server.sizing.measurements import measure
    from server.terminal.progress import show_progress

    started = program()
    try:
        with show_progress() as tell:
            command = (started.command, *started.arguments)
            found = setup.run(measure(seconds=seconds, server_url=database, program=command, tell=tell))
    except LoadFailed as failure:
        fail(f"the measured vault didn't answer as it should: {failure}")
    if setup.as_json:
        setup.show_json(found.content())
    else:
        _print(found)


def _print(found: Figures) -> None:
    core = "core" if found.cores == 1 else "cores"
    say(f"{found.database}, Python {found.python}, {found.system}, {found.cores} {core}\n")
    rates = {
        "tool calls (a new event each)": found.calls,
        "exchanges, repeated within 10 s": found.exchanges,
        "exchanges for a new handle": found.handles,
    }
    say(f"{'':34}{'per s':>9}{'CPU us':>9}{'per s and core':>16}{'p50 ms':>9}{'p99 ms':>9}")
    for name, rate in rates.items():
        say(f"{name:34}{rate.per_second:>9,.0f}{_cpu(rate)}{rate.p50_ms:>9.1f}{rate.p99_ms:>9.1f}")
    say(
        f"\n{'storage: read, commit':34}{found.read.p50_ms:.2f} ms, {found.commit.p50_ms:.2f} ms",
    )
    say(f"{'storage: the slowest 1 %':34}{found.read.p99_ms:.2f} ms, {found.commit.p99_ms:.2f} ms")
    say(f"{'tokens sealed, opened':34}{found.seals_per_second:,.0f}, {found.opens_per_second:,.0f} per s and core")
    if found.memory_mb is not None:
        say(f"{'memory of the process':34}{found.memory_mb:.0f} MB")
    say("\nThe load ran on the same machine. Plan with the figures per core: docs/operate/sizing.md.")


def _cpu(rate: Rate) -> str:
    if rate.cpu_us is None or rate.per_core is None:
        return f"{'':>9}{'':>16}"
    return f"{rate.cpu_us:>9,.0f}{rate.per_core:>16,.0f}"
