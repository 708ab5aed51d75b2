"""People's connections and permissions: end a connection, remove it from an agent, require more approvals, end a
standing approval.

Only the person gives access; others can view it, require approval more often, and end it. They can enter a credential
for the person, which an agent can use once the person, or a rule of their company, allows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from providers.definitions.catalog import Provider
from providers.definitions.suggestions import did_you_mean
from server.administration.actor import Actor, ChangeRefused
from server.administration.people import check_is_enabled, hold_person
from server.connecting import credentials, standing_offers
from server.connecting.credentials import Entry, EntryFault
from server.connecting.provider_authorization import ConsentRequest
from vault import company_permissions, connections, delegations
from vault.approvals.standing_approvals import StandingApproval
from vault.audit import audit
from vault.records import Connection, Delegation, User
from vault.storage.database import Transaction
from vault.upkeep import revocations
from vault.upstream import Account

_NO_PERMISSION: Final = "That agent has no access to that connection."


@dataclass(frozen=True, slots=True)
class EndedConnection:
    """How the grant ended at the provider; on `pages`, the person can remove what is left there."""

    connection: Connection
    at_provider: str
    is_left_open: bool = False
    pages: Sequence[str] = ()


async def connection_of(actor: Actor, person: User, connection_id: str) -> Connection:
    """The person's live connection. Raises ChangeRefused."""
    found = await connections.get_connection(actor.deployment.database, connection_id, user_id=person.id)
    if found is None or found.status(actor.deployment.now()) == "revoked":
        raise ChangeRefused("no_connection", "This person has no connection with this ID.", kind="not_found")
    return found


async def disconnect(actor: Actor, connection: Connection) -> EndedConnection:
    """End the connection here and revoke its grant at the provider; a running server retries a failed revocation."""
    deployment = actor.deployment
    by = "" if actor.user is None else actor.user.name
    async with actor.change() as transaction:
        await connections.disconnect(
            transaction, deployment.keys, connection, now=deployment.now(), by=by, via=actor.via
        )
    outcome = await revocations.revoke_upstream(deployment.vault, connection.id) or "pending"
    if outcome not in revocations.LEFT_OPEN:
        return EndedConnection(connection, outcome)
    provider = deployment.catalog.get(connection.provider)
    pages = [] if provider is None else list(provider.removal_pages.values())
    return EndedConnection(connection, outcome, is_left_open=True, pages=pages)


FAULTS: Final = {
    "missing": "a value is missing",
    "shape": "a value doesn't have the format that the provider file requires",
    "short": "a secret is shorter than 8 characters",
    "unknown": "the provider file has no such field",
    "key": "not a private key for the provider file's algorithm, or its passphrase is wrong",
    "costly": "its private key takes too long to open: encrypt it with fewer iterations, or use one of up to 4096 bits",
    "ended": "the certificate has expired",
    "early": "the certificate isn't valid yet",
    "admin": "only admins can enter it",
    "refused": "the service doesn't accept it",
    "unchecked": "the service couldn't say whether it works; try again",
    "other_account": "it belongs to another account",
    "acts_for": "the account acts for a person: enter that person",
    "not_named": "the service doesn't report whether it belongs to the replaced account",
    "name_it": "the service doesn't report its account: set label",
    "too_often": "too many attempts for this person; wait a few minutes",
    "region": "the settings don't allow this region: enter one from this provider's regions setting",
    "reference": "the settings don't allow this reference: enter the secret itself, or add the path to secrets.entered",
    "unread": "the secret can't be read from its source: correct the reference, or see the log",
    "bad_end": "its end isn't in the future",
}


@dataclass(frozen=True, slots=True)
class EnteredValues:
    """The data that someone entered for a person: the fields, a name for the account, and its last day, such as
    2031-05-01."""

    values: Mapping[str, str] = field(repr=False)
    label: str = ""
    last_day: str = ""


async def _same_account(actor: Actor, person: User, provider: Provider, account: Account | None) -> Connection | None:
    """The live connection of this account; if the service doesn't identify the account, the one with the same name."""
    for one in await connections.find(actor.deployment.database, person.id, provider=provider.name):
        if account is not None and (one.account == account.id or credentials.has_same_label(one, account)):
            return one
    return None


async def connect_by_credential(
    actor: Actor, person: User, provider: Provider, *, entered: EnteredValues, replaces: str = ""
) -> Connection:
    """Do what `connect_entered` does. Raises ChangeRefused also for a wrong entry; it names fields but no values."""
    try:
        return await connect_entered(actor, person, provider, entered=entered, replaces=replaces)
    except EntryFault as fault:
        where = f"{fault.field}: " if fault.field else ""
        raise ChangeRefused(
            "credential", f"{where}{FAULTS[fault.reason]}", field=f"credential.{fault.field}" if fault.field else ""
        ) from fault


async def connect_entered(
    actor: Actor, person: User, provider: Provider, *, entered: EnteredValues, replaces: str = ""
) -> Connection:
    """Connect the person's account with a credential that someone entered for them; no agent may use it yet.

    `replaces`: the connection that gets the new credential and keeps its permissions. Raises EntryFault; ChangeRefused,
    including for a disabled person or an account that is already connected; ConnectRefused while the service is turned
    off.
    """
    deployment = actor.deployment
    check_is_enabled(person)
    credentials.check_is_on(deployment, provider)
    replaced = await connection_of(actor, person, replaces) if replaces else None
    if replaced is not None and replaced.provider != provider.name:
        raise ChangeRefused("credential", "that connection belongs to another service", field="replaces")
    entry = Entry(entered.values, entered.label, credentials.end_of_day(entered.last_day))
    answer = await credentials.examine(deployment, provider, entry, user=person, replaces=replaced, by_admin=True)
    trip = ConsentRequest(provider.name, provider.all_scopes, replaces=replaces or None)
    if replaced is None and (known := await _same_account(actor, person, provider, answer.account)):
        raise ChangeRefused(
            "connected",
            f"the account is already connected: set replaces to {known.id}",
            kind="conflict",
            field="replaces",
        )
    about = {} if replaced is None else {"replaced": "yes"}
    about |= {"by_self": "yes"} if actor.user is not None and actor.user.id == person.id else {}
    event = actor.event("connection.entered", user_id=person.id, provider=provider.name, **about)

    async def guard(transaction: Transaction) -> None:
        await actor.check(transaction)
        check_is_enabled(await hold_person(transaction, person.id))  # the service was asked in between

    connected = await credentials.store(deployment, trip, answer, user=person, entered=event, guard=guard)
    return connected.connection


async def permission_of(actor: Actor, person: User, *, client_id: str, connection_id: str) -> Delegation:
    """The agent's permission for the connection. Raises ChangeRefused."""
    found = await delegations.get(
        actor.deployment.database, user_id=person.id, client_id=client_id, connection_id=connection_id
    )
    if found is None or found.revoked_at is not None:
        raise ChangeRefused("no_permission", _NO_PERMISSION, kind="not_found")
    return found


async def set_ask(
    actor: Actor, held: Delegation, *, scopes: frozenset[str], tools: Sequence[str], adds: bool = False
) -> frozenset[str]:
    """Require the person's approval each time for these scopes and tools; returns the previous ones.

    `adds`: in addition to the previous ones, instead of exactly these.
    """
    deployment, known = actor.deployment, [one.name for one in actor.deployment.tools]
    for name in tools:
        if name not in known and f"tool:{name}" not in held.ask:
            raise ChangeRefused("ask_refused", f"no tool {name!r}.{did_you_mean(name, known)}", field="tools")
    for unknown in sorted(scopes - held.scopes - held.ask):
        near = did_you_mean(unknown, held.scopes)
        raise ChangeRefused("ask_refused", f"the agent doesn't have {unknown} there.{near}", field="scopes")
    entries, now = scopes | {f"tool:{name}" for name in tools}, deployment.now()
    which = {"user_id": held.user_id, "client_id": held.client_id}
    async with actor.change() as transaction:
        await company_permissions.wait_for_renewals(transaction, **which)
        before = await delegations.hold(transaction, **which, connection_id=held.connection_id)
        if before is None:
            raise ChangeRefused("no_permission", _NO_PERMISSION, kind="not_found")
        if adds:
            entries |= before.ask
        await delegations.set_ask(transaction, **which, connection_id=held.connection_id, ask=entries, now=now)
        event = replace(actor.event("delegation.asks", **which, ask=sorted(entries)), connection_id=held.connection_id)
        await audit.append(transaction, event, now=now)
    return before.ask


async def revoke(actor: Actor, held: Delegation) -> None:
    """Remove the agent's access to the connection. Raises ChangeRefused if it no longer has any."""
    now, which = actor.deployment.now(), {"user_id": held.user_id, "client_id": held.client_id}
    async with actor.change() as transaction:
        await company_permissions.wait_for_renewals(transaction, **which)
        if not await delegations.revoke(transaction, **which, connection_id=held.connection_id, now=now):
            raise ChangeRefused("no_permission", _NO_PERMISSION, kind="not_found")
        event = replace(actor.event("delegation.revoked", **which), connection_id=held.connection_id)
        await audit.append(transaction, event, now=now)


async def end_standing(actor: Actor, person: User, standing_id: str) -> StandingApproval:
    """End the person's standing approval, so that its calls ask them again. Raises ChangeRefused."""
    by = "" if actor.user is None else actor.user.name
    ended = await standing_offers.end(actor.deployment, standing_id, user=person, method=actor.method, by=by)
    if ended is None:
        raise ChangeRefused("no_standing", f"no standing approval {standing_id}", kind="not_found")
    return ended
