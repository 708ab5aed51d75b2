"""Problems of a provider file whose accounts are connected by a credential that people enter. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from providers.definitions.credential import NAMES, SAFE_PART, Credential, CredentialField
from providers.definitions.model import Provider
from providers.definitions.session import REFRESH_TOKEN, TOKEN
from providers.definitions.signed_token import COMPUTED
from vault.upstream import Downscope

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
        "masked",
        "nested_names",
        "retired",
    }
)
# How the token endpoint of these differs, as with OAuth.
_OF_TOKENS: Final = frozenset({"hosts", "client_auth", "body", "params", "rename", "response", "authorization"})
# With a signed token also how the service narrows the tokens that it issues.
_OF_SIGNED_TOKENS: Final = _OF_TOKENS | {"downscope"}
_UNDER_A_DOMAIN: Final = re.compile(r"\.[a-z0-9-]+\.[a-z0-9-]+$")
# Anyone can register a name below these; the most common entries of the public suffix list.
_ANYBODYS: Final = frozenset(
    {"co.uk", "org.uk", "com.au", "co.jp", "com.br", "co.in", "co.nz", "co.za", "com.cn", "com.mx", "com.tr", "co.kr"}
    | {"github.io", "gitlab.io", "herokuapp.com", "netlify.app", "vercel.app", "pages.dev", "workers.dev", "web.app"}
    | {"firebaseapp.com", "azurewebsites.net", "cloudfront.net", "amazonaws.com", "appspot.com", "onrender.com"}
    | {"fly.dev", "ngrok.io", "ngrok.app", "myshopify.com", "blogspot.com", "run.app", "cloudapp.net", "repl.co"}
)
_RESERVED: Final = frozenset({"host", "cookie", "content-type", "content-length", "transfer-encoding", "connection"})


def credential_problems(provider: Provider) -> Iterator[str]:
    """Problems of the whole file, one line each; none for someone else's MCP server, which has no file."""
    credential = provider.credential
    if credential is None or provider.is_remote:
        return
    allowed = {
        "key": frozenset[str](),
        "client_credentials": _OF_TOKENS,
        "signed_token": _OF_SIGNED_TOKENS,
        "session": _OF_TOKENS - {"client_auth", "params", "rename"},
    }
    for name in sorted(provider.model_fields_set - _SHARED - allowed[credential.kind]):
        yield f"{name}: doesn't work with credential.kind {credential.kind!r}; remove it"
    for name, field in credential.fields.items():
        yield from (f"credential.fields.{name}.{problem}" for problem in _field_problems(field))
        if name in provider.inputs:
            yield f"credential.fields.{name}: also an input; rename one of them"
        if field.many and credential.kind != "key":
            yield f"credential.fields.{name}.many: doesn't work with credential.kind {credential.kind!r}; remove it"
    if not credential.secrets:
        yield "credential.fields: none of them is secret; a service without a secret needs no credential"
    match credential.kind:
        case "key":
            yield from _sending_problems(provider, credential)
        case "client_credentials":
            yield from _client_problems(provider, credential)
        case "signed_token":
            yield from _signing_problems(provider, credential)
        case "session":
            yield from _session_problems(provider, credential)
    if (credential.signed_token is None) == (credential.kind == "signed_token"):
        yield "credential.signed_token: belongs to kind signed_token; give both or neither"
    if (credential.session is None) == (credential.kind == "session"):
        yield "credential.session: belongs to kind session; give both or neither"
    yield from _place_problems(provider, credential)
    if provider.console is None:
        yield "console: missing; name the page where people make the credential"
    if provider.revoke.probe.refresh_token is not None:
        yield "revoke.probe.refresh_token: a credential has none; leave it out"


def _field_problems(field: CredentialField) -> Iterator[str]:
    shape = field.shape
    if field.example and any(shape.fullmatch(one) is None for one in field.parts(field.example)):
        yield f"example: {field.example!r} doesn't match the pattern; correct it"
    if field.default and shape.fullmatch(field.default) is None:
        yield f"default: {field.default!r} doesn't match the pattern; correct it"
    if field.default and field.secret:
        yield "default: a secret has none; leave it out"
    if field.many and not field.choices:
        yield "many: needs choices; add them"
    if field.choices and (field.secret or any(shape.fullmatch(one) is None for one in field.choices)):
        yield "choices: are for what isn't secret, and each must match the pattern; correct them"


def _sending_problems(provider: Provider, credential: Credential) -> Iterator[str]:
    used: set[str] = set()
    for place, text in credential.send.templates:
        names = set(NAMES.findall(text))
        used |= names
        for name in sorted(names - credential.names):
            yield f"credential.send.{place}: {{{name}}} isn't a field; add it under credential.fields"
    certificate = credential.send.certificate
    for name in () if certificate is None else (certificate.file, certificate.passphrase):
        if name is not None and name in credential.fields and not credential.fields[name].secret:
            yield f"credential.send.certificate: {name!r} must be secret; leave out secret = false"
    unsent = sorted(set(credential.secrets) - used)
    if unsent:
        yield f"credential.send: the secret {unsent[0]!r} is sent nowhere; add it to headers, query, or basic"
    headers = {name.lower() for name in credential.send.headers}
    if credential.send.basic is not None and "authorization" in headers:
        yield "credential.send.basic: the header Authorization is there already; remove one of them"
    signing = credential.send.aws
    if signing is not None:
        if headers or credential.send.query or credential.send.basic is not None or certificate:
            yield "credential.send.aws: a signed request carries nothing else; remove what else is under send"
        for key in sorted(provider.apis.keys() ^ signing.services.keys()):
            yield f"credential.send.aws.services: {key!r} must be under [apis] as well, and the other way round"
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


def _signing_problems(provider: Provider, credential: Credential) -> Iterator[str]:
    facts = credential.signed_token
    if facts is None:
        return
    key, _, member = facts.key.partition(".")
    field = credential.fields.get(key)
    if field is None or not field.secret or (member != "" and member not in field.members):
        yield f"credential.signed_token.key: {facts.key!r} isn't a secret field, or a member of one; add it"
    if facts.passphrase is not None and facts.passphrase not in credential.secrets:
        yield f"credential.signed_token.passphrase: {facts.passphrase!r} isn't a secret field; add it"
    hidden = {facts.passphrase, *credential.secrets, *([member] if member else [])}
    known = (credential.names - hidden) | COMPUTED | provider.inputs.keys()
    for place, text in facts.templates:
        for name in NAMES.findall(text):
            plain = name.removesuffix(":upper")
            if plain in hidden:
                yield f"credential.signed_token.{place}: {{{plain}}} is secret, and a token's claims are not; remove it"
            elif plain not in known:
                yield f"credential.signed_token.{place}: {{{plain}}} isn't a field; add it under credential.fields"
    told = set(NAMES.findall(provider.identity.id)) if provider.identity.source == "credential" else None
    for name in NAMES.findall(facts.claims.get("sub", "")):
        if told is not None and name in credential.fields and f"credential.{name}" not in told:
            yield f"identity.id: {{credential.{name}}} decides for whom the token is; add it"
    if (facts.sent == "itself") == bool(provider.hosts.token_url):
        yield "hosts.token_url: is where a signed token gets an access token; give it unless it's sent itself"
    for name in sorted(provider.hosts.model_fields_set - {"token_url"}):
        yield f"hosts.{name}: doesn't work with signed_token; remove it"
    if next(credential.send.templates, None) is not None:
        yield "credential.send: these sign a token; say under authorization how that is sent"
    for name in sorted(facts.operations.keys() - provider.scopes.keys()):
        yield f"credential.signed_token.operations: unknown scope {name!r}; add it under [scopes]"
    says = any("{scopes}" in text for _, text in facts.templates) or facts.sent == "bearer" or bool(facts.operations)
    if says != (provider.downscope.mode is Downscope.REFRESH_SCOPE):
        yield (
            'downscope.mode: "refresh_scope" belongs to a token that says what it may do, by {scopes} in a claim, '
            "operations, or permissions; set both or neither"
        )


def _session_problems(provider: Provider, credential: Credential) -> Iterator[str]:
    facts, hosts = credential.session, provider.hosts
    if facts is None:
        return
    later = frozenset({TOKEN, REFRESH_TOKEN})
    for name in sorted(later & credential.names):
        yield f"credential.fields.{name}: means what the sign-in issued; rename it"
    steps = (
        ("sign_in", facts.sign_in, frozenset[str]()),
        ("renew", facts.renew, frozenset({REFRESH_TOKEN})),
        ("sign_out", facts.sign_out, later),
    )
    for where, step, issued in steps:
        for place, text in () if step is None else step.templates:
            for name in sorted(set(NAMES.findall(text)) - credential.fields.keys() - issued):
                yield f"credential.session.{where}.{place}: {{{name}}} isn't a field; add it under credential.fields"
        if (
            step is not None
            and issued
            and not issued & {name for _, text in step.templates for name in NAMES.findall(text)}
        ):
            wanted = " or ".join(f"{{{name}}}" for name in sorted(issued, reverse=True))
            yield f"credential.session.{where}: names no session; send {wanted} in fields or headers"
    sent = frozenset(name for _, text in facts.sign_in.templates for name in NAMES.findall(text))
    for name in sorted(set(credential.secrets) - sent):
        yield f"credential.session.sign_in: the secret {name!r} is sent nowhere; add it to fields or headers"
    if not hosts.token_url:
        yield "hosts.token_url: missing; name where people sign in"
    if (facts.sign_out is None) == (hosts.revoke_url is not None):
        yield "hosts.revoke_url: is where credential.session.sign_out signs out; give both or neither"
    if hosts.refresh_url is not None and facts.renew is None:
        yield "hosts.refresh_url: belongs to credential.session.renew; give both or neither"
    for name in sorted(hosts.model_fields_set & {"authorize_url", "issuer"}):
        yield f"hosts.{name}: doesn't work with a session; remove it"
    if provider.body == "query":
        yield "body: a query may be logged, and this carries a password; use form or json"
    if next(credential.send.templates, None) is not None:
        yield "credential.send: these are exchanged for a session; say under authorization how that is sent"


def _place_problems(provider: Provider, credential: Credential) -> Iterator[str]:
    """An entered value must not decide whose host gets the credential."""
    addresses = [(f"apis.{key}", url) for key, url in provider.apis.items()]
    hosts = provider.hosts
    named = (("token_url", hosts.token_url), ("refresh_url", hosts.refresh_url), ("revoke_url", hosts.revoke_url))
    addresses += [(f"hosts.{name}", url) for name, url in named if url]
    addresses += [("identity.url", provider.identity.url)] if provider.identity.url else []
    if (path := provider.identity.path) is not None:
        for name in sorted(set(NAMES.findall(path)) - credential.public_names):
            yield f"identity.path: {{{name}}} isn't a field that may stand in an address; correct it"
    for where, url in addresses:
        for name in sorted(set(NAMES.findall(url)) & credential.member_names):
            yield f"{where}: {{{name}}} is in a key file, which must not choose an address; enter it in a field"
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


def address_names(provider: Provider) -> frozenset[str]:
    """The names in braces in its addresses."""
    texts = (
        *provider.apis.values(),
        provider.hosts.token_url,
        provider.hosts.refresh_url or "",
        provider.hosts.revoke_url or "",
        provider.identity.url or "",
        provider.identity.path or "",
    )
    return frozenset(name for text in texts for name in NAMES.findall(text))


def fill_address(url: str, values: dict[str, str]) -> str:
    """The address with these values. Raises ValueError for a value that doesn't stay in its place."""

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
        value, *_ = field.parts(field.example or field.default or next(iter(field.choices), ""))
        matched = field.shape.fullmatch(value)
        if not field.secret:
            found[name] = value or name
        found |= {} if matched is None else {key: text for key, text in matched.groupdict().items() if text}
    return found
