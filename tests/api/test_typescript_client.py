"""The TypeScript client, compiled by its own compiler, against a real vault: alone, in Express, and in the AI SDK."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from server.administration import agents
from server.administration.actor import Actor
from server.administration.agents import NewAgent, ServiceAccountSpec
from server.oauth.rules import ADMIN_SCOPES
from tests.conftest import unavailable
from tests.support.foreign.foreign import FOLDER, MODULES, environment, node
from tests.support.rooms.exchange_room import SECRET, ExchangeRoom
from vault import users

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "clients/typescript"

pytestmark = pytest.mark.group("node")


async def _run(folder: Path, *arguments: str, **more: str) -> str:
    process = await asyncio.create_subprocess_exec(
        node(), *arguments, env=environment(folder, **more),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(100):
        out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    return out.decode()


@pytest.fixture(scope="module")
async def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, compiled in strict mode without errors."""
    node()
    if not (MODULES / "typescript").exists():
        unavailable("foreign clients need: make node")
    folder = tmp_path_factory.mktemp("dist")
    (folder / "package.json").write_text('{"type": "module"}')
    compiler = str(MODULES / "typescript/bin/tsc")
    roots = str(MODULES / "@types")
    await _run(folder, compiler, "-p", str(SOURCE), "--outDir", str(folder), "--typeRoots", roots)
    return folder


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
    out = await _run(tmp_path, str(FOLDER / "typescript_client.mjs"), PLACE=json.dumps(facts))
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
