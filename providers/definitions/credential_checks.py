"""Problems of a provider file whose accounts are connected by a credential that people enter. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from providers.definitions.credential import NAMES, SAFE_PART, Credential, CredentialField
from providers.definitions.model import Provider

_SHARED: Final = frozenset(
    {
        "name",
        "title",
        "credential",
        "aliases",
        "inputs",
        "headers",
        "expires",
        "revoke",
        "identity",
        "apis",
        "errors",
        "scopes",
        "scope",
        "query",
        "overrides",
        "rules",
        "rules_from",
        "unruled",
        "console",
        "facts",
        "sources",
        "live_tested",
        "proxied",
    }
)
# What the token endpoint of these differs in, as with OAuth.
_OF_TOKENS: Final = frozenset({"hosts", "client_auth", "body", "params", "rename", "response", "authorization"})
_UNDER_A_DOMAIN: Final = re.compile(r"\.[a-z0-9-]+\.[a-z0-9-]+$")
# Below these, anybody can have a name of their own; the commonest of the public suffix list.
_ANYBODYS: Final = frozenset(
    {"co.uk", "org.uk", "com.au", "co.jp", "com.br", "co.in", "co.nz", "co.za", "com.cn", "com.mx", "com.tr", "co.kr"}
    | {"github.io", "gitlab.io", "herokuapp.com", "netlify.app", "vercel.app", "pages.dev", "workers.dev", "web.app"}
    | {"firebaseapp.com", "azurewebsites.net", "cloudfront.net", "amazonaws.com", "appspot.com", "onrender.com"}
    | {"fly.dev", "ngrok.io", "ngrok.app", "myshopify.com", "blogspot.com", "run.app", "cloudapp.net", "repl.co"}
)
_RESERVED: Final = frozenset({"host", "cookie", "content-type", "content-length", "transfer-encoding", "connection"})


def credential_problems(provider: Provider) -> Iterator[str]:
    """Problems of the whole file, one line each."""
    credential = provider.credential
    if credential is None:
        return
    is_key = credential.kind == "key"
    for name in sorted(provider.model_fields_set - _SHARED - (frozenset[str]() if is_key else _OF_TOKENS)):
        yield f"{name}: doesn't work with credential.kind {credential.kind!r}; remove it"
    for name, field in credential.fields.items():
        yield from (f"credential.fields.{name}.{problem}" for problem in _field_problems(field))
        if name in provider.inputs:
            yield f"credential.fields.{name}: also an input; rename one of them"
    if not credential.secrets:
        yield "credential.fields: none of them is secret; a service without a secret needs no credential"
    yield from _sending_problems(provider, credential) if is_key else _client_problems(provider, credential)
    yield from _place_problems(provider, credential)
    if provider.console is None:
        yield "console: missing; name the page where people make the credential"
    if provider.revoke.probe.refresh_token is not None:
        yield "revoke.probe.refresh_token: a credential has none; leave it out"


def _field_problems(field: CredentialField) -> Iterator[str]:
    shape = field.shape
    if field.example and shape.fullmatch(field.example) is None:
        yield f"example: {field.example!r} doesn't match the pattern; correct it"
    if field.default and shape.fullmatch(field.default) is None:
        yield f"default: {field.default!r} doesn't match the pattern; correct it"
    if field.default and field.secret:
        yield "default: a secret has none; leave it out"
    if field.choices and (field.secret or any(shape.fullmatch(one) is None for one in field.choices)):
        yield "choices: are for what isn't secret, and each must match the pattern; correct them"


def _sending_problems(provider: Provider, credential: Credential) -> Iterator[str]:
    used: set[str] = set()
    for place, text in credential.send.templates:
        names = set(NAMES.findall(text))
        used |= names
        for name in sorted(names - credential.names):
            yield f"credential.send.{place}: {{{name}}} isn't a field; add it under credential.fields"
    unsent = sorted(set(credential.secrets) - used)
    if unsent:
        yield f"credential.send: the secret {unsent[0]!r} is sent nowhere; add it to headers, query, or basic"
    headers = {name.lower() for name in credential.send.headers}
    if credential.send.basic is not None and "authorization" in headers:
        yield "credential.send.basic: the header Authorization is there already; remove one of them"
    taken = headers & (_RESERVED | provider.proxied.headers | {name.lower() for name in provider.headers})
    if taken:
        yield f"credential.send.headers: {min(taken)!r} has another meaning; use the header that takes the credential"
    both = credential.send.query.keys() & provider.query
    if both:
        yield f"credential.send.query: {min(both)!r} is also under query; remove it there"


def _client_problems(provider: Provider, credential: Credential) -> Iterator[str]:
    if not {"client_id", "client_secret"} <= credential.fields.keys():
        yield "credential.fields: client_credentials needs client_id and client_secret; add them"
    if not provider.hosts.token_url:
        yield "hosts.token_url: missing; add it"
    for name in sorted(provider.hosts.model_fields_set - {"token_url"}):
        yield f"hosts.{name}: doesn't work with client_credentials; remove it"
    if next(credential.send.templates, None) is not None:
        yield "credential.send: these are exchanged for a token; say under authorization how that is sent"


def _place_problems(provider: Provider, credential: Credential) -> Iterator[str]:
    """A value that somebody enters must not choose whose host gets the credential."""
    addresses = [(f"apis.{key}", url) for key, url in provider.apis.items()]
    addresses += [("hosts.token_url", provider.hosts.token_url)] if provider.hosts.token_url else []
    addresses += [("identity.url", provider.identity.url)] if provider.identity.url else []
    if (path := provider.identity.path) is not None:
        for name in sorted(set(NAMES.findall(path)) - credential.public_names):
            yield f"identity.path: {{{name}}} isn't a field that may stand in an address; correct it"
    for where, url in addresses:
        for name in sorted(set(NAMES.findall(url)) & set(credential.secrets)):
            yield f"{where}: {{{name}}} is secret, and addresses are no secret; send it in a header"
        host = re.sub(r"^[a-z]+://|[/?#].*$", "", url)
        for name in sorted(set(NAMES.findall(host)) & credential.public_names):
            chosen = credential.fields.get(name)
            is_listed = chosen is not None and bool(chosen.choices)
            below = host.rpartition(f"{{{name}}}")[2]
            is_owned = _UNDER_A_DOMAIN.search(below) is not None and below.removeprefix(".") not in _ANYBODYS
            if not is_listed and not is_owned:
                yield f"{where}: {{{name}}} decides whose host that is; give it choices, or make it an input"


def fill_address(url: str, values: dict[str, str]) -> str:
    """The address with these values, each of which stays in its place. Raises ValueError for one that doesn't."""

    def fill(found: re.Match[str]) -> str:
        value = values.get(found[1], found[0])
        if value != found[0] and (SAFE_PART.fullmatch(value) is None or ".." in value):
            raise ValueError(found[1])
        return value

    return NAMES.sub(fill, url)


def example_values(credential: Credential) -> dict[str, str]:
    """A value for each part of an address, good enough to check it."""
    found: dict[str, str] = {}
    for name, field in credential.fields.items():
        value = field.example or field.default or next(iter(field.choices), "")
        matched = field.shape.fullmatch(value)
        if not field.secret:
            found[name] = value or name
        found |= {} if matched is None else {key: text for key, text in matched.groupdict().items() if text}
    return found
