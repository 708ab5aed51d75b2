"""`approvals list|approve|refuse`: the owner of the data directory answers at a terminal, only for themselves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from server.app import open_deployment
from server.cli import app
from server.deployment import Deployment
from server.mcp.local_owner import find_owner
from server.settings import load_settings
from tests.cli.test_completion import complete_here
from tests.support.accounts import open_account
from tests.support.inspection import read_events
from tests.support.processes import Place
from tests.support.seeded_grant import agent
from vault import clients, delegations, users
from vault.approvals import approvals, standing_approvals
from vault.approvals.approvals import Approval, ToolCall
from vault.approvals.standing_approvals import Binding
from vault.records import DAY, ApprovalState, Principal, User
from vault.upstream import Account, TokenAnswer


@dataclass(frozen=True)
class ApproverVault:
    place: Place
    deployment: Deployment
    owner: User

    async def ask(self, *, user: User | None = None, tool: str = "slack_post", text: str = "Hello") -> Approval:
        deployment = self.deployment
        principal = Principal((user or self.owner).id, "cursor-1", "grant", scopes=frozenset(), audience="")
        async with deployment.transaction() as transaction:
            made, _ = await approvals.ask(
                transaction,
                deployment.keys,
                call=ToolCall(tool, lambda: {"channel": "#general", "text": text}),
                principal=principal,
                connection_id="connection",
                provider="slack",
                account="T:U",
                label="alice@team",
                scopes=frozenset({"chat:write"}),
                now=deployment.now(),
            )
        return made

    async def state(self, one: Approval) -> str:
        found = await approvals.get(self.deployment.database, self.deployment.keys, one.id)
        assert found is not None
        return found.state.value

    async def run(self, *command: str) -> Result:
        arguments = ["approvals", *command, "--data", str(self.place.data)]
        return await asyncio.to_thread(CliRunner().invoke, app, arguments)

    async def type(self, *command: str, answer: str) -> tuple[int, str]:
        """Run it on a terminal where a person types the answer; return the exit code and the screen."""
        ours, theirs = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            *self.place.arguments("approvals", *command),
            stdin=theirs, stdout=theirs, stderr=theirs, env=self.place.environment() | {"TERM": "dumb"},
        )  # fmt: skip
        os.close(theirs)

        def read() -> bytes:
            seen, is_answered = b"", False
            with contextlib.suppress(OSError):  # how Linux reports that the other end is closed
                while part := os.read(ours, 65536):
                    seen += part
                    if not is_answered and b"[y/N]" in seen:
                        os.write(ours, f"{answer}\n".encode())
                        is_answered = True
            return seen

        async with asyncio.timeout(30):
            seen = await asyncio.to_thread(read)
            code = await process.wait()
        os.close(ours)
        return code, seen.decode()


@pytest.fixture
async def approver_vault(tmp_path: Path) -> AsyncGenerator[ApproverVault]:
    async with open_deployment(load_settings(), data=tmp_path) as deployment:
        owner = await find_owner(deployment)
        async with deployment.transaction() as transaction:
            await clients.save_client(transaction, replace(agent("cursor-1"), name="Cursor"))
        yield ApproverVault(Place(tmp_path, 0), deployment, owner)


async def test_what_waits_is_listed_with_its_arguments(approver_vault: ApproverVault) -> None:
    assert "No call is waiting" in (await approver_vault.run("list")).stdout
    one = await approver_vault.ask()
    (listed,) = json.loads((await approver_vault.run("list", "--json")).stdout)
    assert (listed["id"], listed["agent"], listed["tool"]) == (one.id, "Cursor", "slack_post")
    assert listed["arguments"] == {"channel": "#general", "text": "Hello"}
    assert listed["agent_name_verified"] is False
    assert one.id in (await approver_vault.run("list")).stdout


async def test_a_person_approves_at_a_terminal_what_they_see(approver_vault: ApproverVault) -> None:
    one = await approver_vault.ask(text="Hello \x1b[2J\u202e world")
    code, seen = await approver_vault.type("approve", "cursor", answer="y")
    assert code == 0, seen
    for shown in ("Cursor (it chose this name itself)", "slack_post", "slack alice@team", 'channel: "#general"'):
        assert shown in seen
    assert "\\u001b[2J" in seen and "\u202e" not in seen
    assert "Approved slack_post of Cursor" in seen
    assert await approver_vault.state(one) == ApprovalState.APPROVED
    (event,) = await read_events(approver_vault.deployment, newest_first=True, limit=1)
    assert (event.kind, event.user_id, event.details["method"]) == (
        "approval.given",
        approver_vault.owner.id,
        "command_line",
    )


async def test_without_a_yes_nothing_is_answered(approver_vault: ApproverVault) -> None:
    one = await approver_vault.ask()
    code, seen = await approver_vault.type("approve", one.id, answer="n")
    assert code == 1
    assert "the call still waits" in seen
    assert await approver_vault.state(one) == ApprovalState.PENDING
    without_terminal = await approver_vault.run("approve", one.id, "--json")
    assert without_terminal.exit_code == 1
    assert "run this on a terminal" in without_terminal.stderr
    assert await approver_vault.state(one) == ApprovalState.PENDING


async def test_a_refusal_needs_no_terminal_and_is_recorded(approver_vault: ApproverVault) -> None:
    one = await approver_vault.ask()
    row = json.loads((await approver_vault.run("refuse", one.id[:8], "--json")).stdout)
    assert (row["id"], row["state"]) == (one.id, "refused")
    assert await approver_vault.state(one) == ApprovalState.REFUSED
    (event,) = await read_events(approver_vault.deployment, newest_first=True, limit=1)
    assert (event.kind, event.outcome, event.details["method"]) == ("approval.refused", "refused", "command_line")
    again = await approver_vault.run("refuse", one.id)
    assert again.exit_code == 1
    assert "is refused" in again.stderr


async def test_another_persons_request_is_neither_shown_nor_answered(approver_vault: ApproverVault) -> None:
    async with approver_vault.deployment.transaction() as transaction:
        bob = await users.create_user(transaction, "bob", is_admin=True, now=approver_vault.deployment.now())
    theirs = await approver_vault.ask(user=bob)
    assert json.loads((await approver_vault.run("list", "--json")).stdout) == []
    refused = await approver_vault.run("refuse", theirs.id)
    assert refused.exit_code == 1
    assert "another person, who can answer it at" in refused.stderr
    assert "Hello" not in refused.output
    assert "no open request" in (await approver_vault.run("refuse", "slack_post")).stderr
    assert await approver_vault.state(theirs) == ApprovalState.PENDING
    (event,) = await read_events(approver_vault.deployment, newest_first=True, limit=1)
    assert (event.kind, event.details["reason"]) == ("approval.refused", "another_user")


async def stand(asked: ApproverVault, user: User) -> str:
    """Add a standing approval of this person for Cursor; return its id."""
    deployment, now, scopes = asked.deployment, asked.deployment.now(), frozenset({"chat:write"})
    answer = TokenAnswer("made-up", "made-up", scopes=scopes, account=Account("alice", "alice@team"))
    async with deployment.transaction() as transaction:
        made = await open_account(transaction, deployment, user.id, "slack", answer)
        which = {"user_id": user.id, "client_id": "cursor-1", "connection_id": made.id}
        await delegations.allow(transaction, **which, scopes=scopes, now=now)
        return await standing_approvals.give(
            transaction,
            deployment.keys,
            binding=Binding(user.id, "cursor-1", made.id, tool="slack_post", target={"channel": "#general"}),
            provider="slack",
            account="alice@team",
            names={},
            per_day=5,
            expires_at=now + DAY,
            now=now,
        )


async def test_a_standing_approval_is_listed_and_ended_once(approver_vault: ApproverVault) -> None:
    standing = await stand(approver_vault, approver_vault.owner)
    (listed,) = json.loads((await approver_vault.run("list", "--json")).stdout)
    assert (listed["id"], listed["state"], listed["target"]) == (standing, "standing", "channel #general")
    assert await complete_here(approver_vault.place, "approvals", "revoke", standing[:3]) == [standing]
    row = json.loads((await approver_vault.run("revoke", standing, "--json")).stdout)
    assert (row["id"], row["state"], row["per_day"]) == (standing, "revoked", 5)
    assert json.loads((await approver_vault.run("list", "--json")).stdout) == []
    (event,) = await read_events(approver_vault.deployment, newest_first=True, limit=1)
    assert (event.kind, event.user_id, event.details["method"]) == (
        "approval.standing_revoked",
        approver_vault.owner.id,
        "command_line",
    )
    again = await approver_vault.run("revoke", standing)
    assert again.exit_code == 1
    assert f"no standing approval '{standing}'" in again.stderr


async def test_another_persons_standing_approval_is_neither_shown_nor_ended(approver_vault: ApproverVault) -> None:
    async with approver_vault.deployment.transaction() as transaction:
        bob = await users.create_user(transaction, "bob", is_admin=True, now=approver_vault.deployment.now())
    theirs, own = await stand(approver_vault, bob), await stand(approver_vault, approver_vault.owner)
    assert [one["id"] for one in json.loads((await approver_vault.run("list", "--json")).stdout)] == [own]
    assert (await approver_vault.run("revoke", theirs)).exit_code == 1
    assert await standing_approvals.is_live(
        approver_vault.deployment.database, theirs, now=approver_vault.deployment.now()
    )
    assert "asks you again" in (await approver_vault.run("revoke", own)).stdout  # the twin


@pytest.mark.parametrize("named", ["slack_post", "CURSOR", "the beginning of its ID"])
async def test_a_standing_approval_is_ended_by_tool_agent_or_the_beginning_of_its_id(
    approver_vault: ApproverVault, named: str
) -> None:
    standing = await stand(approver_vault, approver_vault.owner)
    mistyped = await approver_vault.run("revoke", "slack_pots")
    assert mistyped.exit_code == 1
    assert "Did you mean slack_post?" in mistyped.stderr
    ended = await approver_vault.run("revoke", standing[:8] if " " in named else named)
    assert ended.exit_code == 0, ended.stderr
    assert not await standing_approvals.is_live(
        approver_vault.deployment.database, standing, now=approver_vault.deployment.now()
    )


async def test_an_ambiguous_or_mistyped_name_says_the_candidates(approver_vault: ApproverVault) -> None:
    one, two = await approver_vault.ask(text="one"), await approver_vault.ask(text="two")
    several = await approver_vault.run("refuse", "slack_post")
    assert several.exit_code == 1
    assert one.id in several.stderr and two.id in several.stderr
    assert "Did you mean slack_post?" in (await approver_vault.run("refuse", "slack_pots")).stderr


async def test_without_an_owner_here_each_person_answers_on_their_page(
    approver_vault: ApproverVault, tmp_path: Path
) -> None:
    data = tmp_path / "company"
    async with open_deployment(load_settings(), data=data) as deployment, deployment.transaction() as transaction:
        await users.create_user(transaction, "stranger", now=deployment.now())
    refused = await replace(approver_vault, place=Place(data, 0)).run("list")
    assert refused.exit_code == 1
    assert "/approvals" in refused.stderr
