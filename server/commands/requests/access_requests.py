"""`requests ...`: access requests and their answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from server.event_texts import when
from server.terminal.context import Setup, command

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from server.administration.actor import Actor
    from server.deployment import Deployment
    from vault.approvals.access_requests import AccessRequest

app = typer.Typer(no_args_is_help=True, help="Access requests and their answers.")
RequestID = Annotated[str, typer.Argument(metavar="REQUEST", help="The request's ID.", show_default=False)]
Words = Annotated[str | None, typer.Option("--words", help="Message to the person.", show_default=False)]


@command(app, "list")
def list_(
    setup: Setup,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Include answered requests.")] = False,
) -> None:
    """List the requests that wait for an answer."""

    async def read() -> list[dict[str, object]]:
        from vault.approvals import access_requests

        async with setup.open() as deployment:
            now = deployment.now()
            read_list = access_requests.list_newest if everything else access_requests.list_pending
            return [await _fields(deployment, one) for one in await read_list(deployment.database, now=now)]

    columns = ("id", "status", "user", "agent", "what", "scopes", "days", "reason", "expires_at")
    setup.show(setup.run(read()), columns=columns, empty="No request is waiting.")


@command(app, "approve")
def approve(
    setup: Setup,
    request: RequestID,
    *,
    days: Annotated[
        int | None, typer.Option("--days", min=1, help="Fewer days than requested.", show_default=False)
    ] = None,
    scope: Annotated[
        list[str] | None, typer.Option("--scope", help="Only this permission; repeatable.", show_default=False)
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option("--rule", help="For a company: the rule to apply; repeatable.", show_default=False),
    ] = None,
    words: Words = None,
) -> None:
    """Allow a request, or a part of it, until its end."""

    async def run(actor: Actor) -> AccessRequest:
        from server.administration import access_requests
        from server.administration.access_requests import AccessAnswer

        found = await access_requests.request_with_id(actor.deployment, request)
        chosen = frozenset([*(scope or ()), *(rule or ())]) or None
        answer = AccessAnswer(days or access_requests.most_days(actor.deployment, found), chosen, words or "")
        return await access_requests.allow(actor, request, answer)

    row = setup.run(_change(setup, run))
    setup.show_one(row, sentence=f"{row['user']} has it until {row['expires_at']}.")


@command(app, "deny")
def deny(setup: Setup, request: RequestID, *, words: Words = None) -> None:
    """Deny a request."""

    async def run(actor: Actor) -> AccessRequest:
        from server.administration import access_requests

        return await access_requests.deny(actor, request, words=words or "")

    row = setup.run(_change(setup, run))
    setup.show_one(row, sentence=f"Denied the request of {row['user']}.")


@command(app, "end")
def end(setup: Setup, request: RequestID) -> None:
    """Withdraw a request, or end the access it gave."""

    async def run(actor: Actor) -> AccessRequest:
        from server.administration import access_requests

        return await access_requests.end(actor, request)

    row = setup.run(_change(setup, run))
    setup.show_one(row, sentence=f"Ended the request of {row['user']}.")


async def _change(setup: Setup, run: Callable[[Actor], Awaitable[AccessRequest]]) -> dict[str, object]:
    from server.administration.actor import Actor

    async with setup.open(uses_accounts=False) as deployment:
        return await _fields(deployment, await run(Actor(deployment, None, "command_line")))


async def _fields(deployment: Deployment, request: AccessRequest) -> dict[str, object]:
    from server.administration import access_requests

    known, access = await access_requests.describe(deployment, request), request.access
    account = f"{known.provider} {known.account} of {known.group}" if known.account else ""
    return {
        "id": request.id,
        "status": request.status(deployment.now()),
        "kind": access.kind.value,
        "user": access.user_id if known.person is None else known.person.name,
        "client_id": access.client_id or None,
        "agent": None if known.client is None else known.client.name or known.client.id,
        "what": account or known.group or known.company,
        "scopes": sorted(access.scopes),
        "reason": access.reason,
        "days": access.lifetime // access_requests.DAY,
        "filed_by": access.filed_by,
        "created_at": when(request.created_at),
        "expires_at": when(request.expires_at),
        "decided_at": when(request.decided_at),
        "decided_by": known.decided_by or None,
        "answer": request.answer,
        "ended_at": when(request.ended_at),
        "ended_reason": request.ended_reason,
    }
