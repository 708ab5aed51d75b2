"""A developer's own APIs: audiences of access tokens, their scopes, and the clients that are those APIs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from server.administration.actor import Actor, ChangeRefused
from server.deployment import Deployment
from server.oauth.resources import own_audiences
from server.oauth.rules import SCOPES, clean_name
from vault import apis
from vault.apis import Api
from vault.audit import audit
from vault.records import Client
from vault.storage.database import Transaction

_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,200}")  # RFC 6749 §3.3
_LONGEST: Final = 2000  # characters of an identifier


async def api_with_url(actor: Actor, url: str) -> Api:
    """The API with this identifier. Raises ChangeRefused."""
    found = await apis.find_api(actor.deployment.database, url)
    if found is None:
        raise ChangeRefused("no_api", "There is no API with this identifier.", kind="not_found")
    return found


async def save(
    actor: Actor,
    url: str,
    *,
    name: str | None,
    scopes: Sequence[str] | None,
    linked: Sequence[Client] = (),
    unlinks_others: bool = False,
) -> Api:
    """Register an API, or change a registered one; None keeps a value. Links the given clients."""
    deployment, now = actor.deployment, actor.deployment.now()
    check_identifier(deployment, url)
    for scope in scopes or ():
        check_scope(scope, field="scopes")
    for client in linked:
        if client.is_public:
            raise ChangeRefused(
                "api_refused",
                f"{client.name} is a public client, so it can't be an API. Register one with a secret: "
                "token-vault clients add --confidential",
                field="clients",
            )
    async with actor.change() as transaction:
        await apis.hold_api(transaction, url)  # another admin may be renaming it
        known = await apis.find_api(transaction, url)
        called = clean_name(name or "") or (url if known is None else known.name)
        wanted = None if scopes is None else frozenset(scopes)
        api = await apis.add_api(transaction, url, name=called, now=now, scopes=wanted)
        for client in linked:
            await apis.link_client(transaction, url, client_id=client.id, now=now)
        wanted_ids = [one.id for one in linked]
        event = actor.event("api.added", resource=url, clients=wanted_ids, scopes=sorted(api.scopes))
        await audit.append(transaction, event, now=now)
        for other in await apis.linked_clients(transaction, url) if unlinks_others else ():
            if other not in wanted_ids:
                await _unlink(actor, transaction, url, other)
    return api


async def remove(actor: Actor, url: str) -> None:
    """Remove an API and end every grant for it."""
    await api_with_url(actor, url)
    async with actor.change() as transaction:
        await apis.remove_api(transaction, url, now=actor.deployment.now())
        await audit.append(transaction, actor.event("api.removed", resource=url), now=actor.deployment.now())


async def unlink(actor: Actor, url: str, client: Client) -> bool:
    """Unlink a client from an API. False if it wasn't linked."""
    async with actor.change() as transaction:
        return await _unlink(actor, transaction, url, client.id)


async def _unlink(actor: Actor, transaction: Transaction, url: str, client_id: str) -> bool:
    now = actor.deployment.now()
    if not await apis.unlink_client(transaction, url, client_id=client_id, now=now):
        return False
    await audit.append(transaction, actor.event("api.removed", resource=url, client=client_id), now=now)
    return True


def check_identifier(deployment: Deployment, url: str, *, field: str = "resource") -> None:
    """Check that an identifier can be an audience (RFC 8707 §2) and isn't the vault's own. Raises ChangeRefused."""
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in {"https", "http", "urn"} and bool(parts.netloc or parts.path) and not parts.fragment
    except ValueError:
        is_usable = False
    if not is_usable or len(url) > _LONGEST or not all("!" <= letter <= "~" for letter in url):
        raise _refuse(field, f"{url}: use an absolute URL without a fragment as the API's identifier")
    if _bare(url) in set(map(_bare, own_audiences(deployment))):
        raise _refuse(field, f"{url} belongs to the vault; choose another URL")


def check_scope(scope: str, *, field: str) -> None:
    """Check that this can be a scope of an API. Raises ChangeRefused."""
    if scope in SCOPES or _SCOPE.fullmatch(scope) is None:
        problem = "choose a valid scope name (RFC 6749 section 3.3) that the vault doesn't use itself"
        raise _refuse(field, f"{scope}: {problem}")


def _refuse(field: str, description: str) -> ChangeRefused:
    return ChangeRefused("api_refused", description, field=field)


def _bare(url: str) -> str:
    """The identifier without differences in case and trailing slash, for comparison."""
    return url.removesuffix("/").lower()
