"""`delegations ask`: set what a person must approve each time."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from typer.testing import CliRunner, Result

from server.app import open_deployment
from server.cli import app
from server.settings import load_settings
from tests.support.accounts import open_account
from vault import delegations, users
from vault.upstream import Account, TokenAnswer

CHAT = frozenset({"chat:write"})


async def run(data: Path, *command: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, app, [*command, "--json", "--data", str(data)])


async def test_what_a_person_is_asked_about_each_time_is_set_for_a_permission_that_is_there(tmp_path: Path) -> None:
    async with open_deployment(load_settings(), data=tmp_path) as deployment, deployment.transaction() as transaction:
        now = deployment.now()
        owner = await users.create_user(transaction, "alice", now=now)
        connection = await open_account(
            transaction, deployment, owner.id, "slack", TokenAnswer("at", "rt", CHAT, 3600, Account("T:U", "alice"))
        )
        await delegations.allow(
            transaction, user_id=owner.id, client_id="agent", connection_id=connection.id, scopes=CHAT, now=now
        )
    ask = ("delegations", "ask", "agent", connection.id)
    done = await run(tmp_path, *ask, "--tool", "slack_post", "--scope", "chat:write")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["ask"] == ["chat:write", "tool:slack_post"]
    for wrong, fix in (("--tool", "tools list"), ("--scope", "delegations list")):
        refused = await run(tmp_path, *ask, wrong, "slack_pots")
        assert refused.exit_code == 1
        assert fix in refused.stderr
    assert (await run(tmp_path, "delegations", "ask", "agent", "nothing")).exit_code == 1
    assert json.loads((await run(tmp_path, *ask)).stdout)["ask"] == []
