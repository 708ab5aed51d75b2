"""`approvals ...`: calls that agents ask the owner of the data directory to approve.

Anyone who can read the data directory counts as its owner and answers for the owner only; other people see their
agents' arguments and answer on their own pages. Approving needs a terminal, because otherwise an agent that runs
commands on this machine could approve its own calls. This doesn't protect against a program that acts as the owner.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from server.event_texts import when
from server.runtime.printable import printable
from server.terminal.completion import complete_approvals, complete_standing
from server.terminal.context import Setup, command, fail, note
from server.terminal.names import approval_called, owner_here, standing_called

if TYPE_CHECKING:
    from server.deployment import Deployment
    from vault.approvals.approvals import Approval
    from vault.approvals.standing_approvals import StandingApproval
    from vault.records import User
    from vault.storage.database import Reader

app = typer.Typer(no_args_is_help=True, help="Calls that agents ask you to approve, and those approved in advance.")
_REQUEST = "(request)"  # for a client's own request, which has no tool
ApprovalName = Annotated[
    str, typer.Argument(help="ID, tool, or agent.", show_default=False, autocompletion=complete_approvals)
]


async def _approval_fields(deployment: Deployment, approval: Approval) -> dict[str, object]:
    from server.portal.texts import is_unverified
    from vault import clients

    client = await clients.get_client(deployment.database, approval.client_id)
    spec = deployment.tool(approval.tool)
    return {
        "id": approval.id,
        "agent": None if client is None else client.name,
        "agent_name_verified": client is not None and not is_unverified(client),
        "client_id": approval.client_id,
        "tool": approval.tool or _REQUEST,
        "destructive": spec is not None and spec.destructive,
        "provider": approval.provider,
        "account": approval.account,
        "scopes": list(approval.scopes),
        "asked_at": when(approval.created_at),
        "expires_at": when(approval.expires_at),
        "arguments": dict(approval.arguments),
    }


async def _who_answers(reader: Reader) -> User:
    owner = await owner_here(reader)
    return owner or fail(
        "only the owner of the data directory can answer here, and this vault has none: each person answers on their "
        "page /approvals"
    )


async def _standing_fields(deployment: Deployment, held: StandingApproval) -> dict[str, object]:
    from server.portal.approvals.asked_call import target_words
    from vault import clients

    client = await clients.get_client(deployment.database, held.client_id)
    return {
        "id": held.id,
        "state": "standing",
        "agent": None if client is None else client.name,
        "client_id": held.client_id,
        "tool": held.tool,
        "provider": held.provider,
        "account": held.account,
        "target": target_words(held.target, held.names),
        "per_day": held.per_day,
        "used_today": held.used_today(deployment.now()),
        "expires_at": when(held.expires_at),
    }


@command(app, "list")
def list_(setup: Setup) -> None:
    """List the calls and requests that wait for your answer, and your standing approvals.

    These commands answer for the owner of the data directory only; the page `/approvals` does so for everyone.
    """

    async def read() -> list[dict[str, object]]:
        from vault.approvals import approvals, standing_approvals

        async with setup.open() as deployment:
            owner = await _who_answers(deployment.database)
            reader, keys, now = deployment.database, deployment.keys, deployment.now()
            pending = await approvals.list_pending(reader, keys, owner.id, now=now)
            standing = await standing_approvals.list_live(reader, keys, owner.id, now=now)
            return [
                *[{**await _approval_fields(deployment, one), "state": "waiting"} for one in pending],
                *[await _standing_fields(deployment, one) for one in standing],
            ]

    columns = ("state", "tool", "agent", "account", "expires_at", "id")
    setup.show(
        setup.run(read()),
        columns=columns,
        empty="No call is waiting for your answer, and you have no standing approvals.",
    )


@command(app, "approve")
def approve(setup: Setup, approval: ApprovalName) -> None:
    """Show a call or request exactly, and approve it if you confirm. Needs a terminal."""
    if not sys.stdin.isatty():
        fail("a person must confirm an approval: run this on a terminal, or approve it on the page /approvals")
    _answer(setup, approval, is_approved=True)


@command(app, "refuse")
def refuse(setup: Setup, approval: ApprovalName) -> None:
    """Refuse a call or request."""
    _answer(setup, approval, is_approved=False)


@command(app, "revoke")
def revoke(
    setup: Setup,
    standing: Annotated[
        str, typer.Argument(help="ID, tool, or agent.", show_default=False, autocompletion=complete_standing)
    ],
) -> None:
    """End a standing approval: its calls need your approval again."""

    async def end() -> dict[str, object]:
        from server.administration import access
        from server.administration.actor import Actor, ChangeRefused

        async with setup.open(uses_accounts=False) as deployment:
            owner = await _who_answers(deployment.database)
            found = await standing_called(deployment, owner, standing)
            try:
                ended = await access.end_standing(Actor(deployment, None, "command_line"), owner, found.id)
            except ChangeRefused as refused:
                fail(f"{refused.description}; see token-vault approvals list")
            return {**await _standing_fields(deployment, ended), "state": "revoked"}

    row = setup.run(end())
    setup.show_one(row, sentence=f"{row['tool']} of {row['agent']} asks you again.")


def _answer(setup: Setup, named: str, *, is_approved: bool) -> None:
    async def decide() -> dict[str, object]:
        from server.connecting import approvals

        async with setup.open() as deployment:
            owner = await _who_answers(deployment.database)
            found = await approval_called(deployment, owner, named)
            row = await _approval_fields(deployment, found)
            if is_approved:
                _confirm(row)
            await approvals.decide(
                deployment, found, user=owner, session=None, is_approved=is_approved, method="command_line"
            )
            return row | {"state": "approved" if is_approved else "refused"}

    row = setup.run(decide())
    sentence = f"Refused {row['tool']} of {row['agent']}."
    if is_approved:
        sentence = f"Approved {row['tool']} of {row['agent']}."
        if row["tool"] != _REQUEST:
            sentence += " It must call again within five minutes."
    setup.show_one(row, sentence=sentence)


def _confirm(row: dict[str, object]) -> None:
    """Show the question on standard error, to keep results clean, and ask. Ends the command without confirmation."""
    arguments = row["arguments"]
    verified = "" if row["agent_name_verified"] else " (it chose this name itself)"
    effect = " (can change or delete)" if row["destructive"] else ""
    lines = {
        "agent": f"{row['agent']}{verified}",
        "tool": f"{row['tool']}{effect}",
        "account": f"{row['provider']} {row['account']}".strip() or "none: it gets an access token",
        "expires": str(row["expires_at"]),
    }
    for name, value in lines.items():
        note(f"{name:10}{printable(value)}")
    note("arguments")
    if isinstance(arguments, dict):
        for name, value in arguments.items():  # pyright: ignore[reportUnknownVariableType] -- made for print
            note(f"  {printable(str(name))}: {printable(json.dumps(value, ensure_ascii=False))}")  # pyright: ignore[reportUnknownArgumentType] -- made for print
    if not typer.confirm("Approve exactly this, once?", err=True):
        fail("you didn't confirm, so the call still waits. To refuse it: token-vault approvals refuse")
