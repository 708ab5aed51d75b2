"""How a request to a token or revocation endpoint is written down for one provider. Pure.

Which parameters there are is OAuth's and `providers.oauth`'s business; here they get the provider's names, client
authentication and body format. Also the request that ends a token, whose form differs most.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode

from providers.provider import Provider

FORM = "application/x-www-form-urlencoded"
JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Written:
    """A request as it leaves."""

    method: str
    url: str = field(repr=False)  # may hold a token where the provider wants it there
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(repr=False)


def token_request(provider: Provider, url: str, parameters: Mapping[str, str]) -> Written:
    """A request to the token endpoint: with our client authentication, names and format of the provider's."""
    headers, credentials = _client(provider)
    fields = _renamed({**parameters, **credentials}, provider.rename.token)
    return _written("POST", url, headers, fields, form=provider.body)


def authorize_parameters(provider: Provider, parameters: Mapping[str, str]) -> Mapping[str, str]:
    """The parameters of the authorization request under the provider's names."""
    return _renamed(parameters, provider.rename.authorize)


def revoke_request(provider: Provider, url: str, kind: str, *, token: str) -> Written:
    """The request that ends this token; `kind` is `refresh_token` or `access_token`."""
    facts = provider.revoke
    url = url.replace("{client_id}", quote(provider.registration.client_id or "", safe=""))
    headers, fields = _client(provider) if facts.client_auth else (dict[str, str](), dict[str, str]())
    headers = {**provider_headers(provider), **headers}
    match facts.token_in:
        case "header":
            return _written(facts.method, url, {**headers, "Authorization": f"Bearer {token}"}, fields, form="form")
        case "path":
            return _written(facts.method, url.replace("{token}", quote(token, safe="")), headers, fields, form="form")
        case "query":
            return _written(facts.method, url, headers, {**fields, facts.param: token}, form="query")
        case "json":
            return _written(facts.method, url, headers, {**fields, facts.param: token}, form="json")
        case "form":
            hint = {"token_type_hint": kind} if facts.client_auth and facts.param == "token" else {}  # RFC 7009 §2.1
            return _written(facts.method, url, headers, {facts.param: token, **hint, **fields}, form="form")


def long_lived_url(provider: Provider, access_token: str) -> str | None:
    """The address that answers with a long-lived token for a fresh one; None where there is no such step."""
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
    return f"{step.url}?{urlencode(fields)}"


def provider_headers(provider: Provider) -> dict[str, str]:
    """The headers that every call of this provider's APIs carries."""
    client_id = provider.registration.client_id or ""
    return {name: value.replace("{client_id}", client_id) for name, value in provider.headers.items()}


def _client(provider: Provider) -> tuple[dict[str, str], dict[str, str]]:
    """Our client authentication, as headers and as parameters."""
    registration = provider.registration
    client_id, secret = registration.client_id or "", registration.client_secret or ""
    match provider.client_auth:
        case "client_secret_basic":
            return {"Authorization": _basic(client_id, secret)}, {}
        case "secret_as_user":
            return {"Authorization": _basic(secret, "")}, {}
        case "client_secret_post":
            return {}, {"client_id": client_id, "client_secret": secret}
        case "none":
            return {}, {"client_id": client_id}


def _basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def _renamed(parameters: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    """Under the provider's names; an empty name leaves the parameter out."""
    return {new: value for name, value in parameters.items() if (new := names.get(name, name))}


def _written(method: str, url: str, headers: Mapping[str, str], fields: Mapping[str, str], *, form: str) -> Written:
    accepting = {"Accept": JSON, **headers}
    if form == "query" or method == "GET":
        separator = "&" if "?" in url else "?"
        return Written(method, f"{url}{separator}{urlencode(fields)}" if fields else url, accepting, None)
    if form == "json":
        return Written(method, url, {**accepting, "Content-Type": JSON}, json.dumps(fields).encode())
    if not fields:
        return Written(method, url, accepting, b"" if method == "POST" else None)
    return Written(method, url, {**accepting, "Content-Type": FORM}, urlencode(fields).encode())
