"""The person's own pages: connections, agents and activity."""

from __future__ import annotations

import base64
import html
import json
import re
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

from providers.definitions.catalog import load_catalog
from providers.simulator.local_server import running_simulator
from providers.simulator.person import consent
from server.portal.agents import PAGE_SIZE
from server.portal.connections import PAGE_SIZE as CONNECTIONS
from tests.support.accounts import open_account
from tests.support.harness import running_vault
from tests.support.person import forms_of, session_token, without_own_markup
from tests.support.rooms.portal_room import CHAT, Room, query_of
from tests.support.simulator_apps import family_settings
from vault import connections, delegations, grants
from vault.records import Client, ClientKind, Connection, Event, User
from vault.refresh import leases, rotation
from vault.refusals import TemporarilyUnavailable
from vault.upkeep import revocations
from vault.upstream import Account, TokenAnswer

EVENTS = "https://www.googleapis.com/auth/calendar.events"
READONLY = "https://www.googleapis.com/auth/calendar.events.readonly"


async def _only(room: Room, user: User) -> Connection:
    (connection,) = await connections.list_connections(room.deployment.database, user.id)
    return connection


# Connections


async def test_a_person_connects_a_provider_with_the_scopes_they_tick(room: Room) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    page = await person.open("/connections")
    assert "No accounts connected yet" in page.text
    page = await person.open("/connections/connect?provider=slack")
    ticked = [value for name, value in forms_of(page.text)[-1].fields if name == "scope"]
    provider = room.deployment.catalog.get("slack")
    assert provider is not None
    assert set(ticked) == provider.scope.default
    answer = await person.submit(page, {"scope": ["channels:read", "admin", "openid"]}, form="/connections/connect")
    assert query_of(answer.headers["location"])["user_scope"] == "channels:read"
    done = await person.open(await consent(answer.headers["location"]))
    assert "No agent can use it yet" in done.text
    assert (await _only(room, user)).scopes == {"channels:read"}
    assert not await delegations.list_for_user(room.deployment.database, user.id)


async def test_an_account_that_waits_for_its_provider_is_shown_so_and_nobody_is_asked_to_reconnect(room: Room) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    page = await person.open("/connections/connect?provider=slack")
    answer = await person.submit(page, {"scope": ["channels:read"]}, form="/connections/connect")
    await person.open(await consent(answer.headers["location"]))
    facts = await leases.read(room.deployment.database, (await _only(room, user)).id)
    assert facts is not None
    async with room.deployment.transaction() as transaction:
        lease = await leases.claim(transaction, facts, owner="me", now=room.deployment.now())
        assert lease is not None
        await leases.settle(transaction, lease, now=room.deployment.now())
    page = (await person.open("/connections")).text
    assert "Waiting for the provider" in page
    assert "The vault retries automatically." in page
    assert "Reconnect needed" not in page
    async with room.deployment.transaction() as transaction:
        await leases.resolve(transaction, lease)
    assert "Waiting for the provider" not in (await person.open("/connections")).text


async def test_what_tools_need_stands_first_and_the_rest_of_a_large_service_is_folded_away(room: Room) -> None:
    person = await room.signed_in(await room.user())
    page = await person.open("/connections/connect?provider=google")
    shown, _, folded = page.text.partition("<details>")
    needed = frozenset[str]().union(*(spec.scopes for spec in room.deployment.tools if spec.provider == "google"))
    assert needed
    assert {scope for scope in needed if f'value="{scope}"' in shown} == needed
    other = "https://www.googleapis.com/auth/gmail.settings.basic"
    assert other not in needed
    assert f'value="{other}"' not in shown
    assert f'value="{other}"' in folded
    assert " checked" not in folded
    answer = await person.submit(page, {"scope": [other]}, form="/connections/connect")
    assert other in query_of(answer.headers["location"])["scope"], "what is folded away counts, too"


async def test_the_agents_page_says_the_address_to_enter_until_there_is_one(room: Room) -> None:
    user, client = await room.user(), await room.agent()
    person = await room.signed_in(user)
    address = f"{room.url}/mcp"
    assert address in (await person.open("/agents")).text
    await room.grant(user, client)
    assert address not in (await person.open("/agents")).text


async def test_an_alias_connects_just_its_part(room: Room) -> None:
    person = await room.signed_in(await room.user())
    page = await person.open("/connections/connect?provider=google-calendar")
    ticked = [value for name, value in forms_of(page.text)[-1].fields if name == "scope"]
    assert ticked
    assert all("calendar" in scope for scope in ticked)
    assert "openid" not in page.text


async def test_a_person_adds_scopes_to_an_account_or_connects_another_one(room: Room) -> None:
    user, client = await room.user(), await room.agent()
    person = await room.signed_in(user)
    await room.connect(person, user, client, provider="google", account="alice", scopes=frozenset({READONLY}))
    before = await _only(room, user)
    page = await person.open("/connections/connect?provider=google-calendar")
    assert "Keeps its permissions" in page.text
    answer = await person.submit(page, {"scope": [EVENTS]}, form="/connections/connect")
    query = query_of(answer.headers["location"])
    assert {EVENTS, READONLY} <= set(query["scope"].split())
    assert query["login_hint"] == before.label
    done = await person.open(await consent(answer.headers["location"]))
    assert done.url.path.startswith("/connect/done/")
    after = await _only(room, user)
    assert after.id == before.id
    assert {EVENTS, READONLY} <= after.scopes
    given = await delegations.list_for_client(room.deployment.database, user.id, client_id=client.id)
    assert [one.scopes for one in given] == [{READONLY}], "what agents may use is another question"
    other = await person.submit(page, {"scope": [EVENTS], "account": "new"}, form="/connections/connect")
    query = query_of(other.headers["location"])
    assert READONLY not in query["scope"].split()
    assert "login_hint" not in query
    await person.open(await consent(other.headers["location"], account="bob"))
    assert len(await connections.list_connections(room.deployment.database, user.id)) == 2


async def test_nobody_adds_scopes_to_an_account_of_somebody_else(room: Room) -> None:
    victim, client = await room.user(), await room.agent()
    await room.connect(await room.signed_in(victim), victim, client)
    theirs = await _only(room, victim)
    person = await room.signed_in(await room.user())
    page = await person.open("/connections/connect?provider=slack")
    answer = await person.submit(page, {"account": theirs.id}, form="/connections/connect")
    assert answer.status_code == 400
    assert theirs.label not in answer.text
    assert (await person.submit(page, form="/connections/connect")).status_code == 303


async def test_connecting_with_nothing_ticked_asks_again(room: Room) -> None:
    person = await room.signed_in(await room.user())
    page = await person.open("/connections/connect?provider=slack")
    answer = await person.submit(page, {"scope": None}, form="/connections/connect")
    assert answer.status_code == 400
    assert "Select at least one permission" in answer.text


async def test_the_page_says_account_scopes_state_and_times(room: Room) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    await room.connect(person, user, await room.agent())
    connection = await _only(room, user)
    text = (await person.open(f"/connections/{connection.id}")).text
    for shown in ("Slack", "alice (Sandbox)", "Connected", "delete messages as you", "Last renewed", "Token expires"):
        assert shown in text, shown
    async with room.deployment.transaction() as transaction:
        await transaction.execute(
            "update connections set state = 'needs_reauth' where user_id = :user_id", {"user_id": user.id}
        )
    text = (await person.open("/connections")).text
    assert "Reconnect needed" in text
    assert "Reconnect to use it again" in text


async def test_reconnecting_keeps_the_connection_and_what_agents_may_use(room: Room) -> None:
    room.simulator.reset()  # Slack accumulates everything that an account ever granted
    user, client = await room.user(), await room.agent()
    person = await room.signed_in(user)
    await room.connect(person, user, client)
    before = await _only(room, user)
    answer = await person.submit(await person.open(f"/connections/{before.id}"), form="reconnect")
    assert query_of(answer.headers["location"])["user_scope"] == "chat:write"
    await person.open(await consent(answer.headers["location"]))
    after = await _only(room, user)
    assert (after.id, after.scopes) == (before.id, before.scopes)
    assert after.generation > before.generation
    given = await delegations.list_for_client(room.deployment.database, user.id, client_id=client.id)
    assert [one.scopes for one in given] == [CHAT]


@pytest.mark.requirement("S-147", "S-146")
async def test_disconnecting_asks_first_then_ends_the_access_everywhere(room: Room) -> None:
    user, client = await room.user(), await room.agent()
    person = await room.signed_in(user)
    await room.connect(person, user, client)
    connection = await _only(room, user)
    page = await person.open(f"/connections/{connection.id}/disconnect")
    assert page.status_code == 200
    assert await _only(room, user) == connection, "asking changes nothing"
    ended_before = len(room.simulator.books()["revocations"])
    page = await person.submit(page, form="/disconnect")
    assert page.url.path == "/connections"
    page = await room.see_end(person, connection.id)
    assert "says that it revoked access" in page.text, "Slack can't be asked about a refresh token"
    assert len(room.simulator.books()["revocations"]) > ended_before
    assert not await connections.list_connections(room.deployment.database, user.id)
    row = await room.deployment.database.fetch_one(
        "select salt from keys.connection_keys where connection_id = :id", {"id": connection.id}
    )
    assert row is None, "the key is destroyed"
    given = await delegations.list_for_client(room.deployment.database, user.id, client_id=client.id)
    assert not any(one.is_live(room.deployment.now()) for one in given)
    assert {"connection.closed", "connection.upstream_revoked"} <= set(await room.kinds(user))


@pytest.mark.requirement("S-147")
async def test_a_provider_that_cannot_be_reached_is_shown_and_asked_again(room: Room) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    await room.connect(person, user, await room.agent())
    connection = await _only(room, user)
    room.simulator.fault("slack.revoke", "status", status=503, times=2)
    await person.submit(await person.open(f"/connections/{connection.id}/disconnect"), form="/disconnect")
    page = await room.see_end(person, connection.id)
    assert "The vault keeps trying" in page.text
    assert "Next attempt" in page.text
    assert not await connections.list_connections(room.deployment.database, user.id), "unusable here from the start"
    room.deployment.database.clock_offset += 200
    assert await revocations.run_due(room.deployment.vault) >= 1
    room.deployment.database.clock_offset += 2000
    await revocations.run_due(room.deployment.vault)
    page = await person.open("/connections")
    assert "says that it revoked access" in page.text
    assert "The vault keeps trying" not in page.text


async def test_somebody_elses_connection_is_not_there(room: Room) -> None:
    owner, other = await room.user(), await room.user()
    person, stranger = await room.signed_in(owner), await room.signed_in(other)
    await room.connect(person, owner, await room.agent())
    connection = await _only(room, owner)
    assert (await stranger.http.get(f"/connections/{connection.id}/disconnect")).status_code == 404
    page = await stranger.open("/account")
    token = dict(forms_of(page.text)[0].fields)["form_token"]
    for path in (f"/connections/{connection.id}/disconnect", f"/connections/{connection.id}/reconnect"):
        answer = await stranger.http.post(path, data={"form_token": token}, headers={"origin": room.url})
        assert answer.status_code in {403, 404}
    assert connection.label not in (await stranger.open("/connections")).text
    assert await _only(room, owner) == connection
    assert (await person.http.get(f"/connections/{connection.id}/disconnect")).status_code == 200


async def test_the_setup_page_adds_the_vault_to_cursor_and_vs_code(room: Room) -> None:
    person = await room.signed_in()
    pages = [(await person.open(f"/first-run?client={client}")).text for client in ("cursor", "vscode")]
    hrefs = [html.unescape(one) for one in re.findall(r'href="((?:cursor|vscode):[^"]+)"', "".join(pages))]
    cursor, vscode = hrefs
    query = parse_qs(urlsplit(cursor).query)
    assert cursor.startswith("cursor://anysphere.cursor-deeplink/mcp/install?")
    assert query["name"] == ["token-vault"]
    assert json.loads(base64.b64decode(query["config"][0], validate=True)) == {"url": f"{room.url}/mcp"}
    scheme, _, config = vscode.partition("?")
    assert scheme == "vscode:mcp/install"
    assert json.loads(unquote(config)) == {"name": "token-vault", "type": "http", "url": f"{room.url}/mcp"}


# Agents


def _page(client: Client) -> str:
    return f"/agents/{quote(client.id, safe='')}"


async def test_the_agents_page_says_what_each_may_use_and_changes_it(room: Room) -> None:
    user, client, other = await room.user(), await room.agent(name="Changed bot"), await room.agent(name="Idle bot")
    person = await room.signed_in(user)
    await room.grant(user, client)
    await room.grant(user, other)
    await room.connect(person, user, client)
    connection = await _only(room, user)
    page = await person.open("/agents")
    assert "Changed bot" in page.text
    assert "Idle bot" in page.text
    level = f"level.{connection.id}"
    page = await person.submit(await person.open(_page(client)), {level: "off"}, form="/access")
    assert page.url.path == _page(client)
    assert "Saved: Changed bot can no longer use Slack." in page.text
    held = await delegations.get(
        room.deployment.database, user_id=user.id, client_id=client.id, connection_id=connection.id
    )
    assert held is not None
    assert not held.is_live(room.deployment.now())
    answers: dict[str, str | list[str] | None] = {level: "custom", "use": [f"{connection.id} chat:write"]}
    page = await person.submit(page, answers, form="/access")
    held = await delegations.get(
        room.deployment.database, user_id=user.id, client_id=client.id, connection_id=connection.id
    )
    assert held is not None
    assert held.is_live(room.deployment.now())
    assert (await room.kinds(user))[-2:] == ["delegation.revoked", "delegation.changed"]
    assert not await delegations.list_for_client(room.deployment.database, user.id, client_id=other.id)


async def test_many_agents_are_shown_a_page_at_a_time(room: Room) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    for number in range(PAGE_SIZE + 1):
        await room.grant(user, await room.agent(name=f"Bot number {number}."))
    first = await person.open("/agents")
    assert first.text.count("<h2") == PAGE_SIZE
    assert 'href="/agents?page=2">More agents' in first.text
    assert "Previous agents" not in first.text
    second = await person.open("/agents?page=2")
    shown = {name for number in range(PAGE_SIZE + 1) for name in [f"Bot number {number}."]}
    assert shown <= {*re.findall(r"Bot number \d+\.", first.text + second.text)}
    assert 'href="/agents?page=1">Previous agents' in second.text
    assert "More agents" not in second.text
    for odd in ("0", "-1", "x", "٣", ""):
        assert (await person.open(f"/agents?page={odd}")).text.count("<h2") == first.text.count("<h2"), odd
    assert "Previous agents" in (await person.open("/agents?page=9999999")).text


async def test_many_connections_are_shown_a_page_at_a_time(room: Room) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    async with room.deployment.transaction() as transaction:
        await transaction.execute_many(
            "insert into connections (tenant, id, user_id, provider, account, label, scopes, state, generation,"
            " metadata, created_at) values ('default', :id, :user, 'slack', :id, :id, '', 'active', 1, '{}', 1)",
            [{"id": f"{user.id}-{number:02}", "user": user.id} for number in range(CONNECTIONS + 1)],
        )
    first, second = await person.open("/connections"), await person.open("/connections?page=2")
    assert first.text.count(f"<bdi>{user.id}-") == CONNECTIONS
    assert second.text.count(f"<bdi>{user.id}-") == 1
    assert "More accounts" in first.text
    assert "Previous accounts" in second.text


async def test_each_account_names_its_first_agents_and_the_number_of_others(room: Room) -> None:
    user = await room.user()
    labels = ("everyone's", "one's", "nobody's")
    accounts = [await room.account(user, "slack", label=label, scopes=CHAT) for label in labels]
    agents = [await room.agent(id=f"agent-{user.id}-{number:02}", name=f"Agent {number}") for number in range(30)]
    now = room.deployment.now()
    async with room.deployment.transaction() as transaction:
        for account, some in zip(accounts, (agents, agents[-1:], agents[:0]), strict=True):
            for one in some:
                which = {"user_id": user.id, "client_id": one.id, "connection_id": account.id}
                await delegations.allow(transaction, **which, scopes=CHAT, now=now, expires_at=None)
    page = html.unescape((await (await room.signed_in(user)).open("/connections")).text)
    found = re.findall(r"<bdi>(\w+'s)</bdi></p>.*?<p class=\"quiet\">(.*?)</p>", page, re.DOTALL)
    assert {label: " ".join(re.sub(r"<[^>]*>", "", words).split()) for label, words in found} == {
        "everyone's": "Used by Agent 0, Agent 1, Agent 2 and 27 more",
        "one's": "Used by Agent 29",
        "nobody's": "No agent can use it.",
    }


async def test_a_page_of_older_permissions_is_not_saved_over_newer_ones(room: Room) -> None:
    user, client = await room.user(), await room.agent()
    person = await room.signed_in(user)
    await room.grant(user, client)
    await room.connect(person, user, client)
    level = f"level.{(await _only(room, user)).id}"
    old = await person.open(_page(client))
    taken = await person.submit(old, {level: "off"}, form="/access")
    assert taken.status_code == 200
    for answers in ({}, {level: "write"}):  # an outdated tab would give back what was just taken away
        refused = await person.submit(old, {**answers}, form="/access")
        assert refused.status_code == 409
    assert (await room.kinds(user))[-1] == "delegation.revoked"
    again = await person.submit(await person.open(_page(client)), {level: "write"}, form="/access")
    assert again.status_code == 200
    assert (await room.kinds(user))[-1] == "delegation.changed"


async def test_a_consent_page_of_older_permissions_asks_again(room: Room) -> None:
    user, client = await room.user(), await room.agent()
    person = await room.signed_in(user)
    await room.connect(person, user, client)
    old = await person.open(room.authorize_path(client))
    level = f"level.{(await _only(room, user)).id}"
    await person.submit(await person.open(_page(client)), {level: "off"}, form="/access")
    page = await person.submit(old, form="/consent", button=("decision", "allow"))
    assert page.status_code == 200
    assert page.url.path == "/consent"
    answer = await person.submit(page, form="/consent", button=("decision", "allow"))
    assert "code=" in answer.headers["location"]
    assert (await room.kinds(user)).count("delegation.revoked") == 1
    assert not [
        one
        for one in await delegations.list_for_client(room.deployment.database, user.id, client_id=client.id)
        if one.is_live(room.deployment.now())
    ]


async def test_saving_without_a_change_records_nothing(room: Room) -> None:
    user, client = await room.user(), await room.agent()
    person = await room.signed_in(user)
    await room.connect(person, user, client)
    before = await room.kinds(user)
    await person.submit(await person.open(_page(client)), form="/access")
    assert await room.kinds(user) == before


@pytest.mark.requirement("S-086")
async def test_cutting_an_agent_off_ends_its_tokens_and_permissions_at_once(room: Room) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    tokens = await room.vault.agent(person, name=user.name)
    client = await room.agent()
    await room.connect(person, user, client)
    await room.grant(user, client)
    page = await person.open(f"/agents/{tokens.client_id}/cut-off")
    assert len(await grants.list_grants(room.deployment.database, user.id)) == 2
    assert await _is_accepted(room, tokens.access_token)
    page = await person.submit(page, form="/cut-off")
    assert page.url.path == "/agents"
    assert not await _is_accepted(room, tokens.access_token)
    assert [one.client_id for one in await grants.list_grants(room.deployment.database, user.id)] == [client.id]
    await person.submit(await person.open(f"/agents/{quote(client.id, safe='')}/cut-off"), form="/cut-off")
    assert not await grants.list_grants(room.deployment.database, user.id)
    given = await delegations.list_for_client(room.deployment.database, user.id, client_id=client.id)
    assert given
    assert not any(one.is_live(room.deployment.now()) for one in given)
    assert "No agents yet" in (await person.open("/agents")).text
    assert (await room.kinds(user))[-1] == "agent.cut_off"
    assert len(await connections.list_connections(room.deployment.database, user.id)) == 1, "the account stays"


async def _is_accepted(room: Room, token: str) -> bool:
    person = await room.browser()
    answer = await person.http.get("/userinfo", headers={"authorization": f"Bearer {token}"})
    return answer.status_code != 401


async def test_agents_with_addresses_for_ids_can_be_changed_too(room: Room) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    client = await room.agent(ClientKind.METADATA, id="https://agent.example/a//b.json", name="Document bot")
    await room.grant(user, client)
    page = await person.open("/agents")
    assert "Document bot" in page.text
    page = await person.open(f"/agents/{quote(client.id, safe='')}/cut-off")
    await person.submit(page, form="/cut-off")
    assert not await grants.list_grants(room.deployment.database, user.id)


async def test_an_agent_of_somebody_else_is_not_there(room: Room) -> None:
    owner, client = await room.user(), await room.agent()
    await room.grant(owner, client)
    stranger = await room.signed_in(await room.user())
    assert (await stranger.http.get(f"/agents/{quote(client.id, safe='')}/cut-off")).status_code == 404
    person = await room.signed_in(owner)
    assert (await person.http.get(f"/agents/{quote(client.id, safe='')}/cut-off")).status_code == 200


async def test_a_hostile_agent_name_stays_text_on_every_page(room: Room) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    client = await room.agent(name="<script>alert(1)</script>\u202e")
    await room.grant(user, client)
    await room.connect(person, user, client)
    for path in (
        "/",
        "/agents",
        "/connections",
        "/activity",
        _page(client),
        f"/agents/{quote(client.id, safe='')}/cut-off",
    ):
        text = (await person.open(path)).text
        assert "<script" not in without_own_markup(text)
        assert "&lt;script&gt;" in text


# Activity


async def test_activity_shows_what_happened_newest_first_by_agent_and_by_page(room: Room) -> None:
    user, busy, quiet = await room.user(), await room.agent(name="Busy bot"), await room.agent(name="Quiet bot")
    person = await room.signed_in(user)
    await room.deployment.activity.record(
        Event(kind="tool.called", user_id=user.id, client_id=quiet.id, details={"tool": "slack_post"})
    )
    for number in range(60):
        await room.deployment.activity.record(
            Event(
                kind="exchange.refused" if number % 2 else "tool.called",
                outcome="refused" if number % 2 else "ok",
                user_id=user.id,
                client_id=busy.id,
                details={"tool": f"tool_{number:02}", "scopes": ["a", "b"]},
            )
        )
    page = await person.open("/activity")
    shown = re.findall(r"<dd><bdi>(tool_\d\d)", page.text)
    assert shown == [f"tool_{number:02}" for number in range(59, 9, -1)]
    assert "<bdi>Busy bot</bdi> used “tool_58”" in page.text
    assert "<dt>Permissions</dt><dd><bdi>a, b</bdi></dd>" in page.text
    older = re.search(r'href="(/activity\?[^"]*before=[^"]*)"', page.text)
    assert older is not None
    page = await person.open(older[1].replace("&amp;", "&"))
    assert re.findall(r"<dd><bdi>(tool_\d\d)", page.text) == [f"tool_{number:02}" for number in range(9, -1, -1)]
    assert "You signed in" in page.text
    assert "Older" not in page.text
    page = await person.open(f"/activity?agent={quiet.id}")
    assert "posted a message to Slack" in page.text
    assert "tool_0" not in page.text


async def test_activity_of_others_and_odd_pages_show_nothing(room: Room) -> None:
    user, other = await room.user(), await room.user()
    person = await room.signed_in(user)
    await room.deployment.activity.record(Event(kind="tool.called", user_id=other.id, details={"tool": "theirs"}))
    for path in ("/activity", "/activity?before=x", "/activity?before=-1", "/activity?agent=%01", "/activity?before=1"):
        answer = await person.open(path)
        assert answer.status_code == 200
        assert "theirs" not in answer.text


async def test_events_hold_no_secret_of_a_whole_journey(room: Room) -> None:
    user, client = await room.user(), await room.agent()
    person = await room.signed_in(user)
    link = await room.link(user, client)
    url = await room.to_provider(person, link)
    callback = await consent(url)
    await person.open(callback)
    secrets = [
        link.url.rpartition("/")[2],
        link.user_code,
        query_of(url)["state"],
        query_of(callback)["code"],
        session_token(person.http),
    ]
    recorded = repr(await room.events(user))
    assert "connection.opened" in recorded
    assert not [secret for secret in secrets if secret in recorded]


async def test_connecting_again_ends_the_pause_after_a_refusal_of_our_registration_for_everybody(room: Room) -> None:
    async def connect(user: User) -> Connection:
        person = await room.signed_in(user)
        page = await person.open("/connections/connect?provider=slack")
        answer = await person.submit(page, {"scope": ["channels:read"]}, form="/connections/connect")
        await person.open(await consent(answer.headers["location"]))
        return await _only(room, user)

    one = await room.user()
    theirs, other = await connect(one), await connect(await room.user())
    room.simulator.fault("slack.token.refresh", "ok_false", error="invalid_client_id", times=None)
    for connection in (theirs, other):
        with pytest.raises(TemporarilyUnavailable):
            await rotation.refresh(room.deployment.vault, connection.id, if_generation=1)
    room.simulator.control("clear_faults")  # the operator has corrected it
    with pytest.raises(TemporarilyUnavailable, match="isn't working with this server"):
        await rotation.refresh(room.deployment.vault, other.id, if_generation=1)
    await connect(one)
    assert await rotation.refresh(room.deployment.vault, other.id, if_generation=1) == 2


@pytest.mark.parametrize(
    ("provider", "at", "revokes"),
    [("microsoft", "https://account.live.com/consent/Manage", False), ("asana", "", True)],
)
async def test_a_disconnect_says_that_access_ended_only_where_the_vault_can_end_it(
    tmp_path: Path, provider: str, at: str, *, revokes: bool
) -> None:
    async with running_simulator() as simulator, AsyncExitStack() as stack:
        section = family_settings(simulator, "generic", apis=load_catalog().provider(provider).apis)
        if not revokes:
            section = {name: value for name, value in section.items() if name != "revoke_url"}
        vault = await stack.enter_async_context(running_vault(tmp_path, providers={provider: section}))
        room = Room(vault, simulator, stack)
        user, deployment = await room.user("alice"), vault.deployment
        async with deployment.transaction() as transaction:
            connection = await open_account(
                transaction,
                deployment,
                user.id,
                provider,
                TokenAnswer("access", "refresh", frozenset({"x"}), 3600, Account("1", "alice@example.com")),
            )
        person = await room.signed_in(user)
        page = await person.open(f"/connections/{connection.id}/disconnect")
        assert ("access is revoked at" in page.text) == revokes
        assert ("remove the app in your account settings there" in page.text) != revokes
        assert not at or f'href="{at}"' in page.text
        await person.submit(page, form="/disconnect")
        page = await room.see_end(person, connection.id)
        assert ("no way to revoke access from here" in page.text) != revokes
        assert not at or f'href="{at}"' in page.text
