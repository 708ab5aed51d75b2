"""The owner of a data directory, and the local clients that call as the owner without a token.

A process that can read the data directory can read its key: over stdio, that is the only proof. Owner, client, and
grant are created on first use. The grant includes no accounts: the person delegates them as for every other agent.
"""

from __future__ import annotations

import getpass
import secrets

from server.deployment import Deployment
from server.errors import PersonRefused
from server.mcp.local_names import RULE, is_local_name, local_client_id
from server.oauth.rules import ORDINARY_SCOPES
from server.sign_in.password import OWNER_ISSUER, OWNER_SUBJECT
from vault import clients, grants, users
from vault.audit import audit
from vault.records import Client, ClientKind, Event, Grant, Principal, User
from vault.storage.database import Conflict, Transaction


class LocalClientRefused(PersonRefused):
    """This local client cannot be used."""

    code = "local_client_refused"


async def find_owner(deployment: Deployment) -> User:
    """The owner of the data directory: the only admin if there is exactly one, else a new user named like the OS user.

    Never an existing user with that name, since people choose the names that their providers send.
    """
    for _ in range(5):  # several processes may start at once on an empty directory
        found = await users.find_by_identity(deployment.database, issuer=OWNER_ISSUER, subject=OWNER_SUBJECT)
        if found is not None:
            return found
        try:
            async with deployment.transaction() as transaction:
                return await _make_owner(transaction, now=deployment.now())
        except (Conflict, users.NameTaken, users.IdentityTaken):
            continue
    raise LocalClientRefused("Couldn't create the owner of the data directory: restart.")


async def _make_owner(transaction: Transaction, *, now: int) -> User:
    await users.hold_admins(transaction)  # someone may be creating the first admin
    admins = [user for user in await users.list_admins(transaction) if user.disabled_at is None]
    owner = admins[0] if len(admins) == 1 else None
    event = Event(kind="owner.found", user_id=None if owner is None else owner.id, details={"method": "stdio"})
    if owner is None:
        name = await _free_name(transaction, _os_user())
        owner = await users.create_user(transaction, name, is_admin=not admins, now=now)
        event = Event(kind="user.created", user_id=owner.id, details={"method": "stdio"})
    await users.link_identity(transaction, issuer=OWNER_ISSUER, subject=OWNER_SUBJECT, user_id=owner.id, now=now)
    await audit.append(transaction, event, now=now)
    return owner


async def _free_name(transaction: Transaction, wanted: str) -> str:
    """A unique name for the owner, since an existing user may have chosen this name at a provider."""
    taken = await users.find_user(transaction, wanted)
    return wanted if taken is None else f"{wanted} ({secrets.token_hex(3)})"


def _os_user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "owner"


async def local_principal(deployment: Deployment, client_name: str) -> Principal:
    """Owner, local client and grant of a stdio process. Raises LocalClientRefused for a name that cannot be used."""
    if not is_local_name(client_name):
        raise LocalClientRefused(RULE)
    owner = await find_owner(deployment)
    if owner.disabled_at is not None:
        raise LocalClientRefused("The owner of this data directory is disabled. Run token-vault users enable NAME.")
    for _ in range(5):
        try:
            grant = await _local_grant(deployment, owner, client_name)
        except Conflict:
            continue
        return Principal(
            user_id=owner.id,
            client_id=grant.client_id,
            grant_id=grant.id,
            scopes=grant.scopes,
            audience=grant.resource,
        )
    raise LocalClientRefused("Couldn't create the local client: restart.")


async def _local_grant(deployment: Deployment, owner: User, client_name: str) -> Grant:
    """The live grant of the local client, created if there is none. It includes no accounts: the person delegates
    those."""
    client_id = local_client_id(client_name)
    now = deployment.now()
    async with deployment.transaction() as transaction:
        client = await clients.get_client(transaction, client_id)
        if client is None:
            client = Client(
                id=client_id,
                kind=ClientKind.LOCAL,
                name=client_name,
                auth_method="none",
                redirect_uris=(),
                grant_types=frozenset(),
                created_at=now,
            )
            await clients.save_client(transaction, client)
        for grant in await grants.list_grants(transaction, owner.id):
            if grant.client_id == client_id and grant.is_live:
                return grant
        grant = await grants.create_grant(
            transaction,
            user_id=owner.id,
            client_id=client_id,
            scopes=ORDINARY_SCOPES,
            resource=deployment.url("/mcp"),
            redirect_uri="",
            now=now,
        )
        event = Event(
            kind="grant.created", user_id=owner.id, client_id=client_id, details={"method": "stdio", "grant": grant.id}
        )
        await audit.append(transaction, event, now=now)
        return grant
