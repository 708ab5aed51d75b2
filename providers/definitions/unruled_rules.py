"""Allow calls without a request rule, as an operator sets it for one provider. The provider gets one or two of the
vault's own scopes and, for each of its APIs, the least specific rules possible: a call for which the file has a rule
still needs that rule's scopes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from providers.definitions.method_overrides import Overrides
from providers.definitions.model import Method, Provider, Rule, Scope
from providers.definitions.unruled_calls import ANY_CALL, ANY_READ, EVERYTHING, UnruledCalls

_WRITES: Final[tuple[Method, ...]] = ("POST", "PUT", "PATCH", "DELETE")
_METHODS: Final[tuple[Method, ...]] = ("GET", *_WRITES)
_NOBODY: Final = frozenset({"any:closed"})  # no scope: no one can hold it
# If the service's method overrides are unknown, those that `[overrides]` of other files name are refused, too.
_UNREAD_OVERRIDES: Final = Overrides(parameters=frozenset({"method", "verb"}))
_READ_SCOPE: Final = Scope(title="Any read (checked: host and method only)", reads=True)
_CALL_SCOPE: Final = Scope(title="Any call (checked: host only)", covers=frozenset({ANY_READ}))


def unruled_problem(provider: Provider, calls: UnruledCalls) -> str | None:
    """Why this provider can't have this setting; None if it can."""
    if provider.audience is not None:
        return "its tokens carry exactly the scopes of a call; write rules into its file"
    if not provider.apis:
        return "its file names no API; add one under apis"
    if EVERYTHING in provider.unruled.closed:
        return "its API's responses can contain credentials; only request rules can exclude them"
    if calls == "read" and EVERYTHING in provider.unruled.unsafe_reads:
        return 'a GET of its API can change something; use "any"'
    return None


def with_unruled_calls(provider: Provider, calls: UnruledCalls) -> Provider:
    """The provider with the scopes and rules for calls that its file has no rule for."""
    if calls == "refuse":
        return provider
    scopes = {ANY_READ: _READ_SCOPE} | ({ANY_CALL: _CALL_SCOPE} if calls == "any" else {})
    rules = [rule for api in provider.apis for rule in _rules_of(provider, api, calls)]
    changes: dict[str, object] = {
        "scopes": {**provider.scopes, **scopes},
        "rules": (*provider.rules, *rules),
        "overrides": provider.overrides or _UNREAD_OVERRIDES,
    }
    kept = {name: getattr(provider, name) for name in provider.model_fields_set}
    return Provider.model_validate({**kept, **changes})


def _rules_of(provider: Provider, api: str, calls: UnruledCalls) -> Iterator[Rule]:
    """Rules for one API; closed paths get a rule that no one can use, so that a wider one doesn't decide."""
    for path in sorted(provider.unruled.closed | _oauth_paths(provider, api)):
        yield _closed_rule(api, _METHODS, path)
    unsafe = provider.unruled.unsafe_reads
    for path in sorted(unsafe):
        yield _open_rule(api, ("GET",), path, ANY_CALL) if calls == "any" else _closed_rule(api, ("GET",), path)
    ruled = {one for rule in provider.rules if (rule.api, rule.path) == (api, EVERYTHING) for one in rule.method}
    if EVERYTHING not in unsafe and "GET" not in ruled:
        yield _open_rule(api, ("GET",), EVERYTHING, ANY_READ)
    writes: tuple[Method, ...] = tuple(one for one in _WRITES if one not in ruled)
    if calls == "any" and writes:
        yield _open_rule(api, writes, EVERYTHING, ANY_CALL)


def _closed_rule(api: str, method: tuple[Method, ...], path: str) -> Rule:
    return Rule(api=api, method=method, path=path, scopes=_NOBODY, tells_secrets=True)


def _open_rule(api: str, method: tuple[Method, ...], path: str, scope: str) -> Rule:
    return Rule(api=api, method=method, path=path, scopes=frozenset({scope}), query="any", body="any")


def _oauth_paths(provider: Provider, api: str) -> frozenset[str]:
    """The OAuth endpoints below this API, where tokens are issued and revoked."""
    base, hosts = provider.apis[api].rstrip("/"), provider.hosts
    long_lived = None if provider.long_lived is None else provider.long_lived.url
    urls = (
        hosts.authorize_url,
        hosts.token_url,
        hosts.refresh_url,
        hosts.revoke_url,
        provider.revoke.probe.url,
        long_lived,
    )
    below = (url.partition("?")[0].removeprefix(base) for url in urls if url and url.startswith(base + "/"))
    return frozenset(path.replace("{client_id}", "{}").replace("{token}", "{}").rstrip("/") for path in below)
