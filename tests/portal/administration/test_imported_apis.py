"""Imported APIs wait for an admin: reviewed, selected tool by tool, accepted, discarded and removed on their page."""

from __future__ import annotations

import itertools
import json
import re
import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from providers.simulator.local_server import running_simulator
from providers.tools.imported_api import ImportChoice, content_of, tables_of
from providers.tools.openapi_document import parse
from providers.tools.openapi_import import import_document
from server.administration import people, reconciliation
from server.administration.actor import Actor, ChangeRefused
from server.administration.declaration import Declaration, DeclarationRefused, parse_declaration, read_declaration
from server.portal.csrf import form_token
from server.remote import imported_apis
from server.remote.declared_servers import plan
from tests.support.harness import PASSWORD, running_vault
from tests.support.inspection import read_events
from tests.support.person import Person, forms_of, session_token
from tests.support.rooms.admin_room import AdminRoom, problem
from tests.support.rooms.mcp_room import Room
from tests.support.rooms.portal_room import Room as PortalRoom
from vault import users
from vault.approvals import standing_approvals
from vault.mcp.imported_apis import ImportedApi, get_api
from vault.records import Role

PAGE = "/administration/tools/imports"
AUDIENCE = "https://brokerage.example"


@dataclass
class ImportRoom(Room):
    """A vault, the simulator's brokerage, and alice's browser."""

    person: Person

    @property
    def deployment(self):
        return self.vault.deployment

    @property
    def operator(self) -> Actor:
        return Actor(self.deployment, None, "command_line")

    async def offer(self, name: str, *, extra: Mapping[str, object] | None = None) -> str:
        """Import an API with that name, so that it waits; returns its page."""
        await imported_apis.offer(self.operator, name, self.content(name, extra=extra))
        return f"{PAGE}/{name}"

    def content(self, name: str, *, extra: Mapping[str, object] | None = None) -> str:
        made = import_document(document(extra or {}), name=name, title="", audience=AUDIENCE, server="")
        content = json.loads(content_of(made))
        content["provider"]["apis"] = {"main": f"{self.simulator.url}/brokerage/v1"}
        return json.dumps(content)

    async def read_api(self, name: str) -> ImportedApi:
        found = await get_api(self.deployment.database, name)
        assert found is not None
        return found

    async def accept(self, name: str, **choices: ImportChoice) -> int:
        digest = (await self.read_api(name)).digest
        chosen: dict[str, ImportChoice] = {f"{name}_{tool}": choice for tool, choice in choices.items()}
        return await imported_apis.accept(self.operator, name, digest, chosen)

    def offered_tools(self, name: str) -> dict[str, bool]:
        """The tools offered to agents, and whether each call needs approval."""
        found = [spec for spec in self.deployment.tools if spec.provider == name]
        return {spec.name.removeprefix(f"{name}_"): spec.approval for spec in found}


def document(extra: Mapping[str, object]):
    return parse(openapi_text(extra).encode())


def openapi_text(extra: Mapping[str, object]) -> str:
    symbol = {"name": "symbol", "in": "path", "required": True, "schema": {"type": "string"}}
    quote = {"type": "object", "properties": {"symbol": {"type": "string"}, "price": {"type": "number"}}}
    order = {
        "type": "object",
        "required": ["symbol", "side", "quantity"],
        "properties": {
            "symbol": {"type": "string"},
            "side": {"type": "string", "enum": ["buy", "sell"]},
            "quantity": {"type": "integer"},
        },
    }
    answers = {"200": {"content": {"application/json": {"schema": quote}}}}
    paths: dict[str, object] = {
        "/quotes/{symbol}": {
            "get": {
                "operationId": "quote",
                "description": "Ask me first\u202e.",
                "parameters": [symbol],
                "responses": answers,
                "security": [{"oauth": ["quotes:read"]}],
            }
        },
        "/orders": {
            "post": {
                "operationId": "order",
                "requestBody": {"content": {"application/json": {"schema": order}}},
                "responses": answers,
                "security": [{"oauth": ["orders:write"]}],
            }
        },
    }
    scopes = {"quotes:read": "Look up prices", "orders:write": "Buy and sell"}
    flow = {"authorizationUrl": "https://a.example", "tokenUrl": "https://a.example", "scopes": scopes}
    schemes = {"oauth": {"type": "oauth2", "flows": {"authorizationCode": flow}}}
    content = {
        "openapi": "3.1.0",
        "info": {"title": "Brokerage"},
        "servers": [{"url": "https://brokerage.example/v1"}],
        "paths": {**paths, **extra},
        "components": {"securitySchemes": schemes},
    }
    return json.dumps(content)


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[ImportRoom]:
    overrides = {"sandbox": {"loopback_upstreams": True}, "tools": {"list_limit": 0}}
    async with (
        running_simulator() as simulator,
        running_vault(tmp_path_factory.mktemp("imports"), overrides=overrides) as vault,
        Person(vault.url) as person,
    ):
        await person.sign_in("alice", PASSWORD)
        yield ImportRoom(vault, simulator, person)


def fresh() -> str:
    return f"api{secrets.token_hex(4)}"


async def decide(place: ImportRoom, page: httpx2.Response, path: str, **choices: str) -> httpx2.Response:
    name = path.rpartition("/")[2]
    sent = {f"tool.{name}_{tool}": choice for tool, choice in choices.items()}
    return await place.person.submit(page, sent, form=f"{path}/accept")


async def kinds_of(place: ImportRoom, name: str) -> list[str]:
    events = await read_events(place.deployment, limit=50, newest_first=True)
    return [one.kind for one in events if one.details.get("provider") == name]


def plain(html: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


async def test_nothing_is_on_until_it_is_accepted_and_then_an_agent_calls_it(place: ImportRoom) -> None:
    name = fresh()
    path = await place.offer(name)
    assert place.offered_tools(name) == {}
    assert place.deployment.catalog.get(name) is None
    assert path in (await place.person.open(PAGE)).text
    page = await place.person.open(path)
    said = plain(page.text)
    for shown in ("/quotes/{symbol}", "quotes:read", f"{place.simulator.url}/brokerage/v1", AUDIENCE, "&#34;pattern"):
        assert shown in said, shown
    levels = [int(level) for level in re.findall(r"<h([1-6])", page.text)]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), "no level of headings is left out"
    assert "Ask me first." in said
    assert "\u202e" not in page.text
    done = await decide(place, page, path)
    assert "Accepted tools: 2." in done.text
    assert place.offered_tools(name) == {"quote": False, "order": True}  # as the import suggests
    assert await kinds_of(place, name) == ["api.import_accepted", "api.imported"]
    place.simulator.reset()
    place.simulator.trust(place.url, audience=AUDIENCE)
    agent = await place.agent()
    async with place.client(agent) as client:
        asked = await client.call_tool(f"{name}_quote", {"symbol": "ACME"})
        link = str((asked.meta or {})["io.github.mcp-token-vault/connect"]["url"])
        allowed = await place.person.open(link)
        assert "Look up prices" in allowed.text
        await place.person.submit(allowed, form="/connect/", button=("decision", "allow"))
        answered = await client.call_tool(f"{name}_quote", {"symbol": "ACME"})
    assert not answered.is_error, answered
    assert place.simulator.books()["brokerage"][-1]["scope"] == "quotes:read"
    refused = await place.person.submit(await place.person.open(path), form=f"{path}/remove")
    assert refused.status_code == 409
    assert "Accounts are connected" in refused.text
    assert place.offered_tools(name) == {"quote": False, "order": True}


async def test_tools_are_chosen_one_by_one_and_what_is_left_out_has_no_rule(place: ImportRoom) -> None:
    name = fresh()
    path = await place.offer(name)
    page = await place.person.open(path)
    none = await decide(place, page, path, quote="leave", order="leave")
    assert none.status_code == 400
    assert "No tool of" in none.text
    await decide(place, page, path, quote="ask", order="leave")
    assert place.offered_tools(name) == {"quote": True}
    provider = place.deployment.catalog.provider(name)
    assert [rule.path for rule in provider.rules] == ["/quotes/{}"]
    assert set(provider.scopes) == {"quotes:read"}
    await place.offer(name)
    await decide(place, await place.person.open(path), path, quote="accept", order="accept")
    assert place.offered_tools(name) == {"quote": False, "order": False}


async def test_a_stale_page_accepts_and_discards_nothing(place: ImportRoom) -> None:
    name = fresh()
    path = await place.offer(name)
    stale = await place.person.open(path)
    wider = {"/quotes": {"post": {"operationId": "alarm", "responses": {}}}}
    await place.offer(name, extra=wider)
    for refused in (
        await decide(place, stale, path),
        await place.person.submit(stale, form=f"{path}/discard"),
    ):
        assert refused.status_code == 409
        assert "This page is out of date" in refused.text
    assert place.offered_tools(name) == {}
    new = await place.person.open(path)
    assert f"{name}_alarm" in new.text
    assert (await decide(place, new, path)).status_code == 200  # the twin
    assert set(place.offered_tools(name)) == {"quote", "order", "alarm"}


async def test_an_import_anew_shows_what_changed_and_keeps_on_what_was_accepted(place: ImportRoom) -> None:
    name = fresh()
    path = await place.offer(name)
    await place.accept(name, quote="accept", order="accept")
    other = {"/orders": {"put": {"operationId": "order", "responses": {}}}}
    await place.offer(name, extra=other)
    review = imported_apis.review_of(await place.read_api(name))
    states = {one.name.removeprefix(f"{name}_"): (one.state, one.choice) for one in review.tools}
    assert states == {"quote": ("accepted", "accept"), "order": ("changed", "ask")}
    assert place.offered_tools(name) == {"quote": False, "order": False}
    page = await place.person.open(path)
    assert "What changed" in page.text
    assert re.search(r"<ins>[^<]*PUT", page.text)
    discarded = await place.person.submit(page, form=f"{path}/discard")
    assert "was discarded" in discarded.text
    assert place.offered_tools(name) == {"quote": False, "order": False}
    assert (await place.read_api(name)).offered is None
    removed = await place.person.submit(await place.person.open(path), form=f"{path}/remove")
    assert "was removed" in removed.text
    assert place.offered_tools(name) == {}
    assert (await place.person.open(path)).status_code == 404


async def test_a_discarded_import_is_forgotten(place: ImportRoom) -> None:
    name = fresh()
    path = await place.offer(name)
    await place.person.submit(await place.person.open(path), form=f"{path}/discard")
    assert await get_api(place.deployment.database, name) is None
    assert (await kinds_of(place, name))[0] == "api.import_discarded"


async def test_an_auditor_reads_and_decides_nothing(place: ImportRoom) -> None:
    name = fresh()
    path = await place.offer(name)
    member = fresh()
    await place.vault.add_user(member)
    user = await users.find_user(place.deployment.database, member)
    assert user is not None
    await people.set_role(place.operator, user, Role.AUDITOR)
    async with Person(place.url) as auditor:
        await auditor.sign_in(member, PASSWORD)
        page = await auditor.open(path)
        assert "/quotes/{symbol}" in page.text
        assert not [one for one in forms_of(page.text) if str(one).startswith(path)]
        assert '<input type="radio"' not in page.text
        for action in ("accept", "discard", "remove"):
            sent = await send(place, auditor, f"{path}/{action}")
            assert sent.status_code == 403
            assert "Auditors read" in sent.text or "auditor" in sent.text.casefold()
    assert place.offered_tools(name) == {}
    digest = (await place.read_api(name)).digest
    chosen = {"digest": digest, f"tool.{name}_quote": "accept"}
    assert (await send(place, place.person, f"{path}/accept", **chosen)).status_code == 303  # the twin
    assert place.offered_tools(name) == {"quote": False}


async def send(place: ImportRoom, person: Person, path: str, **fields: str) -> httpx2.Response:
    """Send a form that the page may not have contained."""
    token = form_token(place.deployment.keys.subkey("csrf"), session_token(person.http), action=path)
    return await person.http.post(path, data={"form_token": token, **fields}, headers={"Origin": place.url})


async def test_leaving_a_tool_out_closes_its_call_where_another_rule_reaches_it(place: ImportRoom) -> None:
    name = fresh()
    special = {"/quotes/special": {"get": _like_quote("special")}}
    path = await place.offer(name, extra=special)
    await place.accept(name, quote="accept", order="leave", special="leave")
    rules = {rule.path: rule for rule in place.deployment.catalog.provider(name).rules}
    assert set(rules) == {"/quotes/{}", "/quotes/special"}
    assert rules["/quotes/special"].tells_secrets
    await place.offer(name, extra=special)
    await decide(place, await place.person.open(path), path, quote="leave", special="accept", order="leave")
    assert set(place.offered_tools(name)) == {"special"}


def _like_quote(operation: str) -> dict[str, object]:
    schema = {"type": "object", "properties": {"price": {"type": "number"}}}
    answers = {"200": {"content": {"application/json": {"schema": schema}}}}
    return {"operationId": operation, "responses": answers, "security": [{"oauth": ["quotes:read"]}]}


async def test_a_tool_that_cannot_be_kept_apart_is_named(place: ImportRoom) -> None:
    name = fresh()
    other = {"name": "other", "in": "path", "required": True, "schema": {"type": "string"}}
    path = await place.offer(name, extra={"/quotes/{other}": {"get": {**_like_quote("other"), "parameters": [other]}}})
    page = await place.person.open(path)
    refused = await decide(place, page, path, quote="accept", other="leave")
    assert refused.status_code == 400
    assert f"The rule of {name}_quote also allows" in refused.text
    assert "Leave that tool out, too." in refused.text
    assert place.offered_tools(name) == {}
    assert (await decide(place, page, path, quote="accept", other="accept")).status_code == 200  # the twin
    assert set(place.offered_tools(name)) == {"quote", "other", "order"}


async def test_names_that_the_vault_has_are_refused(place: ImportRoom) -> None:
    name = fresh()
    with pytest.raises(ChangeRefused, match="a provider has this name"):
        await place.offer("github")
    await place.offer(name)  # the twin
    content = place.content(name)
    tool = str(tables_of(content).tools[0]["name"])
    with pytest.raises(ChangeRefused, match="another tool already has this name"):
        await imported_apis.offer(place.operator, name, content.replace(tool, "slack_post"))


async def test_a_decision_can_change_later_also_about_what_was_left_out(place: ImportRoom) -> None:
    name = fresh()
    path = await place.offer(name)
    assert f"{name}: imported API to review" in plain((await place.person.open("/")).text)
    await decide(place, await place.person.open(path), path, quote="accept", order="leave")
    assert f"{name}: imported API to review" not in plain((await place.person.open("/")).text)
    page = await place.person.open(path)
    assert "left out" in plain(page.text)
    done = await decide(place, page, path, quote="ask", order="accept")
    assert done.status_code == 200, done.text
    assert place.offered_tools(name) == {"quote": True, "order": False}
    stale = await decide(place, page, path, quote="accept")
    assert stale.status_code == 409
    assert place.offered_tools(name) == {"quote": True, "order": False}
    none = await decide(place, await place.person.open(path), path, quote="leave", order="leave")
    assert (none.status_code, "Remove the API instead." in none.text) == (400, True)
    await decide(place, await place.person.open(path), path, quote="accept", order="leave")
    await place.offer(name, extra={"/quotes": {"post": {"operationId": "alarm", "responses": {}}}})
    states = {
        one.name.removeprefix(f"{name}_"): one.state
        for one in imported_apis.review_of(await place.read_api(name)).tools
    }
    assert states == {"quote": "accepted", "order": "left", "alarm": "new"}
    digest = (await place.read_api(name)).digest
    assert await imported_apis.decide(place.operator, name, digest, {}) == 2, "as it was decided before"
    assert place.offered_tools(name) == {"quote": False, "alarm": True}
    again = place.content(name, extra={"/quotes": {"post": {"operationId": "alarm", "responses": {}}}})
    assert not await imported_apis.offer(place.operator, name, again), "nothing is new"
    await place.offer(name)
    assert not await imported_apis.offer(place.operator, name, again)
    assert (await place.read_api(name)).offered is None, "what waited is older than what is on"


async def test_the_admin_api_and_declarations_do_what_the_page_does(place: ImportRoom) -> None:
    name = fresh()
    async with AsyncExitStack() as stack, httpx2.AsyncClient(base_url=place.url, timeout=20) as http:
        admin = AdminRoom(PortalRoom(place.vault, place.simulator, stack), http)
        admin.token = await admin.token_with()
        sent = {"name": name, "kind": "openapi", "document": openapi_text({}), "title": "Broker"}
        made = await admin.call("POST", "/imported-apis", json=sent)
        assert made.status_code == 201, made.text
        assert made.json()["is_waiting"] and made.json()["waiting"] == 2
        for wrong in ({"document": "[]"}, {"name": "Not OK"}, {"kind": "graphql"}):
            problem(await admin.call("POST", "/imported-apis", json={**sent, **wrong}), 400, "import_refused")
        listed = (await admin.call("GET", "/imported-apis")).json()["items"]
        assert made.json() in listed
        large = {**sent, "document": openapi_text({"x-padding": "x" * 1_000_000})}
        assert (await admin.call("POST", "/imported-apis", json=large)).status_code == 201
        planned = {"imported_apis": {name: {"document": large["document"]}}}
        assert (await admin.call("POST", "/apply?plan=true", json=planned)).status_code == 200
        await admin.call("POST", "/imported-apis", json=sent)
        at = f"/imported-apis/{name}"
        review = (await admin.call("GET", f"{at}/review")).json()
        assert {one["name"]: one["state"] for one in review["tools"]} == {
            f"{name}_quote": "new",
            f"{name}_order": "new",
        }
        decisions = {"digest": "0" * 64, "tools": {f"{name}_order": "leave"}}
        problem(await admin.call("POST", f"{at}/decisions", json=decisions), 412, "import_changed")
        decisions["digest"] = review["digest"]
        unknown = {**decisions, "tools": {"other": "leave"}}
        problem(await admin.call("POST", f"{at}/decisions", json=unknown), 400, "import_refused")
        assert (await admin.call("POST", f"{at}/decisions", json=decisions)).json() == {"accepted": 1}
        assert place.offered_tools(name) == {"quote": False}
        assert await plan(place.operator, declare_api(sent)) == (), "the same document needs no review"
        assert set(place.offered_tools(name)) == {"quote"}
        digest = (await admin.call("GET", f"{at}/review")).json()["digest"]
        problem(await admin.call("DELETE", f"{at}/waiting?digest={digest}"), 412, "import_changed")
        problem(await admin.call("DELETE", "/imported-apis/nothing"), 404, "no_import")
        assert (await admin.call("DELETE", at)).status_code == 204
        assert place.offered_tools(name) == {}
        await admin.call("POST", "/imported-apis", json=sent)
        digest = (await admin.call("GET", f"{at}/review")).json()["digest"]
        assert (await admin.call("DELETE", f"{at}/waiting?digest={digest}")).status_code == 204


def declare_api(sent: Mapping[str, object], **more: object) -> Declaration:
    about = {one: sent[one] for one in ("kind", "document", "title")}
    return parse_declaration({"imported_apis": {str(sent["name"]): {**about, **more}}})


async def test_a_declared_import_waits_unless_it_says_that_it_was_reviewed(place: ImportRoom) -> None:
    name = fresh()
    sent = {"name": name, "kind": "openapi", "document": openapi_text({}), "title": "Broker"}
    (first,) = await plan(place.operator, declare_api(sent))
    after = {one.name: one.after for one in first.differences}
    assert (first.verb, after["waits"], after[f"{name}_quote"]) == ("create", True, "to review: new")
    await reconciliation.apply([first])
    assert place.offered_tools(name) == {}
    assert await plan(place.operator, declare_api(sent)) == ()
    assert await plan(place.operator, declare_api(sent, reviewed="0" * 64)) == (), "something else was reviewed"
    reviewed = str(after["import"])
    choices = {f"{name}_quote": "ask", f"{name}_order": "leave"}
    (second,) = await plan(place.operator, declare_api(sent, reviewed=reviewed, tools=choices))
    assert (second.verb, {one.name: one.after for one in second.differences}) == ("update", {"waits": False, **choices})
    await reconciliation.apply([second])
    assert place.offered_tools(name) == {"quote": True}
    assert await plan(place.operator, declare_api(sent, reviewed=reviewed, tools=choices)) == ()
    other = {
        **sent,
        "document": openapi_text({"/orders": {"put": {"operationId": "order", "responses": {}}}}),
    }
    (third,) = await plan(place.operator, declare_api(other, reviewed=reviewed, tools=choices))
    assert {one.name: one.after for one in third.differences}[f"{name}_order"] == (
        "to review: changed, request, rule, scopes, effect, arguments, result"
    )
    await reconciliation.apply([third])
    assert place.offered_tools(name) == {"quote": True}, "another version waits"
    with pytest.raises(ChangeRefused, match="makes no tool other"):
        await plan(place.operator, declare_api(sent, tools={"other": "ask"}))
    with pytest.raises(ChangeRefused, match="set document_file"):
        await plan(place.operator, parse_declaration({"imported_apis": {name: {}}}))
    removed = await plan(place.operator, parse_declaration({"imported_apis": {}}), prunes=True)
    (gone,) = [one for one in removed if one.name == name]
    await reconciliation.apply([gone])
    assert place.offered_tools(name) == {}


async def test_a_left_out_tool_that_changed_stays_out_unless_somebody_names_it(place: ImportRoom) -> None:
    name = fresh()
    await place.offer(name)
    await place.accept(name, quote="accept", order="leave")
    changed = {"/orders": {"put": {"operationId": "order", "responses": {}}}}
    await place.offer(name, extra=changed)
    (order,) = [one for one in imported_apis.review_of(await place.read_api(name)).tools if one.name == f"{name}_order"]
    assert (order.state, order.choice) == ("changed", "leave")
    assert "request" in [part.name for part in order.parts]
    digest = (await place.read_api(name)).digest
    assert await imported_apis.decide(place.operator, name, digest, {}) == 1
    assert place.offered_tools(name) == {"quote": False}
    digest = (await place.read_api(name)).digest
    assert await imported_apis.decide(place.operator, name, digest, {f"{name}_order": "accept"}) == 2  # the twin


@pytest.mark.parametrize("part", ["address", "audience"])
async def test_another_address_or_audience_changes_every_tool(place: ImportRoom, part: str) -> None:
    name = fresh()
    path = await place.offer(name)
    await place.accept(name, quote="accept", order="ask")
    content = json.loads(place.content(name))
    before, after = content["provider"]["apis"]["main"], "https://other.example/v1"
    if part == "address":
        content["provider"]["apis"] = {"main": after}
    else:
        before, content["provider"]["audience"] = AUDIENCE, after
    await imported_apis.offer(place.operator, name, json.dumps(content))
    stored = await place.read_api(name)
    review = imported_apis.review_of(stored)
    for tool in review.tools:
        assert tool.state == "changed"
        shown = [(found.name, [(line.mark, line.text) for line in found.lines]) for found in tool.parts]
        assert shown == [(part, [("same", "…"), ("removed", before), ("added", after)])]
    assert imported_apis.state_of(place.deployment, stored)["waiting"] == 2
    page = await place.person.open(path)
    assert f"<del>− {before}</del>" in page.text
    tool = f"{name}_order"
    await approve_from_now_on(place, tool)
    assert await count_standing(place, tool) == 1
    await decide(place, page, path)
    assert await count_standing(place, tool) == 0
    assert place.offered_tools(name) == {"quote": False, "order": True}


async def approve_from_now_on(place: ImportRoom, tool: str) -> None:
    binding, now = standing_approvals.Binding("alice", "agent", "account", tool, {}), place.deployment.now()
    async with place.deployment.transaction() as transaction:
        await standing_approvals.give(
            transaction,
            place.deployment.keys,
            binding=binding,
            provider=tool.rpartition("_")[0],
            account="1",
            names={},
            per_day=5,
            expires_at=now + 86_400,
            now=now,
        )


async def count_standing(place: ImportRoom, tool: str) -> int:
    """The number of standing approvals for this tool that haven't been revoked."""
    rows = await place.deployment.database.fetch(
        "select id from standing_approvals where tool = :tool and revoked_at is null", {"tool": tool}
    )
    return len(rows)


async def test_a_declaration_turns_on_only_the_import_that_it_names(place: ImportRoom) -> None:
    name = fresh()
    await place.offer(name)
    named = imported_apis.import_digest((await place.read_api(name)).whole)
    await place.offer(name, extra={"/quotes": {"post": {"operationId": "alarm", "responses": {}}}})
    with pytest.raises(ChangeRefused) as refused:
        await imported_apis.decide_reviewed(place.operator, name, named, {})
    assert refused.value.reason == "import_changed"
    assert place.offered_tools(name) == {}
    named = imported_apis.import_digest((await place.read_api(name)).whole)
    assert await imported_apis.decide_reviewed(place.operator, name, named, {}) == 3  # the twin


async def test_a_plan_refuses_a_decision_that_cannot_be_turned_on(place: ImportRoom) -> None:
    name = fresh()
    sent = {"name": name, "kind": "openapi", "document": openapi_text({}), "title": "Broker"}
    (first,) = await plan(place.operator, declare_api(sent))
    reviewed = str({one.name: one.after for one in first.differences}["import"])
    none = {f"{name}_quote": "leave", f"{name}_order": "leave"}
    with pytest.raises(ChangeRefused, match=f"No tool of {name} is left. Remove the API instead"):
        await plan(place.operator, declare_api(sent, reviewed=reviewed, tools=none))
    assert await get_api(place.deployment.database, name) is None
    (change,) = await plan(place.operator, declare_api(sent, reviewed=reviewed, tools={**none, f"{name}_quote": "ask"}))
    await reconciliation.apply([change])  # the twin
    assert place.offered_tools(name) == {"quote": True}


def test_a_declared_description_is_in_the_file_or_beside_it(tmp_path: Path) -> None:
    (tmp_path / "api.json").write_text("{}", encoding="utf-8")
    file = tmp_path / "vault.toml"
    file.write_text('[imported_apis.tickets]\ndocument_file = "api.json"\n', encoding="utf-8")
    assert (read_declaration(file).imported_apis or {})["tickets"].document == "{}"
    file.write_text('[imported_apis.tickets]\ndocument_file = "api.json"\ndocument = "{}"\n', encoding="utf-8")
    with pytest.raises(DeclarationRefused, match="are both set"):
        read_declaration(file)
    file.write_text('[imported_apis.tickets]\ndocument_file = "other.json"\n', encoding="utf-8")
    with pytest.raises(DeclarationRefused, match="can't read"):
        read_declaration(file)


async def test_an_import_from_before_decisions_were_kept_can_be_decided_about(place: ImportRoom) -> None:
    name = fresh()
    path = await place.offer(name)
    await place.accept(name, quote="accept", order="accept")
    async with place.deployment.transaction() as transaction:
        await transaction.execute("update imported_apis set reviewed = null where name = :name", {"name": name})
    await decide(place, await place.person.open(path), path, quote="ask", order="leave")
    assert place.offered_tools(name) == {"quote": True}
    await decide(place, await place.person.open(path), path, quote="ask", order="accept")
    assert place.offered_tools(name) == {"quote": True, "order": False}
