"""Clients that ask people in the background (OpenID CIBA Core 1.0), and the people who answer."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace

import httpx2

from server.oauth.backchannel.clients import DETAILS_TYPES
from server.oauth.clients.authentication import secret_hash
from server.oauth.clients.rules import BACKCHANNEL_GRANT
from tests.support.harness import RunningVault
from tests.support.inspection import read_events
from tests.support.rooms.oauth_world import World
from vault import clients
from vault.records import Client, ClientKind, Event, User

SECRET = "s" * 43
PAYMENT = {"type": "payment", "amount": {"value": "12.50", "currency": "EUR"}, "to": "Bakery"}
Vault = tuple[RunningVault, httpx2.AsyncClient]


@dataclass
class Asker:
    """A confidential client that an operator allowed to ask, and the person whom it asks."""

    world: World
    client: Client
    person: User

    async def post(self, changes: Mapping[str, str | None] | None = None) -> httpx2.Response:
        form: dict[str, str | None] = {
            "client_id": self.client.id,
            "client_secret": SECRET,
            "scope": "openid tools",
            "login_hint": self.person.id,
            "binding_message": "Order 4711: 12,50 EUR",
            **(changes or {}),
        }
        sent = {name: value for name, value in form.items() if value is not None}
        return await self.world.http.post("/bc-authorize", data=sent)

    async def ask(self, **changes: str | None) -> str:
        answer = await self.post(changes)
        assert answer.status_code == 200, answer.text
        assert answer.headers["cache-control"] == "no-store"
        return str(answer.json()["auth_req_id"])

    async def poll(self, auth_req_id: str, *, headers: Mapping[str, str] | None = None, **more: str) -> httpx2.Response:
        form = {"grant_type": BACKCHANNEL_GRANT, "client_id": self.client.id, "client_secret": SECRET}
        return await self.world.token({**form, "auth_req_id": auth_req_id, **more}, headers=dict(headers or {}))

    async def page(self) -> httpx2.Response:
        """The page of the one question that is open."""
        listed = await self.world.alice.open("/approvals")
        (path,) = set(re.findall(r'href="(/approvals/r[\w-]+)"', listed.text))
        return await self.world.alice.open(path)

    async def answer(self, decision: str = "allow") -> httpx2.Response:
        return await self.world.alice.submit(await self.page(), form="/approvals/", button=("decision", decision))

    async def ask_and_approve(self, **changes: str | None) -> str:
        auth_req_id = await self.ask(**changes)
        assert "Approved" in (await self.answer()).text
        return auth_req_id

    async def events(self, kind: str) -> list[Event]:
        deployment = self.world.vault.deployment
        found = await read_events(deployment, user_id=self.person.id)
        return [one for one in found if one.kind == kind]

    async def other(self, **changes: object) -> Asker:
        """Another client that asks the same person."""
        return replace(self, client=await asker_client(self.world, **changes))


async def asker_client(world: World, **changes: object) -> Client:
    facts: dict[str, object] = {
        "id": secrets.token_hex(8),
        "kind": ClientKind.MANUAL,
        "name": "Bakery bot",
        "auth_method": "client_secret_post",
        "secret_hash": secret_hash(SECRET),
        "redirect_uris": (),
        "grant_types": frozenset({BACKCHANNEL_GRANT, "refresh_token"}),
        "created_at": world.now(),
        "metadata": {DETAILS_TYPES: ["payment"]},
        **changes,
    }
    made = Client(**facts)  # pyright: ignore[reportArgumentType]
    async with world.vault.deployment.transaction() as transaction:
        await clients.save_client(transaction, made)
    return made


def nested_details(levels: int) -> str:
    """A detail with this many arrays inside it, in an object in an array."""
    return '[{"type": "payment", "n": ' + "[" * levels + "]" * levels + "}]"
