"""Agents and APIs of your own in the Admin API; `server.administration` makes the changes."""

from __future__ import annotations

import base64
import hmac
from dataclasses import replace
from hashlib import sha256
from typing import Final

from server.administration import agents, own_apis, people
from server.api.models import (
    AgentChange,
    AgentRecord,
    AgentRegistration,
    AgentsPage,
    AgentsQuery,
    AgentUser,
    ApiDefinition,
    ApiRecord,
    AskingRecord,
    AskingRegistration,
    OwnApisRecord,
    RegisteredAgentRecord,
    WorkerRecord,
)
from server.api.operations import (
    AdminCall,
    ApiOutput,
    instant,
    instant_of,
    operation,
    read_cursor,
    write_cursor,
)
from server.api.problems import ApiRefused
from server.oauth import client_tokens
from server.oauth.clients import auth0
from server.oauth.exchange import release, workers
from server.oauth.service_accounts import is_service_account
from vault import apis, clients, grants
from vault.apis import Api
from vault.clients import ClientExists
from vault.records import Client

MOST_PEOPLE: Final = 200  # sign-ins among which people are searched for
_REPEATABLE: Final = 86400  # seconds in which a repeated registration is answered again


class AgentUsers(ApiOutput):
    """Who signed an agent in; `complete` is false where there may be more."""

    items: list[AgentUser]
    complete: bool


class Apis(ApiOutput):
    """APIs of your own."""

    items: list[ApiRecord]


@operation("GET", "/agents", scope="admin:read")
async def list_agents(call: AdminCall, query: AgentsQuery) -> AgentsPage:
    """List agents, newest first."""
    place = read_cursor(query.cursor, int, str)
    found, rest = await clients.find_page(
        call.deployment.database,
        named=query.find,
        before=None if place is None else (int(place[0]), str(place[1])),
        limit=query.limit,
    )
    return AgentsPage(
        items=[agent_record(one) for one in found], next_cursor=None if rest is None else write_cursor(*rest)
    )


@operation("POST", "/agents", scope="admin:agents", status=201, refusals=["conflict", "not_found"], is_repeatable=True)
async def register_agent(call: AdminCall, body: AgentRegistration) -> RegisteredAgentRecord:
    """Register an agent, a worker, or a service account.

    Its secret is returned once. The same request with the same Idempotency-Key gets the same answer within a day.
    """
    wanted = await _new_agent(call, body)
    if call.idempotency_key is None:
        made = await agents.register(call.actor, wanted)
        return RegisteredAgentRecord(agent=agent_record(made.client), client_secret=made.secret)
    wanted = replace(wanted, client_id=_derive_value(call, "id")[:22], secret=_derive_value(call, "secret"))
    try:
        made = await agents.register(call.actor, wanted)
        return RegisteredAgentRecord(agent=agent_record(made.client), client_secret=made.secret)
    except ClientExists:
        return await _answer_again(call, body, wanted)


async def _answer_again(call: AdminCall, body: AgentRegistration, wanted: agents.NewAgent) -> RegisteredAgentRecord:
    """The earlier answer for this key, if the registration is the same and recent."""
    async with call.deployment.transaction() as transaction:  # sees the earlier registration committed
        known = await clients.get_client(transaction, wanted.client_id or "")
    if known is not None:
        same = replace(await agents.client_of(call.actor, wanted), created_at=known.created_at)
        known_facts = replace(known, secret_hash=None, last_used_at=None)
        if same == replace(known_facts, metadata=dict(known.metadata)) and _is_fresh(call, known):
            secret = wanted.secret if body.confidential else None
            return RegisteredAgentRecord(agent=agent_record(known), client_secret=secret)
    raise ApiRefused("conflict", "This Idempotency-Key was used for another registration.")


def _derive_value(call: AdminCall, what: str) -> str:
    """A value that only this vault can derive from this admin's key; begins with a letter, as an ID must."""
    said = "\0".join((call.user.id, call.client.id, call.idempotency_key or "", what))
    made = hmac.digest(call.deployment.keys.subkey("admin-api-idempotency"), said.encode(), sha256)
    return "a" + base64.urlsafe_b64encode(made).decode().rstrip("=")


def _is_fresh(call: AdminCall, client: Client) -> bool:
    return call.deployment.now() - client.created_at < _REPEATABLE


async def _new_agent(call: AdminCall, body: AgentRegistration) -> agents.NewAgent:
    service = None
    if body.service_account is not None:
        person = await people.person_with_id(call.deployment.database, body.service_account.person_id)
        service = agents.ServiceAccountSpec(person, frozenset(body.service_account.scopes))
        if person.id != call.user.id:
            raise ApiRefused(
                "forbidden", "You can only add service accounts that act for you. An operator can add others."
            )
        if not service.scopes <= call.principal.scopes:
            raise ApiRefused("forbidden", "A service account can't have scopes that this token lacks.")
    worker = agents.WorkerSpec()
    if body.worker is not None:
        worker = agents.WorkerSpec(
            tuple(body.worker.addresses), tuple(body.worker.connections), tuple(body.worker.scopes)
        )
    return agents.NewAgent(
        name=body.name,
        redirect_uris=tuple(dict.fromkeys(body.redirect_uris)),
        has_secret=body.confidential,
        jwks=body.jwks,
        resources=tuple(body.resources),
        by_device=body.device,
        exchanges=body.exchange or body.auth0,
        speaks_auth0=body.auth0,
        asking=None if body.ciba is None else _asking_spec(body.ciba),
        release=body.release,
        origins=tuple(body.origins),
        worker=worker,
        service=service,
        by_itself=None
        if body.client_credentials is None
        else agents.OwnApisSpec(frozenset(body.client_credentials.scopes)),
    )


def _asking_spec(body: AskingRegistration) -> agents.BackchannelSpec:
    return agents.BackchannelSpec(
        notify=body.notify,
        details_types=tuple(body.details_types),
        is_pushed=body.push,
        signing_alg=body.signing_alg or "",
        sends_user_code=body.user_code,
    )


@operation("GET", "/agents/{client_id:path}/people", scope="admin:read")
async def list_agent_people(call: AdminCall) -> AgentUsers:
    """List the people who signed an agent in."""
    client = await agents.agent_with_id(call.actor, call.param("client_id"))
    found = await grants.list_people(call.deployment.database, client.id, limit=MOST_PEOPLE)
    return AgentUsers(items=[AgentUser(id=one, name=name) for one, name in found], complete=len(found) < MOST_PEOPLE)


@operation("GET", "/agents/{client_id:path}", scope="admin:read")
async def get_agent(call: AdminCall) -> AgentRecord:
    """Show one agent."""
    return agent_record(await agents.agent_with_id(call.actor, call.param("client_id")))


@operation("PATCH", "/agents/{client_id:path}", scope="admin:agents", refusals=["conflict"])
async def change_agent(call: AdminCall, body: AgentChange) -> AgentRecord:
    """Set how an agent receives upstream tokens."""
    client = await agents.agent_with_id(call.actor, call.param("client_id"))
    changed, _ = await agents.set_releases(call.actor, client, body.release)
    return agent_record(changed)


@operation("DELETE", "/agents/{client_id:path}", scope="admin:agents", status=204)
async def remove_agent(call: AdminCall) -> None:
    """Remove an agent for everyone: its grants, tokens, and permissions end at the next call."""
    await agents.remove(call.actor, await agents.agent_with_id(call.actor, call.param("client_id")))


def agent_record(client: Client) -> AgentRecord:
    """An agent as JSON; never the secret's hash."""
    rules, asking = workers.rules_of(client), agents.asking_of(client)
    return AgentRecord(
        id=client.id,
        name=client.name,
        kind=client.kind.value,
        auth_method=client.auth_method,
        redirect_uris=list(client.redirect_uris),
        grant_types=sorted(client.grant_types),
        resources=list(client.resources),
        release={name: chosen.value for name, chosen in release.policies_of(client).items()},
        worker=None if rules is None else WorkerRecord.model_validate(workers.stored_rules(rules)),
        auth0=client.metadata.get(auth0.MEMBER) is True,
        ciba=None if asking is None else _asking_record(asking),
        service_account=is_service_account(client),
        client_credentials=_own_apis_record(client),
        created_at=instant_of(client.created_at),
        last_used_at=instant(client.last_used_at),
    )


def _own_apis_record(client: Client) -> OwnApisRecord | None:
    if not client_tokens.acts_for_nobody(client):
        return None
    return OwnApisRecord(scopes=sorted(client_tokens.scope_limit(client) or ()))


def _asking_record(asking: agents.BackchannelSpec) -> AskingRecord:
    return AskingRecord(
        notify=asking.notify or None,
        push=asking.is_pushed,
        details_types=list(asking.details_types),
        signing_alg=asking.signing_alg or None,
        user_code=asking.sends_user_code,
    )


# APIs of your own


@operation("GET", "/apis", scope="admin:read")
async def list_apis(call: AdminCall) -> Apis:
    """List your own APIs: audiences of access tokens."""
    found = await apis.list_apis(call.deployment.database)
    return Apis(items=[await _api_record(call, one) for one in found])


@operation("GET", "/apis/{resource:path}", scope="admin:read")
async def get_api(call: AdminCall) -> ApiRecord:
    """Show one API."""
    return await _api_record(call, await own_apis.api_with_url(call.actor, call.param("resource")))


@operation("PUT", "/apis/{resource:path}", scope="admin:agents")
async def save_api(call: AdminCall, body: ApiDefinition) -> ApiRecord:
    """Register an API, or change one. `clients` replaces the list of the API's clients."""
    url, linked = call.param("resource"), [await agents.agent_with_id(call.actor, one) for one in body.clients or ()]
    api = await own_apis.save(
        call.actor, url, name=body.name, scopes=body.scopes, linked=linked, unlinks_others=body.clients is not None
    )
    return await _api_record(call, api)


@operation("DELETE", "/apis/{resource:path}", scope="admin:agents", status=204)
async def remove_api(call: AdminCall) -> None:
    """Remove an API and revoke every grant for it."""
    await own_apis.remove(call.actor, call.param("resource"))


async def _api_record(call: AdminCall, api: Api) -> ApiRecord:
    return ApiRecord(
        resource=api.resource,
        name=api.name,
        scopes=sorted(api.scopes),
        clients=list(await apis.linked_clients(call.deployment.database, api.resource)),
        created_at=instant_of(api.created_at),
    )


OPERATIONS = (
    list_agents,
    register_agent,
    list_agent_people,
    get_agent,
    change_agent,
    remove_agent,
    list_apis,
    get_api,
    save_api,
    remove_api,
)
