"""`webhooks ...`: the operator's endpoints for account events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from server.event_texts import when
from server.terminal.context import Setup, command, fail, note

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from server.administration.actor import Actor
    from server.administration.webhooks import FailedEvent
    from vault.notices.endpoints import EventEndpoint

app = typer.Typer(no_args_is_help=True, help="Your own endpoints that get events about accounts.")
T = TypeVar("T")
EndpointId = Annotated[str, typer.Argument(help="ID; webhooks list prints it.", show_default=False)]


def _fields(endpoint: EventEndpoint) -> dict[str, object]:
    return {
        "id": endpoint.id,
        "url": endpoint.url,
        "events": sorted(endpoint.events),
        "state": _state(endpoint),
        "failure": endpoint.failure or None,
        "created_at": when(endpoint.created_at),
        "sent_at": when(endpoint.sent_at),
    }


def _state(endpoint: EventEndpoint) -> str:
    if endpoint.is_gone or endpoint.is_disabled:
        return endpoint.failure
    if endpoint.failure:
        return "failing"
    return "unused" if endpoint.sent_at is None else "works"


def _failed_fields(one: FailedEvent) -> dict[str, object]:
    return {
        "endpoint": one.delivery.endpoint_id,
        "sequence": one.delivery.sequence,
        "event": one.delivery.type,
        "attempts": one.delivery.attempts,
        "failure": one.delivery.failure,
        "at": when(one.delivery.created_at),
        "url": one.url,
    }


def _act(setup: Setup, work: Callable[[Actor], Awaitable[T]]) -> T:
    async def run() -> T:
        from server.administration.actor import Actor, ChangeRefused

        async with setup.open() as deployment:
            try:
                return await work(Actor(deployment, None, "command_line"))
            except ChangeRefused as refused:
                fail(f"{refused.description} See token-vault webhooks list")

    return setup.run(run())


@command(app, "list")
def list_(setup: Setup) -> None:
    """List the endpoints, without their secrets."""

    async def read(actor: Actor) -> list[dict[str, object]]:
        from server.administration import webhooks

        return [_fields(one) for one in await webhooks.list_all(actor.deployment)]

    columns = ("id", "url", "events", "state", "sent_at")
    setup.show(_act(setup, read), columns=columns, empty="No endpoints yet.")


@command(app, "add")
def add(
    setup: Setup,
    url: Annotated[str, typer.Argument(help="The endpoint's https address.", show_default=False)],
    *,
    event: Annotated[
        list[str] | None,
        typer.Option(
            "--event",
            help="`connected`, `expiring`, `needs_reauth`, `revoked`, or `approval.waiting`. Repeat for several.",
            show_default="all",
        ),
    ] = None,
) -> None:
    """Send events to an endpoint, signed with a secret that is printed once."""

    async def make(actor: Actor) -> EventEndpoint:
        from server.administration import webhooks

        return await webhooks.add(actor, url, events=event or [])

    made = _act(setup, make)
    setup.show_one(_fields(made) | {"secret": made.secret}, sentence=f"Secret of {made.id}: {made.secret}")
    note("Verify each request with it, as Standard Webhooks does. It isn't shown again.")


@command(app, "test")
def test(setup: Setup, endpoint: EndpointId) -> None:
    """Send an endpoint a test event (token_vault.test). The exit code is 1 if it isn't accepted."""

    async def send(actor: Actor) -> str:
        from server.administration import webhooks

        return await webhooks.test(actor, await webhooks.endpoint_with_id(actor, endpoint))

    failure = _act(setup, send)
    setup.show_one(
        {"endpoint": endpoint, "accepted": not failure, "failure": failure or None},
        sentence=f"Not accepted: {failure}." if failure else "Accepted.",
    )
    if failure:
        raise typer.Exit(1)


@command(app, "rotate")
def rotate(
    setup: Setup,
    endpoint: EndpointId,
    *,
    overlap: Annotated[
        int, typer.Option("--overlap", help="Hours in which the old secret also signs (0 to 168).")
    ] = 24,
) -> None:
    """Sign an endpoint's events with a new secret, which is printed once."""

    async def change(actor: Actor) -> EventEndpoint:
        from server.administration import webhooks

        return await webhooks.rotate(actor, await webhooks.endpoint_with_id(actor, endpoint), overlap=overlap)

    changed = _act(setup, change)
    setup.show_one(
        _fields(changed) | {"secret": changed.secret, "previous_until": when(changed.previous_until)},
        sentence=f"New secret of {changed.id}: {changed.secret}",
    )
    note(f"The old one works for {overlap} more hours. This one isn't shown again.")


@command(app, "disable")
def disable(setup: Setup, endpoint: EndpointId) -> None:
    """Stop sending to an endpoint. Its waiting events become failed; new ones aren't kept."""
    _set_disabled(setup, endpoint, is_disabled=True)


@command(app, "enable")
def enable(setup: Setup, endpoint: EndpointId) -> None:
    """Resume sending to an endpoint, even after it answered 410."""
    _set_disabled(setup, endpoint, is_disabled=False)


def _set_disabled(setup: Setup, endpoint: str, *, is_disabled: bool) -> None:
    async def change(actor: Actor) -> EventEndpoint:
        from server.administration import webhooks

        found = await webhooks.endpoint_with_id(actor, endpoint)
        await webhooks.set_disabled(actor, found, is_disabled=is_disabled)
        return await webhooks.endpoint_with_id(actor, endpoint)

    changed = _act(setup, change)
    setup.show_one(_fields(changed), sentence=f"{'Disabled' if is_disabled else 'Enabled'} {changed.url}.")


@command(app, "remove")
def remove(setup: Setup, endpoint: EndpointId) -> None:
    """Remove an endpoint and its waiting events."""

    async def end(actor: Actor) -> EventEndpoint:
        from server.administration import webhooks

        found = await webhooks.endpoint_with_id(actor, endpoint)
        await webhooks.remove(actor, found)
        return found

    gone = _act(setup, end)
    setup.show_one(_fields(gone), sentence=f"Removed {gone.url}.")


@command(app, "failed")
def list_failed(setup: Setup) -> None:
    """List the events that failed every attempt, kept for 7 days."""

    async def read(actor: Actor) -> list[dict[str, object]]:
        from server.administration import webhooks

        return [_failed_fields(one) for one in await webhooks.list_failed(actor.deployment)]

    columns = ("endpoint", "sequence", "event", "attempts", "failure", "at")
    setup.show(_act(setup, read), columns=columns, empty="No event has failed.")


@command(app, "resend")
def resend(
    setup: Setup,
    endpoint: EndpointId,
    *,
    sequence: Annotated[
        int | None, typer.Option("--sequence", help="Only this event; webhooks failed prints it.", show_default="all")
    ] = None,
) -> None:
    """Send failed events again, even after the endpoint answered 410."""

    async def again(actor: Actor) -> int:
        from server.administration import webhooks

        found = await webhooks.endpoint_with_id(actor, endpoint)
        return await webhooks.resend(actor, found, sequence=sequence)

    count = _act(setup, again)
    setup.show_one(
        {"endpoint": endpoint, "events": count}, sentence=f"A running server sends {count} events again now."
    )
