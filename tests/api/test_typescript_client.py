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
from tests.api.conftest import STATUSES, answer_alike, run_node
from tests.support.foreign.foreign import FOLDER, MODULES
from tests.support.rooms.exchange_room import SECRET, ExchangeRoom
from vault import grants, users

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
        shown = said["shown"]
        assert shown["works"], "the value itself is there"
        assert shown["leaks"] == []
        assert all("channels:history" in one for one in shown["texts"]), "the rest is shown"
        assert said["express"] == {"scopes": ["channels:history"]}
        assert said["ai"] == "#general channels:history"
        assert said["admin"] == ["from-typescript", "no_person"]
        assert await users.find_user(place.deployment.database, "from-typescript") is None
    else:
        assert said["token"].startswith(f"{place.url}/connect/")
        assert said["express"]["connect_uri"].startswith(f"{place.url}/connect/")
        assert f"{place.url}/connect/" in said["ai"]


async def test_a_route_answers_with_the_status_that_its_caller_can_act_on(
    place: ExchangeRoom, dist: Path, tmp_path: Path
) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, "typescript-statuses")
    await place.slack(agent)
    busy, broken = answer_alike("429 Too Many Requests\r\nretry-after: 7"), answer_alike("502 Bad Gateway")
    async with busy as busy_url, broken as broken_url:
        facts = {
            "url": place.url,
            "client_id": caller.client.id,
            "client_secret": SECRET,
            "subject": agent.token,
            "dist": str(dist),
            "busy": busy_url,
            "broken": broken_url,
        }
        said = json.loads(await run_node(tmp_path, str(FOLDER / "express_statuses.mjs"), PLACE=json.dumps(facts)))
    assert said == STATUSES


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


_SAFETY = """import { createServer } from "node:http";
const place = JSON.parse(process.env.PLACE);
const { Vault, VaultRefused, actingFor } = await import(`${place.dist}/index.js`);
const { AdminClient } = await import(`${place.dist}/admin.js`);
const listen = (server) => new Promise((done) => server.listen(0, "127.0.0.1", () => done(server.address().port)));
const told = async (work) => {
  try {
    return await work();
  } catch (error) {
    return error instanceof VaultRefused ? error.status : error.message;
  }
};
const stolen = [];
const thief = createServer((request, response) => {
  let body = "";
  request.on("data", (piece) => (body += piece)).on("end", () => {
    stolen.push(body);
    response.setHeader("content-type", "application/json").end('{"access_token": "x", "expires_in": 900}');
  });
});
const away = await listen(thief);
const paths = [];
const moved = createServer((request, response) => {
  paths.push(request.url);
  response.writeHead(307, { location: `http://127.0.0.1:${away}/` }).end();
});
const elsewhere = `http://127.0.0.1:${await listen(moved)}`;
const credentials = { clientId: place.client_id, clientSecret: place.client_secret };
const vault = new Vault(place.url, credentials);
const options = { scopes: ["channels:history"] };
const admin = new AdminClient(elsewhere, { clientId: "", token: async () => "t" });
const said = {
  exchange: await told(() => new Vault(elsewhere, credentials).token("slack", { ...options, subject: "s" })),
  administration: await told(() => admin.addPerson({ name: "ada" })),
  account: await told(() => new AdminClient(elsewhere, credentials).listPeople()),
  stolen,
  nobody: await told(() => actingFor(place.subject, () => vault.token("slack", { ...options, subject: "" }))),
  person: await actingFor(place.subject, async () => (await vault.token("slack", options)).scopes.join()),
  path: await told(() => admin.removeGroupMember("g", "..")),
  longer: await told(() => admin.removeGroupMember("g", "x/../..?")),
  paths,
};
await fetch(place.ending);
said.fresh = await told(() => vault.token("slack", { ...options, subject: place.subject, fresh: true }));
said.again = await told(() => vault.token("slack", { ...options, subject: place.subject }));
console.log(JSON.stringify(said));
process.exit();
"""


async def test_users_of_a_program_get_nothing_that_is_not_theirs(
    place: ExchangeRoom, dist: Path, tmp_path: Path
) -> None:
    """As `test_client_safety` tests for Python."""
    caller = await place.caller()
    agent = await place.agent(caller, "typescript-safety")
    await place.slack(agent)

    async def end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        async with place.deployment.transaction() as transaction:
            await grants.revoke_grant(transaction, agent.principal.grant_id, reason="user", now=place.now())
        writer.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    program = tmp_path / "safety.mjs"
    program.write_text(_SAFETY, encoding="utf-8")
    async with await asyncio.start_server(end, "127.0.0.1", 0) as server:
        facts = {
            "url": place.url,
            "client_id": caller.client.id,
            "client_secret": SECRET,
            "subject": agent.token,
            "dist": str(dist),
            "ending": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/",
        }
        said = json.loads(await run_node(tmp_path, str(program), PLACE=json.dumps(facts)))
    assert said["stolen"] == []
    assert (said["exchange"], said["administration"], said["account"]) == (307, 307, 307)
    assert said["nobody"].startswith("whose token?")
    assert said["person"] == "channels:history"  # the twin
    assert said["path"] == '".." isn\'t an ID'
    assert said["paths"][-1] == "/admin/v1/groups/g/people/x%2F..%2F..%3F"
    assert (said["fresh"], said["again"]) == (400, 400)


_KEPT = """import { createServer } from "node:http";
const { dist } = JSON.parse(process.env.PLACE);
const { Vault, VaultRefused } = await import(`${dist}/index.js`);
const { AdminClient } = await import(`${dist}/admin.js`);
const asked = {};
const server = createServer((request, response) => {
  let body = "";
  request.on("data", (piece) => (body += piece)).on("end", () => {
    const audience = new URLSearchParams(body).get("audience");
    asked[audience] = (asked[audience] ?? 0) + 1;
    const lifetime = { short: 25, endless: undefined }[audience] ?? 900;
    const content = { access_token: "x", expires_in: audience === "endless" ? undefined : lifetime };
    const said = audience === "nothing" || audience === null ? {} : content;
    response.setHeader("content-type", "application/json").end(JSON.stringify(said));
  });
});
await new Promise((done) => server.listen(0, "127.0.0.1", done));
const vault = new Vault(`http://127.0.0.1:${server.address().port}`, { clientId: "c" });
const get = (audience) => vault.token(audience, { subject: "s" });
for (const audience of ["short", "endless", "long", "short", "endless", "long"]) await get(audience);
for (let number = 0; number < 997; number += 1) await get(`other-${number}`);
await get("long");
const kept = asked.long;
await get("one-more");
await get("short");
await get("long");
const told = (error) => error instanceof VaultRefused && error.status;
const nothing = await get("nothing").catch(told);
const admin = new AdminClient(vault.url, { clientId: "c", clientSecret: "s" });
const account = await admin.listPeople().catch(told);
const { short, endless, long: dropped } = asked;
console.log(JSON.stringify({ short, endless, kept, dropped, nothing, account }));
process.exit();
"""


async def test_tokens_are_kept_until_shortly_before_they_end_and_an_answer_without_one_is_refused(
    dist: Path, tmp_path: Path
) -> None:
    (program := tmp_path / "kept.mjs").write_text(_KEPT, encoding="utf-8")
    said = json.loads(await run_node(tmp_path, str(program), PLACE=json.dumps({"dist": str(dist)})))
    assert said == {"short": 3, "endless": 2, "kept": 1, "dropped": 2, "nothing": 200, "account": 200}
