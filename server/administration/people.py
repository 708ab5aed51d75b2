"""People: add, disable, make or remove admins, restore access, link or unlink an identity, and delete.

The owner of the data directory can do all of this to anyone. Admins can't end their own account, lock themselves
out, or leave the vault without an admin.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field

from providers.definitions.issuers import is_same_issuer
from server.administration.actor import Actor, ChangeRefused
from server.connecting.deletion import end_at_providers, remove_person
from server.sign_in.identities import identity_name
from server.sign_in.password import OWNER_ISSUER, make_sign_in_link
from vault import connections, tickets, users
from vault.audit import audit
from vault.keys import passwords
from vault.records import Connection, Role, TicketPurpose, User
from vault.sign_in import passkeys
from vault.storage.database import Reader, Transaction
from vault.users import LinkedIdentity


@dataclass(frozen=True, slots=True)
class AddedPerson:
    """A new person, and their one-time sign-in link if they have no password yet."""

    user: User
    link: str | None = field(repr=False, default=None)


async def person_with_id(reader: Reader, user_id: str) -> User:
    """The person. Raises ChangeRefused."""
    found = await users.get_user(reader, user_id)
    if found is None:
        raise ChangeRefused("no_person", "There is no person with this ID.", kind="not_found")
    return found


async def hold_person(transaction: Transaction, person_id: str) -> User:
    """The person, locked until the transaction ends, including against changes by admins. Raises ChangeRefused."""
    (found,) = await hold_people(transaction, [person_id])
    return found


async def hold_people(transaction: Transaction, person_ids: Iterable[str]) -> list[User]:
    """`hold_person` for several people."""
    await users.hold_admins(transaction)  # first, as in every action of an admin: the person may be becoming one
    wanted = sorted(set(person_ids))
    for one in wanted:
        await users.hold_user(transaction, one)
    return [await person_with_id(transaction, one) for one in wanted]


async def add_person(
    actor: Actor, name: str, *, is_admin: bool, role: Role | None = None, password: str | None = None
) -> AddedPerson:
    """A new person with a password, or with a one-time link. `role` instead of `is_admin`, if given.

    Raises NameRefused, NameTaken, PasswordRefused, or ChangeRefused if someone other than an owner adds an owner.
    """
    hashed = None
    if password is not None:
        passwords.check_password(password, name=name)
        hashed = await passwords.hash_password(password)
    async with actor.change() as transaction:
        return await create_person(actor, transaction, name, is_admin=is_admin, role=role, password_hash=hashed)


async def create_person(
    actor: Actor,
    transaction: Transaction,
    name: str,
    *,
    is_admin: bool,
    role: Role | None = None,
    password_hash: str | None = None,
) -> AddedPerson:
    """`add_person` as part of a larger change."""
    now = actor.deployment.now()
    if role is Role.OWNER:
        await _check_owner(actor, transaction)
    if role is None:
        role = await _first_role(transaction) if is_admin else Role.MEMBER
    person = await users.create_user(transaction, name, password_hash=password_hash, role=role, now=now)
    link = None if password_hash else await make_sign_in_link(actor.deployment, transaction, person.id)
    event = actor.event("user.created", user_id=person.id, method=actor.method, admin=role.administers)
    await audit.append(transaction, event, now=now)
    return AddedPerson(person, link)


async def _first_role(transaction: Transaction) -> Role:
    """The role of a new admin: an owner if the vault has no admin yet."""
    return Role.ADMINISTRATOR if await users.list_admins(transaction) else Role.OWNER


def check_is_enabled(person: User) -> None:
    """Raises ChangeRefused if the person is disabled."""
    if person.disabled_at is not None:
        raise ChangeRefused("person_changed", "This person is disabled: enable them first.", kind="conflict")


async def make_link(actor: Actor, person: User) -> str:
    """Create a one-time link with which the person can sign in again."""
    async with actor.change() as transaction:
        check_is_enabled(await check_may_touch(actor, transaction, person))
        link = await make_sign_in_link(actor.deployment, transaction, person.id)
        await audit.append(transaction, actor.event("user.link_made", user_id=person.id), now=actor.deployment.now())
    return link


async def set_disabled(actor: Actor, person: User, *, is_disabled: bool) -> bool:
    """End all sessions and agents of the person and block sign-in, or allow it again.

    False if nothing changed.
    """
    async with actor.change() as transaction:
        return await change_disabled(actor, transaction, person, is_disabled=is_disabled)


async def change_disabled(actor: Actor, transaction: Transaction, person: User, *, is_disabled: bool) -> bool:
    """`set_disabled` as part of a larger change."""
    now = actor.deployment.now()
    if is_disabled:
        _check_other(actor, person)
    current = await check_may_touch(actor, transaction, person)
    if is_disabled:
        await _keep_an_admin(actor, transaction, current)
        by_directory = bool(actor.directory)
        has_changed = await users.disable_user(transaction, person.id, now=now, is_by_directory=by_directory)
    else:
        if actor.directory and not await users.may_directory_enable(transaction, person.id):
            raise ChangeRefused("person_changed", "The vault disabled this person: enable them there.", kind="conflict")
        has_changed = await users.enable_user(transaction, person.id, now=now)
    if has_changed:
        kind = "user.disabled" if is_disabled else "user.enabled"
        await audit.append(transaction, actor.event(kind, user_id=person.id), now=now)
    return has_changed


async def change(
    actor: Actor,
    person: User,
    *,
    is_disabled: bool | None = None,
    is_admin: bool | None = None,
    role: Role | None = None,
) -> None:
    """`set_disabled`, `set_admin`, and `set_role` as one change, in this order; None leaves a value as it is."""
    async with actor.change() as transaction:
        if is_disabled is not None:
            await change_disabled(actor, transaction, person, is_disabled=is_disabled)
        if is_admin is not None:
            await change_admin(actor, transaction, person, is_admin=is_admin)
        if role is not None:
            await change_role(actor, transaction, person, role)


async def set_admin(actor: Actor, person: User, *, is_admin: bool) -> bool:
    """Make the person an admin, or no longer; at least one admin must remain. False if nothing changed."""
    async with actor.change() as transaction:
        return await change_admin(actor, transaction, person, is_admin=is_admin)


async def change_admin(actor: Actor, transaction: Transaction, person: User, *, is_admin: bool) -> bool:
    """`set_admin` as part of a larger change."""
    current = await hold_person(transaction, person.id)
    if current.is_admin == is_admin:  # someone else may have changed it meanwhile, for example made them an owner
        return False
    await _store_role(actor, transaction, current, Role.ADMINISTRATOR if is_admin else Role.MEMBER)
    return True


async def set_role(actor: Actor, person: User, role: Role) -> bool:
    """Change the person's own role. Only an owner can add or remove owners. False if nothing changed."""
    async with actor.change() as transaction:
        return await change_role(actor, transaction, person, role)


async def change_role(actor: Actor, transaction: Transaction, person: User, role: Role) -> bool:
    """`set_role` as part of a larger change."""
    current = await hold_person(transaction, person.id)
    if current.role is role:
        return False
    await _store_role(actor, transaction, current, role)
    return True


async def _store_role(actor: Actor, transaction: Transaction, current: User, role: Role) -> None:
    """Store another role of the person, who is locked."""
    now = actor.deployment.now()
    if Role.OWNER in (role, current.role):
        await _check_owner(actor, transaction)
    if not role.administers:
        await _keep_an_admin(actor, transaction, current)
    if current.role is Role.OWNER:
        await _keep_an_owner(actor, transaction, current)
    if role.administers:  # an administrator may know a link that they created when the person had fewer rights
        await tickets.expire_purpose(transaction, current.id, purpose=TicketPurpose.BOOTSTRAP, now=now)
    await users.set_role(transaction, current.id, role)
    kind = "user.role_changed"
    if current.is_admin != role.administers:
        kind = "user.admin_added" if role.administers else "user.admin_removed"
    await audit.append(transaction, actor.event(kind, user_id=current.id, role=role.value), now=now)


async def check_may_touch(actor: Actor, transaction: Transaction, person: User) -> User:
    """The current record of the person. Neither an administrator nor a company's directory can change an owner.

    Raises ChangeRefused.
    """
    current = await hold_person(transaction, person.id)
    if current.role is Role.OWNER:
        await _check_owner(actor, transaction)
    return current


async def _check_owner(actor: Actor, transaction: Transaction) -> None:
    if actor.is_operator:
        return
    current = None if actor.user is None else await users.get_user(transaction, actor.user.id)
    if current is None or current.role is not Role.OWNER:
        raise ChangeRefused("owner_only", "Only an owner can do this to an owner, or make one.", kind="forbidden")


async def link_identity(actor: Actor, person: User, *, issuer: str, subject: str) -> None:
    """Link the person to an external identity. Raises IdentityTaken."""
    async with actor.change() as transaction:
        await add_identity(actor, transaction, person, issuer=issuer, subject=subject)


async def add_identity(actor: Actor, transaction: Transaction, person: User, *, issuer: str, subject: str) -> None:
    """`link_identity` as part of a larger change."""
    now = actor.deployment.now()
    await check_may_touch(actor, transaction, person)
    await users.link_identity(transaction, issuer=issuer, subject=subject, user_id=person.id, now=now)
    await audit.append(transaction, actor.event("user.linked", user_id=person.id, issuer=issuer), now=now)


async def removable_identities(reader: Reader, person: User) -> tuple[LinkedIdentity, ...]:
    """The person's identities at identity providers, without the mark of the owner of the data directory."""
    return tuple(one for one in await users.list_identities(reader, person.id) if one.issuer != OWNER_ISSUER)


async def unlink_identity(actor: Actor, person: User, *, issuer: str, subject: str) -> bool:
    """Remove an external identity of the person, and sign them out everywhere. False if it wasn't theirs.

    What it vouched for at other services ends, too.
    Raises ChangeRefused if it is the actor's only way to sign in.
    """
    async with actor.change() as transaction:
        ended = await remove_identity(actor, transaction, person, issuer=issuer, subject=subject)
    await end_at_providers(actor.deployment, ended or ())
    return ended is not None


async def remove_identity(
    actor: Actor, transaction: Transaction, person: User, *, issuer: str, subject: str
) -> Sequence[str] | None:
    """`unlink_identity` as part of a larger change; returns the IDs of the connections to end at their providers
    afterwards, or None if the identity wasn't theirs."""
    now = actor.deployment.now()
    current = await check_may_touch(actor, transaction, person)
    if not await users.unlink_identity(transaction, issuer=issuer, subject=subject, user_id=person.id):
        return None
    await _keep_a_way_in(actor, transaction, current)
    await users.end_user_sessions(transaction, person.id, now=now)
    await audit.append(transaction, actor.event("user.unlinked", user_id=person.id, issuer=issuer), now=now)
    ended = await _end_vouching(actor, transaction, person, issuer=issuer, subject=subject)
    return [one.id for one in ended]


async def _end_vouching(
    actor: Actor, transaction: Transaction, person: User, *, issuer: str, subject: str
) -> Sequence[Connection]:
    """End the connections to the identity provider by which this identity vouches for the person elsewhere."""
    deployment, by = actor.deployment, "" if actor.user is None else actor.user.name
    known = deployment.settings.sign_in.openid
    names = {identity_name(name) for name, one in known.items() if is_same_issuer(issuer, one.issuer)}
    owned = await connections.list_connections(transaction, person.id)
    ended = [one for one in owned if one.provider in names and one.account == subject]
    for one in ended:
        await connections.disconnect(transaction, deployment.keys, one, now=deployment.now(), by=by, via=actor.via)
    return ended


async def delete(
    actor: Actor, person: User, *, check: Callable[[Transaction], Awaitable[object]] | None = None
) -> None:
    """Delete the person: their grants end now, at the providers as soon as these answer, and then their keys.

    `check` raises, while the person is locked, if something else forbids it.
    """
    _check_other(actor, person)
    async with actor.change() as transaction:
        current = await check_may_touch(actor, transaction, person)
        if check is not None:
            await check(transaction)
        await _keep_an_admin(actor, transaction, current)
        event = actor.event("user.removed", user_id=person.id, name=person.name)
        owned = await remove_person(transaction, actor.deployment, person, event=event)
    await end_at_providers(actor.deployment, [one.id for one in owned])


def _check_other(actor: Actor, person: User) -> None:
    if actor.user is not None and person.id == actor.user.id:
        raise ChangeRefused("not_yourself", "Another admin can disable or delete you.", kind="conflict")


async def _keep_a_way_in(actor: Actor, transaction: Transaction, person: User) -> None:
    if actor.user is None or actor.user.id != person.id or person.password_hash is not None:
        return
    linked = await removable_identities(transaction, person)
    if not linked and not await passkeys.list_passkeys(transaction, person.id):
        said = "You couldn't sign in anymore: another admin can remove this identity."
        raise ChangeRefused("not_yourself", said, kind="conflict")


async def _keep_an_admin(actor: Actor, transaction: Transaction, person: User) -> None:
    if not actor.is_operator and person.is_admin and await users.is_last_admin(transaction, person.id):
        raise ChangeRefused(
            "last_admin", "This vault has no other admin: make someone else an admin first.", kind="conflict"
        )


async def _keep_an_owner(actor: Actor, transaction: Transaction, person: User) -> None:
    if not actor.is_operator and await users.is_last_owner(transaction, person.id):
        raise ChangeRefused(
            "last_owner", "This vault has no other owner: make someone else an owner first.", kind="conflict"
        )
