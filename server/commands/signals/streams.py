"""`signals streams ...`: event streams at the transmitters in the settings (OpenID Shared Signals 1.0)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import typer

from providers.definitions.suggestions import did_you_mean
from server.terminal.context import Setup, command, fail, note

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from server.signals.streams import SignalStream, Status, StreamClient

signals = typer.Typer(no_args_is_help=True, help="Signals about people from other systems.")
app = typer.Typer(no_args_is_help=True, help="Event streams at transmitters of security events.")
signals.add_typer(app, name="streams")
T = TypeVar("T")
Name = Annotated[str, typer.Argument(help="Name of the transmitter in the settings.", show_default=False)]
StreamId = Annotated[str, typer.Argument(help="ID; signals streams list prints it.", show_default=False)]
_EVERY: Final = 0.5  # seconds


def _fields(stream: SignalStream) -> dict[str, object]:
    return {
        "id": stream.id,
        "delivery": stream.method.rpartition(":")[2],
        "endpoint_url": stream.endpoint_url,
        "audiences": list(stream.audiences),
        "delivered": sorted(stream.delivered),
        "missing": sorted(stream.missing),
        "problems": list(stream.problems),
        "description": stream.description,
    }


def _ask(setup: Setup, name: str, work: Callable[[StreamClient], Awaitable[T]]) -> T:
    async def run() -> T:
        from server.signals import streams

        async with setup.open() as deployment:
            known = deployment.settings.signals.transmitters
            transmitter = known.get(name)
            if transmitter is None:
                fail(f"no transmitter {name!r} in the settings.{did_you_mean(name, known)}")
            try:
                return await work(await streams.client_of(deployment, name, transmitter))
            except streams.StreamRefused as refused:
                fail(f"{name}: {refused}")

    return setup.run(run())


def _show(setup: Setup, stream: SignalStream, sentence: str) -> None:
    setup.show_one(_fields(stream), sentence=sentence)
    for problem in stream.problems:
        note(problem)
    if stream.missing:
        note(f"It doesn't deliver: {', '.join(sorted(one.rpartition('/')[2] for one in stream.missing))}.")


@command(app, "list")
def list_(setup: Setup, transmitter: Name) -> None:
    """List this vault's streams at a transmitter."""

    async def read(client: StreamClient) -> list[dict[str, object]]:
        return [_fields(one) for one in await client.list()]

    columns = ("id", "delivery", "endpoint_url", "problems")
    setup.show(_ask(setup, transmitter, read), columns=columns, empty="No streams yet.")


@command(app, "create")
def create(
    setup: Setup,
    transmitter: Name,
    *,
    poll: Annotated[bool, typer.Option("--poll", help="Poll it, instead of having it push to this vault.")] = False,
) -> None:
    """Create a stream of the events that have a rule here."""

    async def make(client: StreamClient) -> SignalStream:
        return await client.create(is_polled=poll)

    made = _ask(setup, transmitter, make)
    _show(
        setup, made, f"Created the stream {made.id}. Next: token-vault signals streams verify {transmitter} {made.id}"
    )


@command(app, "update")
def update(setup: Setup, transmitter: Name, stream: StreamId) -> None:
    """Update a stream to match the settings."""

    async def change(client: StreamClient) -> SignalStream:
        return await client.update(stream)

    changed = _ask(setup, transmitter, change)
    _show(setup, changed, f"Updated the stream {changed.id}.")


@command(app, "status")
def status(
    setup: Setup,
    transmitter: Name,
    stream: StreamId,
    *,
    to: Annotated[
        str | None,
        typer.Option(
            "--set", help="`enabled`, `paused` (keeps events), or `disabled` (drops them).", show_default=False
        ),
    ] = None,
) -> None:
    """Show or set a stream's status."""

    async def ask(client: StreamClient) -> tuple[Status, str]:
        from server.signals.streams import STATUSES, status_named

        if to is None:
            return await client.status(stream)
        wanted = status_named(to)
        if wanted is None:
            fail(f"--set takes {', '.join(STATUSES)}")
        return await client.set_status(stream, wanted)

    now_is, reason = _ask(setup, transmitter, ask)
    why = f" ({reason})" if reason else ""
    setup.show_one({"id": stream, "status": now_is, "reason": reason or None}, sentence=f"{stream}: {now_is}{why}.")


@command(app, "verify")
def verify(
    setup: Setup,
    transmitter: Name,
    stream: StreamId,
    *,
    wait: Annotated[int, typer.Option("--wait", help="Seconds to wait for the event.", min=0, max=600)] = 30,
) -> None:
    """Request a verification event and wait until a running server receives it. The exit code is 1 if none arrives."""

    async def ask(client: StreamClient) -> bool:
        from server.signals import verifications

        deployment, state = client.deployment, await client.verify(stream)
        for _ in range(max(1, int(wait / _EVERY))):
            if await verifications.came(deployment.database, transmitter, state, now=deployment.now()):
                return True
            await asyncio.sleep(_EVERY if wait else 0)
        return False

    has_come = _ask(setup, transmitter, ask)
    sentence = "The event arrived." if has_come else f"No event arrived within {wait} seconds. It may still arrive."
    setup.show_one({"id": stream, "verified": has_come}, sentence=sentence)
    if not has_come:
        raise typer.Exit(1)


@command(app, "remove")
def remove(setup: Setup, transmitter: Name, stream: StreamId) -> None:
    """End a stream."""

    async def end(client: StreamClient) -> None:
        await client.remove(stream)

    _ask(setup, transmitter, end)
    setup.show_one({"id": stream, "removed": True}, sentence=f"Removed the stream {stream}.")
