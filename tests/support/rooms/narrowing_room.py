"""Every real way to narrow a token, with a vault and the simulator in that provider's mode."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import httpx2

from providers.definitions.catalog import ProviderOverrides, load_catalog
from providers.definitions.model import Provider
from providers.oauth.client import OAuthUpstream
from providers.outbound.client import AddressPolicy, Outbound
from providers.simulator import Simulator, consent
from providers.simulator.state.books import Entry
from tests.conftest import Store
from tests.support.rooms.vault_room import Room, open_room, principal_of
from tests.support.simulator_apps import REDIRECT, VERIFIER, family_settings, parameters
from vault import connections
from vault.exchange.exchange import ExchangeRequest, UpstreamToken, exchange
from vault.records import Connection

GOOGLE = "https://www.googleapis.com/auth/"


Call = tuple[str, str]


@dataclass(frozen=True)
class Family:
    """A shipped provider, the mode that stands for it, and two calls: one inside the narrow scopes, one outside."""

    provider: str
    mode: str
    granted: frozenset[str]
    narrow: frozenset[str]
    inside: Call
    outside: Call
    item: str | None = None

    @property
    def page(self) -> str:
        """The recorded narrowings."""
        return "derivations" if self.provider in {"github", "box"} else "refreshes"


def scopes(*names: str) -> frozenset[str]:
    return frozenset(names)


FAMILIES = (
    Family(
        "google",
        "google",
        scopes(f"{GOOGLE}calendar.events", f"{GOOGLE}calendar.events.readonly"),
        scopes(f"{GOOGLE}calendar.events.readonly"),
        ("GET", "/calendars/primary/events"),
        ("POST", "/calendars/primary/events"),
    ),
    Family(
        "microsoft",
        "microsoft",
        scopes("Mail.Read", "Calendars.ReadWrite"),
        scopes("Mail.Read"),
        ("GET", "/me/messages"),
        ("POST", "/me/events"),
    ),
    Family(
        "dropbox",
        "dropbox",
        scopes("files.metadata.read", "files.content.write"),
        scopes("files.metadata.read"),
        ("POST", "/files/list_folder"),
        ("POST", "/files/delete_v2"),
    ),
    Family(
        "square",
        "square",
        scopes("PAYMENTS_READ", "PAYMENTS_WRITE"),
        scopes("PAYMENTS_READ"),
        ("GET", "/v2/payments"),
        ("POST", "/v2/payments"),
    ),
    Family(
        "github",
        "github-app",
        scopes("issues:write", "contents:write"),
        scopes("issues:read"),
        ("GET", "/repos/octo/hello/issues"),
        ("POST", "/repos/octo/hello/issues"),
        item="/repos/octo/hello",
    ),
    Family(
        "box",
        "box",
        scopes("root_readwrite"),
        scopes("base_explorer"),
        ("GET", "/2.0/folders/12/items"),
        ("DELETE", "/2.0/files/5"),
    ),
)


BY_NAME = {family.provider: family for family in FAMILIES}


@dataclass
class Place:
    """The vault connected to one family, over real HTTP."""

    family: Family
    simulator: Simulator
    room: Room
    provider: Provider
    upstream: OAuthUpstream
    http: httpx2.AsyncClient

    @property
    def api(self) -> str:
        return f"{self.simulator.url}/families/{self.family.mode}/api"

    async def connect(self) -> Connection:
        """The person consents to what the family grants, and lets the agent use it."""
        family, vault = self.family, self.room.vault
        url = self.upstream.authorization_url(
            redirect_uri=REDIRECT, state="st", scopes=family.granted, code_verifier=VERIFIER
        )
        code = parameters(await consent(url))["code"]
        answer = await self.upstream.redeem(code=code, redirect_uri=REDIRECT, code_verifier=VERIFIER)
        async with self.room.database.transaction() as transaction:
            connection = await connections.open_connection(
                transaction,
                vault.keys,
                user_id=self.room.alice.user.id,
                provider=family.provider,
                answer=answer,
                asked=family.granted,
                policy=vault.policies[family.provider],
                now=self.room.now,
            )
        await self.room.allow(connection, family.granted)
        return connection

    async def exchange(
        self, wanted: frozenset[str] | None = None, *, item: str | None = None, after: int | None = None
    ) -> UpstreamToken:
        request = ExchangeRequest(
            principal_of(self.room.alice), self.family.provider, wanted or self.family.narrow, purpose="a_tool"
        )
        address = None if item is None else self.api + item
        return await exchange(
            replace(request, item=address), vault=self.room.vault, now=self.room.now, after_unauthorized=after
        )

    async def narrow(self, *, after: int | None = None) -> UpstreamToken:
        return await self.exchange(item=self.family.item, after=after)

    async def call(self, call: Call, token: UpstreamToken) -> int:
        method, path = call
        headers = {"authorization": f"Bearer {token.value}"}
        return (await self.http.request(method, self.api + path, headers=headers)).status_code

    def narrowings(self) -> list[Entry]:
        return [entry for entry in self.simulator.books()[self.family.page] if entry["requested_scopes"]]

    def grant(self) -> Entry:
        (family,) = self.simulator.books()["families"]
        return family


def provider_at(simulator: Simulator, name: str, mode: str) -> Provider:
    """The shipped file, with the URLs of the mode."""
    apis = load_catalog().provider(name).apis
    section = family_settings(simulator, mode, apis=apis)
    overrides = ProviderOverrides(**section)
    return load_catalog(overrides={name: overrides}).provider(name)


@asynccontextmanager
async def place_for(
    family: Family, simulator: Simulator, store: Store, *, changed: Mapping[str, object] | None = None
) -> AsyncGenerator[Place]:
    simulator.reset()
    registration = provider_at(simulator, family.provider, family.mode).registration
    provider = provider_at(simulator, family.provider, family.mode).model_copy(update=dict(changed or {}))
    provider = provider.with_registration(registration)
    outbound = Outbound(AddressPolicy(allow_loopback=True))
    upstream = OAuthUpstream(provider, outbound)
    try:
        async with open_room(store) as room, httpx2.AsyncClient(trust_env=False, timeout=30) as http:
            vault = replace(
                room.vault,
                policies={family.provider: provider.policy()},
                upstreams={family.provider: upstream},
                owner=secrets.token_urlsafe(16),
            )
            room.vault = vault
            yield Place(family, simulator, room, provider, upstream, http)
    finally:
        await outbound.close()
