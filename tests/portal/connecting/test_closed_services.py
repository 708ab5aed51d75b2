"""An API that its service has closed: nobody connects an account, and who has one is told what to use instead."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from server.connecting import provider_authorization
from server.connecting.agent_refusals import tell
from server.connecting.links import ConnectRefused
from server.connecting.provider_authorization import ConsentRequest
from server.doctor.providers import check_provider
from tests.support.accounts import open_account
from tests.support.rooms.portal_room import Room, running_room, someone
from vault.records import Principal, Session
from vault.refusals import ConnectionRequired
from vault.upstream import Account, TokenAnswer

CLOSED, OPEN = "fitbit", "asana"
WORDS = "Google Health API"


@pytest.fixture(scope="module")
async def room(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    app = {"client_id": "ours", "client_secret": "canary-of-an-app"}
    settings = {"providers": dict.fromkeys((CLOSED, OPEN), app)}
    async with running_room(tmp_path_factory.mktemp("closed"), overrides=settings) as opened:
        yield opened


@pytest.mark.parametrize(("provider", "is_closed"), [(CLOSED, True), (OPEN, False)])
async def test_nobody_connects_an_account_of_a_closed_api(room: Room, provider: str, is_closed: bool) -> None:
    user, person, _ = await someone(room)
    offered = (await person.open("/connections")).text
    assert (f"provider={provider}" in offered) is not is_closed
    page = await person.open(f"/connections/connect?provider={provider}")
    assert page.status_code == (409 if is_closed else 200)
    assert ("has closed this API" in page.text) is is_closed
    now = room.deployment.now()
    session = Session(bytes(32), user.id, created_at=now, seen_at=now, expires_at=now + 3600)
    trip = ConsentRequest(provider, room.deployment.catalog.provider(provider).scope.default)
    if is_closed:
        with pytest.raises(ConnectRefused, match=WORDS):
            await provider_authorization.start(room.deployment, trip, user=user, session=session)
    else:
        assert await provider_authorization.start(room.deployment, trip, user=user, session=session)


@pytest.mark.parametrize(("provider", "is_closed"), [(CLOSED, True), (OPEN, False)])
async def test_who_has_an_account_of_a_closed_api_is_told(room: Room, provider: str, is_closed: bool) -> None:
    user, person, _ = await someone(room)
    scopes = room.deployment.catalog.provider(provider).scope.default
    answer = TokenAnswer("token-canary", "refresh-canary", scopes, 43200, Account("1", "alice"))
    async with room.deployment.transaction() as transaction:
        connection = await open_account(transaction, room.deployment, user.id, provider, answer)
    for path in ("/connections", f"/connections/{connection.id}"):
        text = (await person.open(path)).text
        assert (WORDS in text) is is_closed, path
        assert ("Disconnect this account." in text) is is_closed
    assert ("Reconnect" in text) is not is_closed


@pytest.mark.parametrize(("provider", "is_closed"), [(CLOSED, True), (OPEN, False)])
async def test_an_agent_gets_no_link_for_a_closed_api(room: Room, provider: str, is_closed: bool) -> None:
    user, _, client = await someone(room)
    principal = Principal(user.id, client.id, "grant", frozenset(), room.url)
    scopes = room.deployment.catalog.provider(provider).scope.default
    refusal = ConnectionRequired("no account", provider=provider, reason="missing", scopes=scopes)
    told = await tell(room.deployment, refusal, principal, tool="")
    assert (WORDS in told.text) is is_closed
    assert (told.link is None) is is_closed


async def test_doctor_says_that_an_api_is_closed(room: Room) -> None:
    (found,) = await check_provider(room.deployment, room.deployment.catalog.provider(CLOSED))
    assert (found.check, WORDS in found.sentence, found.fix) == (
        "fitbit.retired",
        True,
        "remove providers.fitbit, and ask people to disconnect these accounts",
    )
