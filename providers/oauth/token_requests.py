"""Writes requests to a provider's token or revocation endpoint. Pure.

OAuth and `providers.oauth.client` determine the parameters; this module applies the provider's names, client
authentication and body format. It also writes the request that ends a token, whose form differs most.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode

from providers.definitions.model import Provider

FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"


@dataclass(frozen=True, slots=True)
class TokenRequestBytes:
    """A request as it is sent."""

    method: str
    url: str = field(repr=False)  # may contain a token if the provider wants it there
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(repr=False)


Fields = Mapping[str, str | list[str]]


def token_request(provider: Provider, url: str, parameters: Fields) -> TokenRequestBytes:
    """A request to the token endpoint, with our client authentication and the provider's names and format."""
    headers, credentials = _client(provider, provider.client_auth)
    fields = _rename({**parameters, **credentials}, provider.rename.token)
    return _write("POST", url, headers, fields, form=provider.body)


def assertion_request(provider: Provider, url: str, assertion: str) -> TokenRequestBytes:
    """RFC 7523 §2.1: the assertion identifies the client, so there is no client authentication."""
    parameters = {"grant_type": JWT_BEARER, **provider.params.token, "assertion": assertion}
    return _write("POST", url, {"Accept": JSON}, _rename(parameters, provider.rename.token), form=provider.body)


def narrowing_parameter(provider: Provider, scopes: frozenset[str]) -> Fields:
    """The parameter that limits a refresh to these scopes, plus the scope that requests another refresh token, if
    any."""
    asked = sorted(scopes | provider.scope.offline)
    facts = provider.downscope
    return {facts.param: asked if facts.array else provider.scope.separator.join(asked)}


def native_request(provider: Provider, url: str, fields: Mapping[str, object]) -> TokenRequestBytes:
    """A JSON request to a proprietary endpoint, authenticated with Basic."""
    registration = provider.registration
    client_id, secret = registration.client_id or "", registration.client_secret or ""
    headers = {**provider.headers, "Authorization": _basic(client_id, secret), "Content-Type": JSON}
    address = url.replace("{client_id}", quote(client_id, safe=""))
    return TokenRequestBytes("POST", address, {"Accept": JSON, **headers}, json.dumps(fields).encode())


def deauthorize_request(provider: Provider, url: str, *, account: str) -> TokenRequestBytes:
    """The request that ends our app's access to this account, by the account's ID."""
    facts = provider.revoke
    headers, fields = _revoker(provider)
    named = {"client_id": provider.registration.client_id or "", **fields, facts.account or "account": account}
    return _write(facts.method, url, headers, named, form="json" if facts.token_in == "json" else "form")


def _revoker(provider: Provider) -> tuple[dict[str, str], dict[str, str]]:
    """The client authentication for ending a grant, as headers and as parameters."""
    facts = provider.revoke
    ways = provider.client_auth if facts.client_auth is True else facts.client_auth
    headers, fields = _client(provider, ways) if ways else (dict[str, str](), dict[str, str]())
    return {**provider.headers, **headers}, fields


def revoke_request(provider: Provider, url: str, kind: str, *, token: str) -> TokenRequestBytes:
    """The request that ends this token; `kind` is `refresh_token` or `access_token`."""
    facts = provider.revoke
    url = url.replace("{client_id}", quote(provider.registration.client_id or "", safe=""))
    headers, fields = _revoker(provider)
    match facts.token_in:
        case "header":
            return _write(facts.method, url, {**headers, **provider.authorize(token)}, fields, form="form")
        case "header_and_form":
            both = {**headers, **provider.authorize(token)}
            return _write(facts.method, url, both, {**fields, facts.param: token}, form="form")
        case "path":
            return _write(facts.method, url.replace("{token}", quote(token, safe="")), headers, fields, form="form")
        case "query":
            return _write(facts.method, url, headers, {**fields, facts.param: token}, form="query")
        case "json":
            return _write(facts.method, url, headers, {**fields, facts.param: token}, form="json")
        case "form":
            hint = {"token_type_hint": kind} if facts.client_auth and facts.param == "token" else {}  # RFC 7009 §2.1
            return _write(facts.method, url, headers, {facts.param: token, **hint, **fields}, form="form")


def identity_request(provider: Provider, access_token: str) -> TokenRequestBytes:
    """The request for the account behind an access token."""
    identity = provider.identity
    headers, body = {"Accept": JSON, **provider.headers, **provider.authorize(access_token)}, None
    if identity.body is not None:
        headers["Content-Type"], body = JSON, identity.body.encode()
    elif identity.method == "POST":
        headers["Content-Type"] = FORM
    return TokenRequestBytes(identity.method, provider.identity_url, headers, body)


def introspection_request(provider: Provider, url: str, kind: str, *, token: str) -> TokenRequestBytes:
    """The question whether this token is active (RFC 7662 §2.1)."""
    headers, fields = _client(provider, provider.client_auth)
    return _write("POST", url, headers, {"token": token, "token_type_hint": kind, **fields}, form="form")


def long_lived_url(provider: Provider, access_token: str) -> str | None:
    """The address that returns a long-lived token for a new one; None if there is no such step."""
    step = provider.long_lived
    if step is None:
        return None
    registration = provider.registration
    fields = {
        "grant_type": step.grant_type,
        "client_id": registration.client_id or "",
        "client_secret": registration.client_secret or "",
        step.token_param: access_token,
    }
    return f"{step.url}?{urlencode(fields, doseq=True)}"


def renewal_request(provider: Provider, access_token: str) -> TokenRequestBytes:
    """The request that exchanges a long-lived access token for a new one."""
    step = provider.long_lived
    token = {} if step is None else {step.token_param: access_token}
    return _write("GET", provider.hosts.refresh_url or "", {}, {**provider.params.refresh, **token}, form="query")


def _client(provider: Provider, ways: str) -> tuple[dict[str, str], dict[str, str]]:
    """Our client authentication, as headers and as parameters."""
    registration = provider.registration
    client_id, secret = registration.client_id or "", registration.client_secret or ""
    match ways:
        case "client_secret_basic":
            return {"Authorization": _basic(client_id, secret)}, {}
        case "secret_as_user":
            return {"Authorization": _basic(secret, "")}, {}
        case "client_header":
            return {"Authorization": f"Client {secret}"}, {"client_id": client_id}
        case "client_secret_post":
            return {}, {"client_id": client_id, "client_secret": secret}
        case _:
            return {}, {"client_id": client_id}


def _basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def _rename(parameters: Fields, names: Mapping[str, str]) -> Fields:
    """Rename to the provider's names; an empty name omits the parameter."""
    return {new: value for name, value in parameters.items() if (new := names.get(name, name))}


def _write(method: str, url: str, headers: Mapping[str, str], fields: Fields, *, form: str) -> TokenRequestBytes:
    accepting = {"Accept": JSON, **headers}
    if form == "query" or method == "GET":
        separator = "&" if "?" in url else "?"
        return TokenRequestBytes(
            method, f"{url}{separator}{urlencode(fields, doseq=True)}" if fields else url, accepting, None
        )
    if form == "json":
        return TokenRequestBytes(method, url, {**accepting, "Content-Type": JSON}, json.dumps(fields).encode())
    if not fields:
        return TokenRequestBytes(method, url, accepting, b"" if method == "POST" else None)
    return TokenRequestBytes(method, url, {**accepting, "Content-Type": FORM}, urlencode(fields, doseq=True).encode())
