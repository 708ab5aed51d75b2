"""The TypeScript client, compiled by its own compiler, against a real vault: alone, in Express, and in the AI SDK."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from server.administration import agents
from server.administration.actor import Actor
from server.administration.agents import NewAgent, ServiceAccountSpec
from server.oauth.rules import ADMIN_SCOPES
from tests.api.conftest import run_node
from tests.support.foreign.foreign import FOLDER, MODULES
from tests.support.rooms.exchange_room import SECRET, ExchangeRoom
from vault import users

pytestmark = pytest.mark.group("node")


@pytest.mark.parametrize("connects", [True, False])
async def test_the_client_runs_by_itself_in_express_and_in_the_ai_sdk(
    place: ExchangeRoom, dist: Path, tmp_path: Path, *, connects: bool
) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, f"typescript-{connects}")
    if connects:
        await place.slack(agent)
    facts = {
        "url": place.url,
        "client_id": caller.client.id,
        "client_secret": SECRET,
        "subject": agent.token,
        "dist": str(dist),
    }
    if connects:
        admin = await place.room.vault.add_user("admin-of-typescript", is_admin=True)
        service = ServiceAccountSpec(admin, ADMIN_SCOPES)
        made = await agents.register(
            Actor(place.deployment, None, "command_line"), NewAgent("TypeScript", has_secret=True, service=service)
        )
        facts |= {"admin_id": made.client.id, "admin_secret": made.secret or ""}
    out = await run_node(tmp_path, str(FOLDER / "typescript_client.mjs"), PLACE=json.dumps(facts))
    said = {one["name"]: one["said"] for one in map(json.loads, out.splitlines())}
    assert said["express-bare"] == 401
    if connects:
        assert said["token"] == "channels:history"
        assert said["express"] == {"scopes": ["channels:history"]}
        assert said["ai"] == "#general channels:history"
        assert said["admin"] == ["from-typescript", "no_person"]
        assert await users.find_user(place.deployment.database, "from-typescript") is None
    else:
        assert said["token"].startswith(f"{place.url}/connect/")
        assert said["express"]["connect_uri"].startswith(f"{place.url}/connect/")
        assert f"{place.url}/connect/" in said["ai"]


_CALLS = """import { AdminClient } from "./admin.js";
declare const admin: AdminClient;
admin.listPeople();
admin.showPanic({ of: "everyone" });
// @ts-expect-error it needs `of`
admin.showPanic();
// @ts-expect-error it needs `of`
admin.showPanic({ id: "x" });
admin.explainAccountUse("p", "c", { agent_id: "a" });
// @ts-expect-error it needs the agent
admin.explainAccountUse("p", "c");
"""


async def test_a_call_is_not_compiled_without_what_it_needs(dist: Path, tmp_path: Path) -> None:
    """The compiler also fails where a line is marked as an error and isn't one."""
    file = dist / "calls.ts"
    file.write_text(_CALLS, encoding="utf-8")
    options = ("--noEmit", "--strict", "--module", "NodeNext", "--target", "ES2022", "--types", "node")
    roots = ("--typeRoots", str(MODULES / "@types"))
    await run_node(tmp_path, str(MODULES / "typescript/bin/tsc"), *options, *roots, str(file))
