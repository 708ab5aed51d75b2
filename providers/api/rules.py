"""Request rules: which scopes allow a call to a provider's API. Pure; whatever no rule allows is refused.

Checked before anything is sent, by `providers.api.api` and by the proxy that lets clients call a provider's API.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from providers.api import open_calls
from providers.definitions.method_overrides import METHOD_HEADER, TARGET, fold_name, is_method_parameter
from providers.definitions.model import Provider, Rule
from providers.definitions.paths import fold, path_problem, readings
from providers.definitions.unruled_calls import EVERYTHING
from providers.outbound.json_values import is_array, is_object

UNREAD: Final = "(a body that is neither a form nor a JSON object, or is too long)"
_CREDENTIALS: Final = frozenset(
    {"access_token", "oauth_token", "refresh_token", "id_token", "authorization", "bearer_token", "client_secret"}
)
# Names of key parameters in queries, without separators.
_KEYS: Final = frozenset(
    {"key", "apikey", "apitoken", "token", "auth", "authtoken", "authkey", "accesskey", "userkey", "appkey", "appid"}
    | {"circletoken", "xapikey", "secretkey", "secret", "password", "signature"}
)
_SETS: Final = 1024  # scope sets remembered per provider


@dataclass(frozen=True, slots=True)
class Payload:
    """What a call has in addition to its path: names in the query, and the fields or members of its body.

    `is_unread`: the body is neither a form nor a JSON object, or is too long, so it was not inspected.
    """

    query: frozenset[str] = frozenset()
    body: Mapping[str, object] = field(default_factory=dict[str, object], repr=False)
    is_unread: bool = False


NOTHING: Final = Payload()


@dataclass(frozen=True, slots=True)
class Call:
    """A call as it would be sent: `path` percent-encoded and below the API's base URL, parameters of query and body.

    `target`: the header `X-Amz-Target`.
    """

    api: str
    method: str
    path: str
    parameters: Mapping[str, object] = field(default_factory=dict[str, object], repr=False)
    payload: Payload = NOTHING
    target: str = ""


def allows(provider: Provider, call: Call, scopes: frozenset[str], *, granted: frozenset[str] | None = None) -> bool:
    """Whether `scopes` allow the call, made with a token whose own authority is `granted` (None: the same)."""
    if any(changes_method(provider, name) for name in call.parameters):
        return False
    return (
        first_rule(provider, _matching_rules(provider, call), scopes, granted=granted, payload=call.payload) is not None
    )


def first_rule(
    provider: Provider,
    rules: Iterable[Rule],
    scopes: frozenset[str],
    *,
    granted: frozenset[str] | None = None,
    payload: Payload = NOTHING,
) -> Rule | None:
    """The first of the rules that allows `scopes` with this query and body; `granted` as for `allows`. Except
    where a rule is exact, a parameter that it doesn't name can reveal more only with a token that can do more than
    `scopes`.
    """
    held = expand(provider, scopes)
    beyond = frozenset[str]() if granted is None else expand(provider, granted) - held - provider.always_granted
    for rule in rules:
        if (
            not rule.scopes.isdisjoint(held)
            and rule.needs <= held
            and rule.inseparable.isdisjoint(beyond)
            and (not (beyond or rule.exact) or not unknown(provider, rule, payload))
        ):
            return rule
    return None


def unknown(provider: Provider, rule: Rule, payload: Payload) -> frozenset[str]:
    """Names in query and body that the rule doesn't know; `UNREAD` for a body that wasn't inspected."""
    strange = unknown_query(provider, rule, payload.query)
    if rule.body == "any":
        return strange
    if payload.is_unread:
        return strange | {UNREAD}
    return strange | unknown_body(provider, rule, payload.body) if payload.body else strange


def unknown_query(provider: Provider, rule: Rule, query: frozenset[str]) -> frozenset[str]:
    """The query parameters that the rule doesn't know."""
    return frozenset() if rule.query == "any" else query - provider.query - rule.query - rule.where.keys()


def unknown_body(provider: Provider, rule: Rule, body: Mapping[str, object]) -> frozenset[str]:
    """The form fields, or paths to members of a JSON object, that the rule doesn't know. APIs that accept a parameter
    in the query also accept it in a form.
    """
    if rule.body == "any":
        return frozenset()
    in_query = frozenset[str]() if rule.query == "any" else rule.query
    known = provider.query | in_query | rule.where.keys() | rule.body
    return frozenset(_unknown_members(body, "", known, rule.prefixes))


def _unknown_members(
    members: Mapping[str, object], way: str, known: frozenset[str], prefixes: frozenset[str]
) -> Iterator[str]:
    for name, value in members.items():
        path = way + name.replace("~", "~0").replace("/", "~1")  # RFC 6901 §3: a name can't pass for a path
        if path in known:
            continue
        inner = list(_objects(value)) if path in prefixes else None
        if inner is None or None in inner:
            yield path
            continue
        for one in inner:
            yield from _unknown_members(one or {}, path + "/", known, prefixes)


def _objects(value: object) -> Iterator[Mapping[str, object] | None]:
    """The object, or those in an array of any depth; None for anything else."""
    if is_object(value):
        yield value
    elif is_array(value):
        for one in value:
            yield from _objects(one)
    else:
        yield None


def authority(
    provider: Provider, *, scopes: frozenset[str], granted: frozenset[str], is_narrow: bool
) -> frozenset[str]:
    """What a token itself can do.

    Its scopes if the provider made it narrow; otherwise the grant or, if the app defines the scopes, everything that an
    app may have, since this app's scopes are unknown.
    """
    if is_narrow:
        return scopes
    is_whole = provider.scope.app_level or provider.credential is not None
    return provider.all_scopes if is_whole else granted


def changes_method(provider: Provider, name: str) -> bool:
    """Whether a parameter of this name, in query or body, turns the call into one of another method."""
    if is_method_parameter(name):
        return True
    return provider.overrides is not None and fold_name(name) in provider.overrides.folded_parameters


def is_credential(provider: Provider, name: str) -> bool:
    """Whether a parameter with this name contains a credential; the vault adds its own."""
    small = name.partition("[")[0].strip().lower()
    return small in _CREDENTIALS or small in provider.credential_parameters


def is_credential_in_query(provider: Provider, name: str) -> bool:
    """Whether a query parameter with this name contains a credential; services with keys often accept one there,
    too."""
    if is_credential(provider, name):
        return True
    return provider.credential is not None and name not in provider.query and fold_name(name).replace("_", "") in _KEYS


def header_changes_method(provider: Provider, name: str) -> bool:
    """Whether a header with this name, in lowercase, turns the call into one of another method or operation."""
    if METHOD_HEADER.fullmatch(name) is not None:
        return True
    return provider.overrides is not None and name in provider.overrides.headers


def target_of(headers: Mapping[str, str]) -> str:
    """The operation that the headers name, in any capitalization; empty if they name none."""
    return next((value for name, value in headers.items() if name.lower() == TARGET), "")


def judged_method(method: str) -> str:
    """The method whose rules decide: HEAD is GET without the content of the answer (RFC 9110 §9.3.2)."""
    return "GET" if method == "HEAD" else method


def of_path(provider: Provider, *, api: str, method: str, path: str) -> tuple[Rule, ...]:
    """The rules for this method and path, regardless of parameters, which `Rule.where` restricts. If the paths of
    several rules fit, the more specific ones decide: `/files/trash` isn't `/files/{}`. A path that some server could
    read in a way that other rules would decide has no rules.
    """
    if provider.trailing_slash:
        path = path.removesuffix("/")
    known = provider.literal_rules.get((api, method, path))
    if known is not None:
        return known
    if path != "/" and path_problem(path) is not None:
        return ()
    rules = provider.rules_by_call.get((api, method), ())
    found = _closest([rule for rule in rules if rule.path_pattern.fullmatch(path) is not None])
    if not found:
        return found
    if found[0].openness[:2] == (0, 0):  # one of the few paths that the file names literally
        provider.literal_rules[api, method, path] = found
        return found
    decoded, folded = readings(path)
    if decoded != path and found != _closest([rule for rule in rules if rule.path_pattern.fullmatch(decoded)]):
        return ()
    if found != _closest([rule for rule in rules if rule.folded_pattern.fullmatch(folded)]):
        return ()
    if provider.git is not None and api == provider.git.api and _is_of_another_api(provider, api, folded):
        return ()
    return _without_risks(provider, found, api=api, method=method, path=path) if _is_open(provider, found) else found


def _is_of_another_api(provider: Provider, api: str, folded: str) -> bool:
    """Whether the path leads into an API whose address is below this one's; that API's rules then decide."""
    start = provider.apis[api].rstrip("/")
    below = (base[len(start) :].rstrip("/") for base in provider.apis.values() if base.startswith(f"{start}/"))
    return any(f"{folded}/".startswith(f"{fold(inner)}/") for inner in below if inner)


def of_query(
    provider: Provider, found: Sequence[Rule], *, api: str, method: str, query: Iterable[tuple[str, object]]
) -> tuple[Rule, ...]:
    """The rules of a path that apply with this query: rules for every path exclude calls whose names suggest more."""
    pairs = tuple(query)
    if not pairs or not _is_open(provider, found):
        return tuple(found)
    if open_calls.asks_for_secrets(pairs):
        return ()
    return _of_writes(provider, api) if method == "GET" and open_calls.asks_for_change(pairs) else tuple(found)


def _is_open(provider: Provider, found: Sequence[Rule]) -> bool:
    return provider.credential is not None and all(rule.path == EVERYTHING for rule in found)


def _without_risks(
    provider: Provider, found: tuple[Rule, ...], *, api: str, method: str, path: str
) -> tuple[Rule, ...]:
    if open_calls.tells_secrets(path):
        return tuple(rule.model_copy(update={"tells_secrets": True}) for rule in found)
    return _of_writes(provider, api) if method == "GET" and open_calls.changes_something(path) else found


def _of_writes(provider: Provider, api: str) -> tuple[Rule, ...]:
    """Rules that allow every path, for calls that change something."""
    return tuple(rule for rule in provider.rules_by_call.get((api, "POST"), ()) if rule.path == EVERYTHING)


def _closest(rules: Sequence[Rule]) -> tuple[Rule, ...]:
    if len(rules) < 2:
        return tuple(rules)
    least = min(rule.openness for rule in rules)
    return tuple(rule for rule in rules if rule.openness == least)


def fits(rule: Rule, parameters: Mapping[str, object], target: str = "") -> bool:
    """Whether parameters and target match the rule; for a path into a JSON body, every value at its end."""
    return rule.target_pattern.fullmatch(target) is not None and all(
        pattern.fullmatch(_as_text(value)) is not None
        for name, pattern in rule.where_patterns
        for value in (_values(parameters, name.split("/")) if "/" in name else (parameters.get(name),))
    )


def expand(provider: Provider, scopes: frozenset[str]) -> frozenset[str]:
    """The scopes and everything that they include."""
    reached = provider.reach_of
    found = reached.get(scopes)
    if found is None:
        covers = provider.covers
        found = scopes.union(*[covers[scope] for scope in scopes if scope in covers])
        if len(reached) < _SETS:
            reached[scopes] = found
    return found


def _matching_rules(provider: Provider, call: Call) -> Iterator[Rule]:
    found = of_path(provider, api=call.api, method=call.method, path=call.path)
    query = [
        (name, value) for name, value in call.parameters.items() if call.method == "GET" or name in call.payload.query
    ]
    for rule in of_query(provider, found, api=call.api, method=call.method, query=query):
        if fits(rule, call.parameters, call.target):
            yield rule


def _values(members: Mapping[str, object], way: Sequence[str]) -> Iterator[object]:
    """The value at the end of the path in each object; None if absent, a list if the path can't be followed."""
    value = members.get(way[0])
    if len(way) == 1 or value is None:
        yield value
        return
    for one in list(_objects(value)) or [{}]:
        if one is None:
            yield ()
        else:
            yield from _values(one, way[1:])


def _as_text(value: object) -> str:
    match value:
        case None:
            return ""
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case _:
            return "\x00"  # lists and objects match no pattern
