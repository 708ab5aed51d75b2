"""References instead of secrets, for each kind of credential: read for each use and renewal, never stored."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
)

from tests.credentials.test_signed_tokens import app_values, key_file, signed_values
from tests.support.doubles.scripted_server import scripted_server
from tests.support.doubles.secret_services import openbao, openbao_settings
from tests.support.person import Person
from tests.support.rooms.key_room import READ, WRITE, KeyRoom, running_key_room
from tests.support.rooms.mcp_room import Room as McpRoom
from tests.support.rooms.portal_room import accounts_of
from tests.support.simulator_apps import make_client, make_password
from vault.records import Connection, User
from vault.refresh import leases
from vault.refresh.refresh_request import open_refresh_token
from vault.upkeep import receipts

# each service's fields that are kept elsewhere
KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "mailroom-basic": ("key",),
    "mailroom-query": ("key",),
    "mailroom-client": ("client_secret",),
    "mailroom-session": ("word",),
    "mailroom-service": ("key_file",),
    "mailroom-app": ("private_key",),
    "mailroom-signed": ("private_key", "passphrase"),
}


@dataclass
class Place:
    """A vault that resolves references in OpenBao, whose `secrets` the test changes."""

    room: KeyRoom
    secrets: dict[str, dict[str, str]]

    def values(self, user: User, provider: str) -> dict[str, str]:
        """The values that a person would enter."""
        match provider:
            case "mailroom-client":
                client_id, secret = make_client(self.room.simulator, user.name)
                return {"client_id": client_id, "client_secret": secret}
            case "mailroom-session":
                return {"name": user.name, "word": make_password(self.room.simulator, user.name)}
            case "mailroom-service":
                return {"key_file": key_file(self.room, user)}
            case "mailroom-app":
                return app_values(self.room, user, f"{abs(hash(user.name))}")
            case "mailroom-signed":
                return signed_values(self.room, user, user.name.encode().hex()[-8:].upper())
            case "mailroom-basic":
                return {"login": "alice", "key": self.room.simulator.sandbox.keys.make(user.name)}
            case _:
                return {"key": self.room.simulator.sandbox.keys.make(user.name)}

    async def connect(self, provider: str, *, is_admin: bool = False) -> tuple[User, Person, Connection]:
        """Connect an account whose secrets are in OpenBao."""
        user = await self.room.user()
        if is_admin:
            user = await self.room.vault.add_user(f"admin-{user.name}", is_admin=True)
        values, path = self.values(user, provider), f"people/{user.name}/{provider}"
        self.secrets[path] = {name: values[name] for name in KINDS[provider]}
        references = {name: f"bao://secret/{path}#{name}" for name in KINDS[provider]}
        person = await self.room.signed_in(user)
        return user, person, await self.room.connect_account(user, person, provider, **{**values, **references})

    def calls(self, name: str) -> list[Mapping[str, object]]:
        """The calls with this name that the service got."""
        return [one for one in self.room.books() if one["call"] == name]

    async def read_sealed(self, connection: Connection) -> str:
        """What the vault stores instead of the credential."""
        facts = await leases.read(self.room.deployment.database, connection.id)
        assert facts is not None
        keys = self.room.deployment.keys
        if facts.refresh_sealed is None:
            return facts.open_access_token(keys) or ""
        return open_refresh_token(facts.key(keys), facts)


@asynccontextmanager
async def open_place(folder: Path, *, cache: int) -> AsyncGenerator[Place]:
    secrets: dict[str, dict[str, str]] = {}
    async with scripted_server(openbao(secrets)) as bao:
        settings = openbao_settings(bao.url, "bao://secret/people/{user}/") | {"cache": cache}
        async with running_key_room(folder, overrides={"secrets": settings}) as room:
            yield Place(room, secrets)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Place]:
    async with open_place(tmp_path_factory.mktemp("referenced"), cache=0) as opened:
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def caching_place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Place]:
    """The same, with a cache of one minute."""
    async with open_place(tmp_path_factory.mktemp("caching"), cache=60) as opened:
        yield opened


@pytest.mark.parametrize("provider", KINDS)
async def test_an_admin_enters_references_in_place_of_every_secret(place: Place, provider: str) -> None:
    user, _, connection = await place.connect(provider, is_admin=True)
    scopes = frozenset({"mail:read"}) if provider == "mailroom-app" else READ
    handle = await place.room.allow_agent(user, connection, scopes)
    for _ in range(2):
        assert (await handle.call("GET", "/messages", api="main")).status_code == 200
        place.room.simulator.sandbox.keys.tokens.clear()  # a new token is needed
        place.room.simulator.sandbox.keys.sessions.clear()
    held = await place.read_sealed(connection)
    kept = place.secrets[f"people/{user.name}/{provider}"]
    assert all(f"#{name}" in held and secret not in held for name, secret in kept.items()), held


@pytest.mark.parametrize("provider", ["mailroom-client", "mailroom-session"])
async def test_a_tool_call_works_with_a_secret_at_its_source_and_shows_it_to_nobody(
    place: Place, provider: str
) -> None:
    user, _, connection = await place.connect(provider)
    (secret,) = place.secrets[f"people/{user.name}/{provider}"].values()
    mcp = McpRoom(place.room.vault, place.room.simulator)
    agent = await mcp.agent(user.name)
    await mcp.allow(agent, connection, WRITE)
    async with mcp.client(agent) as client:
        called = {"method": "POST", "path": "/messages", "body": {"to": f"{secret} x"}}
        answer = await client.call_tool(f"{provider.replace('-', '_')}_api_call", called)
    assert (answer.is_error, secret in str(answer)) == (False, False), answer


@pytest.mark.parametrize("is_gone", [True, False])
async def test_a_credential_that_is_gone_at_its_source_gets_no_token_and_costs_no_account(
    place: Place, *, is_gone: bool
) -> None:
    user, _, connection = await place.connect("mailroom-client")
    handle, path = await place.room.allow_agent(user, connection, READ), f"people/{user.name}/mailroom-client"
    kept = place.secrets.pop(path) if is_gone else {}
    place.room.simulator.sandbox.keys.tokens.clear()
    answer = await handle.call("GET", "/messages", api="main")
    assert (answer.status_code == 200) is not is_gone
    assert "bao://" not in answer.text
    [held] = await accounts_of(place.room, user)
    assert held.state.value == "active"
    place.secrets[path] = kept or place.secrets[path]


@pytest.mark.parametrize("is_replaced", [True, False])
async def test_a_client_secret_that_was_replaced_at_its_source_is_used(place: Place, *, is_replaced: bool) -> None:
    user, _, connection = await place.connect("mailroom-client")
    handle, keys = await place.room.allow_agent(user, connection, READ), place.room.simulator.sandbox.keys
    path = f"people/{user.name}/mailroom-client"
    good = place.secrets[path]["client_secret"]
    place.secrets[path]["client_secret"] = "x" * 24
    keys.tokens.clear()
    asked = len(place.calls("token"))
    for _ in range(2):  # the second call has to wait
        assert (await handle.call("GET", "/messages", api="main")).status_code != 200
    assert len(place.calls("token")) == asked + 1
    [held] = await accounts_of(place.room, user)
    assert held.state.value == "active"
    other, _, untouched = await place.connect("mailroom-client")  # another account of the same service
    another = await place.room.allow_agent(other, untouched, READ)
    keys.tokens.clear()
    assert (await another.call("GET", "/messages", api="main")).status_code == 200
    if is_replaced:
        place.secrets[path]["client_secret"] = good
    place.room.deployment.database.clock_offset += 60
    assert ((await handle.call("GET", "/messages", api="main")).status_code == 200) is is_replaced


@pytest.mark.parametrize("is_refused", [True, False])
async def test_a_refused_password_is_sent_once_if_its_source_fails_then(
    caching_place: Place, *, is_refused: bool
) -> None:
    place = caching_place
    user, _, connection = await place.connect("mailroom-session")
    handle, keys = await place.room.allow_agent(user, connection, READ), place.room.simulator.sandbox.keys
    place.secrets.pop(f"people/{user.name}/mailroom-session")
    keys.sessions.clear()
    if is_refused:
        make_password(place.room.simulator, user.name)
    asked = len(place.calls("sign_in"))
    for _ in range(3):
        answer = await handle.call("GET", "/messages", api="main")
        assert (answer.status_code == 200) is not is_refused, answer.text
        place.room.deployment.database.clock_offset += 60
    [held] = await accounts_of(place.room, user)
    assert (held.state.value, len(place.calls("sign_in"))) == ("needs_reauth" if is_refused else "active", asked + 1)


@pytest.mark.parametrize("remembers", [False, True])
@pytest.mark.parametrize("is_replaced", [True, False])
async def test_a_signing_key_that_was_replaced_at_its_source_is_used(
    place: Place, caching_place: Place, *, is_replaced: bool, remembers: bool
) -> None:
    place = caching_place if remembers else place
    user, _, connection = await place.connect("mailroom-signed")
    handle = await place.room.allow_agent(user, connection, READ)
    assert (await handle.call("GET", "/messages", api="main")).status_code == 200
    newer, signers = ec.generate_private_key(ec.SECP256R1()), place.room.simulator.sandbox.keys.signers
    [signer] = [one for one in signers.values() if one.account == user.name]
    signer.public = newer.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    if is_replaced:
        sealed = newer.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"open sesame"))
        place.secrets[f"people/{user.name}/mailroom-signed"]["private_key"] = sealed.decode()
    answer = await handle.call("GET", "/messages", api="main")
    [held] = await accounts_of(place.room, user)
    assert (answer.status_code == 200, held.state.value) == (is_replaced, "active"), answer.text


@pytest.mark.parametrize("is_gone", [True, False])
@pytest.mark.parametrize("provider", ["mailroom-client", "mailroom-session"])
async def test_disconnecting_leaves_the_secret_and_ends_the_session(
    place: Place, provider: str, *, is_gone: bool
) -> None:
    user, person, connection = await place.connect(provider)
    if is_gone:  # signing out doesn't need it
        place.secrets.pop(f"people/{user.name}/{provider}")
    page = await person.open(f"/connections/{connection.id}/disconnect")
    await person.submit(page, form="/disconnect")
    receipt = await receipts.get_receipt(place.room.deployment.database, connection.id)
    assert receipt is not None
    assert receipt.result == ("verified_dead" if provider == "mailroom-session" else "unsupported")
    assert user.name not in {account for account, _ in place.room.simulator.sandbox.keys.sessions.values()}
