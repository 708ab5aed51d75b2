"""A different authorization server, django-oauth-toolkit: rotation, reuse protection, PKCE, its own pages.

A narrower refresh shrinks the grant itself, so its provider file says that narrowing is harmful, and the vault enforces
narrow scopes with its own rules instead.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio

from tests.support.foreign.foreign_place import BOTH, Place, Service, open_place
from tests.support.person import Person
from vault.records import Narrowing
from vault.refusals import ConnectionRequired

FILE = """
[hosts]
authorize_url = "{issuer}/authorize/"
token_url = "{issuer}/token/"
revoke_url = "{issuer}/revoke_token/"

[scope]
default = ["files:read"]
identity = ["profile"]

[rotation]
mode = "revokes"

[downscope]
mode = "refresh_scope"
destructive = true

"""


async def agree(there: Person, page: httpx2.Response) -> httpx2.Response:
    page = await there.submit(page, {"username": "carol", "password": "anything"})
    assert "Change files" in page.text
    return await there.submit(page, button=("allow", "Authorize"))


DJANGO = Service("support/foreign/django_server.py", FILE, agree)
CARELESS = Service("support/foreign/django_server.py", FILE.replace("destructive = true", ""), agree)


@pytest_asyncio.fixture
async def place(tmp_path: Path) -> AsyncGenerator[Place]:
    async with open_place(tmp_path, DJANGO) as opened:
        yield opened


async def granted_scopes(place: Place) -> frozenset[str]:
    """The scopes of the refresh token that is still valid there."""
    return frozenset(((await place.provider.ask(ask="grant"))["scope"] or "").split())


async def test_an_account_lives_through_rotations_until_it_is_disconnected(place: Place) -> None:
    connection = await place.connect()
    await place.rotate(connection, 4)
    assert await place.books() == {"refresh tokens": 4, "used": 3}

    full = await place.exchange()
    await place.disconnect(connection)
    assert await place.scope_of(full) is None
    assert await granted_scopes(place) == frozenset()
    with pytest.raises(ConnectionRequired):
        await place.exchange()


async def test_a_narrow_call_never_shrinks_the_grant(place: Place) -> None:
    await place.connect()
    whole = await place.exchange()
    before = await place.books()
    narrow = await place.exchange("files:read")
    assert (narrow.scopes, narrow.narrowing) == (frozenset({"files:read"}), Narrowing.ENFORCED)
    assert narrow.value == whole.value
    place.let_expire()
    assert (await place.exchange("files:read")).narrowing is Narrowing.ENFORCED
    assert await place.books() == {"refresh tokens": before["refresh tokens"] + 1, "used": before["used"] + 1}
    assert await granted_scopes(place) >= BOTH
    assert (await place.exchange()).scopes == BOTH


async def test_it_would_shrink_the_grant_where_a_file_does_not_say_that_narrowing_does_harm(tmp_path: Path) -> None:
    async with open_place(tmp_path, CARELESS) as place:
        await place.connect()
        assert await granted_scopes(place) >= BOTH
        assert (await place.exchange("files:read")).narrowing is Narrowing.UPSTREAM
        assert await granted_scopes(place) == {"files:read"}


async def test_when_a_stolen_token_was_used_twice_the_person_is_asked_to_connect_again(place: Place) -> None:
    connection = await place.connect()
    place.let_expire()
    await place.exchange()
    assert (await place.provider.ask(ask="replay"))["error"] == "invalid_grant"
    assert await granted_scopes(place) == frozenset()  # reuse protection ended the grant
    await place.check_that_it_must_be_reconnected(connection)


async def test_it_takes_no_code_without_its_proof(place: Place) -> None:
    query = {"response_type": "code", "client_id": "vault", "redirect_uri": place.callback, "scope": "files:read"}
    async with Person(place.issuer) as there:
        page = await there.open(str(httpx2.URL(f"{place.issuer}/authorize/", params=query)))
        page = await there.submit(page, {"username": "carol", "password": "anything"})
        assert "error=invalid_request" in page.headers["location"]
        proof = {"code_challenge": "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM", "code_challenge_method": "S256"}
        page = await there.open(str(httpx2.URL(f"{place.issuer}/authorize/", params={**query, **proof})))
        assert page.status_code == 200
        assert "Read files" in page.text
