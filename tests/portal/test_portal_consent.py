"""The consent page: shown for each new client, readable, inert, and deciding only about what was requested."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.harness import PASSWORD
from tests.support.person import forms_of, without_own_markup
from tests.support.rooms.portal_room import CHAT, Room, query_of
from vault import connections, delegations, grants
from vault.records import ClientKind


async def _redeem(room: Room, location: str, client_id: str) -> None:
    """Redeem the code, so that the grant becomes live."""
    answer = await room.vault.redeem(
        client_id,
        query_of(location)["code"],
        "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
        redirect_uri="https://agent.example/callback",
    )
    assert answer.status_code == 200, answer.text


@pytest.mark.requirement("S-049")
async def test_a_new_client_never_rides_on_a_session_or_on_another_clients_consent(room: Room) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    first, second = await room.agent(), await room.agent()
    for client in (first, second):
        page = await person.open(room.authorize_path(client))
        assert page.status_code == 200
        assert page.url.path == "/consent"
        answer = await person.submit(page, form="/consent", button=("decision", "allow"))
        await _redeem(room, answer.headers["location"], client.id)
    again = await person.open(room.authorize_path(first))
    assert again.status_code == 303, "the very same request was allowed before"
    assert again.headers["location"].startswith("https://agent.example/callback?code=")
    wider = await person.open(room.authorize_path(first, scope="tools connections offline_access"))
    assert wider.url.path == "/consent"
    assert (await person.open(room.authorize_path(first, resource=f"{room.url}/sse"))).url.path == "/consent"
    other = await room.signed_in(await room.user())
    assert (await other.open(room.authorize_path(first))).url.path == "/consent"


@pytest.mark.requirement("S-049")
async def test_nobody_reaches_a_provider_before_our_own_page_was_answered(room: Room) -> None:
    user, client = await room.user(), await room.agent()
    person = await room.signed_in(user)
    link = await room.link(user, client)
    page = await person.open(link.url)
    assert page.status_code == 200
    assert (await person.submit(page, form="/connect/", button=("decision", "deny"))).status_code == 200
    link = await room.link(user, client)
    assert "/slack/oauth" in await room.to_provider(person, link)


@pytest.mark.requirement("S-050")
@pytest.mark.parametrize("change", ["none", "stripped", "another session's", "foreign origin", "get", "no cookie"])
async def test_the_decision_counts_only_as_this_sessions_own_form(room: Room, change: str) -> None:
    person, client = await room.signed_in(await room.user()), await room.agent()
    page = await person.open(room.authorize_path(client))
    form = next(one for one in forms_of(page.text) if one.action == "/consent")
    data = dict(form.fill_in({})) | {"decision": "allow"}
    headers = {"origin": room.url}
    match change:
        case "stripped":
            wrong = await person.http.post("/consent", data=data | {"form_token": ""}, headers=headers)
        case "another session's":
            other = await room.signed_in(await room.user())
            theirs = dict(forms_of((await other.open(room.authorize_path(client))).text)[-1].fields)
            token = {"form_token": theirs["form_token"]}
            wrong = await person.http.post("/consent", data=data | token, headers=headers)
        case "foreign origin":
            wrong = await person.http.post("/consent", data=data, headers={"origin": "https://evil.example"})
        case "get":
            wrong = await person.http.get("/consent", params=data)
        case "no cookie":
            wrong = await (await room.browser()).http.post("/consent", data=data, headers=headers)
        case _:
            wrong = None
    if wrong is not None:
        assert "code=" not in wrong.headers.get("location", "")
        is_sent_to_sign_in = wrong.headers.get("location", "").startswith("/sign-in?")
        assert is_sent_to_sign_in if change == "no cookie" else wrong.status_code in {200, 400, 403}
    own = await person.http.post("/consent", data=data, headers=headers)
    assert own.status_code == 303
    assert "code" in query_of(own.headers["location"])


@pytest.mark.requirement("S-051")
async def test_posted_fields_cannot_change_what_was_asked(room: Room) -> None:
    user = await room.user()
    person, client, other = await room.signed_in(user), await room.agent(), await room.agent()
    page = await person.open(room.authorize_path(client))
    answer = await person.submit(
        page,
        {
            "scope": "tools exchange openid admin",
            "scopes": "exchange",
            "redirect_uri": "https://evil.example/",
            "client_id": other.id,
            "user": "alice",
            "user_id": (await room.user("alice")).id,
            "code_challenge": "x" * 43,
            "code_challenge_method": "plain",
            "state": "changed",
            "resource": "https://evil.example/",
            "response_mode": "fragment",
        },
        form="/consent",
        button=("decision", "allow"),
    )
    location = answer.headers["location"]
    assert location.startswith("https://agent.example/callback?")
    assert query_of(location)["state"] == "client-state"
    await _redeem(room, location, client.id)
    (grant,) = await grants.list_grants(room.deployment.database, user.id)
    assert (grant.client_id, grant.scopes) == (client.id, frozenset({"tools", "connections"}))
    assert grant.resource == f"{room.url}/mcp"


@pytest.mark.requirement("S-051")
async def test_ticked_boxes_of_accounts_that_are_not_the_persons_give_nothing(room: Room) -> None:
    user, victim = await room.user(), await room.user()
    person, client = await room.signed_in(user), await room.agent()
    await room.connect(await room.signed_in(victim), victim, await room.agent())
    await room.connect(person, user, await room.agent(), account="bob")
    (theirs,) = await connections.list_connections(room.deployment.database, victim.id)
    (mine,) = await connections.list_connections(room.deployment.database, user.id)
    page = await person.open(room.authorize_path(client))
    ticked = [f"{theirs.id} chat:write", f"{mine.id} channels:read", f"{mine.id} chat:write", "nonsense", ""]
    answers: dict[str, str | list[str] | None] = {"use": list(ticked), f"level.{mine.id}": "custom"}
    answers |= {f"level.{theirs.id}": "write", f"asks.{theirs.id}": "writes", f"until.{theirs.id}": "7"}
    answer = await person.submit(page, answers, form="/consent", button=("decision", "allow"))
    assert answer.status_code == 303
    given = await delegations.list_for_client(room.deployment.database, user.id, client_id=client.id)
    assert [(one.connection_id, one.scopes) for one in given] == [(mine.id, CHAT)]
    assert not await delegations.list_for_client(room.deployment.database, victim.id, client_id=client.id)
    assert (await room.kinds(user))[-1] == "delegation.changed"


async def test_no_account_is_ticked_for_a_new_agent(room: Room) -> None:
    user = await room.user()
    person, client = await room.signed_in(user), await room.agent()
    await room.connect(person, user, await room.agent())
    page = await person.open(room.authorize_path(client))
    form = next(one for one in forms_of(page.text) if one.action == "/consent")
    (connection,) = await connections.list_connections(room.deployment.database, user.id)
    assert len(form.choices["use"]) == 1
    assert dict(form.fields)[f"level.{connection.id}"] == "off"
    answer = await person.submit(page, form="/consent", button=("decision", "allow"))
    assert answer.status_code == 303
    assert not await delegations.list_for_client(room.deployment.database, user.id, client_id=client.id)


@pytest.mark.requirement("S-052")
async def test_the_page_says_who_asks_for_what_and_where_the_answer_goes(room: Room) -> None:
    person = await room.signed_in()
    client = await room.agent(name="Weather bot", redirect_uris=("https://weather.example:8443/cb",))
    text = (await person.open(room.authorize_path(client))).text
    for shown in (
        "Weather bot",
        "unverified",
        "weather.example",
        "Call this vault&#39;s tools",
        "See which accounts you have connected",
        f"{room.url}/mcp",
        "so its name isn&#39;t verified",
        "alice",
    ):
        assert shown in text, shown
    known = await room.agent(ClientKind.MANUAL, name="House bot")
    text = (await person.open(room.authorize_path(known))).text
    assert "unverified" not in text
    assert "Added by an admin" in text


@pytest.mark.requirement("S-052")
async def test_the_page_warns_of_a_document_client_that_any_local_program_can_claim(room: Room) -> None:
    person = await room.signed_in()
    now = room.deployment.now()
    for redirect, warned in (("http://127.0.0.1:4000/cb", True), ("https://agent.example/cb", False)):
        client = await room.agent(
            ClientKind.METADATA,
            id=f"https://agent.example/{'loopback' if warned else 'web'}.json",
            redirect_uris=(redirect,),
            metadata={"fetched_at": now, "fresh_until": now + 3600},
        )
        page = await person.open(room.authorize_path(client))
        assert page.url.path == "/consent", page.text
        assert ("Any program on this computer" in page.text) is warned
        assert client.id in page.text


@pytest.mark.requirement("S-053")
@pytest.mark.parametrize(
    "payload",
    [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "{{ 7777 * 7777 }}{% raw %}",
        "javascript:alert(1)",
    ],
)
async def test_client_metadata_is_inert(room: Room, payload: str) -> None:
    person = await room.signed_in()
    links = {"client_uri": payload, "logo_uri": "https://tracker.example/logo.png", "tos_uri": payload}
    client = await room.agent(name=payload, metadata=links)
    text = (await person.open(room.authorize_path(client))).text
    assert "<script" not in without_own_markup(text)
    assert "<img" not in text.partition("<main")[2]
    assert "tracker.example" not in text
    assert 'href="javascript' not in text
    assert "60481729" not in text
    honest = await room.agent(metadata={"client_uri": "https://agent.example/about"})
    text = (await person.open(room.authorize_path(honest))).text
    assert 'href="https://agent.example/about" rel="noopener noreferrer nofollow"' in text


@pytest.mark.requirement("S-121")
@pytest.mark.parametrize(
    ("redirect", "source"),
    [
        ("https://agent.example/cb", "https://agent.example"),
        ("http://127.0.0.1:33418/cb", "http://127.0.0.1:33418"),
        ("http://[::1]:33418/cb", "http:"),
        ("cursor://anysphere.cursor/oauth", "cursor:"),
    ],
)
async def test_the_form_may_lead_to_the_clients_address_and_nowhere_else(
    room: Room, redirect: str, source: str
) -> None:
    person, client = await room.signed_in(), await room.agent(redirect_uris=(redirect,))
    page = await person.open(room.authorize_path(client))
    assert page.headers["content-security-policy"].endswith(f"form-action 'self' {source}")


async def test_a_browser_is_moved_on_by_a_page_and_a_script_by_a_redirect(room: Room) -> None:
    for headers, status in (({"sec-fetch-mode": "navigate", "sec-fetch-site": "same-origin"}, 200), ({}, 303)):
        person, client = await room.signed_in(), await room.agent()
        page = await person.open(room.authorize_path(client))
        data = dict(forms_of(page.text)[-1].fill_in({})) | {"decision": "allow"}
        answer = await person.http.post("/consent", data=data, headers={"origin": room.url, **headers})
        assert answer.status_code == status
        if status == 200:
            assert '<meta http-equiv="refresh" content="0;url=https://agent.example/callback?code=' in answer.text
            assert "script" not in answer.text


async def test_refusing_tells_the_client_and_gives_nothing(room: Room) -> None:
    user = await room.user()
    person, client = await room.signed_in(user), await room.agent()
    page = await person.open(room.authorize_path(client))
    answer = await person.submit(page, form="/consent", button=("decision", "deny"))
    told = query_of(answer.headers["location"])
    assert (told["error"], told["state"], told["iss"]) == ("access_denied", "client-state", room.url)
    (refused,) = [one for one in await room.events(user) if one.kind == "consent.refused"]
    assert (refused.outcome, refused.client_id) == ("refused", client.id)
    assert refused.details["redirect_host"] == "agent.example"
    again = await person.submit(page, form="/consent", button=("decision", "allow"))
    assert again.status_code == 410


async def test_a_form_sent_three_times_at_once_gives_one_code(room: Room) -> None:
    person, client = await room.signed_in(await room.user()), await room.agent()
    page = await person.open(room.authorize_path(client))
    answers = await asyncio.gather(
        *(person.submit(page, form="/consent", button=("decision", "allow")) for _ in range(3))
    )
    assert all(answer.status_code in {409, 410} for answer in answers if answer.status_code != 303)
    assert sum(answer.status_code == 303 for answer in answers) == 1


async def test_a_form_without_a_decision_decides_nothing(room: Room) -> None:
    person, client = await room.signed_in(), await room.agent()
    page = await person.open(room.authorize_path(client))
    assert (await person.submit(page, form="/consent")).status_code == 400
    assert (await person.submit(page, form="/consent", button=("decision", "allow"))).status_code == 303


async def test_an_old_request_is_over(room: Room) -> None:
    person, client = await room.signed_in(), await room.agent()
    page = await person.open(room.authorize_path(client))
    room.deployment.database.clock_offset += 600
    assert (await person.submit(page, form="/consent", button=("decision", "allow"))).status_code == 410


async def test_sign_in_comes_back_to_the_question(room: Room) -> None:
    client, person = await room.agent(), await room.browser()
    page = await person.open(room.authorize_path(client))
    assert page.url.path == "/sign-in"
    assert "An agent wants to use this vault" in page.text
    page = await person.sign_in("alice", PASSWORD, page=page)
    assert page.url.path == "/consent"
    answer = await person.submit(page, form="/consent", button=("decision", "allow"))
    assert "code" in query_of(answer.headers["location"])
