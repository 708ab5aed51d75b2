"""Client ID metadata documents: clients with the https address of a document about themselves as their ID.

Fetched through the guarded HTTP client and cached according to the cache headers (60 s to 24 h). Every failure looks
the same and takes the same time, so that nobody can use the vault to find open ports.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from providers.outbound.addresses import AddressPolicy
from providers.outbound.messages import HttpError, OutboundResponse
from server.deployment import Deployment
from server.http.addresses import counting_key
from server.http.strict_json import json_object
from server.oauth.clients.rules import accept, document_host_allowed, integer_member, shown_redirects, with_change_noted
from server.oauth.redirect_uris import is_loopback_redirect
from server.oauth.rules import OAuthError
from vault import clients, limits
from vault.audit import audit
from vault.records import DAY, HOUR, Client, ClientKind, Event

MAX_BYTES: Final = 5120
FETCH_TIME: Final = 3.0  # seconds, for success at most and for failure exactly
MIN_FRESH: Final = 60
MAX_FRESH: Final = DAY
DEFAULT_FRESH: Final = HOUR
_URL = re.compile(r"[A-Za-z0-9\-._~:/?\[\]!$&'()*+,;=%]{1,512}")
_DOTS = re.compile(r"(?:^|/)(?:\.|%2[Ee]){1,2}(?:/|$)")
_JSON_TYPE = re.compile(r"application/(?:[a-z0-9.+-]+\+)?json")
_MAX_AGE = re.compile(r"(?:^|[\s,])max-age=\"?([0-9]{1,9})")

_log = logging.getLogger("token_vault.oauth")


def is_document_url(url: str, *, allow_loopback: bool) -> bool:
    """Whether a client id may be fetched at all: https, a path, no user information, fragment or dot segments."""
    if not _URL.fullmatch(url):
        return False
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    if not parts.hostname or "@" in parts.netloc or port == 0 or len(parts.path) < 2 or _DOTS.search(parts.path):
        return False
    return url.startswith("https://") or (allow_loopback and is_loopback_redirect(url))


async def resolve(
    deployment: Deployment, client_id: str, *, address: str, must_be_fresh: bool, may_be_new: bool
) -> Client | None:
    """The client behind a document URL; None for every reason that prevents it.

    At the authorization endpoint, the document must be fresh. Elsewhere the client already has tokens or codes, which
    an outage of its web server must not invalidate, so a copy up to a day old is enough. `may_be_new`: the operator
    named this client, so it needn't have used the authorization endpoint before.
    """
    settings, now = deployment.settings, deployment.now()
    policy = AddressPolicy(allow_loopback=settings.sandbox.loopback_client_metadata)
    if not is_document_url(client_id, allow_loopback=policy.allow_loopback):
        return None
    known = await clients.get_client(deployment.database, client_id)
    if (
        known is None and not must_be_fresh and not may_be_new
    ):  # it never used the authorization endpoint, so it has no tokens or codes
        return None
    if known is not None and known.kind is not ClientKind.METADATA:
        return None
    if known is not None and now < (integer_member(known, "fresh_until") or 0):
        return known
    usable = None if known is None or must_be_fresh or not _is_recent(known, now) else known
    if usable is not None and usable.is_public:  # only its keys could matter now, and it has none
        return usable
    if not document_host_allowed(client_id, settings) or not await _may_fetch(deployment, address, now=now):
        return usable
    loop = asyncio.get_running_loop()
    started = loop.time()
    try:
        answer = await deployment.http.fetch_document(
            client_id, policy=policy, on_behalf_of=counting_key(address), max_bytes=MAX_BYTES, timeout=FETCH_TIME
        )
        found = _read(client_id, answer, known=known, deployment=deployment, now=now)
    except (HttpError, OAuthError, ValueError, RecursionError) as error:
        _log.info("client metadata document refused", extra={"cause": type(error).__name__, "detail": str(error)})
        await asyncio.sleep(started + FETCH_TIME - loop.time())
        return usable
    return await _store(deployment, found, known=known, now=now)


def _is_recent(client: Client, now: int) -> bool:
    return now - (integer_member(client, "fetched_at") or 0) <= MAX_FRESH


async def _may_fetch(deployment: Deployment, address: str, *, now: int) -> bool:
    registration = deployment.settings.registration
    async with deployment.database.transaction() as transaction:
        return await limits.spend(
            transaction,
            f"document:{counting_key(address)}",
            limit=registration.per_address_hourly,
            window=HOUR,
            now=now,
        ) and await limits.spend(transaction, "document", limit=registration.total_hourly, window=HOUR, now=now)


def _read(
    client_id: str, answer: OutboundResponse, *, known: Client | None, deployment: Deployment, now: int
) -> Client:
    """The client that the document describes. Raises OAuthError or ValueError."""
    content_type = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if answer.status != HTTPStatus.OK or not _JSON_TYPE.fullmatch(content_type):
        raise ValueError("the document isn't a JSON object")
    content = json_object(answer.body)
    if content.get("client_id") != client_id:
        raise ValueError("client_id isn't the document's own address")
    if not content.get("client_name"):
        raise ValueError("client_name is missing")
    if "client_secret" in content:
        raise ValueError("the document contains a secret, which everyone can read")
    accepted = accept(content, settings=deployment.settings, default_auth_method="none")
    if accepted.auth_method not in {"none", "private_key_jwt"}:
        raise ValueError("the document names an authentication method with a secret; use none or private_key_jwt")
    found = Client(
        id=client_id,
        kind=ClientKind.METADATA,
        name=accepted.name,
        auth_method=accepted.auth_method,
        redirect_uris=accepted.redirect_uris,
        grant_types=accepted.grant_types,
        created_at=now if known is None else known.created_at,
        last_used_at=None if known is None else known.last_used_at,
        metadata={**accepted.rest, "fetched_at": now, "fresh_until": now + freshness(answer.headers, now=now)},
    )
    return with_change_noted(found, before=known, now=now)


def freshness(headers: Mapping[str, str], *, now: int) -> int:
    """Seconds for which the document may be kept (RFC 9111 §4.2), within our limits."""
    control = headers.get("cache-control", "").lower()
    if "no-store" in control or "no-cache" in control:
        return MIN_FRESH
    found = _MAX_AGE.search(control)
    if found is not None:
        return min(max(int(found[1]), MIN_FRESH), MAX_FRESH)
    expires = headers.get("expires")
    if expires is None:
        return DEFAULT_FRESH
    try:
        return min(max(int(parsedate_to_datetime(expires).timestamp()) - now, MIN_FRESH), MAX_FRESH)
    except (ValueError, OverflowError):
        return MIN_FRESH  # RFC 9111 §5.3: an unreadable date means "already expired"


async def _store(deployment: Deployment, found: Client, *, known: Client | None, now: int) -> Client:
    async with deployment.database.transaction() as transaction:
        if known is not None:
            await clients.update_client(transaction, found)
            return found
        current = await clients.get_client(transaction, found.id)
        if current is not None:  # another request was first
            return current
        await clients.save_client(transaction, found)
        event = Event(
            kind="client.registered",
            client_id=found.id,
            details={"by": "metadata document", "name": found.name, "redirect_uris": shown_redirects(found)},
        )
        await audit.append(transaction, event, now=now)
    return replace(found)
