"""Fixtures: a vault with sign-in through an OpenID Connect provider, and a person who signs in there."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator

import httpx2
import pytest

from tests.support.doubles.openid_double import OpenIDDouble, running_openid
from tests.support.person import Person
from tests.support.rooms.portal_room import Room, running_room
from vault import users
from vault.records import User


@pytest.fixture(scope="module")
async def shared_openid_room(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[tuple[Room, OpenIDDouble]]:
    async with running_openid(lambda: int(time.time())) as provider:
        overrides = {
            "sign_in": {
                "openid": {
                    "company": provider.settings(),
                    "other": provider.settings() | {"title": "Other", "issuer": provider.url},
                    "members": provider.settings(create_users=False),
                    "public": provider.settings(secret=None),
                    "domains": provider.settings(create_users=False) | {"domains": ("company.example",)},
                }
            },
            "sandbox": {"loopback_openid": True},
        }
        async with running_room(tmp_path_factory.mktemp("openid"), overrides=overrides) as room:
            yield room, provider


@pytest.fixture
def room(shared_openid_room: tuple[Room, OpenIDDouble]) -> Room:
    shared_openid_room[0].deployment.database.clock_offset += 120  # its own window for starts per address
    shared_openid_room[1].now = shared_openid_room[0].deployment.now
    return shared_openid_room[0]


@pytest.fixture
def provider(shared_openid_room: tuple[Room, OpenIDDouble], room: Room) -> OpenIDDouble:
    shared_openid_room[1].reset()
    return shared_openid_room[1]


async def begin(person: Person, name: str = "company", return_to: str = "/activity") -> str:
    """Our redirect to the provider."""
    answer = await person.http.get(f"/sign-in/openid/{name}", params={"return_to": return_to})
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


async def callback_of(url: str) -> str:
    """The provider's redirect back to us."""
    async with httpx2.AsyncClient(timeout=30) as http:
        return (await http.get(url)).headers["location"]


async def sign_in(person: Person, name: str = "company") -> httpx2.Response:
    return await person.open(await callback_of(await begin(person, name)))


async def whoami(person: Person) -> str:
    return (await person.open("/account")).text.partition("<h1><bdi>")[2].partition("</bdi>")[0]


async def user_of(room: Room, provider: OpenIDDouble) -> User | None:
    return await users.find_by_identity(room.deployment.database, issuer=provider.url, subject=provider.subject)
