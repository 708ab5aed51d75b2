"""Agents: register one, set how it receives upstream tokens, and remove it for everyone.

A service account is an agent that uses the Admin API without a person present. It is created in the name of an admin,
with the grant behind all its tokens (`server.oauth.service_accounts`).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from typing import Final

from providers.definitions.suggestions import did_you_mean
from server.administration import own_apis, people
from server.administration.actor import Actor, ChangeRefused
from server.deployment import Deployment
from server.http.cors import ORIGINS, origin_of
from server.oauth import client_tokens
from server.oauth.backchannel.clients import (
    DELIVERY,
    DETAILS_TYPES,
    ENDPOINT,
    SIGNING_ALG,
    USER_CODE,
    details_types,
    is_pushed_to,
    needs_user_code,
    signing_algorithm,
)
from server.oauth.clients import auth0
from server.oauth.clients.authentication import secret_hash
from server.oauth.clients.rules import BACKCHANNEL_GRANT, DEVICE_GRANT, USUAL_GRANT_TYPES, public_keys
from server.oauth.exchange import release, workers
from server.oauth.exchange.subjects import Limits
from server.oauth.redirect_uris import check_redirect_uri
from server.oauth.resources import own_audiences
from server.oauth.rules import (
    ADMIN_SCOPES,
    CLIENT_CREDENTIALS,
    TOKEN_EXCHANGE,
    OAuthError,
    admin_resource,
    canonical_resource,
    clean_name,
    own_resources,
)
from server.sign_in import roles
from server.signatures.jose import FOREIGN_ALGORITHMS
from vault import apis, clients, connections, grants
from vault.audit import audit
from vault.records import Client, ClientKind, Event, Grant, User, new_id
from vault.storage.database import Reader, Transaction
from vault.upkeep import agent_receipts

RELEASES: Final = ("proxy", "narrowed", "full")
_ADDRESS_LIMIT: Final = 2048


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """The limits of a worker: the addresses it calls from, its providers or connections, and its scopes."""

    addresses: tuple[str, ...] = ()
    connections: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()

    @property
    def is_asked(self) -> bool:
        return bool(self.addresses or self.connections or self.scopes)


@dataclass(frozen=True, slots=True)
class BackchannelSpec:
    """A client that asks people in the background (CIBA): how it gets answers, and what it sends.

    `is_pushed`: the tokens themselves are sent to `notify`. `signing_alg`: the client signs its requests with its key.
    """

    notify: str = ""  # an https address; empty if it polls
    details_types: tuple[str, ...] = ()
    is_pushed: bool = False
    signing_alg: str = ""
    sends_user_code: bool = False


@dataclass(frozen=True, slots=True)
class ServiceAccountSpec:
    """A service account: the admin in whose name it acts, and its scopes."""

    person: User
    scopes: frozenset[str]


@dataclass(frozen=True, slots=True)
class OwnApisSpec:
    """An agent that acts for itself: the scopes that it can get at its `resources`; empty for all of their scopes."""

    scopes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class NewAgent:
    """An agent to register. `jwks`: public keys, instead of a secret. `client_id`: None for a new one."""

    name: str
    redirect_uris: tuple[str, ...] = ()
    has_secret: bool = False
    jwks: Mapping[str, object] | None = None
    resources: tuple[str, ...] = ()
    by_device: bool = False
    exchanges: bool = False
    speaks_auth0: bool = False  # it was written for Auth0's API
    release: str | None = None
    releases: Mapping[str, str] = field(default_factory=dict[str, str])  # by provider or connection ID
    coming: frozenset[str] = frozenset()  # providers that the same declaration adds later, which `releases` can name
    origins: tuple[str, ...] = ()
    worker: WorkerSpec = WorkerSpec()
    asking: BackchannelSpec | None = None
    service: ServiceAccountSpec | None = None
    by_itself: OwnApisSpec | None = None
    declared: str = ""  # the name by which a declaration manages it
    client_id: str | None = None
    secret: str | None = field(repr=False, default=None)  # instead of a new one


@dataclass(frozen=True, slots=True)
class RegisteredAgent:
    """A new agent with its secret, which is only available now."""

    client: Client
    secret: str | None = field(repr=False, default=None)


async def agent_with_id(actor: Actor, client_id: str) -> Client:
    """The agent. Raises ChangeRefused."""
    found = await clients.get_client(actor.deployment.database, client_id)
    if found is None:
        raise ChangeRefused("no_client", "There is no agent with this ID.", kind="not_found")
    return found


async def register(actor: Actor, wanted: NewAgent) -> RegisteredAgent:
    """Store a new agent. Raises ChangeRefused if its options are invalid or contradict each other."""
    now = actor.deployment.now()
    value = (wanted.secret or secrets.token_urlsafe(32)) if wanted.has_secret else None
    client = await client_of(actor, wanted)
    client = replace(client, secret_hash=None if value is None else secret_hash(value))
    own = admin_resource(actor.deployment.public_url)
    async with actor.change() as transaction:
        if wanted.service is not None:  # they may have been disabled meanwhile, which ends what they have then
            person = await people.hold_person(transaction, wanted.service.person.id)
            await _check_administers(actor, person, reader=transaction)
        await _add_apis(actor, transaction, client)
        await clients.save_client(transaction, client)
        event = actor.event("client.registered", client_id=client.id, kind=client.kind.value)
        if wanted.service is not None:
            held = await grants.create_grant(
                transaction,
                user_id=wanted.service.person.id,
                client_id=client.id,
                scopes=wanted.service.scopes,
                resource=own,
                redirect_uri="",
                now=now,
            )
            event = actor.event(
                "client.registered",
                user_id=wanted.service.person.id,
                client_id=client.id,
                kind="service_account",
                scopes=sorted(held.scopes),
            )
        events = [event]
        if wanted.releases:
            events += [_release_event(actor, client, one) for one in release.policies_of(client)]
        await audit.append(transaction, *events, now=now)
    return RegisteredAgent(client, value)


async def _add_apis(actor: Actor, transaction: Transaction, client: Client) -> None:
    """Register the APIs that the agent is bound to and that aren't known yet."""
    ours = own_audiences(actor.deployment)
    for resource in client.resources:
        if resource not in ours and await apis.find_api(transaction, resource) is None:
            await apis.add_api(transaction, resource, name=client.name, now=actor.deployment.now())


async def client_of(actor: Actor, wanted: NewAgent) -> Client:
    """The agent as it would be stored, without its secret. Raises ChangeRefused."""
    deployment = actor.deployment
    _check_combination(wanted)
    if wanted.service is not None:
        await _check_administers(actor, wanted.service.person)
    for uri in wanted.redirect_uris:
        try:
            check_redirect_uri(uri, private_use_schemes=deployment.settings.registration.private_use_schemes)
        except OAuthError as error:
            raise _refuse("redirect_uris", f"{uri}: {error.description}") from error
    name = clean_name(wanted.name)
    if not name:
        raise _refuse("name", "use a name with at least one visible character")
    own = admin_resource(deployment.public_url)
    resources = tuple(canonical_resource(one, public_url=deployment.public_url) for one in wanted.resources)
    if wanted.by_itself is not None:
        _check_own_apis(deployment, resources)
    for resource in resources:
        if resource != own and resource not in own_resources(deployment.public_url):
            own_apis.check_identifier(deployment, resource, field="resources")
    client = Client(
        id=wanted.client_id or new_id(),
        kind=ClientKind.MANUAL,
        name=name,
        auth_method=_auth_method(wanted),
        redirect_uris=wanted.redirect_uris,
        grant_types=_grant_types(wanted),
        resources=resources if wanted.service is None else (own,),
        created_at=deployment.now(),
        metadata=await _metadata(actor, wanted),
    )
    if not wanted.releases:
        return client
    chosen = await _checked_releases(actor, client, wanted)
    return replace(client, metadata={**client.metadata, release.MEMBER: chosen})


async def _check_administers(actor: Actor, person: User, *, reader: Reader | None = None) -> None:
    if not (await roles.with_groups(actor.deployment, person, reader=reader)).role.administers:
        raise _refuse("service_account", f"{person.name} isn't an admin")


def _check_combination(wanted: NewAgent) -> None:
    exchanges = wanted.exchanges or wanted.worker.is_asked
    if wanted.has_secret and wanted.jwks is not None:
        raise _refuse("jwks", "an agent has a secret or keys, not both")
    if wanted.service is not None:
        if wanted.redirect_uris or exchanges or wanted.by_device or wanted.resources or wanted.asking is not None:
            raise _refuse("service_account", "a service account has no sign-in, exchange, or resources")
        if not wanted.service.scopes or not wanted.service.scopes <= ADMIN_SCOPES:
            raise _refuse("service_account.scopes", f"choose from {', '.join(sorted(ADMIN_SCOPES))}")
    elif wanted.by_itself is not None:
        _check_acts_for_nobody(wanted, exchanges=exchanges)
    elif not wanted.redirect_uris and not exchanges and not wanted.by_device and wanted.asking is None:
        raise _refuse(
            "redirect_uris",
            "give a redirect URI for sign-in; only an agent that uses device codes or just exchanges tokens needs none",
        )
    if wanted.asking is not None:
        _check_asking(wanted, wanted.asking)
    if not wanted.redirect_uris and not wanted.by_device and _auth_method(wanted) == "none":
        raise _refuse("confidential", "an agent without a user sign-in must authenticate with a secret or a key")


def _check_acts_for_nobody(wanted: NewAgent, *, exchanges: bool) -> None:
    is_for_people = bool(wanted.redirect_uris) or exchanges or wanted.by_device or wanted.asking is not None
    if is_for_people or wanted.release is not None or wanted.origins:
        raise _refuse("client_credentials", "an agent that acts for itself has no sign-in, exchange, or accounts")
    if not wanted.resources:
        raise _refuse("resources", "name your own APIs that the agent can call")
    for scope in wanted.by_itself.scopes if wanted.by_itself is not None else ():
        own_apis.check_scope(scope, field="client_credentials.scopes")


def _check_own_apis(deployment: Deployment, resources: tuple[str, ...]) -> None:
    for resource in resources:
        if not client_tokens.is_own_api(deployment, resource):
            problem = (
                f"{resource}: an agent that acts for itself can't call the vault or an API that needs "
                "people's permission"
            )
            raise _refuse("resources", problem)


def _check_asking(wanted: NewAgent, asking: BackchannelSpec) -> None:
    if _auth_method(wanted) == "none":
        raise _refuse("ciba", "an agent that asks people must authenticate with a secret or a key")
    if asking.notify and (not asking.notify.startswith("https://") or len(asking.notify) > _ADDRESS_LIMIT):
        raise _refuse("ciba.notify", "use an https address")
    if asking.is_pushed and not asking.notify:
        raise _refuse("ciba.notify", "give the address that tokens are pushed to")
    if asking.signing_alg and asking.signing_alg not in FOREIGN_ALGORITHMS:
        raise _refuse("ciba.signing_alg", f"choose from {', '.join(FOREIGN_ALGORITHMS)}")
    if asking.signing_alg and wanted.jwks is None:
        raise _refuse("ciba.signing_alg", "an agent that signs its requests needs a key instead of a secret")


def _auth_method(wanted: NewAgent) -> str:
    if wanted.has_secret:
        return "client_secret_basic"
    return "none" if wanted.jwks is None else "private_key_jwt"


def _grant_types(wanted: NewAgent) -> frozenset[str]:
    if wanted.service is not None or wanted.by_itself is not None:
        return frozenset({CLIENT_CREDENTIALS})
    found = set[str](USUAL_GRANT_TYPES) if wanted.redirect_uris else set[str]()
    if wanted.by_device:
        found |= {DEVICE_GRANT, "refresh_token"}
    if wanted.exchanges or wanted.worker.is_asked:
        found.add(TOKEN_EXCHANGE)
    if wanted.asking is not None:
        found.add(BACKCHANNEL_GRANT)
    return frozenset(found)


async def _metadata(actor: Actor, wanted: NewAgent) -> dict[str, object]:
    found: dict[str, object] = {auth0.MEMBER: True} if wanted.speaks_auth0 else {}
    if wanted.jwks is not None:
        keys = public_keys(wanted.jwks)
        if not keys:
            raise _refuse(
                "jwks", "no usable public key: use EC P-256 or RSA with at least 2048 bits, without private parts"
            )
        found["jwks"] = {"keys": list(keys)}
    for origin in wanted.origins:
        if origin_of(origin) != origin:
            raise _refuse("origins", f"{origin}: use the form https://host[:port]")
    if wanted.origins:
        found[ORIGINS] = list(wanted.origins)
    if wanted.release is not None:
        if wanted.release not in RELEASES[:2]:
            raise _refuse("release", "choose proxy or narrowed; full can only be set for one provider at a time")
        found[release.MEMBER] = {release.DEFAULT: wanted.release}
    if wanted.worker.is_asked:
        found[workers.MEMBER] = workers.stored_rules(await _worker_rules(actor, wanted))
    if wanted.asking is not None:
        found |= _asking_members(wanted.asking)
    if wanted.by_itself is not None:
        found[client_tokens.MEMBER] = {"scopes": sorted(wanted.by_itself.scopes)}
    if wanted.declared:
        found[DECLARED] = wanted.declared
    return found


def _asking_members(asking: BackchannelSpec) -> dict[str, object]:
    found: dict[str, object] = {DELIVERY: "poll"}
    if asking.notify:
        found = {DELIVERY: "push" if asking.is_pushed else "ping", ENDPOINT: asking.notify}
    if asking.details_types:
        found[DETAILS_TYPES] = list(asking.details_types)
    if asking.signing_alg:
        found[SIGNING_ALG] = asking.signing_alg
    if asking.sends_user_code:
        found[USER_CODE] = True
    return found


def asking_of(client: Client) -> BackchannelSpec | None:
    """How a registered client asks people; None if it can't."""
    if BACKCHANNEL_GRANT not in client.grant_types:
        return None
    return BackchannelSpec(
        notify=str(client.metadata.get(ENDPOINT, "")),
        details_types=tuple(details_types(client)),
        is_pushed=is_pushed_to(client),
        signing_alg=signing_algorithm(client) or "",
        sends_user_code=needs_user_code(client),
    )


DECLARED: Final = "declared"  # member of a client's metadata


async def _worker_rules(actor: Actor, wanted: NewAgent) -> workers.WorkerRules:
    worker = wanted.worker
    if not (worker.addresses and worker.connections and worker.scopes and wanted.jwks is not None):
        raise _refuse("worker", "a worker needs a key, addresses, connections, and scopes")
    for address in worker.addresses:
        try:
            ip_network(address, strict=False)
        except ValueError as error:
            problem = f"{address}: use an address, or a network such as 10.1.0.0/16"
            raise _refuse("worker.addresses", problem) from error
    known = {scope for provider in actor.deployment.catalog for scope in provider.scopes}
    for scope in worker.scopes:
        if scope not in known:
            near = did_you_mean(scope, known)
            raise _refuse(
                "worker.scopes", f"{scope}: no provider has this scope.{near} See token-vault providers show NAME"
            )
    reached = frozenset([await check_target(actor, one, field="worker.connections") for one in worker.connections])
    return workers.WorkerRules(worker.addresses, Limits(reached, frozenset(worker.scopes)))


async def check_target(actor: Actor, named: str, *, field: str) -> str:
    """The provider name or connection ID that a rule names. Raises ChangeRefused."""
    found = actor.deployment.catalog.get(named)
    if found is not None:
        return found.name
    if await connections.exists(actor.deployment.database, named):
        return named
    known = [name for one in actor.deployment.catalog.all_providers() for name in (one.name, *one.aliases)]
    raise _refuse(field, f"no provider {named!r}.{did_you_mean(named, known)} See token-vault providers list")


async def set_release(actor: Actor, client: Client, *, target: str, policy: str) -> tuple[Client, str]:
    """Set how an agent receives upstream tokens of a provider or connection; returns the agent and the previous
    policy."""
    changed, (before,) = await set_releases(actor, client, {target: policy})
    return changed, before


async def set_releases(actor: Actor, client: Client, wanted: Mapping[str, str]) -> tuple[Client, Sequence[str]]:
    """`set_release` for several targets as one change; returns the previous policies in the same order."""
    names = [await _check_release(actor, client, target=one, policy=policy) for one, policy in wanted.items()]
    async with actor.change() as transaction:
        before = await _held_agent(transaction, client.id)  # another admin may have changed it meanwhile
        chosen = {one: value.value for one, value in release.policies_of(before).items()}
        chosen |= dict(zip(names, wanted.values(), strict=True))
        changed = replace(before, metadata={**before.metadata, release.MEMBER: chosen})
        await clients.update_client(transaction, changed)
        events = [_release_event(actor, changed, name) for name in names]
        await audit.append(transaction, *events, now=actor.deployment.now())
    return changed, [release.policy_of(before, provider=name, connection_id=name).value for name in names]


async def _held_agent(transaction: Transaction, client_id: str) -> Client:
    """The agent as it is now, locked until the transaction ends. Raises ChangeRefused if it was removed."""
    await grants.hold_client(transaction, client_id)
    found = await clients.get_client(transaction, client_id)
    if found is None:
        raise ChangeRefused("no_client", "This agent was removed already.", kind="not_found")
    return found


async def _check_release(
    actor: Actor, client: Client, *, target: str, policy: str, coming: frozenset[str] = frozenset()
) -> str:
    """The name under which a policy is stored. Raises ChangeRefused."""
    if policy not in RELEASES:
        raise _refuse("release", f"no release policy {policy}; choose from: {', '.join(RELEASES)}")
    if policy != "proxy" and release.ceiling_of(client) is release.ReleasePolicy.PROXY:
        raise ChangeRefused(
            "agent_refused",
            "only a registered client with a secret or key can receive upstream tokens; add one with "
            "token-vault clients add",
            kind="conflict",
            field="release",
        )
    if target in {release.DEFAULT, *coming}:
        return target
    name = await check_target(actor, target, field="release")
    if policy != "proxy" and name in actor.deployment.catalog.remote:
        raise ChangeRefused(
            "agent_refused",
            f"{name} is an MCP server: its tokens can't leave the vault. Agents call its tools instead.",
            kind="conflict",
            field="release",
        )
    return name


async def _checked_releases(actor: Actor, client: Client, wanted: NewAgent) -> dict[str, str]:
    found = dict[str, str]()
    for target, policy in wanted.releases.items():
        name = await _check_release(actor, client, target=target, policy=policy, coming=wanted.coming)
        if found.setdefault(name, policy) != policy:
            raise _refuse("release", f"{target} is {name}, which has another release policy: remove one")
    return found


def _release_event(actor: Actor, client: Client, name: str) -> Event:
    policy = release.policy_of(client, provider=name, connection_id=name).value
    narrowing = "none" if policy == "full" else "kept"
    return actor.event("release.changed", client_id=client.id, target=name, release=policy, narrowing=narrowing)


async def update(actor: Actor, changed: Client) -> None:
    """Store the changed registration of an agent that a declaration created; its secret stays.

    Its tokens too, except for resources that were taken from it.
    """
    now, ours = actor.deployment.now(), own_resources(actor.deployment.public_url)
    async with actor.change() as transaction:
        await _add_apis(actor, transaction, changed)
        before = await _held_agent(transaction, changed.id)
        await clients.update_client(transaction, changed)
        kept = frozenset(changed.resources or ours)
        taken = frozenset(before.resources or ours) - (kept | ours if kept & ours else kept)  # ours are one server
        ended = await clients.end_resources(transaction, changed.id, taken, now=now) if taken else ()
        event = actor.event("client.changed", client_id=changed.id, agent=changed.name, grants=len(ended))
        former, chosen = release.policies_of(before), release.policies_of(changed)
        names = [one for one in {**former, **chosen} if former.get(one) is not chosen.get(one)]
        events = [_release_event(actor, changed, one) for one in names]
        await audit.append(transaction, event, *events, now=now)


async def remove(actor: Actor, client: Client) -> tuple[Grant, ...]:
    """Remove the agent: everyone's grants, tokens, codes, and permissions for it end at its next call."""
    now = actor.deployment.now()
    async with actor.change() as transaction:
        ended = await clients.remove_client(transaction, client.id, now=now)
        if ended is None:
            raise ChangeRefused("no_client", "This agent was removed already.", kind="not_found")
        event = actor.event("client.removed", client_id=client.id, agent=client.name, grants=len(ended))
        await audit.append(transaction, event, now=now)
    await agent_receipts.issue_owed(actor.deployment.vault)  # upkeep signs more than one batch
    return ended


def _refuse(field: str, description: str) -> ChangeRefused:
    return ChangeRefused("agent_refused", description, field=field)
