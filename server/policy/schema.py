"""The Cedar schema of everything that a rule can refer to, made from the tools. Each tool is an action with typed
arguments.

Arguments without a Cedar type (free objects, lists of objects) are left out: a rule that names one is refused when it
is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from providers.outbound.json_values import is_array, is_object
from providers.tools.presentation import DEFAULT, Presentation
from providers.tools.spec import ToolSpec

EXCHANGE: Final = "exchange"  # a token or handle is released
PROXY: Final = "proxy"  # a call through the proxy
REQUEST: Final = "request"  # a client asks the person for access (CIBA), away from a browser
OWN_PROVIDER: Final = "token-vault"  # of the resource, where a client asks for access to an API of the vault's
READS: Final = "reads"
GROUPS: Final = ("tools", READS, "writes", "destructive")
ARGUMENTS: Final = "arguments"
CALL_ONLY: Final = frozenset({ARGUMENTS, "recipients", "recipientDomains"})  # what only a tool call has

_HEAD: Final = """\
// Who: principal, by name. Which account: resource. Everything else: context.
entity Group;
entity User in [Group] { id: String, name: String, role: String };
entity Account { id: String, provider: String, name: String };
type Agent = { id: String, name: String, kind: String };
"""
_CONTEXT: Final[Mapping[str, str]] = {
    "agent": "Agent",
    "actors": "Set<String>",
    "scopes": "Set<String>",
    "now": "datetime",
    "hour": "Long",
    "weekday": "String",
    "strong": "Bool",
    "address?": "ipaddr",
    "signedInSeconds?": "Long",
}
_PEOPLE: Final[Mapping[str, str]] = {"recipients": "Set<String>", "recipientDomains": "Set<String>"}
_WIRE: Final[Mapping[str, str]] = {"method": "String", "api": "String", "path": "String"}
ATTRIBUTES: Final = frozenset(name.rstrip("?") for name in (*_CONTEXT, *_PEOPLE, *_WIRE, ARGUMENTS))
_SIMPLE: Final[Mapping[object, str]] = {"string": "String", "integer": "Long", "boolean": "Bool", "number": "decimal"}


@dataclass(frozen=True, slots=True)
class Action:
    """An agent's action with an account. `arguments`: those with a type, by name, optional ones with `?`."""

    name: str
    groups: tuple[str, ...] = ()
    provider: str = ""  # whose tool it is; empty: any
    scopes: frozenset[str] = frozenset()
    arguments: Mapping[str, str] = field(default_factory=dict[str, str])
    extra: Mapping[str, str] = field(default_factory=dict[str, str])
    presentation: Presentation = DEFAULT
    kinds: Sequence[tuple[str, str]] = field(init=False, repr=False, compare=False)  # of the arguments, by plain name

    def __post_init__(self) -> None:
        object.__setattr__(self, "kinds", [(name.rstrip("?"), kind) for name, kind in self.arguments.items()])

    @property
    def is_tool(self) -> bool:
        return bool(self.groups)

    @property
    def declaration(self) -> str:
        """Its line in the schema."""
        context = {**_CONTEXT, **self.extra}
        if self.is_tool:
            context[ARGUMENTS] = _record(self.arguments)
        within = f" in [{', '.join(map(quote, self.groups))}]" if self.groups else ""
        applies = f"principal: User, resource: Account, context: {_record(context)}"
        return f"action {quote(self.name)}{within} appliesTo {{ {applies} }};"


def actions_of(tools: Iterable[ToolSpec]) -> Mapping[str, Action]:
    """All actions by name: the kinds of use without a tool, and every tool that uses an account."""
    found = {
        EXCHANGE: Action(EXCHANGE),
        PROXY: Action(PROXY, extra=_WIRE),
        REQUEST: Action(REQUEST),
    }
    for spec in tools:
        if spec.provider is not None and spec.name not in found and spec.name not in GROUPS:
            found[spec.name] = _tool_action(spec)
    return found


def schema_text(actions: Mapping[str, Action]) -> str:
    """The schema, in Cedar's own syntax."""
    groups = "".join(f"action {quote(name)};\n" for name in GROUPS)
    return f"{_HEAD}{groups}" + "".join(f"{one.declaration}\n" for one in actions.values())


def quote(text: str) -> str:
    """A string literal of Cedar, whose escapes beyond ASCII differ from JSON's."""
    return json.dumps(text, ensure_ascii=False)


def _tool_action(spec: ToolSpec) -> Action:
    effect = READS if spec.read_only else "writes"
    groups = ("tools", effect, "destructive") if spec.destructive else ("tools", effect)
    schema = spec.input_schema
    properties, required = schema.get("properties"), schema.get("required")
    always: Sequence[object] = required if is_array(required) else ()
    arguments: dict[str, str] = {}
    for name, shape in properties.items() if is_object(properties) else ():
        if (kind := _type_of(shape)) is not None:
            arguments[name if name in always else f"{name}?"] = kind
    return Action(
        spec.name,
        groups,
        spec.provider or "",
        spec.scopes,
        arguments=arguments,
        extra=_PEOPLE,
        presentation=spec.presentation,
    )


def _type_of(shape: object) -> str | None:
    """The Cedar type of a JSON Schema; None where there is none."""
    if not is_object(shape):
        return None
    kind = shape.get("type")
    if kind == "array":
        of = _type_of(shape.get("items"))
        return None if of is None or of.startswith(("Set", "{")) else f"Set<{of}>"
    return _SIMPLE.get(kind) if isinstance(kind, str) else None


def _record(attributes: Mapping[str, str]) -> str:
    inside = ", ".join(
        f"{quote(name.rstrip('?'))}{'?' if name.endswith('?') else ''}: {kind}" for name, kind in attributes.items()
    )
    return f"{{ {inside} }}"
