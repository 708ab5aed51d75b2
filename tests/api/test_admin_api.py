"""The Admin API does what pages and commands do and records an event that names the admin; each refusal has a twin."""

from __future__ import annotations

import asyncio
import csv
import io

import httpx2
import pytest
from joserfc.jwk import ECKey

from server.administration import group_accounts, groups
from server.oauth.backchannel.clients import DELIVERY
from server.oauth.clients.rules import BACKCHANNEL_GRANT
from tests.support.rooms.admin_room import AdminRoom, problem
from vault import apis, clients, connections, delegations
from vault.approvals import approvals, requests, standing_approvals
from vault.approvals.approvals import RELEASE, ToolCall
from vault.approvals.requests import BackchannelRequest
from vault.approvals.standing_approvals import Binding
from vault.records import ClientKind, Connection, Principal, User


async def _ok(answer: httpx2.Response, status: int = 200) -> dict[str, object]:
    assert answer.status_code == status, f"{answer.status_code}: {answer.text}"
    return answer.json() if status != 204 else {}


async def _add_person(room: AdminRoom, name: str, **more: object) -> dict[str, object]:
    made = await _ok(await room.call("POST", "/people", json={"name": name, **more}), 201)
    assert isinstance(made["person"], dict)
    return made["person"]


async def _account(room: AdminRoom) -> tuple[User, Connection, str]:
    """A person with a connected account that an agent may use."""
    user, agent = await room.room.user(), await room.room.agent()
    await room.room.connect(await room.room.signed_in(user), user, agent)
    (connection,) = await connections.list_connections(room.deployment.database, user.id)
    return user, connection, agent.id


# People


async def test_a_person_is_added_found_changed_and_deleted(room: AdminRoom) -> None:
    made = await _ok(await room.call("POST", "/people", json={"name": "Grace", "admin": True}), 201)
    assert "/sign-in/link?ticket=" in str(made["sign_in_link"])
    grace = made["person"]
    assert isinstance(grace, dict)
    found = await _ok(await room.call("GET", "/people?find=gra"))
    assert found == {"items": [grace], "next_cursor": None}
    changed = await _ok(await room.call("PATCH", f"/people/{grace['id']}", json={"disabled": True, "admin": False}))
    assert (changed["disabled"], changed["admin"]) == (True, False)
    same = await _ok(await room.call("PATCH", f"/people/{grace['id']}", json={"disabled": True}))
    assert same["disabled_at"] == changed["disabled_at"]
    problem(await room.call("POST", f"/people/{grace['id']}/sign-in-links"), 409, "person_changed")
    await _ok(await room.call("PATCH", f"/people/{grace['id']}", json={"disabled": False}))
    link = await _ok(await room.call("POST", f"/people/{grace['id']}/sign-in-links"), 201)
    assert "/sign-in/link?ticket=" in str(link["url"])
    await _ok(await room.call("DELETE", f"/people/{grace['id']}"), 204)
    problem(await room.call("GET", f"/people/{grace['id']}"), 404, "no_person")
    events = [one for one in await room.room.events() if one.user_id == grace["id"]]
    assert [one.kind for one in events] == [
        "user.created", "user.disabled", "user.admin_removed", "user.enabled", "user.link_made", "user.removed",
        "user.key_destroyed",
    ]  # fmt: skip
    assert {(one.details["by"], one.details["via"]) for one in events[:-1]} == {("alice", "Automation")}


async def test_people_come_a_page_at_a_time(room: AdminRoom) -> None:
    names = [f"page-{number}" for number in range(5)]
    for name in names:
        await _add_person(room, name)
    seen, cursor = list[str](), ""
    while True:
        page = await _ok(await room.call("GET", f"/people?find=page-&limit=2{cursor}"))
        items = page["items"]
        assert isinstance(items, list)
        assert len(items) <= 2
        seen += [one["name"] for one in items]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == names
    wrong = await room.call("GET", "/people?cursor=bm90IG91cnM")
    assert problem(wrong, 400, "invalid_request")["errors"] == [
        {"pointer": "cursor", "message": "pass the `next_cursor` of the previous page, unchanged"}
    ]


async def test_a_name_is_there_once_and_the_last_admin_stays(room: AdminRoom) -> None:
    problem(await room.call("POST", "/people", json={"name": "ALICE"}), 409, "name_taken")
    alice = await room.person("alice")
    problem(await room.call("DELETE", f"/people/{alice.id}"), 409, "not_yourself")
    problem(await room.call("PATCH", f"/people/{alice.id}", json={"disabled": True}), 409, "not_yourself")
    problem(await room.call("PATCH", f"/people/{alice.id}", json={"admin": False}), 409, "last_admin")
    other = await _add_person(room, "second-admin", admin=True)
    token = await room.token_with(name="second-admin")
    problem(await room.call("PATCH", f"/people/{alice.id}", json={"admin": False}, token=token), 403, "owner_only")
    await _ok(await room.call("PATCH", f"/people/{other['id']}", json={"role": "owner"}))
    await _ok(await room.call("PATCH", f"/people/{alice.id}", json={"admin": False}, token=token))
    await _ok(await room.call("PATCH", f"/people/{alice.id}", json={"role": "owner"}, token=token))
    await _ok(await room.call("DELETE", f"/people/{other['id']}"), 204)


async def test_an_identity_belongs_to_one_person(room: AdminRoom) -> None:
    one, other = await _add_person(room, "linked"), await _add_person(room, "unlinked")
    who = {"issuer": "https://id.example", "subject": "42"}
    assert await _ok(await room.call("POST", f"/people/{one['id']}/identities", json=who), 201) == who
    assert (await _ok(await room.call("GET", f"/people/{one['id']}")))["identities"] == [who]
    problem(await room.call("POST", f"/people/{other['id']}/identities", json=who), 409, "identity_taken")


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({}, ["/name"]),
        ({"name": 5}, ["/name"]),
        ({"name": "x", "role": "admin"}, ["/role"]),
        ({"name": "x", "admin": "yes"}, ["/admin"]),
        ({"name": "nul\0"}, ["/name"]),
        ({"name": 5, "role": "admin", "admin": "yes"}, ["/name", "/admin", "/role"]),
    ],
)
async def test_each_wrong_value_is_pointed_at(room: AdminRoom, body: dict[str, object], pointers: list[str]) -> None:
    refused = problem(await room.call("POST", "/people", json=body), 400, "invalid_request")
    errors = refused["errors"]
    assert isinstance(errors, list)
    assert sorted(one["pointer"] for one in errors) == sorted(pointers)


async def test_bodies_and_queries_are_read_strictly(room: AdminRoom) -> None:
    as_text = {"content-type": "text/plain"}
    problem(await room.call("POST", "/people", content='{"name": "x"}', headers=as_text), 415, "unsupported_body")
    as_json = {"content-type": "application/json"}
    for content in ('{"name": "x", "name": "y"}', "[]", "{", '{"name": "\\ud800"}'):
        problem(await room.call("POST", "/people", content=content, headers=as_json), 400, "invalid_request")
    large = f'{{"name": "{"x" * 300_000}"}}'
    problem(await room.call("POST", "/people", content=large, headers=as_json), 413, "body_too_large")
    for query in ("?unknown=1", "?limit=1&limit=2", "?limit=0", "?find=%00", "?find=%ff"):
        problem(await room.call("GET", f"/people{query}"), 400, "invalid_request")
    problem(await room.call("GET", "/settings?limit=1"), 400, "invalid_request")
    wrong = await room.call("PUT", "/people")
    problem(wrong, 405, "method_not_allowed")
    assert wrong.headers["allow"] == "GET, HEAD, POST"
    problem(await room.call("GET", "/nothing"), 404, "not_found")
    problem(await room.call("GET", "/people/not%00an-id"), 404, "not_found")
    assert (await room.call("HEAD", "/people")).content == b""


# Agents and APIs


async def test_an_agent_is_registered_changed_and_removed(room: AdminRoom) -> None:
    body = {"name": "Reports", "redirect_uris": ["https://app.example/cb"], "confidential": True, "exchange": True}
    made = await _ok(await room.call("POST", "/agents", json=body), 201)
    agent = made["agent"]
    assert isinstance(agent, dict)
    assert len(str(made["client_secret"])) >= 43
    assert (await _ok(await room.call("GET", f"/agents/{agent['id']}"))) == agent
    assert agent["kind"] == "manual"
    changed = await _ok(await room.call("PATCH", f"/agents/{agent['id']}", json={"release": {"slack": "full"}}))
    assert changed["release"] == {"slack": "full"}
    as_patch = {"content-type": "application/merge-patch+json"}  # RFC 7396
    patch = '{"release": {"slack": "proxy"}}'
    again = await room.call("PATCH", f"/agents/{agent['id']}", content=patch, headers=as_patch)
    assert (await _ok(again))["release"] == {"slack": "proxy"}
    await _ok(await room.call("DELETE", f"/agents/{agent['id']}"), 204)
    problem(await room.call("DELETE", f"/agents/{agent['id']}"), 404, "no_client")
    kinds = [one.kind for one in await room.room.events() if one.client_id == agent["id"]]
    assert kinds == ["client.registered", "release.changed", "release.changed", "client.removed"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"name": "x"}, "/redirect_uris"),
        ({"name": "x", "exchange": True}, "/confidential"),
        ({"name": "x", "redirect_uris": ["javascript:alert(1)"]}, "/redirect_uris"),
        ({"name": "\u200b", "redirect_uris": ["https://a.example/"]}, "/name"),
        ({"name": "x", "redirect_uris": ["https://a.example/"], "origins": ["https://a.example/page"]}, "/origins"),
        ({"name": "x", "redirect_uris": ["https://a.example/"], "jwks": {"keys": []}}, "/jwks"),
    ],
)
async def test_an_agent_that_cannot_be_is_refused_with_the_field(
    room: AdminRoom, body: dict[str, object], pointer: str
) -> None:
    refused = problem(await room.call("POST", "/agents", json=body), 400, "agent_refused")
    assert [one["pointer"] for one in refused["errors"]] == [pointer]  # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType]


async def test_a_repeated_registration_is_answered_again_with_its_secret(room: AdminRoom) -> None:
    body = {"name": "Once", "redirect_uris": ["https://app.example/cb"], "confidential": True}
    key = {"Idempotency-Key": "3f6f1c8e-once-and-only-once"}
    first = await _ok(await room.call("POST", "/agents", json=body, headers=key), 201)
    again = await _ok(await room.call("POST", "/agents", json=body, headers=key), 201)
    assert again == first
    other = await room.call("POST", "/agents", json=body | {"name": "Twice"}, headers=key)
    problem(other, 409, "conflict")
    at_once = {"Idempotency-Key": "3f6f1c8e-many-at-once"}
    many = await asyncio.gather(*(room.call("POST", "/agents", json=body, headers=at_once) for _ in range(6)))
    assert {(one.status_code, one.text) for one in many} == {(201, many[0].text)}
    removed = many[0].json()["agent"]["id"]
    await _ok(await room.call("DELETE", f"/agents/{removed}"), 204)
    problem(await room.call("POST", "/agents", json=body, headers=at_once), 409, "conflict")
    anew = await _ok(await room.call("POST", "/agents", json=body), 201)
    assert anew != first
    short = await room.call("POST", "/agents", json=body, headers={"Idempotency-Key": "short"})
    problem(short, 400, "invalid_request")
    room.deployment.database.clock_offset += 90_000
    try:
        late = await room.call("POST", "/agents", json=body, headers=key, token=await room.token_with())
        assert late.status_code == 201  # another client has its own keys
    finally:
        room.deployment.database.clock_offset -= 90_000


async def test_a_service_account_never_has_more_than_who_makes_it(room: AdminRoom) -> None:
    alice = await room.person("alice")
    body = {"name": "Bot", "confidential": True, "service_account": {"person_id": alice.id, "scopes": ["admin:keys"]}}
    token = await room.token_with("admin:agents")
    problem(await room.call("POST", "/agents", json=body, token=token), 403, "forbidden")
    made = await _ok(await room.call("POST", "/agents", json=body, token=await room.token_with()), 201)
    assert isinstance(made["agent"], dict)
    assert made["agent"]["service_account"] is True
    other = await _add_person(room, "another-admin", admin=True)
    theirs = body | {"service_account": {"person_id": other["id"], "scopes": ["admin:keys"]}}
    problem(await room.call("POST", "/agents", json=theirs), 403, "forbidden")


async def test_agents_with_an_address_as_id_and_who_uses_them(room: AdminRoom) -> None:
    client = await room.room.agent(ClientKind.METADATA, id="https://agent.example/client.json", name="By document")
    shown = await _ok(await room.call("GET", "/agents/https%3A%2F%2Fagent.example%2Fclient.json"))
    assert shown["id"] == client.id
    people = await _ok(await room.call("GET", "/agents/https%3A%2F%2Fagent.example%2Fclient.json/people"))
    assert people == {"items": [], "complete": True}
    found = await _ok(await room.call("GET", "/agents?find=document"))
    assert isinstance(found["items"], list)
    assert [one["id"] for one in found["items"]] == [client.id]


async def test_a_worker_is_registered_with_its_limits(room: AdminRoom) -> None:
    key = ECKey.generate_key("P-256").as_dict(private=False) | {"kid": "one"}
    rules = {"addresses": ["10.0.0.0/8"], "connections": ["slack"], "scopes": ["chat:write"]}
    body: dict[str, object] = {"name": "Nightly", "jwks": {"keys": [key]}, "worker": rules}
    made = await _ok(await room.call("POST", "/agents", json=body), 201)
    assert isinstance(made["agent"], dict)
    assert made["agent"]["worker"] == rules
    unknown = body | {"worker": rules | {"scopes": ["chat:wirte"]}}
    refused = problem(await room.call("POST", "/agents", json=unknown), 400, "agent_refused")
    assert "chat:write" in str(refused["detail"])


async def test_an_api_is_saved_linked_and_removed(room: AdminRoom) -> None:
    made = await _ok(
        await room.call(
            "POST", "/agents", json={"name": "Api", "redirect_uris": ["https://a.example/"], "confidential": True}
        ),
        201,
    )
    assert isinstance(made["agent"], dict)
    client, path = made["agent"]["id"], "/apis/https%3A%2F%2Fapi.example%2Fv1"
    body = {"name": "Orders", "scopes": ["orders:read"], "clients": [client]}
    saved = await _ok(await room.call("PUT", path, json=body))
    assert (saved["resource"], saved["clients"]) == ("https://api.example/v1", [client])
    assert (await _ok(await room.call("PUT", path, json=body))) == saved  # again
    unlinked = await _ok(await room.call("PUT", path, json={"clients": []}))
    assert (unlinked["clients"], unlinked["scopes"], unlinked["name"]) == ([], ["orders:read"], "Orders")
    public = await room.room.agent()
    problem(await room.call("PUT", path, json={"clients": [public.id]}), 400, "api_refused")
    own = room.resource.replace(":", "%3A").replace("/", "%2F")
    problem(await room.call("PUT", f"/apis/{own}", json={}), 400, "api_refused")
    assert (await _ok(await room.call("GET", "/apis")))["items"] == [unlinked]
    await _ok(await room.call("DELETE", path), 204)
    problem(await room.call("GET", path), 404, "no_api")
    assert await apis.list_apis(room.deployment.database) == ()


@pytest.mark.parametrize(
    ("path", "is_refused"),
    [("/mcp", False), ("/admin/v1", False), ("/me/", True), ("/ME", True), ("/api/v2/", True), ("/orders", False)],
)
async def test_no_agent_is_bound_to_an_api_of_the_vaults_own_that_is_not_for_agents(
    room: AdminRoom, path: str, is_refused: bool
) -> None:
    """The agent's resource becomes an API, so the agent would get tokens for it."""
    body = {"name": "Agent", "redirect_uris": ["https://a.example/"], "resources": [room.room.url + path]}
    answer = await room.call("POST", "/agents", json=body)
    if is_refused:
        assert problem(answer, 400, "api_refused")["errors"]
    else:
        await _ok(answer, 201)
    listed = (await _ok(await room.call("GET", "/apis")))["items"]
    assert isinstance(listed, list)
    is_new = path == "/orders"
    assert [one["resource"] for one in listed] == ([room.room.url + path] if is_new else [])
    put = await room.call("PUT", "/apis/" + (room.room.url + path).replace("/", "%2F"), json={})
    if is_new:
        await _ok(put)
    else:
        problem(put, 400, "api_refused")


# Providers


async def test_a_provider_is_set_up_and_removed_by_the_revision_that_was_read(room: AdminRoom) -> None:
    listed = await _ok(await room.call("GET", "/providers?find=dropbox&set_up=false"))
    assert isinstance(listed["items"], list)
    assert ("dropbox", False) in [(one["name"], one["set_up"]) for one in listed["items"]]
    path = "/providers/dropbox/registration"
    body = {"client_id": "client-at-dropbox", "client_secret": "a-secret-of-dropbox"}
    none = {"If-Match": (await room.call("GET", "/providers/dropbox")).headers["etag"]}
    both = await asyncio.gather(*(room.call("PUT", path, json=body, headers=none) for _ in range(2)))
    assert sorted(one.status_code for one in both) == [200, 412]
    saved = next(one for one in both if one.status_code == 200)
    shown = await _ok(saved)
    assert (shown["set_up"], shown["client_id"]) == (True, "client-at-dropbox")
    assert "a-secret-of-dropbox" not in saved.text
    read = await room.call("GET", "/providers/dropbox")
    assert read.headers["etag"] == saved.headers["etag"] == f'"{shown["revision"]}"'
    kept = await room.call(
        "PUT", path, json={"client_id": "client-at-dropbox"}, headers={"If-Match": read.headers["etag"]}
    )
    assert (await _ok(kept))["set_up"] is True  # the secret was kept
    late = {"If-Match": read.headers["etag"]}
    problem(await room.call("PUT", path, json=body, headers=late), 412, "registration_changed")
    problem(await room.call("DELETE", path, headers=late), 412, "registration_changed")
    await _ok(await room.call("DELETE", path, headers={"If-Match": kept.headers["etag"]}), 204)
    assert (await _ok(await room.call("GET", "/providers/dropbox")))["set_up"] is False
    problem(await room.call("GET", "/providers/nothing"), 404, "no_provider")


async def test_what_the_settings_set_up_cannot_be_changed(room: AdminRoom) -> None:
    body = {"client_id": "another", "client_secret": "another-secret"}
    problem(await room.call("PUT", "/providers/slack/registration", json=body), 409, "in_settings")
    tested = await _ok(await room.call("POST", "/providers/slack/test"))
    assert isinstance(tested["findings"], list)
    assert {one["verdict"] for one in tested["findings"]} <= {"ok", "note", "problem"}


async def test_tools_and_sets_are_listed(room: AdminRoom) -> None:
    tools = await _ok(await room.call("GET", "/tools"))
    assert isinstance(tools["items"], list)
    post = next(one for one in tools["items"] if one["name"] == "slack_post")
    assert (post["provider"], post["effect"], post["scopes"]) == ("slack", "create", ["chat:write"])
    sets = await _ok(await room.call("GET", "/tool-sets"))
    assert isinstance(sets["items"], list)
    assert {"everything", "everyday", "read-only"} <= {one["name"] for one in sets["items"]}


# Access


async def test_what_people_connected_and_allowed_is_seen_and_ended(room: AdminRoom) -> None:
    user, connection, agent = await _account(room)
    place = f"/people/{user.id}"
    (listed,) = (await _ok(await room.call("GET", f"{place}/connections")))["items"]  # pyright: ignore[reportGeneralTypeIssues]
    assert listed["id"] == connection.id
    (held,) = (await _ok(await room.call("GET", f"{place}/permissions")))["items"]  # pyright: ignore[reportGeneralTypeIssues]
    assert (held["client_id"], held["ask_tools"]) == (agent, [])
    permission = f"{place}/connections/{connection.id}/permissions/{agent}"
    more = {"tools": ["slack_post"], "scopes": ["chat:write"]}
    asked = await _ok(await room.call("POST", f"{permission}/ask", json=more))
    assert (asked["ask_tools"], asked["ask_scopes"]) == (["slack_post"], ["chat:write"])
    still = await _ok(await room.call("POST", f"{permission}/ask", json={}))
    assert still["ask_tools"] == ["slack_post"]  # only the person can remove it
    problem(await room.call("POST", f"{permission}/ask", json={"tools": ["slack_pots"]}), 400, "ask_refused")
    await _ok(await room.call("DELETE", permission), 204)
    problem(await room.call("DELETE", permission), 404, "no_permission")
    ended = await _ok(await room.call("DELETE", f"{place}/connections/{connection.id}"))
    assert ended["at_provider"]
    problem(await room.call("DELETE", f"{place}/connections/{connection.id}"), 404, "no_connection")
    events = await room.room.events(user)
    (closed,) = [one for one in events if one.kind == "connection.closed_by_admin"]
    assert (closed.details["by"], closed.details["via"]) == ("alice", "Automation")
    kinds = [one.kind for one in events]
    mine = ["delegation.asks", "delegation.asks", "delegation.revoked", "connection.closed_by_admin"]
    assert [kind for kind in kinds if kind in mine] == mine


async def test_why_an_agent_can_not_use_an_account_is_explained_in_order(room: AdminRoom) -> None:
    user, connection, agent = await _account(room)
    client = await clients.get_client(room.deployment.database, agent)
    assert client is not None
    await room.room.grant(user, client)
    place = f"/people/{user.id}/connections/{connection.id}/explanation"
    works = await _ok(await room.call("GET", place, params={"agent_id": agent}))
    assert (works["works"], works["gives"]) == (True, "nothing")  # it isn't registered for token exchange
    permission = f"/people/{user.id}/connections/{connection.id}/permissions/{agent}"
    await _ok(await room.call("DELETE", permission), 204)
    refused = await _ok(await room.call("GET", place, params={"agent_id": agent}))
    (failed,) = [one for one in refused["steps"] if one["outcome"] == "failed"]
    assert (refused["works"], failed["step"], failed["code"]) == (False, "delegation", "delegation_required")
    assert failed["fix"]
    unknown = await _ok(await room.call("GET", place, params={"agent_id": "nobody"}))
    assert next(one["step"] for one in unknown["steps"] if one["outcome"] == "failed") == "client"


async def test_a_groups_account_is_explained_for_a_member_and_for_nobody_else(room: AdminRoom) -> None:
    giver, member, client = await room.room.user(), await room.room.user(), await room.room.agent()
    group = await groups.create(room.operator, "Explained")
    await groups.add_member(room.operator, group, member)
    own = await room.room.account(giver, "slack", label="Team", scopes=frozenset({"chat:write"}))
    given = await group_accounts.give(room.operator, giver, own.id, group, reads_only=False, asks_writes=False)
    async with room.deployment.transaction() as transaction:
        await delegations.allow(
            transaction,
            user_id=member.id,
            client_id=client.id,
            connection_id=given.id,
            scopes=frozenset({"chat:write"}),
            now=room.deployment.now(),
        )
    for user, failing in ((member, None), (giver, "connection")):
        await room.room.grant(user, client)
        place = f"/people/{user.id}/connections/{given.id}/explanation"
        found = await _ok(await room.call("GET", place, params={"agent_id": client.id}))
        failed = next((one["step"] for one in found["steps"] if one["outcome"] == "failed"), None)
        assert (found["works"], failed) == (failing is None, failing)
        assert found["gives"] == (None if failing else "nothing")  # it isn't registered for token exchange


async def test_one_persons_account_is_not_found_under_another(room: AdminRoom) -> None:
    user, connection, _ = await _account(room)
    alice = await room.person("alice")
    problem(await room.call("DELETE", f"/people/{alice.id}/connections/{connection.id}"), 404, "no_connection")
    assert (await _ok(await room.call("DELETE", f"/people/{user.id}/connections/{connection.id}")))["id"]


async def test_standing_approvals_are_ended_and_waiting_ones_shown_without_arguments(room: AdminRoom) -> None:
    user, connection, agent = await _account(room)
    now = room.deployment.now()
    async with room.deployment.transaction() as transaction:
        standing = await standing_approvals.give(
            transaction,
            room.deployment.keys,
            binding=Binding(user.id, agent, connection.id, tool="slack_post", target={"channel": "C1"}),
            provider="slack",
            account=connection.label,
            names={},
            per_day=3,
            expires_at=now + 3600,
            now=now,
        )
    place = f"/people/{user.id}/standing-approvals"
    (shown,) = (await _ok(await room.call("GET", place)))["items"]  # pyright: ignore[reportGeneralTypeIssues]
    assert (shown["id"], shown["per_day"], shown["used_today"]) == (standing, 3, 0)
    await _ok(await room.call("DELETE", f"{place}/{standing}"), 204)
    problem(await room.call("DELETE", f"{place}/{standing}"), 404, "no_standing")
    assert await _ok(await room.call("GET", f"/people/{user.id}/approvals")) == {"items": []}
    last = (await room.room.events(user))[-1]
    assert (last.kind, last.details["by"]) == ("approval.standing_revoked", "alice")


# The vault and its activity


async def test_the_activity_is_filtered_paged_and_exported(room: AdminRoom) -> None:
    person = await _add_person(room, "=watched")
    await _ok(await room.call("PATCH", f"/people/{person['id']}", json={"disabled": True}))
    page = await _ok(await room.call("GET", f"/activity?person={person['id']}&limit=1"))
    (newest,) = page["items"]  # pyright: ignore[reportGeneralTypeIssues]
    assert newest["kind"] == "user.disabled"
    older = await _ok(await room.call("GET", f"/activity?person={person['id']}&limit=5&cursor={page['next_cursor']}"))
    assert [one["kind"] for one in older["items"]] == ["user.created"]  # pyright: ignore[reportGeneralTypeIssues]
    by_kind = await _ok(await room.call("GET", "/activity?kind=user.disabled"))
    assert {one["kind"] for one in by_kind["items"]} == {"user.disabled"}  # pyright: ignore[reportGeneralTypeIssues]
    none = await _ok(await room.call("GET", "/activity?until=2020-01-01"))
    assert none["items"] == []
    problem(await room.call("GET", "/activity?since=yesterday"), 400, "invalid_request")
    problem(await room.call("GET", "/activity?outcome=fine"), 400, "invalid_request")
    lines = await room.call("GET", f"/activity/export?person={person['id']}")
    assert lines.headers["content-type"] == "application/jsonl"
    assert len(lines.text.splitlines()) == 2
    table = await room.call("GET", f"/activity/export?person={person['id']}&format=csv")
    rows = list(csv.DictReader(io.StringIO(table.text)))
    assert [row["kind"] for row in rows] == ["user.disabled", "user.created"]


@pytest.mark.requirement("V-11")
async def test_keys_settings_and_health_are_shown_without_secrets(room: AdminRoom) -> None:
    before = await _ok(await room.call("GET", "/keys"))
    rotated = await _ok(await room.call("POST", "/keys/signing"), 201)
    after = await _ok(await room.call("GET", "/keys"))
    (master,) = before["masters"]
    assert (master["state"], master["missing_on"]) == ("current", [])
    assert master["id"] == room.deployment.keys.held.rows[0].id
    assert isinstance(before["signing"], list)
    assert isinstance(after["signing"], list)
    assert {one["kid"] for one in after["signing"]} - {one["kid"] for one in before["signing"]} == {rotated["kid"]}
    assert next(one["state"] for one in after["signing"] if one["kid"] == rotated["kid"]) == "next"
    settings = await room.call("GET", "/settings")
    named = {one["name"]: one for one in settings.json()["items"]}
    assert named["providers.slack.client_secret"]["value"] is None
    secret = room.deployment.settings.providers["slack"].secret("slack")
    assert secret
    assert secret not in settings.text
    health = await _ok(await room.call("GET", "/health"))
    assert health["good"] is True, health


async def test_people_who_are_deleted_wait_for_their_providers(room: AdminRoom) -> None:
    assert await _ok(await room.call("GET", "/deletions")) == {"items": []}


async def test_the_reference_page_names_every_operation(room: AdminRoom) -> None:
    page = await room.http.get("/admin/v1")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    document = (await room.http.get("/admin/v1/openapi.json")).json()
    for path, methods in document["paths"].items():
        for method in methods:
            assert f"{method.upper()} {path}" in page.text
    assert 'id="last_admin"' not in page.text
    assert 'id="insufficient_scope"' in page.text


async def test_our_own_failure_is_a_problem_document_too(room: AdminRoom) -> None:
    """The stored client has a kind that this program doesn't know, as after a downgrade."""
    client = await room.room.agent(name="Damaged")
    write = "update clients set kind = :kind where id = :id"
    async with room.deployment.transaction() as transaction:
        await transaction.execute(write, {"kind": "stranger", "id": client.id})
    failed = problem(await room.call("GET", f"/agents/{client.id}"), 500, "server_error")
    assert "stranger" not in str(failed)
    async with room.deployment.transaction() as transaction:
        await transaction.execute(write, {"kind": "dynamic", "id": client.id})
    assert (await _ok(await room.call("GET", f"/agents/{client.id}")))["name"] == "Damaged"


async def test_nothing_is_left_of_removed_agents(room: AdminRoom) -> None:
    """The permissions of a removed agent are no longer shown."""
    user, connection, agent = await _account(room)
    client = await clients.get_client(room.deployment.database, agent)
    assert client is not None
    await _ok(await room.call("DELETE", f"/agents/{agent}"), 204)
    assert await _ok(await room.call("GET", f"/people/{user.id}/permissions")) == {"items": []}
    held = await delegations.get(
        room.deployment.database, user_id=user.id, client_id=agent, connection_id=connection.id
    )
    assert held is not None
    assert held.revoked_at is not None


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"push": True}, "/ciba/notify"),
        ({"notify": "http://shop.example/"}, "/ciba/notify"),
        ({"signing_alg": "ES256"}, "/ciba/signing_alg"),
    ],
    ids=["push to nowhere", "plain http", "signs without key"],
)
async def test_an_agent_that_asks_people_is_registered_with_how(
    room: AdminRoom, body: dict[str, object], field: str
) -> None:
    agent: dict[str, object] = {"name": "Shop", "confidential": True, "auth0": True}
    asking = {"notify": "https://shop.example/told", "push": True, "details_types": ["payment"], "user_code": True}
    made = await _ok(await room.call("POST", "/agents", json=agent | {"ciba": asking}), 201)
    assert isinstance(made["agent"], dict)
    assert made["agent"]["ciba"] == asking | {"signing_alg": None}
    assert made["agent"]["auth0"] is True
    held = await clients.get_client(room.deployment.database, str(made["agent"]["id"]))
    assert held is not None
    assert (held.metadata[DELIVERY], BACKCHANNEL_GRANT in held.grant_types) == ("push", True)
    refused = problem(await room.call("POST", "/agents", json=agent | {"ciba": body}), 400, "agent_refused")
    assert refused["errors"][0]["pointer"] == field  # pyright: ignore[reportIndexIssue]
    key = ECKey.generate_key("P-256").as_dict(private=False) | {"kid": "one"}
    signs = {"name": "Signs", "jwks": {"keys": [key]}, "ciba": {"signing_alg": "ES256"}}
    assert (await room.call("POST", "/agents", json=signs)).status_code == 201
    assert (await room.call("POST", "/agents", json=agent)).json()["agent"]["ciba"] is None


async def test_each_kind_of_waiting_question_is_listed_by_what_it_is(room: AdminRoom) -> None:
    user, connection, agent = await _account(room)
    deployment, now = room.deployment, room.deployment.now()
    about = {"connection_id": connection.id, "provider": "slack", "account": connection.account}
    principal = Principal(user.id, agent, "", scopes=frozenset(), audience="")
    async with deployment.transaction() as transaction:
        for tool in ("slack_post", RELEASE):
            await approvals.ask(
                transaction, deployment.keys, call=ToolCall(tool, lambda: {"text": "hidden"}), principal=principal,
                label=connection.label, scopes=frozenset({"chat:write"}), now=now, **about,
            )  # fmt: skip
        request = BackchannelRequest(frozenset({"openid"}), f"{room.room.url}/mcp", "hidden")
        await requests.ask(
            transaction, deployment.keys, request=request, user_id=user.id, client_id=agent, lifetime=300,
            ping_token=None, now=now,
        )  # fmt: skip
    answer = await room.call("GET", f"/people/{user.id}/approvals")
    assert "hidden" not in answer.text
    found = {one["kind"]: one for one in answer.json()["items"]}
    assert {name: one["tool"] for name, one in found.items()} == {"tool": "slack_post", "token": None, "request": None}
    assert (found["tool"]["provider"], found["tool"]["resource"]) == ("slack", None)
    asked = found["request"]
    assert (asked["provider"], asked["account"], asked["resource"]) == (None, None, f"{room.room.url}/mcp")
    assert asked["scopes"] == ["openid"]
