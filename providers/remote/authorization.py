"""How another MCP server authorizes its clients, discovered according to the MCP authorization specification.

Protected resource metadata (RFC 9728), authorization server metadata (RFC 8414, OpenID Connect Discovery), and, as a
last resort, a dynamically registered client (RFC 7591). Each address is checked before it is requested; no document can
name another server's resource, and a server without PKCE is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Final, Literal
from urllib.parse import urlsplit

from mcp_types import LATEST_PROTOCOL_VERSION

from providers.definitions.issuers import IssuerFacts, NoMetadata, fetch_metadata, read_server
from providers.definitions.remote import RemoteAuthorization, RemoteCredential, is_foreign_scope, scopes_without_offline
from providers.outbound.addresses import AddressPolicy, url_problem
from providers.outbound.client import Outbound
from providers.outbound.json_values import at, text_at, text_list
from providers.outbound.messages import HttpError, OutboundRequest, OutboundResponse
from providers.remote.session import challenge

_LIMIT: Final = 256 * 1024  # bytes of a document
_TIMEOUT: Final = 10.0
_SCOPES: Final = 100
_ACCEPT: Final = "application/json, text/event-stream"
_LONGEST_ID: Final = 2000  # characters, also of an address
_LAST_SECOND: Final = 253_402_300_799  # of the year 9999
# RFC 7592 §2.2: an update leaves these out
_NOT_SENT: Final = frozenset(
    {"registration_access_token", "registration_client_uri", "client_secret_expires_at", "client_id_issued_at"}
)
_WELL_KNOWN: Final = "/.well-known/oauth-protected-resource"
ClientAuth = Literal["client_secret_basic", "client_secret_post", "none"]
# The most widely supported method first: servers built with the official SDK want the client ID in the form.
_METHODS: Final[tuple[ClientAuth, ...]] = ("client_secret_post", "client_secret_basic", "none")
# Answers, to a request without a key, of a server that requires one
_CLOSED: Final = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})


class AuthorizationUnknown(Exception):
    """The server can't be used behind the vault; one line with the reason."""


@dataclass(frozen=True, slots=True)
class FoundAuthorization:
    """What the server and its authorization server publish.

    `takes_documents`: a client ID may be the address of a metadata document.
    """

    issuer: str
    facts: RemoteAuthorization
    registration_url: str | None
    takes_documents: bool
    methods: tuple[ClientAuth, ...]
    says_methods: bool = True  # otherwise `methods` is the default of RFC 8414 §2

    @property
    def may_be_public(self) -> bool:
        """Whether a client without a secret may be accepted there: many servers don't announce it, but accept one."""
        return "none" in self.methods or not self.says_methods


@dataclass(frozen=True, slots=True)
class RemoteRegistration:
    """Our registration at the authorization server."""

    client_id: str
    client_secret: str | None = field(default=None, repr=False)
    client_auth: ClientAuth = "none"
    ends_at: int | None = None  # of the secret
    management_url: str = ""  # RFC 7592
    management_token: str = field(default="", repr=False)


async def find_authorization(
    url: str, outbound: Outbound, *, policy: AddressPolicy, issuer: str | None = None
) -> FoundAuthorization:
    """How this server authorizes; `issuer`: the authorization server that the operator trusts with it.

    A server that names someone else's authorization server would get a token of theirs. Raises AuthorizationUnknown.
    """
    said = await _ask_without_token(url, outbound, policy)
    resource = await _resource_metadata(url, said.get("resource_metadata"), outbound, policy)
    origin = "{0.scheme}://{0.netloc}".format(urlsplit(url))
    issuers = text_list(resource, "authorization_servers") if resource is not None else [origin]
    if not issuers:
        raise AuthorizationUnknown("its metadata names no authorization server")
    if issuer is not None and issuer not in issuers:
        named = ", ".join(issuers[:5])
        raise AuthorizationUnknown(f"its authorization server isn't {issuer}, but one of: {named}")
    is_trusted, issuer = issuer is not None, issuer or issuers[0]
    if problem := url_problem(issuer, policy):
        raise AuthorizationUnknown(f"its authorization server can't be asked: {problem}")
    try:
        metadata = await fetch_metadata(issuer, outbound, policy=policy)
        server = read_server(metadata)
    except NoMetadata as error:
        raise AuthorizationUnknown(
            f"its authorization server {issuer} publishes no usable metadata: {error}"
        ) from error
    listed = text_list(metadata, "protected_resources")  # RFC 9728 §4
    name = text_at(resource or {}, "resource") or url
    if listed and name not in listed:
        raise AuthorizationUnknown(f"its authorization server {issuer} doesn't know it")
    if not (is_trusted or listed or _is_at_or_below(issuer, url)):
        raise AuthorizationUnknown(
            f"people would sign in at {issuer}, which is at another host; if that belongs to the server, add it with "
            f"--issuer {issuer}"
        )
    return _read(url, server, metadata, resource or {}, wanted=said.get("scope"))


def _is_at_or_below(issuer: str, url: str) -> bool:
    """Whether the owner of the server's host also owns the issuer's."""
    asked, found = urlsplit(url).hostname or "", urlsplit(issuer).hostname or ""
    return found == asked or found.endswith(f".{asked}")


async def _open_session(url: str, outbound: Outbound, policy: AddressPolicy) -> OutboundResponse:
    """The server's answer to `initialize` without a token. Raises AuthorizationUnknown."""
    opening = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": LATEST_PROTOCOL_VERSION,
            "capabilities": {},
            "clientInfo": {"name": "token-vault", "version": "1"},
        },
    }
    try:
        return await _post(outbound, url, opening, accept=_ACCEPT, policy=policy)
    except HttpError as error:
        raise AuthorizationUnknown(f"it can't be asked: {error.reason}") from error


async def _ask_without_token(url: str, outbound: Outbound, policy: AddressPolicy) -> Mapping[str, str]:
    """The server's challenge to a request without a token."""
    answer = await _open_session(url, outbound, policy)
    if answer.status == HTTPStatus.UNAUTHORIZED:
        return challenge(answer.headers.get("www-authenticate", ""))
    if answer.status < 300:
        raise AuthorizationUnknown("it asks for no sign-in; add it as an open server (--open), or with --key-header")
    if answer.status < 400:
        raise AuthorizationUnknown("it redirects; use the address that it redirects to")
    raise AuthorizationUnknown(f"no MCP server that asks for sign-in answers there (status {answer.status})")


async def check_without_oauth(
    url: str, credential: RemoteCredential, outbound: Outbound, *, policy: AddressPolicy
) -> None:
    """Check that a server answers and, if it is declared open, that it answers everyone. Raises
    AuthorizationUnknown."""
    answer = await _open_session(url, outbound, policy)
    if answer.status < 300 or (answer.status in _CLOSED and not credential.is_open):
        return
    if answer.status == HTTPStatus.BAD_REQUEST:
        raise AuthorizationUnknown("it refuses to begin a session (status 400), so it can't be used as an open server")
    if answer.status in _CLOSED:
        raise AuthorizationUnknown(
            "it asks for a credential, so it isn't open; name the header of its key (--key-header)"
        )
    if 300 <= answer.status < 400:
        raise AuthorizationUnknown("it redirects; use the address that it redirects to")
    raise AuthorizationUnknown(f"no MCP server answers there (status {answer.status})")


async def _resource_metadata(
    url: str, named: str | None, outbound: Outbound, policy: AddressPolicy
) -> Mapping[str, object] | None:
    """RFC 9728 §3: from the address in the challenge, otherwise for this path, otherwise for the origin."""
    parts = urlsplit(url)
    origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    places = [named] if named else [f"{origin}{_WELL_KNOWN}{path}", f"{origin}{_WELL_KNOWN}"]
    for place in dict.fromkeys(places):
        try:
            answer = await outbound.fetch_document(
                place, policy=policy, on_behalf_of=None, max_bytes=_LIMIT, timeout=_TIMEOUT
            )
        except HttpError as error:
            raise AuthorizationUnknown(f"its metadata can't be read: {error.reason}") from error
        content = answer.json_object() if answer.status == HTTPStatus.OK else None
        if content is None:
            continue
        resource = text_at(content, "resource")
        if resource is None or not _is_within(url, resource):
            raise AuthorizationUnknown("its metadata is that of another resource")
        return content
    if named:
        raise AuthorizationUnknown("the metadata that it names isn't there")
    return None


def _is_within(url: str, resource: str) -> bool:
    """Whether tokens for this resource are for the server at this URL: the same origin, and the same path or a
    parent."""
    asked, said = urlsplit(url), urlsplit(resource)
    if (asked.scheme, asked.netloc.lower()) != (said.scheme, said.netloc.lower()) or said.query or said.fragment:
        return False
    above = said.path.rstrip("/")
    return asked.path.rstrip("/") == above or asked.path.startswith(f"{above}/")


def _read(
    url: str,
    server: IssuerFacts,
    metadata: Mapping[str, object],
    resource: Mapping[str, object],
    *,
    wanted: str | None,
) -> FoundAuthorization:
    if "S256" not in text_list(metadata, "code_challenge_methods_supported"):
        raise AuthorizationUnknown(f"its authorization server {server.issuer} doesn't say that it supports PKCE (S256)")
    supported = text_list(resource, "scopes_supported")
    asked = wanted.split() if wanted else supported
    scopes = [one for one in scopes_without_offline(asked) if _is_scope(one)][:_SCOPES]
    more = [one for one in scopes_without_offline(supported) if _is_scope(one) and one not in scopes][:_SCOPES]
    said = text_list(metadata, "token_endpoint_auth_methods_supported")
    facts = RemoteAuthorization(
        authorize_url=server.authorize_url,
        token_url=server.token_url,
        resource=text_at(resource, "resource") or url,
        revoke_url=text_at(metadata, "revocation_endpoint"),
        issuer=server.answers_as,
        scopes=tuple(scopes),
        more=tuple(more),
        has_offline="offline_access" in (*text_list(metadata, "scopes_supported"), *supported),
        authorization_server=server.issuer,
    )
    return FoundAuthorization(
        server.issuer,
        facts,
        registration_url=text_at(metadata, "registration_endpoint"),
        takes_documents=at(metadata, "client_id_metadata_document_supported") is True,
        methods=tuple(one for one in _METHODS if one in server.auth_methods),
        says_methods=bool(said),
    )


def _is_scope(scope: str) -> bool:
    return (
        is_foreign_scope(scope) and len(scope) <= 200 and scope.isascii() and scope.isprintable() and '"' not in scope
    )


async def _post(
    outbound: Outbound, url: str, content: Mapping[str, object], *, accept: str, policy: AddressPolicy
) -> OutboundResponse:
    """POST JSON to a third party's address. Raises HttpError."""
    request = OutboundRequest(
        "POST",
        url,
        headers={"Accept": accept, "Content-Type": "application/json"},
        body=json.dumps(content).encode(),
        timeout=_TIMEOUT,
        max_bytes=_LIMIT,
        policy=policy,
        peer="own documents",
        reuse=False,
    )
    return await outbound.send(request)


def client_metadata(redirect_uri: str, *, auth: ClientAuth, scopes: Sequence[str]) -> Mapping[str, object]:
    """The vault's client metadata for an authorization server (RFC 7591 §2)."""
    about: dict[str, object] = {
        "client_name": "Token Vault",
        "redirect_uris": [redirect_uri],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": auth,
    }
    return {**about, "scope": " ".join(scopes)} if scopes else about


async def register(
    found: FoundAuthorization, redirect_uri: str, outbound: Outbound, *, policy: AddressPolicy
) -> RemoteRegistration:
    """Register the vault dynamically (RFC 7591 §3), as a public client if a secret would expire. Raises
    AuthorizationUnknown."""
    wanted: ClientAuth = found.methods[0] if found.methods else "none"
    content = await _ask_to_register(found, redirect_uri, wanted, outbound, policy)
    if wanted != "none" and found.may_be_public and _end_of(content) is not None:
        try:
            as_public = await _ask_to_register(found, redirect_uri, "none", outbound, policy)
            public = _read_registration(as_public, "none", policy=policy, at=found.registration_url or "")
        except AuthorizationUnknown:
            if found.says_methods:
                raise
        else:
            with suppress(AuthorizationUnknown):
                unused = _read_registration(content, wanted, policy=policy, at=found.registration_url or "")
                await end_registration(unused, outbound, policy=policy)
            return public
    return _read_registration(content, wanted, policy=policy, at=found.registration_url or "")


def _end_of(content: Mapping[str, object]) -> int | None:
    """When the secret expires, if it does (RFC 7591 §3.2.1)."""
    end = at(content, "client_secret_expires_at")
    if isinstance(end, bool) or not isinstance(end, int | float) or not end > 0:
        return None
    return int(min(end, _LAST_SECOND))


async def _ask_to_register(
    found: FoundAuthorization, redirect_uri: str, wanted: ClientAuth, outbound: Outbound, policy: AddressPolicy
) -> Mapping[str, object]:
    facts = found.facts
    scopes = [*facts.scopes, *facts.more, *(["offline_access"] if facts.has_offline and facts.scopes else [])]
    metadata = client_metadata(redirect_uri, auth=wanted, scopes=scopes)
    try:
        answer = await _post(outbound, found.registration_url or "", metadata, accept="application/json", policy=policy)
    except HttpError as error:
        raise AuthorizationUnknown(f"the vault can't be registered there: {error.reason}") from error
    content = answer.json_object()
    if answer.status not in (HTTPStatus.OK, HTTPStatus.CREATED) or content is None:
        raise AuthorizationUnknown(f"its authorization server refused to register the vault (status {answer.status})")
    return content


def _read_registration(
    content: Mapping[str, object], wanted: ClientAuth, *, policy: AddressPolicy, at: str
) -> RemoteRegistration:
    """Our client; `at`: where it was registered. Only that origin is asked to renew it."""
    client_id, secret = text_at(content, "client_id"), text_at(content, "client_secret")
    said = text_at(content, "token_endpoint_auth_method") or wanted
    method: ClientAuth | None = next((one for one in _METHODS if one == said), None)
    if client_id is None or not client_id.isprintable() or len(client_id) > _LONGEST_ID:
        raise AuthorizationUnknown("its authorization server registered the vault without a client ID")
    if method is None or (method != "none" and secret is None):
        raise AuthorizationUnknown("its authorization server wants a client authentication that the vault doesn't have")
    url, token = text_at(content, "registration_client_uri") or "", text_at(content, "registration_access_token") or ""
    if not _can_manage(url, token, policy=policy, registered_at=at):
        url = token = ""
    if method == "none":
        return RemoteRegistration(client_id, None, "none", None, url, token)
    return RemoteRegistration(client_id, secret, method, _end_of(content), url, token)


def _can_manage(url: str, token: str, *, policy: AddressPolicy, registered_at: str) -> bool:
    there, here = urlsplit(url), urlsplit(registered_at)
    is_there = (there.scheme, there.netloc.lower()) == (here.scheme, here.netloc.lower())
    return (
        is_there
        and len(url) <= _LONGEST_ID
        and " " not in url
        and url_problem(url, policy) is None
        and re.fullmatch(r"[!-~]{1,4000}", token) is not None
    )


@dataclass(frozen=True, slots=True)
class ShownClient:
    """Our client as its server now shows it; the server's changes apply from then on. `metadata`: the content of an
    update."""

    client: RemoteRegistration
    metadata: Mapping[str, object] = field(repr=False)


def is_longer(client: RemoteRegistration, known: RemoteRegistration) -> bool:
    """Whether its secret expires later than the known one, or never."""
    return known.ends_at is not None and (client.ends_at is None or client.ends_at > known.ends_at)


async def read_client(known: RemoteRegistration, outbound: Outbound, *, policy: AddressPolicy) -> ShownClient | None:
    """Our client there (RFC 7592 §2.1); None if it can't be read. Raises AuthorizationUnknown if no one answers. Some
    servers change the secret or the token when it is read: store both before the next request. A later expiry without a
    secret says nothing about the secret that the vault has.
    """
    content = await _manage("GET", known, None, outbound, policy)
    client = None if content is None else _client_after(content, known, policy)
    if content is None or client is None:
        return None
    if text_at(content, "client_secret") is None:
        client = replace(client, ends_at=known.ends_at)
    kept = {name: value for name, value in content.items() if name not in _NOT_SENT}
    return ShownClient(client, {**kept, "client_id": known.client_id})


async def update_client(shown: ShownClient, outbound: Outbound, *, policy: AddressPolicy) -> RemoteRegistration | None:
    """The same client, updated so that its server issues a new secret (RFC 7592 §2.2); None if it refuses.

    Raises AuthorizationUnknown if no one answers.
    """
    content = await _manage("PUT", shown.client, shown.metadata, outbound, policy)
    return None if content is None else _client_after(content, shown.client, policy)


async def end_registration(known: RemoteRegistration, outbound: Outbound, *, policy: AddressPolicy) -> None:
    """Delete this client at the server (RFC 7592 §2.3). Raises AuthorizationUnknown."""
    if known.management_url:
        await _manage("DELETE", known, None, outbound, policy)


def _client_after(
    content: Mapping[str, object], known: RemoteRegistration, policy: AddressPolicy
) -> RemoteRegistration | None:
    """The client in this answer; missing values, including the secret's expiry, stay unchanged."""
    if text_at(content, "client_id") != known.client_id:
        return None
    whole = {
        "client_secret": known.client_secret,
        "registration_client_uri": known.management_url,
        "registration_access_token": known.management_token,
        **{name: value for name, value in content.items() if value is not None},
    }
    found = _read_registration(whole, known.client_auth, policy=policy, at=known.management_url)
    if found.client_auth != known.client_auth:
        return None
    never_ends = at(content, "client_secret_expires_at") == 0 and text_at(content, "client_secret") is not None
    return found if found.ends_at is not None or never_ends else replace(found, ends_at=known.ends_at)


async def _manage(
    method: str,
    known: RemoteRegistration,
    content: Mapping[str, object] | None,
    outbound: Outbound,
    policy: AddressPolicy,
) -> Mapping[str, object] | None:
    """The answer of the client configuration endpoint; None if it refuses."""
    headers = {"Accept": "application/json", "Authorization": f"Bearer {known.management_token}"}
    if content is not None:
        headers["Content-Type"] = "application/json"
    request = OutboundRequest(
        method,
        known.management_url,
        headers=headers,
        body=None if content is None else json.dumps(content).encode(),
        timeout=_TIMEOUT,
        max_bytes=_LIMIT,
        policy=policy,
        peer="own documents",
        reuse=False,
    )
    try:
        answer = await outbound.send(request)
    except HttpError as error:
        raise AuthorizationUnknown(f"its authorization server can't be asked: {error.reason}") from error
    if answer.status >= 500 or answer.status == HTTPStatus.TOO_MANY_REQUESTS:
        raise AuthorizationUnknown(f"its authorization server can't be asked now (status {answer.status})")
    return answer.json_object() if answer.status == HTTPStatus.OK else None
