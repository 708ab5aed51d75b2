"""`receipts list`, `show`, `verify`, `retry`, `settle`, and `keys`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from providers.definitions.file_errors import reason_of
from server.event_texts import when
from server.terminal.context import Setup, command, fail

if TYPE_CHECKING:
    from server.administration.receipts import Ending
    from vault.upkeep.agent_receipts import AgentReceipt
    from vault.upkeep.receipts import Receipt

app = typer.Typer(no_args_is_help=True, help="Signed receipts for ended grants at their providers.")
ReceiptId = Annotated[str, typer.Argument(help="ID of the ended connection.", show_default=False)]
AnyReceiptId = Annotated[
    str, typer.Argument(help="ID of the ended connection, or of an agent's receipt.", show_default=False)
]
_AGENT_COLUMNS = ("agent", "provider", "result", "reason", "token_expires_at", "outstanding", "ended_at", "id")
_COLUMNS = ("provider", "result", "reason", "final", "issued_at", "next_at", "id")


def receipt_fields(receipt: Receipt) -> dict[str, object]:
    """A receipt as printed."""
    return {
        "id": receipt.connection_id,
        "user": receipt.user_id,
        "provider": receipt.provider,
        "result": receipt.result,
        "reason": receipt.reason,
        "final": receipt.is_final,
        "issued_at": when(receipt.issued_at),
        "settled_at": when(receipt.settled_at),
        "settled_by": receipt.settled_by or "",
    }


def agent_receipt_fields(receipt: AgentReceipt, *, now: int) -> dict[str, object]:
    """A receipt of an ended agent as printed."""
    return {
        "id": receipt.id,
        "agent": receipt.client_id,
        "user": receipt.user_id,
        "connection_id": receipt.connection_id,
        "provider": receipt.provider,
        "result": "nothing_to_revoke",
        "reason": receipt.reason,
        "token_expires_at": when(receipt.expires_at),
        "outstanding": receipt.is_outstanding(now),
        "ended_at": when(receipt.ended_at),
        "issued_at": when(receipt.issued_at),
    }


def _ending_fields(ending: Ending) -> dict[str, object]:
    named = {"id": ending.connection_id, "user": ending.user_id, "provider": ending.provider}
    fields = {"final": False, "issued_at": None} if ending.receipt is None else receipt_fields(ending.receipt)
    fields |= {**named, "result": ending.result, "reason": ending.reason}
    return {**fields, "next_at": when(ending.next_at), "pages": list(ending.pages.values())}


@command(app, "list")
def list_(
    setup: Setup,
    *,
    all_: Annotated[bool, typer.Option("--all", help="Include those that need no more action.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many to show.")] = 100,
) -> None:
    """List ended grants that are outstanding: still alive, unreachable, held, or left to end by hand."""

    async def read() -> list[dict[str, object]]:
        from server.administration import receipts

        async with setup.open() as deployment:
            if all_:
                found = await receipts.list_all(deployment, before=None, limit=limit)
                return [receipt_fields(one) for one in found]
            return [_ending_fields(one) for one in await receipts.list_open(deployment, limit=limit)]

    columns = tuple(one for one in _COLUMNS if one != "next_at") if all_ else _COLUMNS
    setup.show(setup.run(read()), columns=columns, empty="No receipts." if all_ else "Nothing is outstanding.")


@command(app, "show")
def show(setup: Setup, receipt: AnyReceiptId) -> None:
    """Print the signed receipt of an ended grant or agent; with `--json`, also its content."""

    async def read() -> tuple[dict[str, object], str]:
        from server.administration import receipts
        from vault.upkeep import agent_receipts

        async with setup.open() as deployment:
            of_agent = await agent_receipts.get_receipt(deployment.database, receipt)
            if of_agent is not None:
                return agent_receipt_fields(of_agent, now=deployment.now()), of_agent.token
            of_grant = await receipts.get(deployment.database, receipt)
            return receipt_fields(of_grant), of_grant.token

    fields, token = setup.run(read())
    setup.show_one({**fields, "receipt": token}, sentence=token)


@command(app, "agents")
def agents(
    setup: Setup,
    agent: Annotated[str | None, typer.Argument(help="ID of an agent; all without it.", show_default=False)] = None,
    *,
    outstanding: Annotated[
        bool, typer.Option("--outstanding", help="Only those with an agent that may hold a token that still works.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many to show.")] = 100,
) -> None:
    """List receipts of removed agents: for each account, how long the provider tokens that the agent got still work."""

    async def read() -> list[dict[str, object]]:
        from server.administration import receipts

        async with setup.open() as deployment:
            found = await receipts.list_of_agents(deployment, client_id=agent, only_open=outstanding, limit=limit)
            return [agent_receipt_fields(one, now=deployment.now()) for one in found]

    empty = "Nothing is outstanding." if outstanding else "No receipts."
    setup.show(setup.run(read()), columns=_AGENT_COLUMNS, empty=empty)


@command(app, "verify")
def verify(
    setup: Setup,
    file: Annotated[Path, typer.Argument(help="A receipt, or - for standard input.", show_default=False)],
    *,
    keys: Annotated[
        Path | None,
        typer.Option("--keys", help="A key set from `receipts keys`. Needs no vault.", show_default=False),
    ] = None,
) -> None:
    """Verify a receipt's signature and print its content. The exit code is 1 if it isn't valid."""
    from server.administration.receipts import ReceiptRefused
    from server.administration.receipts import verify as verified

    token = _receipt_in(file)
    jwks = _read_json(keys, "--keys") if keys is not None else setup.run(_kept_keys(setup))
    try:
        claims = verified(token, jwks)
    except ReceiptRefused as refused:
        fail(str(refused))
    setup.show_fields({**claims, "iat": when(_seconds(claims.get("iat"))), "valid": True})


@command(app, "keys")
def keys(setup: Setup) -> None:
    """Print the public keys that verify receipts, including replaced ones, as a JSON Web Key Set."""
    setup.show_json(setup.run(_kept_keys(setup)))


@command(app, "retry")
def retry(setup: Setup, receipt: ReceiptId) -> None:
    """Retry a revocation now."""

    async def work() -> str:
        from server.administration import receipts
        from server.administration.actor import Actor

        async with setup.open() as deployment:
            return await receipts.retry(Actor(deployment, None, "command_line"), receipt)

    outcome = setup.run(work())
    setup.show_one({"id": receipt, "outcome": outcome}, sentence=f"At the provider: {outcome}.")


@command(app, "settle")
def settle(setup: Setup, receipt: ReceiptId) -> None:
    """Mark a grant as ended by you on the provider's page."""

    async def work() -> None:
        from server.administration import receipts
        from server.administration.actor import Actor

        async with setup.open() as deployment:
            await receipts.settle(Actor(deployment, None, "command_line"), receipt)

    setup.run(work())
    setup.show_one({"id": receipt, "settled": True}, sentence="Noted. The receipt stays unchanged.")


async def _kept_keys(setup: Setup) -> dict[str, object]:
    from vault.upkeep.receipts import public_keys

    async with setup.open() as deployment:
        return await public_keys(deployment.database)


def _receipt_in(file: Path) -> str:
    """The signed receipt: on its own, or as the member `receipt` of the output of `receipts show --json`."""
    content = sys.stdin.read() if str(file) == "-" else _read(file)
    if not content.lstrip().startswith("{"):
        return content.strip()
    member = _json(content, str(file)).get("receipt")
    return member if isinstance(member, str) else fail(f"{file} has no member `receipt`")


def _read_json(file: Path, named: str) -> dict[str, object]:
    return _json(_read(file), named)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return fail(f"can't read {file}: {reason_of(error)}")


def _json(content: str, named: str) -> dict[str, object]:
    try:
        found: object = json.loads(content)
    except ValueError:
        return fail(f"{named} isn't JSON")
    return found if isinstance(found, dict) else fail(f"{named} isn't a JSON object")  # pyright: ignore[reportUnknownVariableType] -- parsed JSON


def _seconds(value: object) -> int | None:
    return value if isinstance(value, int) else None
