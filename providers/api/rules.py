"""Request rules: which scopes allow a call to a provider's API. Pure; what no rule allows is refused.

Used before anything is sent, by `providers.api.api` and by whoever lets clients call a provider's API through the
vault.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from providers.definitions.model import Provider, Rule, fold_name
from providers.definitions.paths import path_problem, readings

# Frameworks that many APIs are built on take the method from these, so they are refused everywhere.
_METHOD_PARAMETERS: Final = frozenset(
    {"_method", "_httpmethod", "$httpmethod", "x_http_method_override", "x_http_method", "x_method_override"}
)
_SETS: Final = 1024  # of scopes, remembered per provider


@dataclass(frozen=True, slots=True)
class Call:
    """A call as it would go out: `path` percent-encoded and below the API's base URL, parameters of query and body."""

    api: str
    method: str
    path: str
    parameters: Mapping[str, object] = field(default_factory=dict[str, object], repr=False)
    query: frozenset[str] = frozenset()  # names of the parameters that stand in the query


def allows(provider: Provider, call: Call, scopes: frozenset[str], *, granted: frozenset[str] | None = None) -> bool:
    """Whether `scopes` allow the call, made with a token whose own authority is `granted` (None: the same)."""
    if any(changes_method(provider, name) for name in call.parameters):
        return False
    return first_rule(provider, _matching_rules(provider, call), scopes, granted=granted, query=call.query) is not None


def first_rule(
    provider: Provider,
    rules: Iterable[Rule],
    scopes: frozenset[str],
    *,
    granted: frozenset[str] | None = None,
    query: frozenset[str] = frozenset(),
) -> Rule | None:
    """The first of the rules that lets `scopes` through, with this in the query; `granted` as for `allows`.

    Only a token that can do more than `scopes` can show more for a parameter that no rule names.
    """
    held = expand(provider, scopes)
    beyond = frozenset[str]() if granted is None else expand(provider, granted) - held - provider.always_granted
    for rule in rules:
        if (
            not rule.scopes.isdisjoint(held)
            and rule.needs <= held
            and rule.inseparable.isdisjoint(beyond)
            and (not beyond or not unknown_query(provider, rule, query))
        ):
            return rule
    return None


def unknown_query(provider: Provider, rule: Rule, query: frozenset[str]) -> frozenset[str]:
    """The parameters of a query that the rule does not know."""
    return query - provider.query - rule.query - rule.where.keys()


def authority(
    provider: Provider, *, scopes: frozenset[str], granted: frozenset[str], is_narrow: bool
) -> frozenset[str]:
    """What a token itself can do: its scopes where the provider made it narrow; else the grant, or where the app has
    the scopes, everything that an app may have, since nobody is told what this one has.
    """
    if is_narrow:
        return scopes
    return provider.all_scopes if provider.scope.app_level else granted


def changes_method(provider: Provider, name: str) -> bool:
    """Whether a parameter of this name, in the query or the body, makes the call one of another method."""
    folded = fold_name(name)
    return folded in _METHOD_PARAMETERS or (
        provider.overrides is not None and folded in provider.overrides.folded_parameters
    )


def of_path(provider: Provider, *, api: str, method: str, path: str) -> tuple[Rule, ...]:
    """The rules for this method and path, whatever the parameters. What they need of those: `Rule.where`.

    Of rules whose paths both fit, those that leave less open decide: `/files/trash` is not `/files/{}`. A path that
    some server could read so that other rules decide has none.
    """
    if path_problem(path) is not None:
        return ()
    rules = provider.rules_by_call.get((api, method), ())
    found = _closest([rule for rule in rules if rule.path_pattern.fullmatch(path) is not None])
    if not found or found[0].openness[:2] == (0, 0):  # nothing, or a path that the file names letter by letter
        return found
    decoded, folded = readings(path)
    if decoded != path and found != _closest([rule for rule in rules if rule.path_pattern.fullmatch(decoded)]):
        return ()
    return found if found == _closest([rule for rule in rules if rule.folded_pattern.fullmatch(folded)]) else ()


def _closest(rules: Sequence[Rule]) -> tuple[Rule, ...]:
    if len(rules) < 2:
        return tuple(rules)
    least = min(rule.openness for rule in rules)
    return tuple(rule for rule in rules if rule.openness == least)


def fits(rule: Rule, parameters: Mapping[str, object]) -> bool:
    """Whether the parameters are as the rule wants them."""
    return all(pattern.fullmatch(_as_text(parameters.get(name))) is not None for name, pattern in rule.where_patterns)


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
    for rule in of_path(provider, api=call.api, method=call.method, path=call.path):
        if fits(rule, call.parameters):
            yield rule


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
