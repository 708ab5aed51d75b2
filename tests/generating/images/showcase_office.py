"""What an administrator of a busy vault sees: people, groups, requests, APIs to review, and grants that didn't end."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from providers.tools.imported_api import content_of
from providers.tools.openapi_document import parse
from providers.tools.openapi_import import import_document
from server.administration import access_requests, group_accounts, groups, people, provisioning, registrations
from server.administration.access_requests import AccessAnswer, AccessInput
from server.administration.actor import Actor
from server.administration.registrations import RegistrationInput, provider_named
from server.remote import imported_apis
from tests.generating.images.showcase import GOOGLE, Showcase
from tests.support.accounts import open_account
from tests.support.rooms.portal_room import Room
from vault import connections
from vault.approvals.access_requests import AccessRequest
from vault.groups import Group, find_group
from vault.notices import channels, endpoints
from vault.notices.endpoints import EventEndpoint
from vault.records import Connection, Role, User
from vault.upkeep import revocations
from vault.upkeep.replicas import Replica, note_replica
from vault.upstream import Account, TokenAnswer

PEOPLE: Final = ("bob", "carol", "dora", "emre", "fatima", "gustav")
API: Final = "tickets"
STORED: Final = "asana"  # a provider that was set up on its page
SETTINGS: Final[dict[str, object]] = {"access_requests": {"groups": ["Finance", "Engineering"]}}
_SLACK: Final = frozenset({"channels:read", "channels:history", "chat:write", "users:read"})
_GMAIL: Final = frozenset({"openid", f"{GOOGLE}userinfo.email", f"{GOOGLE}gmail.readonly"})
_OPERATIONS: Final = (
    ("get", "/tickets", "list", "Find tickets by status and customer.", ("status", "customer"), "tickets:read"),
    ("get", "/tickets/{ticket}", "get", "Get one ticket with its messages.", ("ticket",), "tickets:read"),
    ("post", "/tickets/{ticket}/replies", "reply", "Answer the customer.", ("ticket",), "tickets:write"),
    ("delete", "/tickets/{ticket}", "delete", "Delete a ticket for good.", ("ticket",), "tickets:write"),
)
_FAILED_NOTICE: Final = """
    insert into notices (tenant, channel_id, sequence, user_id, kind, state, attempts, created_at, expires_at, failure)
    values ('default', :id, :sequence, '', :kind, 'failed', 12, :at, :at + 259200, '503')
"""


@dataclass(frozen=True, slots=True)
class Office:
    """What was created, for the pages that show it."""

    person: User
    group: Group
    waiting: AccessRequest
    endpoint: EventEndpoint
    receipt: Connection
    ticket: str = field(repr=False)  # of a person's link to sign in


async def open_office(room: Room, shown: Showcase) -> Office:
    """Fill what administrators see. Room and showcase belong to the same person, who is an administrator."""
    operator = Actor(room.deployment, None, "command_line")
    bob, *others = [await room.user(name) for name in PEOPLE]
    await people.set_role(operator, others[0], Role.AUDITOR)
    await people.set_role(operator, others[1], Role.ADMINISTRATOR)
    await people.set_disabled(operator, others[-1], is_disabled=True)
    for name in ("Finance", "Engineering"):
        await groups.save(operator, name, [one.name for one in others[1:4]])
    await provisioning.make_token(operator, "okta", days=365, grace=0)
    await groups.save(operator, "Sales", ["alice", "bob", "carol", "dora"])
    group = await find_group(room.deployment.database, "Sales")
    assert group is not None
    own = await room.account(shown.user, "slack", label="Acme Sales", scopes=_SLACK)
    given = await group_accounts.give(operator, shown.user, own.id, group, reads_only=True, asks_writes=True)
    waiting = await _requests(room, operator, bob, shown, given)
    endpoint = await _endpoints(room)
    await imported_apis.offer(operator, API, _import())
    await _serve(room)
    await _google_account(room, others[2], "emre@example.com", revoke="family")
    link = await people.make_link(operator, others[1])
    ticket = parse_qs(urlsplit(link).query)["ticket"][0]
    return Office(bob, group, waiting, endpoint, await _disconnect_two(room, shown.user), ticket)


async def _requests(room: Room, operator: Actor, bob: User, shown: Showcase, given: Connection) -> AccessRequest:
    """Add requests: Bob's agent waits for his group's account; alice asked to join a group and got more access."""
    deployment = room.deployment
    agent = await room.agent(name="Pipeline report")
    await room.grant(bob, agent)
    waiting = AccessInput(
        account=given.id,
        client_id=agent.id,
        scopes=frozenset({"chat:write"}),
        reason="Post the weekly numbers to #sales during the launch.",
        days=7,
    )
    filed, _ = await access_requests.ask(deployment, bob, waiting)
    joining = AccessInput(group="Finance", reason="Cover for Dora until Friday.", days=5)
    await access_requests.ask(deployment, shown.user, joining)
    more = AccessInput(
        account=given.id,
        client_id=shown.agents[0].id,
        scopes=frozenset({"chat:write"}),
        reason="Announce the release.",
        days=14,
    )
    own, _ = await access_requests.ask(deployment, shown.user, more)
    await access_requests.allow(operator, own.id, AccessAnswer(days=14))
    return filed


async def _endpoints(room: Room) -> EventEndpoint:
    """Add two endpoints; the first one missed two events."""
    deployment, now = room.deployment, room.deployment.now()
    async with deployment.transaction() as transaction:
        first, second = [
            await endpoints.add(transaction, deployment.keys, url=url, events=frozenset(endpoints.TYPES), now=now)
            for url in ("https://hooks.acme.example/token-vault", "https://siem.acme.example/collect")
        ]
        for one, failure in ((first, "503"), (second, "")):
            await channels.record_result(transaction, one.id, failure=failure, now=now - 900)
        for number, kind in enumerate(("needs_reauth", "approval.waiting")):
            facts = {"id": first.id, "sequence": 10_000 + number, "kind": kind, "at": now - 86400 * number - 4_000}
            await transaction.execute(_FAILED_NOTICE, facts)
    return first


def _import() -> str:
    """Import an OpenAPI document's tools, as `token-vault tools import` offers them for review."""
    paths: dict[str, dict[str, Any]] = {}
    for method, path, name, description, arguments, scope in _OPERATIONS:
        parameters = [
            {
                "name": one,
                "in": "path" if f"{{{one}}}" in path else "query",
                "required": f"{{{one}}}" in path,
                "schema": {"type": "string"},
            }
            for one in arguments
        ]
        paths.setdefault(path, {})[method] = {
            "operationId": name,
            "description": description,
            "parameters": parameters,
            "responses": {"200": {"content": {"application/json": {"schema": {"type": "object"}}}}},
            "security": [{"oauth": [scope]}],
        }
    scopes = {"tickets:read": "Read tickets", "tickets:write": "Answer and delete tickets"}
    flow = {"authorizationUrl": "https://a.example", "tokenUrl": "https://a.example", "scopes": scopes}
    document = {
        "openapi": "3.1.0",
        "info": {"title": "Acme Tickets"},
        "servers": [{"url": "https://tickets.acme.example/v1"}],
        "paths": paths,
        "components": {"securitySchemes": {"oauth": {"type": "oauth2", "flows": {"authorizationCode": flow}}}},
    }
    made = import_document(
        parse(json.dumps(document).encode()), name=API, title="", audience="https://tickets.acme.example", server=""
    )
    return content_of(made)


async def _serve(room: Room) -> None:
    """Add two processes that serve the vault (one can't reach a provider), and a provider set up in the browser."""
    now = room.deployment.now()
    async with room.deployment.transaction() as transaction:
        for host, began, troubles in (
            ("vault-1", now - 5 * 86400, {}),
            ("vault-2", now - 4 * 86400, {"dropbox": "silent"}),
        ):
            await note_replica(transaction, Replica(host, host, "serve", "1.0.0", began, now - 9, {}, troubles))
    provider = provider_named(room.deployment, STORED)
    entered = RegistrationInput("1208765432109876", "not-a-secret-either")
    await registrations.save(Actor(room.deployment, None, "command_line"), provider, entered, stored=None)


async def _disconnect_two(room: Room, user: User) -> Connection:
    """Disconnect two accounts: one provider still accepts the tokens; for the other, the end was verified."""
    found: list[Connection] = []
    for label, rule in (("alice.old@example.com", "lies"), ("alice.events@example.com", "family")):
        deployment, connection = room.deployment, await _google_account(room, user, label, revoke=rule)
        async with deployment.transaction() as transaction:
            await connections.disconnect(transaction, deployment.keys, connection, now=deployment.now())
        await revocations.run_due(deployment.vault)
        found.append(connection)
    return found[-1]


async def _google_account(room: Room, user: User, label: str, *, revoke: str) -> Connection:
    """Add an account with live tokens at the simulator; `revoke`: how it handles a revocation."""
    asked: list[Any] = sorted(_GMAIL)
    room.simulator.control("rules", face="google", revoke=revoke)
    seeded = room.simulator.control("seed", face="google", count=1, scopes=asked)["grants"]
    assert isinstance(seeded, list)
    answer = TokenAnswer(
        str(seeded[0]["access_token"]),  # pyright: ignore[reportUnknownArgumentType] -- JSON
        str(seeded[0]["refresh_token"]),  # pyright: ignore[reportUnknownArgumentType] -- JSON
        scopes=_GMAIL,
        expires_in=3600,
        account=Account(label, label),
    )
    async with room.deployment.transaction() as transaction:
        return await open_account(transaction, room.deployment, user.id, "google", answer)
