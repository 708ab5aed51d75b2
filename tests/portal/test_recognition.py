"""Software that registers again: recognized on the consent page, and given what it had with one click, not silently."""

from __future__ import annotations

from dataclasses import replace

import httpx2
import pytest

from server.oauth.clients.rules import is_same_software
from tests.support.rooms.portal_room import CHAT, Room, query_of
from vault import clients, connections, delegations, grants
from vault.records import Client, ClientKind, Connection, Delegation, User

ASK = frozenset({"tool:slack_post", "chat:write"})
QUESTION = "</bdi> again? Give it what it had?"


async def cursor(room: Room, port: int = 40001, **changes: object) -> Client:
    facts = {"name": "Cursor", "redirect_uris": (f"http://localhost:{port}/callback",), **changes}
    return await room.agent(**facts)  # pyright: ignore[reportArgumentType]


async def redeem(room: Room, client: Client, answer: httpx2.Response) -> None:
    """The agent redeems the code in the answer for its tokens."""
    redeemed = await room.vault.redeem(
        client.id,
        query_of(answer.headers["location"])["code"],
        "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
        redirect_uri=client.redirect_uris[0],
    )
    assert redeemed.status_code == 200, redeemed.text


async def let_in(room: Room, user: User, client: Client) -> Connection:
    """The agent is signed in and may use an account of the person's, with approval for each call."""
    person = await room.signed_in(user)
    page = await person.open(room.authorize_path(client))
    answer = await person.submit(page, form="/consent", button=("decision", "allow"))
    await redeem(room, client, answer)
    await room.connect(person, user, client)
    (connection,) = await connections.list_connections(room.deployment.database, user.id)
    async with room.deployment.transaction() as transaction:
        await delegations.set_ask(
            transaction, user_id=user.id, client_id=client.id, connection_id=connection.id, ask=ASK, now=1
        )
    return connection


async def live_delegations(room: Room, user: User, client: Client) -> tuple[Delegation, ...]:
    found = await delegations.list_for_client(room.deployment.database, user.id, client_id=client.id)
    return tuple(one for one in found if one.is_live(room.deployment.now()))


@pytest.mark.requirement("S-171")
async def test_one_click_gives_a_new_registration_what_the_old_one_had(room: Room) -> None:
    user, old = await room.user(), await cursor(room)
    connection = await let_in(room, user, old)
    new = await cursor(room, 40002)
    person = await room.signed_in(user)
    page = await person.open(room.authorize_path(new))
    assert QUESTION in page.text
    assert "Any program on this computer can claim this." in page.text
    assert await live_delegations(room, user, new) == (), "never silently"
    answer = await person.submit(page, form="/consent", button=("decision", "again"))
    assert answer.headers["location"].startswith("http://localhost:40002/callback?code=")
    (carried,) = await live_delegations(room, user, new)
    assert (carried.connection_id, carried.ask) == (connection.id, ASK)
    assert carried.scopes == (await live_delegations(room, user, old))[0].scopes >= CHAT
    assert len(await grants.list_grants(room.deployment.database, user.id)) == 1, "the old one is kept: it is in use"
    event = (await room.events(user))[-1]
    assert (event.kind, event.client_id, event.details["carried_from"]) == ("delegation.changed", new.id, old.id)


async def test_the_person_ends_the_earlier_sign_ins_with_the_same_click(room: Room) -> None:
    user, old, between = await room.user(), await cursor(room), await cursor(room, 40002)
    await let_in(room, user, old)
    person = await room.signed_in(user)
    for client, ends in ((between, None), (await cursor(room, 40003), "yes")):
        page = await person.open(room.authorize_path(client))
        answer = await person.submit(page, {"end": ends}, form="/consent", button=("decision", "again"))
        await redeem(room, client, answer)
    assert await live_delegations(room, user, old) == await live_delegations(room, user, between) == ()
    (live,) = await grants.list_grants(room.deployment.database, user.id)
    assert live.client_id == client.id
    assert [event.kind for event in await room.events(user)].count("agent.cut_off") == 2


async def test_the_end_is_proposed_only_when_no_earlier_sign_in_was_used_lately(room: Room) -> None:
    user, old = await room.user(), await cursor(room)
    await let_in(room, user, old)
    database = room.deployment.database
    ticked = 'name="end" value="yes" checked'
    path = room.authorize_path(await cursor(room, 40002))
    assert ticked not in (await (await room.signed_in(user)).open(path)).text
    database.clock_offset += 3600
    try:
        assert ticked in (await (await room.signed_in(user)).open(path)).text
    finally:
        database.clock_offset -= 3600


@pytest.mark.requirement("S-171")
@pytest.mark.parametrize(
    "changes",
    [
        {"name": "Cursor 2"},
        {"redirect_uris": ("http://localhost:40002/other",)},
        {"redirect_uris": ("https://elsewhere.example/callback",)},
        {"metadata": {"software_id": "another"}},
        {"kind": ClientKind.MANUAL},
    ],
)
async def test_whatever_differs_makes_it_another_agent(room: Room, changes: dict[str, object]) -> None:
    user = await room.user()
    await let_in(room, user, await cursor(room))
    person, new = await room.signed_in(user), await cursor(room, 40002, **changes)
    page = await person.open(room.authorize_path(new))
    assert QUESTION not in page.text
    answer = await person.submit(page, form="/consent", button=("decision", "again"))
    assert answer.url.path == "/consent", "nothing was carried over, and the person is asked again"
    assert await live_delegations(room, user, new) == ()


async def test_another_spelling_of_loopback_is_the_same_software(room: Room) -> None:
    user = await room.user()
    await let_in(room, user, await cursor(room))
    new = await cursor(room, redirect_uris=("http://127.0.0.1:40002/callback",))
    assert QUESTION in (await (await room.signed_in(user)).open(room.authorize_path(new))).text


def test_a_document_and_a_registration_can_be_of_the_same_software_and_of_no_name_nothing_is() -> None:
    registered = Client("a", ClientKind.DYNAMIC, "Cursor", "none", ("http://localhost:1/callback",), 0)
    document = replace(registered, id="https://cursor.example/agent.json", kind=ClientKind.METADATA)
    assert is_same_software(registered, document)
    unnamed = replace(registered, name="Unnamed agent")
    assert not is_same_software(unnamed, replace(unnamed, id="b"))


async def test_nothing_of_another_person_or_of_a_removed_agent_is_offered(room: Room) -> None:
    user, old = await room.user(), await cursor(room)
    await let_in(room, user, old)
    new = await cursor(room, 40002)
    stranger = await room.signed_in(await room.user())
    assert QUESTION not in (await stranger.open(room.authorize_path(new))).text
    async with room.deployment.transaction() as transaction:
        await clients.remove_client(transaction, old.id, now=room.deployment.now())
    assert QUESTION not in (await (await room.signed_in(user)).open(room.authorize_path(new))).text


async def test_a_click_counts_only_for_what_the_page_showed(room: Room) -> None:
    user, old = await room.user(), await cursor(room)
    connection = await let_in(room, user, old)
    person, new = await room.signed_in(user), await cursor(room, 40002)
    page = await person.open(room.authorize_path(new))
    async with room.deployment.transaction() as transaction:
        await delegations.set_ask(
            transaction, user_id=user.id, client_id=old.id, connection_id=connection.id, ask=frozenset(), now=2
        )
    again = await person.submit(page, form="/consent", button=("decision", "again"))
    assert again.url.path == "/consent"
    assert await live_delegations(room, user, new) == ()
    assert (await person.submit(again, form="/consent", button=("decision", "again"))).status_code == 303
    assert len(await live_delegations(room, user, new)) == 1


async def test_a_device_code_that_somebody_may_have_sent_is_offered_nothing(room: Room) -> None:
    user = await room.user()
    await let_in(room, user, await cursor(room))
    grant = "urn:ietf:params:oauth:grant-type:device_code"
    new = await cursor(room, 40002, grant_types=frozenset({"authorization_code", "refresh_token", grant}))
    async with httpx2.AsyncClient(timeout=30) as http:
        told = (await http.post(f"{room.url}/device_authorization", data={"client_id": new.id})).json()
    person = await room.signed_in(user)
    page = await person.submit(await person.open("/device"), {"user_code": told["user_code"]}, form="/device")
    assert page.url.path == "/consent", page.text
    assert QUESTION not in page.text
