"""Change the vault to match a declaration: make a plan, then apply each change with the functions of pages and
commands.

Applying again changes nothing. Nothing is removed unless requested: then everything that a present section doesn't
name, but only agents that a declaration created.
"""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from server.administration import agents, own_apis, people, registrations
from server.administration.actor import Actor, ChangeRefused
from server.administration.agents import DECLARED, BackchannelSpec, NewAgent, OwnApisSpec, WorkerSpec
from server.administration.declaration import (
    Declaration,
    DeclaredAgent,
    DeclaredApi,
    DeclaredPerson,
    DeclaredProvider,
)
from server.administration.declarations import declared_groups
from server.administration.declarations.planned_changes import PlannedChange, Verb, differences_between
from server.administration.registrations import RegistrationInput
from server.connecting.deletion import end_at_providers
from server.oauth.exchange import release
from vault import apis, clients, users
from vault import registrations as stored_registrations
from vault.mcp.servers import list_accepted
from vault.records import Client, User
from vault.refusals import CiphertextRejected
from vault.registrations import StoredRegistration
from vault.storage.database import Transaction
from vault.users import LinkedIdentity

SECRET: Final = "(secret)"


@dataclass(frozen=True, slots=True)
class AppliedChange:
    """A change that was made. `secret` is a new sign-in link or client secret, only available now."""

    change: PlannedChange
    secret: str | None = field(repr=False, default=None)


async def plan(actor: Actor, wanted: Declaration, *, prunes: bool = False) -> tuple[PlannedChange, ...]:
    """The changes to make, in order. Raises ChangeRefused for a declaration that can't be applied."""
    found: list[PlannedChange] = []
    if wanted.people is not None:
        found += await _plan_people(actor, wanted.people, prunes=prunes)
    if wanted.groups is not None:
        found += await declared_groups.plan(actor, wanted.groups, wanted.people, prunes=prunes)
    if wanted.agents is not None:
        coming = frozenset(wanted.imported_apis or ())
        found += [one async for one in _plan_agents(actor, wanted.agents, coming, prunes=prunes)]
    if wanted.apis is not None:
        found += [one async for one in _plan_apis(actor, wanted.apis, wanted.agents or {}, prunes=prunes)]
    if wanted.providers is not None:
        found += [one async for one in _plan_providers(actor, wanted.providers, prunes=prunes)]
    return tuple(found)


async def apply(
    changes: Sequence[PlannedChange], *, tell: Callable[[AppliedChange], None] = lambda _: None
) -> tuple[AppliedChange, ...]:
    """Make the changes one after the other until one is refused. Changes that were made stay; applying again
    continues.

    `tell` gets each change once it is made: nothing else knows its secret if a later one is refused.
    """
    made: list[AppliedChange] = []
    for one in changes:
        made.append(AppliedChange(one, await one.run()))
        tell(made[-1])
    return tuple(made)


# People


@dataclass(frozen=True, slots=True)
class _PersonStep:
    """A person's change. `givers`: the IDs of the people from whom it takes identities."""

    change: PlannedChange
    person_id: str | None
    givers: frozenset[str]


async def _plan_people(actor: Actor, wanted: Mapping[str, DeclaredPerson], *, prunes: bool) -> list[PlannedChange]:
    reader, steps = actor.deployment.database, list[_PersonStep]()
    givers = await _find_givers(actor, wanted, prunes=prunes)
    for name, declared in wanted.items():
        person, named = await users.find_user(reader, name), _identities_of(declared)
        taken = {one: givers[one] for one in named if one in givers}
        owners = frozenset(one.id for one in taken.values())
        after = _person_facts(declared)
        if person is None:
            run = partial(_create_person, actor, name, declared, taken)
            change = PlannedChange("create", "person", name, differences_between({}, after), run)
            steps.append(_PersonStep(change, None, owners))
            continue
        linked = await users.list_identities(reader, person.id)
        removable = () if declared.identities is None else await people.removable_identities(reader, person)
        surplus = tuple(one for one in removable if one not in named)
        before = {
            **({"admin": person.is_admin} if declared.role is None else {"role": person.role.value}),
            **({} if declared.disabled is None else {"disabled": person.disabled_at is not None}),
            "identities": [name_of(one) for one in (*(one for one in named if one in linked), *surplus)],
        }
        if differences := differences_between(before, after):
            run = partial(_update_person, actor, person, declared, taken, surplus)
            steps.append(_PersonStep(PlannedChange("update", "person", name, differences, run), person.id, owners))
    found = list(_in_order(steps, own_id=None if actor.user is None else actor.user.id))
    if prunes:
        kept = {users.name_key(name) for name in wanted}
        async for page in users.walk_users(reader):
            found += [
                PlannedChange("remove", "person", person.name, (), partial(people.delete, actor, person))
                for person in page
                if users.name_key(person.name) not in kept and not _is_own(actor, person)
            ]
    return found


async def _find_givers(
    actor: Actor, wanted: Mapping[str, DeclaredPerson], *, prunes: bool
) -> Mapping[LinkedIdentity, User]:
    """Who has the identities that are to become another person's. Raises ChangeRefused for one that its owner keeps."""
    reader, found = actor.deployment.database, dict[LinkedIdentity, User]()
    claimed, declared = dict[LinkedIdentity, str](), {users.name_key(name): one for name, one in wanted.items()}
    for name, person in wanted.items():
        key = users.name_key(name)
        for one in _identities_of(person):
            if claimed.setdefault(one, key) != key:
                raise _identity_taken(name, one)
            owner = await users.find_by_identity(reader, issuer=one.issuer, subject=one.subject)
            if owner is None or users.name_key(owner.name) == key:
                continue
            given = declared.get(users.name_key(owner.name))
            gives = prunes and not _is_own(actor, owner) if given is None else given.identities is not None
            if not gives or one not in await people.removable_identities(reader, owner):
                raise _identity_taken(name, one)
            found[one] = owner
    return found


def _is_own(actor: Actor, person: User) -> bool:
    return actor.user is not None and actor.user.id == person.id


def _in_order(steps: Sequence[_PersonStep], *, own_id: str | None) -> Iterator[PlannedChange]:
    """The changes in the order of the file, but whoever takes an identity comes before the person who has it, so that
    it is never nobody's: a sign-in in between would create a person for it. An admin's own change comes first, as
    they need a way to sign in.
    """
    takers: dict[str, list[_PersonStep]] = {}
    for one in steps:
        for giver in one.givers:
            takers.setdefault(giver, []).append(one)
    own = [one for one in steps if own_id is not None and one.person_id == own_id]
    waiting, begun, done = list(reversed(steps)), set[str](), set[str]()
    while waiting:
        one = waiting[-1]
        if one.change.name in begun:
            waiting.pop()
            if one.change.name not in done:
                done.add(one.change.name)
                yield one.change
            continue
        begun.add(one.change.name)
        earlier = [] if one in own or one.person_id is None else takers.get(one.person_id, [])
        if own_id in one.givers:
            earlier = [*own, *earlier]
        waiting += [other for other in reversed(earlier) if other.change.name not in begun]


def _person_facts(declared: DeclaredPerson) -> dict[str, object]:
    role = {"admin": declared.admin} if declared.role is None else {"role": declared.role.value}
    disabled = {} if declared.disabled is None else {"disabled": declared.disabled}
    linked = {} if declared.identities is None else {"identities": [name_of(one) for one in _identities_of(declared)]}
    return {**role, **disabled, **linked}


def _identities_of(declared: DeclaredPerson) -> tuple[LinkedIdentity, ...]:
    return tuple(dict.fromkeys(LinkedIdentity(one.issuer, one.subject) for one in declared.identities or ()))


def _identity_taken(name: str, identity: LinkedIdentity) -> ChangeRefused:
    problem = f"people.{name}: {name_of(identity)} belongs to someone else"
    return ChangeRefused("person_refused", problem, kind="conflict", field=f"people.{name}.identities")


def name_of(identity: LinkedIdentity) -> str:
    """An identity as text."""
    return f"{identity.subject} at {identity.issuer}"


async def _create_person(
    actor: Actor, name: str, declared: DeclaredPerson, taken: Mapping[LinkedIdentity, User]
) -> str | None:
    async with actor.change() as transaction:
        added = await people.create_person(actor, transaction, name, is_admin=declared.admin, role=declared.role)
        if declared.disabled:
            await people.change_disabled(actor, transaction, added.user, is_disabled=True)
        ended = await _link(actor, transaction, added.user, _identities_of(declared), taken)
    await end_at_providers(actor.deployment, ended)
    return added.link


async def _update_person(
    actor: Actor,
    person: User,
    declared: DeclaredPerson,
    taken: Mapping[LinkedIdentity, User],
    surplus: Sequence[LinkedIdentity],
) -> None:
    """`taken`: the identities that the plan takes from someone; `surplus`: those that it removes."""
    async with actor.change() as transaction:
        if declared.role is None:
            await people.change_admin(actor, transaction, person, is_admin=declared.admin)
        else:
            await people.change_role(actor, transaction, person, declared.role)
        # Enabling also resumes agents that an identity provider stopped, so only if the plan says it.
        if declared.disabled is not None and declared.disabled != (person.disabled_at is not None):
            await people.change_disabled(actor, transaction, person, is_disabled=declared.disabled)
        known = await users.list_identities(transaction, person.id)
        missing = [one for one in _identities_of(declared) if one not in known]
        ended = await _link(actor, transaction, person, missing, taken)
        for one in surplus:
            ended += (
                await people.remove_identity(actor, transaction, person, issuer=one.issuer, subject=one.subject) or ()
            )
    await end_at_providers(actor.deployment, ended)


async def _link(
    actor: Actor,
    transaction: Transaction,
    person: User,
    identities: Sequence[LinkedIdentity],
    taken: Mapping[LinkedIdentity, User],
) -> list[str]:
    """Link the person to these identities, and unlink those whom they are taken from; returns the IDs of connections
    to end at their providers.
    """
    ended: list[str] = []
    for one in identities:
        which = {"issuer": one.issuer, "subject": one.subject}
        if one in taken:
            ended += await people.remove_identity(actor, transaction, taken[one], **which) or ()
        await people.add_identity(actor, transaction, person, **which)
    return ended


# Agents


async def declared_agents(actor: Actor) -> dict[str, Client]:
    """The agents that a declaration created, by their name there."""
    found: dict[str, Client] = {}
    async for page in clients.walk_clients(actor.deployment.database):
        found |= {str(one.metadata[DECLARED]): one for one in page if DECLARED in one.metadata}
    return found


async def _plan_agents(
    actor: Actor, wanted: Mapping[str, DeclaredAgent], coming: frozenset[str], *, prunes: bool
) -> AsyncIterator[PlannedChange]:
    known = await declared_agents(actor)
    for name, declared in wanted.items():
        new = replace(_new_agent(name, declared), coming=coming)
        try:
            client = await agents.client_of(actor, new)
        except ChangeRefused as refused:
            said, field = f"agents.{name}: {refused.description}", f"agents.{name}"
            raise ChangeRefused(refused.reason, said, kind=refused.kind, field=field, **refused.values) from refused
        after, held = _agent_facts(client), known.get(name)
        if declared.id is not None:
            await _check_id(actor, name, declared.id, held)
        if held is None:
            named = {} if declared.id is None else {"id": declared.id}
            differences = differences_between({}, named | after)
            yield PlannedChange("create", "agent", name, differences, partial(_create_agent, actor, new))
            continue
        before = _agent_facts(held)
        if before["auth_method"] != after["auth_method"]:
            raise ChangeRefused(
                "agent_refused",
                f"agents.{name}: how an agent authenticates can't change. Give it another name in the file",
                field=f"agents.{name}",
            )
        if differences := differences_between(before, after):
            changed = replace(client, id=held.id, created_at=held.created_at, secret_hash=held.secret_hash)
            yield PlannedChange("update", "agent", name, differences, partial(agents.update, actor, changed))
    if prunes:
        for name in sorted(known.keys() - wanted.keys()):
            yield PlannedChange("remove", "agent", name, (), partial(_remove_agent, actor, known[name]))


async def _check_id(actor: Actor, name: str, client_id: str, held: Client | None) -> None:
    if held is not None and held.id != client_id:
        raise ChangeRefused(
            "agent_refused",
            f"agents.{name}: its client ID is {held.id} and can't change. Give it another name in the file",
            field=f"agents.{name}.id",
        )
    if held is None and await clients.get_client(actor.deployment.database, client_id) is not None:
        raise ChangeRefused(
            "agent_refused",
            f"agents.{name}: another agent has the client ID {client_id}: choose another one",
            field=f"agents.{name}.id",
        )


def _new_agent(name: str, declared: DeclaredAgent) -> NewAgent:
    worker, asking = declared.worker, declared.ciba
    return NewAgent(
        name=declared.title or name,
        redirect_uris=tuple(dict.fromkeys(declared.redirect_uris)),
        has_secret=declared.confidential,
        jwks=declared.jwks,
        resources=tuple(declared.resources),
        by_device=declared.device,
        exchanges=declared.exchange or declared.auth0,
        speaks_auth0=declared.auth0,
        releases=dict(declared.release),
        asking=None
        if asking is None
        else BackchannelSpec(
            notify=asking.notify,
            details_types=tuple(asking.details_types),
            is_pushed=asking.push,
            signing_alg=asking.signing_alg or "",
            sends_user_code=asking.user_code,
        ),
        origins=tuple(declared.origins),
        worker=WorkerSpec()
        if worker is None
        else WorkerSpec(tuple(worker.addresses), tuple(worker.connections), tuple(worker.scopes)),
        by_itself=None
        if declared.client_credentials is None
        else OwnApisSpec(frozenset(declared.client_credentials.scopes)),
        declared=name,
        client_id=declared.id,
    )


def _agent_facts(client: Client) -> dict[str, object]:
    rest = {name: value for name, value in client.metadata.items() if name != DECLARED}
    return {
        "title": client.name,
        "auth_method": client.auth_method,
        "redirect_uris": list(client.redirect_uris),
        "grant_types": sorted(client.grant_types),
        "resources": list(client.resources),
        "release": rest.pop(release.MEMBER, {}),
        "metadata": rest,
    }


async def _create_agent(actor: Actor, wanted: NewAgent) -> str | None:
    return (await agents.register(actor, wanted)).secret


async def _remove_agent(actor: Actor, client: Client) -> None:
    await agents.remove(actor, client)


# APIs of your own


async def _plan_apis(
    actor: Actor, wanted: Mapping[str, DeclaredApi], named: Mapping[str, DeclaredAgent], *, prunes: bool
) -> AsyncIterator[PlannedChange]:
    reader, known = actor.deployment.database, await declared_agents(actor)
    titles = {one.id: name for name, one in named.items() if one.id is not None}
    titles |= {client.id: name for name, client in known.items()}
    for url, declared in wanted.items():
        held = await apis.find_api(reader, url)
        linked = await apis.linked_clients(reader, url)
        before: dict[str, object] = {}
        if held is not None:
            listed = sorted(titles.get(one, one) for one in linked)
            before = {"name": held.name, "scopes": sorted(held.scopes), "clients": listed}
        for one in declared.clients:
            is_declared = one in named or one in known or one in titles
            if not is_declared and await clients.get_client(reader, one) is None:
                raise ChangeRefused("api_refused", f"apis.{url}: there is no agent {one}", field="apis")
        after: dict[str, object] = {
            "name": declared.name or (url if held is None else held.name),
            "scopes": sorted(set(declared.scopes)),
            "clients": sorted({titles.get(one, one) for one in declared.clients}),
        }
        if differences := differences_between(before, after):
            verb: Verb = "create" if held is None else "update"
            yield PlannedChange(verb, "api", url, differences, partial(_save_api, actor, url, declared))
    if prunes:
        for one in await apis.list_apis(reader):
            if one.resource not in wanted:
                yield PlannedChange("remove", "api", one.resource, (), partial(own_apis.remove, actor, one.resource))


async def _save_api(actor: Actor, url: str, declared: DeclaredApi) -> None:
    known = await declared_agents(actor)
    linked = [known.get(one) or await agents.agent_with_id(actor, one) for one in declared.clients]
    await own_apis.save(actor, url, name=declared.name, scopes=declared.scopes, linked=linked, unlinks_others=True)


# Providers


async def _plan_providers(
    actor: Actor, wanted: Mapping[str, DeclaredProvider], *, prunes: bool
) -> AsyncIterator[PlannedChange]:
    deployment = actor.deployment
    for name, declared in wanted.items():
        provider = registrations.provider_named(deployment, name)
        stored = await registrations.own_registration(actor, provider, revision=None)
        secret = "" if declared.client_secret is None else declared.client_secret.get_secret_value()
        before: dict[str, object] = {}
        if stored is not None:
            before = {"client_id": stored.client_id, "inputs": dict(stored.inputs), "testing": stored.is_testing}
        after: dict[str, object] = {
            "client_id": declared.client_id,
            "inputs": declared.inputs,
            "testing": declared.testing and provider.expires.testing is not None,
        }
        if secret:
            is_same = await has_secret(actor, stored, secret)
            before["client_secret"], after["client_secret"] = (SECRET if is_same else None), SECRET
        if differences := differences_between(before, after):
            entry = RegistrationInput(declared.client_id, secret, declared.inputs, declared.testing)
            verb: Verb = "create" if stored is None else "update"
            yield PlannedChange(verb, "provider", name, differences, partial(save_registration, actor, name, entry))
    if prunes:
        remote = {one.name for one in await list_accepted(deployment.database)}
        for one in await stored_registrations.list_registrations(deployment.database):
            if one.provider not in {*wanted, *remote}:
                run = partial(_remove_registration, actor, one.provider)
                yield PlannedChange("remove", "provider", one.provider, (), run)


async def has_secret(actor: Actor, stored: StoredRegistration | None, secret: str) -> bool:
    """Whether this client secret is the stored one."""
    if stored is None:
        return False
    try:
        kept = await stored_registrations.open_registration(actor.deployment.database, actor.deployment.keys, stored)
    except CiphertextRejected:
        return False
    return hmac.compare_digest((kept.client_secret or "").encode(), secret.encode())


async def save_registration(actor: Actor, name: str, entry: RegistrationInput) -> None:
    """Store our registration at a provider."""
    provider = registrations.provider_named(actor.deployment, name)
    stored = await registrations.own_registration(actor, provider, revision=None)
    await registrations.save(actor, provider, entry, stored=stored)


async def _remove_registration(actor: Actor, name: str) -> None:
    provider = registrations.provider_named(actor.deployment, name)
    stored = await registrations.own_registration(actor, provider, revision=None)
    await registrations.remove(actor, provider, stored=stored)
