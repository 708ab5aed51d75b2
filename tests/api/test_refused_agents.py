"""Agents that can't be registered: each differs in one way from an agent that can."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import pytest
from joserfc.jwk import ECKey

from server.administration import agents, own_apis
from server.administration.actor import ChangeRefused
from server.administration.agents import BackchannelSpec, NewAgent, OwnApisSpec, ServiceAccountSpec, WorkerSpec
from server.oauth.rules import ADMIN_SCOPES
from tests.support.rooms.admin_room import AdminRoom
from vault.records import ClientKind

KEYS: Final = {"keys": [ECKey.generate_key("P-256").as_dict(private=False)]}
SIGNS_IN: Final = NewAgent("Agent", redirect_uris=("https://agent.example/callback",))
ASKS: Final = NewAgent("Asks people", jwks=KEYS, asking=BackchannelSpec())
CALLS_OWN: Final = NewAgent("For itself", has_secret=True, resources=("https://api.example",), by_itself=OwnApisSpec())
RULES: Final = WorkerSpec(("10.1.0.0/16",), ("slack",), ("chat:write",))
WORKS: Final = NewAgent("Worker", jwks=KEYS, worker=RULES)
SERVES: Final = NewAgent("Automation", has_secret=True)  # acts on behalf of an admin
URI: Final = SIGNS_IN.redirect_uris
PUSHES: Final = BackchannelSpec(notify="https://agent.example/ciba", is_pushed=True)


REFUSED: Final[list[tuple[str, NewAgent, Mapping[str, object]]]] = [
    ("jwks", SIGNS_IN, {"has_secret": True, "jwks": KEYS}),
    ("jwks", ASKS, {"jwks": {"keys": []}}),
    ("name", SIGNS_IN, {"name": "\u200b"}),
    ("redirect_uris", SIGNS_IN, {"redirect_uris": ()}),
    ("redirect_uris", SIGNS_IN, {"redirect_uris": ("http://agent.example/callback",)}),
    ("origins", SIGNS_IN, {"origins": ("https://agent.example/path",)}),
    ("release", SIGNS_IN, {"release": "full"}),
    ("confidential", replace(SIGNS_IN, exchanges=True), {"redirect_uris": ()}),
    *(
        ("resources", SIGNS_IN, {"resources": (url,)})
        for url in (
            "api.example",
            "https://api.example/#part",
            "https://api.example/" + "x" * 2048,
            "https://é.example",
        )
    ),
    *(
        ("service_account", SERVES, {"service": True} | change)
        for change in (
            {"redirect_uris": URI},
            {"exchanges": True},
            {"worker": RULES},
            {"by_device": True},
            {"resources": ("https://api.example",)},
            {"asking": BackchannelSpec()},
        )
    ),
    *(("service_account.scopes", SERVES, {"service": scopes}) for scopes in (frozenset(), frozenset({"tools"}))),
    *(
        ("client_credentials", CALLS_OWN, change)
        for change in (
            {"redirect_uris": URI},
            {"exchanges": True},
            {"by_device": True},
            {"asking": BackchannelSpec()},
            {"release": "proxy"},
            {"origins": ("https://agent.example",)},
        )
    ),
    ("client_credentials.scopes", CALLS_OWN, {"by_itself": OwnApisSpec(frozenset({"tools"}))}),
    ("client_credentials.scopes", CALLS_OWN, {"by_itself": OwnApisSpec(frozenset({'a"b'}))}),
    ("resources", CALLS_OWN, {"resources": ()}),
    ("ciba", ASKS, {"jwks": None}),
    ("ciba.notify", ASKS, {"asking": replace(PUSHES, notify="http://agent.example/ciba")}),
    ("ciba.notify", ASKS, {"asking": replace(PUSHES, notify="https://agent.example/" + "x" * 2048)}),
    ("ciba.notify", ASKS, {"asking": replace(PUSHES, notify="")}),
    ("ciba.signing_alg", ASKS, {"asking": BackchannelSpec(signing_alg="HS256")}),
    ("ciba.signing_alg", ASKS, {"jwks": None, "has_secret": True, "asking": BackchannelSpec(signing_alg="ES256")}),
    *(("worker", WORKS, {"worker": replace(RULES, **{one: ()})}) for one in ("addresses", "connections", "scopes")),
    ("worker", WORKS, {"jwks": None, "has_secret": True}),
    ("worker.addresses", WORKS, {"worker": replace(RULES, addresses=("10.1.0.0/99",))}),
    ("worker.scopes", WORKS, {"worker": replace(RULES, scopes=("chat:wrote",))}),
    ("worker.connections", WORKS, {"worker": replace(RULES, connections=("slak",))}),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
async def test_an_agent_that_cannot_be_is_refused_for_that_alone(room: AdminRoom, number: int) -> None:
    field, base, changes = REFUSED[number]
    alice = ServiceAccountSpec(await room.person("alice"), frozenset({"admin:read"}) & ADMIN_SCOPES or ADMIN_SCOPES)
    if base is SERVES:
        scopes = changes["service"]
        wanted = replace(alice, scopes=scopes) if isinstance(scopes, frozenset) else alice
        base, changes = replace(base, service=alice), {**changes, "service": wanted}
    with pytest.raises(ChangeRefused) as refused:
        await agents.client_of(room.operator, replace(base, **changes))  # pyright: ignore[reportArgumentType]
    assert refused.value.field == field
    assert (await agents.client_of(room.operator, base)).name == base.name  # the twin


@pytest.mark.parametrize(
    "twin",
    [
        replace(ASKS, asking=PUSHES),
        replace(ASKS, asking=BackchannelSpec(signing_alg="ES256")),
        replace(SIGNS_IN, origins=("https://agent.example",), release="narrowed"),
        replace(CALLS_OWN, by_itself=OwnApisSpec(frozenset({"orders:read"}))),
        replace(SIGNS_IN, redirect_uris=(), by_device=True),
    ],
)
async def test_what_is_refused_in_part_is_right_otherwise(room: AdminRoom, twin: NewAgent) -> None:
    assert (await agents.client_of(room.operator, twin)).name == twin.name


async def test_a_service_account_acts_for_an_admin_only(room: AdminRoom) -> None:
    bob, alice = await room.room.user(), await room.person("alice")
    with pytest.raises(ChangeRefused, match="isn't an admin"):
        await agents.client_of(room.operator, replace(SERVES, service=ServiceAccountSpec(bob, ADMIN_SCOPES)))
    assert await agents.client_of(room.operator, replace(SERVES, service=ServiceAccountSpec(alice, ADMIN_SCOPES)))


async def test_an_agent_for_itself_calls_own_apis_only(room: AdminRoom) -> None:
    with pytest.raises(ChangeRefused, match="can't call the vault"):
        await agents.client_of(room.operator, replace(CALLS_OWN, resources=(f"{room.room.url}/mcp",)))
    with pytest.raises(ChangeRefused, match="belongs to the vault"):
        own_apis.check_identifier(room.deployment, f"{room.room.url}/mcp/", field="resources")
    assert await agents.client_of(room.operator, CALLS_OWN)


async def test_only_a_registered_agent_with_a_secret_or_key_receives_tokens(room: AdminRoom) -> None:
    public = await room.room.agent(ClientKind.DYNAMIC)
    made = await agents.register(room.operator, replace(SIGNS_IN, has_secret=True))
    for client, policy in ((made.client, "none"), (public, "full")):
        with pytest.raises(ChangeRefused) as refused:
            await agents.set_release(room.operator, client, target="slack", policy=policy)
        assert refused.value.field == "release"
    with pytest.raises(ChangeRefused, match="no provider"):
        await agents.set_release(room.operator, made.client, target="slak", policy="full")
    changed, before = await agents.set_release(room.operator, made.client, target="slack", policy="full")
    assert (before, changed.id) == ("narrowed", made.client.id)
    assert (await agents.set_release(room.operator, public, target="slack", policy="proxy"))[1] == "proxy"


async def test_an_agent_that_was_removed_is_not_changed(room: AdminRoom) -> None:
    client = (await agents.register(room.operator, SIGNS_IN)).client
    await agents.update(room.operator, replace(client, name="Renamed"))
    assert (await agents.agent_with_id(room.operator, client.id)).name == "Renamed"
    await agents.remove(room.operator, client)
    for change in (agents.update(room.operator, client), agents.remove(room.operator, client)):
        with pytest.raises(ChangeRefused) as refused:
            await change
        assert refused.value.reason == "no_client"


async def test_two_admins_who_change_an_agent_at_once_lose_no_change(room: AdminRoom) -> None:
    read = (await agents.register(room.operator, replace(SIGNS_IN, has_secret=True))).client
    first, _ = await agents.set_release(room.operator, read, target="slack", policy="full")
    second, before = await agents.set_release(room.operator, read, target="github", policy="narrowed")
    assert (before, second.metadata["release"]) == ("narrowed", {"slack": "full", "github": "narrowed"})
    assert (await agents.agent_with_id(room.operator, read.id)).metadata == second.metadata
    _, before = await agents.set_release(room.operator, read, target="slack", policy="proxy")
    assert before == "full", "the policy at the time of the change, not of the reading"
    await agents.remove(room.operator, first)
    with pytest.raises(ChangeRefused) as refused:
        await agents.set_release(room.operator, read, target="slack", policy="full")
    assert refused.value.reason == "no_client"


async def test_two_admins_who_change_an_api_at_once_lose_no_change(room: AdminRoom) -> None:
    url = "https://orders.example/"
    await own_apis.save(room.operator, url, name="Orders", scopes=["orders.read"])
    await asyncio.gather(
        own_apis.save(room.operator, url, name="Purchases", scopes=None),
        own_apis.save(room.operator, url, name=None, scopes=["orders.write"]),
    )
    stored = await own_apis.api_with_url(room.operator, url)
    assert (stored.name, stored.scopes) == ("Purchases", {"orders.write"})
