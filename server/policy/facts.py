"""The facts of one use of an account, in the form that rules see. Computes only what a rule names.

A value that Cedar can't represent exactly (more than four decimals, integers above 64 bits, text that isn't Unicode)
makes the call undecidable, so it is refused if a rule names that value: omitting a value must not bypass a rule.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final, Generic, TypeVar
from zoneinfo import ZoneInfo

from pydantic_core import PydanticSerializationError, to_json

from providers.outbound.json_values import is_array
from server.http.addresses import parse_address
from server.policy.schema import ARGUMENTS, Action

Value = TypeVar("Value")
_LONGEST: Final = 2**63
_DECIMALS: Final = Decimal("0.0001")
_LARGEST: Final = Decimal("922337203685477.5807")
_DOMAIN: Final = re.compile(r'@([^\s@<>,;:"()\[\]]+)')
_AT: Final = ("@", "\uff20", "\ufe6b")  # and what some software takes for it
_DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


class FactUnusable(Exception):
    """A rule names a value that can't be represented exactly; the message identifies it."""


@dataclass(frozen=True, slots=True)
class PersonFacts:
    """The person whose account it is used for. `key` and `groups` are names as the vault compares them."""

    id: str
    name: str = ""
    key: str = ""
    role: str = "member"
    groups: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class AgentFacts:
    """The client that acts."""

    id: str
    name: str = ""
    kind: str = ""


class _CachedProperty(Generic[Value]):
    """A value that is computed once per call. Like `functools.cached_property`, but without its lock (Python 3.11),
    which takes longer than the computation.
    """

    def __init__(self, make: Callable[[Any], Value]) -> None:
        self._make = make
        self._name = make.__name__

    def __get__(self, instance: object, owner: type) -> Value:
        found = instance.__dict__[self._name] = self._make(instance)
        return found


@dataclass(frozen=True)  # no slots, so that computed values can be stored
class CallFacts:
    """One use of an account. `arguments` None: no tool is called."""

    action: Action
    person: PersonFacts
    agent: AgentFacts
    account_id: str
    provider: str
    account: str
    scopes: frozenset[str]
    actors: tuple[str, ...]
    now: int
    zone: ZoneInfo
    arguments: Callable[[], Mapping[str, object]] | None = None
    wire: Mapping[str, str] = field(default_factory=dict[str, str])
    address: str = ""
    signed_in_at: int | None = None
    is_strong: bool = False

    @_CachedProperty
    def values(self) -> Mapping[str, object]:
        """The arguments; empty where no tool is called."""
        return {} if self.arguments is None else self.arguments()

    def context(self, named: Mapping[str, frozenset[str] | None]) -> dict[str, object]:
        """The present ones of these context attributes. `arguments`: the names to include; None for all."""
        found: dict[str, object] = {}
        for name, inner in named.items():
            if name == ARGUMENTS:
                value = self._arguments(inner) if self.action.is_tool else None
            elif (read := _READ.get(name)) is not None:
                value = read(self)
            else:
                value = self.wire.get(name, "") if name in self.action.extra else None
            if value is not None:
                found[name] = value
        return found

    @_CachedProperty
    def local(self) -> datetime:
        """The time of the call, in the time zone of the rules."""
        return datetime.fromtimestamp(self.now, self.zone)

    @_CachedProperty
    def recipients(self) -> frozenset[str]:
        """Everyone that the arguments address."""
        return self.action.presentation.recipients_of(self.values)

    def _arguments(self, named: frozenset[str] | None) -> dict[str, object]:
        found: dict[str, object] = {}
        values = self.values
        for name, kind in self.action.kinds:
            if (named is None or name in named) and (value := values.get(name)) is not None:
                found[name] = _cedar_value(value, kind, name)
        return found

    def account_entity(self) -> object:
        """The account, as `resource`."""
        return account_entity(self.account_id, self.provider, self.account)

    def person_entity(self) -> object:
        """The person, as `principal`, in their groups."""
        who = self.person
        return _entity("User", who.key, {"id": who.id, "name": who.name, "role": who.role}, self._groups)

    def action_entity(self) -> object:
        """The action, in its groups."""
        return _entity("Action", self.action.name, {}, [("Action", name) for name in self.action.groups])

    @property
    def _groups(self) -> list[tuple[str, str]]:
        return [("Group", name) for name in sorted(self.person.groups)]


def account_entity(account_id: str, provider: str, name: str) -> object:
    """An account, as `resource`."""
    return _entity("Account", account_id, {"id": account_id, "provider": provider, "name": name}, ())


def _agent(call: CallFacts) -> object:
    return {"id": call.agent.id, "name": call.agent.name, "kind": call.agent.kind}


def _now(call: CallFacts) -> object:
    return _extension("datetime", call.local.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))


def _address(call: CallFacts) -> object:
    address = parse_address(call.address)
    return None if address is None else _extension("ip", str(address))


def _signed_in_seconds(call: CallFacts) -> object:
    return None if call.signed_in_at is None else max(0, call.now - call.signed_in_at)


_READ: Final[Mapping[str, Callable[[CallFacts], object]]] = {
    "agent": _agent,
    "actors": lambda call: list(call.actors),
    "scopes": lambda call: sorted(call.scopes),
    "now": _now,
    "hour": lambda call: call.local.hour,
    "weekday": lambda call: _DAYS[call.local.weekday()],
    "strong": lambda call: call.is_strong,
    "address": _address,
    "signedInSeconds": _signed_in_seconds,
    "recipients": lambda call: sorted(call.recipients) if call.action.is_tool else None,
    "recipientDomains": lambda call: sorted(domains_of(call.recipients)) if call.action.is_tool else None,
}


def _entity(kind: str, name: str, attributes: Mapping[str, object], parents: Iterable[tuple[str, str]]) -> object:
    within = [{"type": kind_of, "id": one} for kind_of, one in parents]
    return {"uid": {"type": kind, "id": name}, "attrs": attributes, "parents": within}


def domains_of(recipients: Iterable[str]) -> frozenset[str]:
    """The domains in these addresses, in ASCII and lower case; an address without a plain one has an empty domain."""
    found: set[str] = set()
    for one in recipients:
        domains = _DOMAIN.findall(one)
        found |= {_plain_domain(domain) for domain in domains}
        if not domains or len(domains) != (one.count("@") if one.isascii() else sum(map(one.count, _AT))):
            found.add("")
    return frozenset(found)


def _plain_domain(domain: str) -> str:
    if domain.isascii():
        return domain.rstrip(".").lower()
    try:
        return domain.rstrip(".").encode("idna").decode("ascii").lower()
    except UnicodeError:
        return domain.rstrip(".").casefold()


def _cedar_value(value: object, kind: str, name: str) -> object:
    """The value in Cedar's representation. Raises FactUnusable."""
    if kind.startswith("Set<") and is_array(value):
        return [_cedar_value(one, kind[4:-1], name) for one in value]
    match kind, value:
        case "String", str():
            return value
        case "Bool", bool():
            return value
        case "Long", int() if not isinstance(value, bool) and -_LONGEST <= value < _LONGEST:
            return value
        case "decimal", int() | float() if not isinstance(value, bool):
            return _extension("decimal", _decimal(value, name))
        case _:
            raise FactUnusable(f"the argument {name} has no exact value of the type {kind}")


def _decimal(value: float, name: str) -> str:
    try:
        found = Decimal(str(value))
        exact = found.quantize(_DECIMALS)
    except InvalidOperation:
        raise FactUnusable(f"the argument {name} isn't a number that can be compared") from None
    if exact != found or abs(exact) > _LARGEST:
        raise FactUnusable(f"the argument {name} has more digits than can be compared")
    return str(exact)


def _extension(function: str, argument: str) -> object:
    return {"__extn": {"fn": function, "arg": argument}}


def as_json(value: object) -> str:
    """Compact JSON. Raises FactUnusable for text that isn't Unicode."""
    try:
        return to_json(value).decode()
    except PydanticSerializationError:
        raise FactUnusable("it has text that isn't Unicode") from None
