"""Dynamic client registration (RFC 7591) and its management (RFC 7592). Fetches nothing that a client names.

`server.oauth.clients.rules` defines the allowed metadata; this module decides who can register, how often, and what is
kept.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import replace
from http import HTTPStatus
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from server.deployment import Deployment
from server.http.addresses import address_of, counting_key
from server.http.answers import SECRET, WholeAnswer, json_answer
from server.oauth.clients.authentication import NOBODY, secret_hash
from server.oauth.clients.rules import AcceptedMetadata, accept, public_members, shown_redirects, with_change_noted
from server.oauth.rules import OAuthError
from server.oauth.tokens import TokenRefused, read_authorization
from server.oauth.wire import read_json_object
from vault import clients, grants, limits
from vault.audit import audit
from vault.records import HOUR, Client, ClientKind, Event, new_id
from vault.storage.database import Reader, Transaction

BODY_LIMIT: Final = 64 * 1024  # bytes
_WINDOW: Final = HOUR
_REWRITES: Final = 20  # of one client in the window


async def register(deployment: Deployment, request: Request) -> Response:
    """Anyone, as `registration.mode` allows: RFC 7591."""
    if deployment.settings.registration_mode == "closed":
        raise OAuthError("access_denied", "registration is closed: ask an admin for a client ID")
    content = await read_json_object(request, limit=BODY_LIMIT, code="invalid_client_metadata")
    accepted = accept(content, settings=deployment.settings, default_auth_method="client_secret_basic")
    now = deployment.now()
    client, secret = _with_secret(_new_client(accepted, now=now))
    management_token = secrets.token_urlsafe()
    client = replace(client, registration_hash=secret_hash(management_token))
    async with deployment.database.transaction() as transaction:
        await _throttle(deployment, transaction, address_of(request), now=now)
        unused = deployment.settings.registration.unused_lifetime
        await clients.reap_unused(transaction, before=now - unused)
        await clients.save_client(transaction, client)
        await audit.append(transaction, _event("client.registered", client), now=now)
    return _registration_answer(deployment, client, management_token, secret=secret, status=201)


def _new_client(accepted: AcceptedMetadata, *, now: int) -> Client:
    return Client(
        id=new_id(),
        kind=ClientKind.DYNAMIC,
        name=accepted.name,
        auth_method=accepted.auth_method,
        redirect_uris=accepted.redirect_uris,
        grant_types=accepted.grant_types,
        created_at=now,
        metadata=accepted.rest,
    )


def _with_secret(client: Client) -> tuple[Client, str | None]:
    """Methods with a secret get one created here; a secret sent by the client is never used."""
    if not client.auth_method.startswith("client_secret"):
        return replace(client, secret_hash=None), None
    secret = secrets.token_urlsafe()
    return replace(client, secret_hash=secret_hash(secret)), secret


async def _throttle(deployment: Deployment, transaction: Transaction, address: str, *, now: int) -> None:
    """Limit registrations per address and in total; refused attempts aren't counted, so that a block can't last
    forever."""
    registration = deployment.settings.registration
    within = await limits.spend(
        transaction, f"register:{counting_key(address)}", limit=registration.per_address_hourly, window=_WINDOW, now=now
    ) and await limits.spend(transaction, "register", limit=registration.total_hourly, window=_WINDOW, now=now)
    if not within:
        raise _too_many()


def _too_many() -> OAuthError:
    return OAuthError(
        "too_many_requests",
        "too many registrations: try again later",
        headers={"Retry-After": str(_WINDOW)},
    )


async def read(deployment: Deployment, request: Request) -> Response:
    """The client, by its management token: RFC 7592 §2.1."""
    client, management_token = await _managed_client(deployment, request)
    return _registration_answer(deployment, client, management_token)


async def update(deployment: Deployment, request: Request) -> Response:
    """RFC 7592 §2.2 replaces all metadata; ID and secret can't be chosen."""
    client, management_token = await _managed_client(deployment, request)
    content = await read_json_object(request, limit=BODY_LIMIT, code="invalid_client_metadata")
    if content.get("client_id", client.id) != client.id:
        raise OAuthError("invalid_client_metadata", "client_id belongs to another client")
    now = deployment.now()
    async with deployment.database.transaction() as transaction:
        await _throttle(deployment, transaction, address_of(request), now=now)
        await grants.hold_client(transaction, client.id)
        # An admin may have changed the client or ended its token while the body arrived.
        client = await _with_token(transaction, client.id, management_token)
        given = content.get("client_secret")
        if given is not None and not (isinstance(given, str) and _is_secret(client.secret_hash, given)):
            raise OAuthError("invalid_client_metadata", "client_secret isn't the current one and can't be chosen")
        accepted = accept(content, settings=deployment.settings, default_auth_method=client.auth_method)
        changed, secret = _change(client, accepted, now=now)
        if not await limits.spend(
            transaction, f"register:client:{client.id}", limit=_REWRITES, window=_WINDOW, now=now
        ):
            raise _too_many()
        await clients.update_client(transaction, changed)
        await audit.append(transaction, _event("client.updated", changed), now=now)
    return _registration_answer(deployment, changed, management_token, secret=secret)


def _change(client: Client, accepted: AcceptedMetadata, *, now: int) -> tuple[Client, str | None]:
    """The client with new metadata; a new appearance or redirect list ends the use of earlier consent."""
    replaced = replace(
        client,
        name=accepted.name,
        auth_method=accepted.auth_method,
        redirect_uris=accepted.redirect_uris,
        grant_types=accepted.grant_types,
        metadata=accepted.rest,
    )
    changed = with_change_noted(replaced, before=client, now=now)
    needs_secret = accepted.auth_method.startswith("client_secret")
    if needs_secret and client.secret_hash is not None:
        return changed, None
    return _with_secret(changed)


async def delete(deployment: Deployment, request: Request) -> Response:
    """RFC 7592 §2.3 also ends its grants, tokens, and codes."""
    client, management_token = await _managed_client(deployment, request)
    now = deployment.now()
    async with deployment.database.transaction() as transaction:
        await grants.hold_client(transaction, client.id)
        client = await _with_token(transaction, client.id, management_token)  # which may have ended meanwhile
        ended = await clients.remove_client(transaction, client.id, now=now)
        if ended is None:
            raise TokenRefused("the client was removed")
        events = [_event("client.removed", client), *(grants.revocation_event(grant) for grant in ended)]
        await audit.append(transaction, *events, now=now)
    return WholeAnswer(HTTPStatus.NO_CONTENT, SECRET)


async def _managed_client(deployment: Deployment, request: Request) -> tuple[Client, str]:
    """The client in the path, if the management token belongs to it. The token is only accepted in the header."""
    scheme, management_token = read_authorization(request.headers)
    if scheme != "bearer":
        management_token = ""
    client_id = str(request.path_params["client_id"])
    return await _with_token(deployment.database, client_id, management_token), management_token


async def _with_token(reader: Reader, client_id: str, management_token: str) -> Client:
    client = await clients.get_client(reader, client_id)
    is_right = _is_secret(None if client is None else client.registration_hash, management_token)
    if client is None or not is_right:
        raise TokenRefused("the registration access token is another client's, or the client was removed")
    return client


def _is_secret(stored: bytes | None, given: str) -> bool:
    return hmac.compare_digest(stored or NOBODY, secret_hash(given)) and stored is not None


def _registration_answer(
    deployment: Deployment, client: Client, management_token: str, *, secret: str | None = None, status: int = 200
) -> Response:
    """RFC 7591 §3.2.1. A secret is shown once, and only if there is one: never as null."""
    content = public_members(client) | {
        "registration_access_token": management_token,
        "registration_client_uri": deployment.url(f"/register/{client.id}"),
    }
    if secret is not None:
        content |= {"client_secret": secret, "client_secret_expires_at": 0}
    return json_answer(content, status=status)


def _event(kind: str, client: Client) -> Event:
    return Event(
        kind=kind,
        client_id=client.id,
        details={"by": "registration", "name": client.name, "redirect_uris": shown_redirects(client)},
    )
