"""How an MCP server of others authorizes its clients, found as the MCP authorization specification says.

Protected resource metadata (RFC 9728), authorization server metadata (RFC 8414, OpenID Connect Discovery), and a client
registered dynamically (RFC 7591) where no other way is left. Each address is checked before it is asked; no document
can name another server's resource, and one without PKCE is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
_WELL_KNOWN: Final = "/.well-known/oauth-protected-resource"
ClientAuth = Literal["client_secret_basic", "client_secret_post", "none"]
# The one first that works with most: servers made with the official SDK want the client ID in the form.
_METHODS: Final[tuple[ClientAuth, ...]] = ("client_secret_post", "client_secret_basic", "none")
_CLOSED: Final = frozenset({400, 401, 403})  # to somebody without a key


class AuthorizationUnknown(Exception):
    """The server can't stand behind the vault; one line that says why."""


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


@dataclass(frozen=True, slots=True)
class RemoteRegistration:
    """Our registration at the authorization server."""

    client_id: str
    client_secret: str | None = field(default=None, repr=False)
    client_auth: ClientAuth = "none"


async def find_authorization(
    url: str, outbound: Outbound, *, policy: AddressPolicy, issuer: str | None = None
) -> FoundAuthorization:
    """How this server authorizes; `issuer`: the authorization server that the operator trusts with it.

    A server that names one of somebody else's would get a token of theirs. Raises AuthorizationUnknown.
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
    """Whether whoever has the server's host has the issuer's, too."""
    asked, found = urlsplit(url).hostname or "", urlsplit(issuer).hostname or ""
    return found == asked or found.endswith(f".{asked}")


async def _open_session(url: str, outbound: Outbound, policy: AddressPolicy) -> OutboundResponse:
    """What the server answers to somebody without a token who begins. Raises AuthorizationUnknown."""
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
    """The challenge with which the server answers somebody without a token."""
    answer = await _open_session(url, outbound, policy)
    if answer.status == 401:
        return challenge(answer.headers.get("www-authenticate", ""))
    if answer.status < 300:
        raise AuthorizationUnknown("it asks for no sign-in; add it as an open server (--open), or with --key-header")
    if answer.status < 400:
        raise AuthorizationUnknown("it redirects; use the address that it redirects to")
    raise AuthorizationUnknown(f"no MCP server that asks for sign-in answers there (status {answer.status})")


async def check_without_oauth(
    url: str, credential: RemoteCredential, outbound: Outbound, *, policy: AddressPolicy
) -> None:
    """That a server answers, and where it is said to be open, to everybody. Raises AuthorizationUnknown."""
    answer = await _open_session(url, outbound, policy)
    if answer.status < 300 or (answer.status in _CLOSED and not credential.is_open):
        return
    if answer.status == 400:
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
    """RFC 9728 §3: at the address that the challenge names, else for this path, else for the origin."""
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
        content = answer.json_object() if answer.status == 200 else None
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
    """Whether tokens for this resource are for the server at this URL: the same origin, and the path or one above."""
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
    facts = RemoteAuthorization(
        authorize_url=server.authorize_url,
        token_url=server.token_url,
        resource=text_at(resource, "resource") or url,
        revoke_url=text_at(metadata, "revocation_endpoint"),
        issuer=server.answers_as,
        scopes=tuple(scopes),
        more=tuple(more),
        has_offline="offline_access" in (*text_list(metadata, "scopes_supported"), *supported),
    )
    return FoundAuthorization(
        server.issuer,
        facts,
        registration_url=text_at(metadata, "registration_endpoint"),
        takes_documents=at(metadata, "client_id_metadata_document_supported") is True,
        methods=tuple(one for one in _METHODS if one in server.auth_methods),
    )


def _is_scope(scope: str) -> bool:
    return (
        is_foreign_scope(scope) and len(scope) <= 200 and scope.isascii() and scope.isprintable() and '"' not in scope
    )


async def _post(
    outbound: Outbound, url: str, content: Mapping[str, object], *, accept: str, policy: AddressPolicy
) -> OutboundResponse:
    """POST JSON to a stranger's address. Raises HttpError."""
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
    """Who the vault is to an authorization server (RFC 7591 §2)."""
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
    """Register the vault dynamically (RFC 7591 §3), publicly where a secret would end. Raises AuthorizationUnknown."""
    wanted: ClientAuth = found.methods[0] if found.methods else "none"
    content = await _ask_to_register(found, redirect_uri, wanted, outbound, policy)
    if wanted != "none" and "none" in found.methods and _ends(content):
        wanted = "none"
        content = await _ask_to_register(found, redirect_uri, wanted, outbound, policy)
    return _read_registration(content, wanted)


def _ends(content: Mapping[str, object]) -> bool:
    """Whether the secret is for a time only (RFC 7591 §3.2.1)."""
    end = at(content, "client_secret_expires_at")
    return isinstance(end, int) and end > 0


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
    if answer.status not in (200, 201) or content is None:
        raise AuthorizationUnknown(f"its authorization server refused to register the vault (status {answer.status})")
    return content


def _read_registration(content: Mapping[str, object], wanted: ClientAuth) -> RemoteRegistration:
    client_id, secret = text_at(content, "client_id"), text_at(content, "client_secret")
    said = text_at(content, "token_endpoint_auth_method") or wanted
    method: ClientAuth | None = next((one for one in _METHODS if one == said), None)
    if client_id is None or not client_id.isprintable() or len(client_id) > 2000:
        raise AuthorizationUnknown("its authorization server registered the vault without a client ID")
    if method is None or (method != "none" and secret is None):
        raise AuthorizationUnknown("its authorization server wants a client authentication that the vault doesn't have")
    if method != "none" and _ends(content):
        raise AuthorizationUnknown(
            "its authorization server registers clients for a time only; register one there yourself, and add the "
            "server with its client ID (--client-id)"
        )
    return RemoteRegistration(client_id, None if method == "none" else secret, method)
