"""Validates a provider file: addresses, scopes, paths, inputs, facts. One line per problem.
`providers.definitions.model` defines what a file may contain; `providers.definitions.catalog` reads files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from yarl import URL

from providers.definitions.credential_checks import credential_problems, example_values, fill_address
from providers.definitions.inputs import examples, input_problems, names_in, with_inputs
from providers.definitions.method_overrides import METHOD_HEADER, TARGET
from providers.definitions.model import Provider, Rule
from providers.definitions.unruled_calls import UNRULED
from providers.outbound.addresses import AddressPolicy, is_loopback_host, url_problem
from vault.upstream import Downscope, ItemLimit, RotationMode

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_FIELD_PATH = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110 §5.6.2
_OF_OWN_API = frozenset(
    {
        "name",
        "title",
        "audience",
        "headers",
        "apis",
        "errors",
        "scopes",
        "scope",
        "rules",
        "query",
        "overrides",
        "masked",
        "nested_names",
    }
)
_NO_CREDENTIAL = frozenset(
    {"host", "cookie", "content-type", "content-length", "transfer-encoding", "connection", "accept"}
)
_OF_REVOCATION = frozenset({"client_id", "token"})  # placeholders that are filled in for each request


def problems_of(provider: Provider, *, stem: str, reach: AddressPolicy | None = None) -> Iterator[str]:
    if provider.name != stem:
        yield f"name: {provider.name!r} isn't the file's name; rename the file to {provider.name!r}.toml"
    yield from _kind_problems(provider)
    yield from input_problems(provider)
    yield from _placeholder_problems(provider)
    yield from address_problems(with_inputs(provider, examples(provider)), reach=reach)
    yield from _scope_problems(provider)
    yield from _identity_problems(provider)
    yield from _downscope_problems(provider)
    yield from _probe_problems(provider)
    yield from _fact_problems(provider)
    for index, rule in enumerate(provider.rules):
        where = f"rules.{index}"
        if rule.api not in provider.apis:
            yield f"{where}.api: unknown API {rule.api!r}; add it under [apis]"
        for parameter, pattern in rule.where.items():
            try:
                re.compile(pattern)
            except re.error:
                yield f"{where}.where.{parameter}: not a regular expression; correct it"
        yield from (f"{where}.target: {problem}" for problem in _target_problems(provider, rule))
        twice = frozenset(() if rule.query == "any" else rule.query) & (provider.query | rule.where.keys())
        if twice:
            yield f"{where}.query: {min(twice)!r} is already listed; remove it"
        if rule.exact and rule.query == "any":
            yield f"{where}.exact: `query` allows any parameter; list them"
    if provider.git is not None and provider.git.api not in provider.apis:
        yield f"git.api: unknown API {provider.git.api!r}; add it under [apis]"
    for path, api in provider.proxied.paths.items():
        if api not in provider.apis:
            yield f"proxied.paths.{path}: unknown API {api!r}; add it under [apis]"
    for api in sorted(provider.errors.file_apis - provider.apis.keys()):
        yield f"errors.file_apis: unknown API {api!r}; add it under [apis]"
    credential = provider.authorization.header.lower()
    others = _NO_CREDENTIAL | provider.proxied.headers | {name.lower() for name in provider.headers}
    if credential in others:
        yield f"authorization.header: {credential!r} has another meaning; use the header that takes the token"
    for name, text in provider.headers.items():
        if not (_HEADER_NAME.fullmatch(name) and text.isascii() and text.isprintable()):
            yield f"headers.{name}: a header has printable ASCII characters on one line; remove the others"
        if name.lower() == TARGET:
            yield f"headers.{name}: names an operation, which rules judge call by call; remove it"
    yield from _override_problems(provider)
    yield from _unruled_problems(provider)
    for name, separator in (
        ("separator", provider.scope.separator),
        ("response_separator", provider.scope.response_separator),
    ):
        if separator is not None and len(separator) != 1:
            yield f"scope.{name}: must be one character; correct it"
    for where, path in _paths(provider):
        if _FIELD_PATH.fullmatch(path) is None:
            yield f"{where}: {path!r} isn't a path like team.id; correct it"
    if provider.refresh_tokens == "never" and (provider.hosts.refresh_url or provider.params.refresh):
        yield "refresh_tokens: never, but the file says how to refresh; remove one of them"
    if provider.refresh_tokens == "access_token":
        if provider.long_lived is None or not provider.hosts.refresh_url or "grant_type" not in provider.params.refresh:
            yield "refresh_tokens: access_token needs long_lived, hosts.refresh_url, and params.refresh.grant_type"
        if provider.rotation.mode is not RotationMode.NONE:
            yield "rotation.mode: with refresh_tokens access_token, must be none"


def _override_problems(provider: Provider) -> Iterator[str]:
    """A call that turns into one of another method would be decided by the wrong rule, so a file with rules must cover
    this."""
    overrides = provider.overrides
    if overrides is None:
        if provider.rules:
            yield (
                "overrides: missing; list the parameters and headers that change a call's method, or state "
                "that there are none"
            )
        return
    unknown = sorted(set(overrides.sources) - set(provider.sources))
    if unknown:
        yield f"overrides.sources: {unknown[0]!r} isn't under [sources]; add it"
    if not overrides.sources and provider.audience is None:
        yield "overrides.sources: missing; name a source under [sources]"
    passed = [name for name in provider.proxied.headers if METHOD_HEADER.fullmatch(name) or name in overrides.headers]
    if passed:
        yield f"proxied.headers: {min(passed)!r} changes the method; remove it"


def _unruled_problems(provider: Provider) -> Iterator[str]:
    for name in sorted(provider.scopes.keys() & UNRULED):
        yield f"scopes.{name}: the name of a scope of the vault's own; rename it"
    facts = provider.unruled
    if (facts.unsafe_reads or facts.closed) and not set(facts.sources) & set(provider.sources):
        yield "unruled.sources: missing; name a source under [sources]"


def _kind_problems(provider: Provider) -> Iterator[str]:
    """A service with OAuth has endpoints; one with a credential, or an API that accepts our tokens, has none."""
    if provider.credential is not None and provider.audience is None:
        yield from credential_problems(provider)
        return
    if provider.audience is None:
        if "hosts" not in provider.model_fields_set:
            yield "hosts: missing; add it"
        for name in ("authorize_url", "token_url"):
            if "hosts" in provider.model_fields_set and not getattr(provider.hosts, name):
                yield f"hosts.{name}: missing; add it"
        if "identity" not in provider.model_fields_set:
            yield "identity: missing; add it"
        return
    for name in sorted(provider.model_fields_set - _OF_OWN_API):
        yield f"{name}: belongs to services with OAuth and doesn't work with audience; remove it"
    url = URL(provider.audience, encoded=True)
    if url.scheme != "https" or not url.raw_host or url.raw_query_string or url.raw_fragment:
        yield "audience: needs an https URI without query and fragment (RFC 8707 section 2); correct it"


def _paths(provider: Provider) -> Iterator[tuple[str, str]]:
    shape = provider.response
    for name in ("root", "ok_flag", "access_token", "refresh_token", "scope", "error", "error_description"):
        path: str | None = getattr(shape, name)
        if path is not None:
            yield f"response.{name}", path
    if shape.grant_expires is not None:
        yield "response.grant_expires", shape.grant_expires
    for name, path in shape.keep.items():
        yield f"response.keep.{name}", path
    yield "expires.path", provider.expires.path


def _placeholder_problems(provider: Provider) -> Iterator[str]:
    """Names in braces that aren't defined."""
    parts = frozenset[str]() if provider.credential is None else provider.credential.names
    for where, url in _addresses(provider):
        known = set(provider.inputs) | parts | (_OF_REVOCATION if where == "hosts.revoke_url" else frozenset[str]())
        for name in sorted(names_in(url) - known):
            yield f"{where}: {{{name}}} isn't an input; add it under [inputs]"
    url = provider.hosts.revoke_url
    if url is not None and ("token" in names_in(url)) != (provider.revoke.token_in == "path"):
        yield 'revoke.token_in: "path" and {token} in hosts.revoke_url belong together; give both or neither'


def _addresses(provider: Provider) -> Iterator[tuple[str, str]]:
    hosts = provider.hosts
    if hosts.authorize_url:
        yield "hosts.authorize_url", hosts.authorize_url
    if hosts.token_url:
        yield "hosts.token_url", hosts.token_url
    for name, url in (
        ("refresh_url", hosts.refresh_url),
        ("revoke_url", hosts.revoke_url),
        ("issuer", hosts.issuer),
    ):
        if url is not None:
            yield f"hosts.{name}", url
    if provider.revoke.probe.url is not None:
        yield "revoke.probe.url", provider.revoke.probe.url
    if provider.identity.url is not None:
        yield "identity.url", provider.identity.url
    if provider.long_lived is not None:
        yield "long_lived.url", provider.long_lived.url
    if provider.console is not None:
        yield "console.url", provider.console.url
    for account, url in provider.revoke.pages.items():
        yield f"revoke.pages.{account}", url
    for key, url in provider.apis.items():
        yield f"apis.{key}", url


def address_problems(provider: Provider, *, reach: AddressPolicy | None = None) -> Iterator[str]:
    """Problems with its addresses after they are filled in; `reach` is the policy for requests to them."""
    policy = replace(reach or AddressPolicy(), allow_loopback=True)
    loopback: dict[bool, str] = {}
    parts = {} if provider.credential is None else example_values(provider.credential)
    for where, url in _addresses(provider):
        try:
            url = fill_address(url, parts)
        except ValueError as error:
            yield f"{where}: the example of {{{error}}} can't be part of an address; correct it"
            continue
        if where == "hosts.revoke_url":
            url = url.replace("{client_id}", "x").replace("{token}", "x")
        problem = url_problem(url, policy)
        if problem is not None:
            yield f"{where}: {problem}; use an absolute https URL"
            continue
        parsed = URL(url, encoded=True)
        if where == "console.url" or where.startswith("revoke.pages."):
            continue  # a page for people
        if parsed.raw_fragment or (where.startswith("apis.") and parsed.raw_query_string):
            yield f"{where}: has a query or fragment; remove it"
        loopback.setdefault(is_loopback_host(parsed.raw_host or ""), where)
    if len(loopback) == 2:
        yield f"{loopback[True]}: on this machine, but {loopback[False]} isn't; override all of them or none"


def _probe_problems(provider: Provider) -> Iterator[str]:
    probe = provider.revoke.probe
    if ("introspection" in (probe.access_token, probe.refresh_token)) != (probe.url is not None):
        yield "revoke.probe.url: belongs to introspection; set both or neither"
    if probe.access_token == "identity" and provider.identity.source != "endpoint":
        yield "revoke.probe.access_token: identity.source isn't an endpoint; leave it out"
    free = provider.rotation.mode is RotationMode.NONE and provider.revoke.ends_grant is True
    if probe.refresh_token == "refresh" and not free:
        yield (
            'revoke.probe.refresh_token: "refresh" needs rotation.mode "none" and revoke.ends_grant true, '
            "because otherwise a token from the probe could stay valid; leave it out"
        )


def _scope_problems(provider: Provider) -> Iterator[str]:
    known = set(provider.scopes) | provider.always_granted
    named: list[tuple[str, frozenset[str]]] = [("scope.default", provider.scope.default)]
    named += [(f"aliases.{alias}", scopes) for alias, scopes in provider.aliases.items()]
    named += [(f"scopes.{name}.covers", scope.covers) for name, scope in provider.scopes.items()]
    for index, rule in enumerate(provider.rules):
        named += [(f"rules.{index}.scopes", rule.scopes), (f"rules.{index}.inseparable", rule.inseparable)]
        named.append((f"rules.{index}.needs", rule.needs))
    named += [(f"masked.{index}.shown_to", one.shown_to) for index, one in enumerate(provider.masked)]
    if (facts := provider.enterprise.id_jag) is not None:
        named.append(("enterprise.id_jag.scopes", facts.scopes))
        if not facts.scopes and not provider.scope.default:
            yield "enterprise.id_jag.scopes: missing; name what a company's connection asks for"
    for where, scopes in named:
        for scope in sorted(scopes - known):
            yield f"{where}: unknown scope {scope!r}; add it under [scopes]"
    for name in provider.scopes:
        if any(name in provider.covers.get(other, ()) for other in provider.covers.get(name, ())):
            yield f"scopes.{name}.covers: covers itself in a loop; remove one step"


def _identity_problems(provider: Provider) -> Iterator[str]:
    identity = provider.identity
    if identity.source == "none":
        return
    if provider.credential is not None and identity.source == "answer":
        yield "identity.source: a credential comes without an answer; name an endpoint"
    if identity.source == "credential" and (provider.credential is None or provider.credential.kind == "key"):
        yield "identity.source: only a token that was issued for a credential proves its fields; name an endpoint"
    if identity.source in {"answer", "credential"}:
        if identity.url or identity.api or identity.path:
            yield ("identity.source: the answer identifies the account, so url, api, and path aren't used; remove them")
    elif (identity.url is None) == (identity.api is None or identity.path is None):
        yield "identity: use either url, or api and path"
    elif identity.api is not None and identity.api not in provider.apis:
        yield f"identity.api: unknown API {identity.api!r}; add it under [apis]"
    named = (("id", identity.id), ("label", identity.label))
    if provider.credential is not None and not (identity.id or identity.label):
        named = ()  # the lookup only shows that the credential works
    for name, template in named:
        paths = _PLACEHOLDER.findall(template)
        ways = [way for path in paths for way in path.split("|")]
        if not ways or any(_FIELD_PATH.fullmatch(way) is None for way in ways):
            yield f"identity.{name}: needs a {{path}} into the answer, such as {{user.id}}; correct it"


def _downscope_problems(provider: Provider) -> Iterator[str]:
    facts = provider.downscope
    if facts.api is not None and facts.api not in provider.apis:
        yield f"downscope.api: unknown API {facts.api!r}; add it under [apis]"
    if (facts.path is None) == (facts.mode is Downscope.NATIVE):
        yield 'downscope.path: belongs to mode "native"; set both or neither'
    if facts.api is None and (facts.path or facts.told_path):
        yield "downscope.api: missing; name the API that the paths belong to"
    if facts.array and provider.body != "json":
        yield 'downscope.array: only a JSON body carries an array; set body = "json" or remove it'
    if (facts.items is ItemLimit.NONE) == bool(facts.item):
        yield "downscope.item: requires items other than none; set both or neither"
    if _FIELD_PATH.fullmatch(facts.scopes_at) is None:
        yield f"downscope.scopes_at: {facts.scopes_at!r} isn't a path like token.scopes; correct it"
    for template in facts.item:
        if re.fullmatch(r"(/([a-z0-9._-]+|\{[a-z_]+\}))+", template) is None:
            yield f"downscope.item: {template!r} isn't a path like /repos/{{owner}}/{{repo}}; correct it"
        elif facts.mode is Downscope.NATIVE and not {"owner", "repo"} <= names_in(template):
            yield f"downscope.item: {template!r} names no {{owner}} and {{repo}}; correct it"


def _fact_problems(provider: Provider) -> Iterator[str]:
    """A file that cites its facts must use the strictest value for facts without a source."""
    for name, fact in provider.facts.items():
        unknown = sorted(set(fact.sources) - set(provider.sources))
        if unknown:
            yield f"facts.{name}.sources: {unknown[0]!r} isn't under [sources]; add it"
        if (fact.status == "unknown") == bool(fact.sources):
            yield f"facts.{name}: a fact has sources unless it's unknown; add or remove them"
    if not provider.facts:
        return

    def is_unknown(name: str) -> bool:
        return not any(known == name and fact.status != "unknown" for known, fact in provider.facts.items())

    if is_unknown("rotation") and provider.rotation.mode is not RotationMode.REVOKES:
        yield 'rotation.mode: facts.rotation is unknown; leave it at "revokes"'
    if is_unknown("narrowing") and provider.downscope.mode is not Downscope.NONE:
        yield 'downscope.mode: facts.narrowing is unknown; leave it at "none"'
    if is_unknown("revocation") and provider.revoke.ends_grant is not None:
        yield "revoke.ends_grant: facts.revocation is unknown; leave it out"


def _target_problems(provider: Provider, rule: Rule) -> Iterator[str]:
    try:
        re.compile(rule.target)
    except re.error:
        yield "not a regular expression; correct it"
    if rule.target and TARGET not in provider.proxied.headers:
        yield f"the header is sent nowhere; add {TARGET!r} to proxied.headers"
