"""JSON Schemas of other MCP servers: which parts the vault uses, and how it checks values in bounded time. A schema
could fetch a document by `$ref`, double its work at each step, or contain a regular expression that never ends. So
references are resolved within a budget, and only keywords that take bounded time are accepted; a tool with any other
keyword can't be used. Patterns run in a linear-time engine, and building them has a budget, too. A check counts its
steps, and gives up at a limit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from pydantic_core import SchemaError, SchemaValidator, core_schema
from pydantic_core import ValidationError as CoreError

from providers.api.text import as_description
from providers.outbound.json_values import is_array, is_object
from providers.remote import patterns

NODES: Final = 1000  # of a schema with resolved references
DEPTH: Final = 24
_PROSE: Final = 400  # characters of a description
_NAME: Final = 100  # characters of a member's name
_ITEMS: Final = 500  # of an enum
_LOCAL: Final = ("#/$defs/", "#/definitions/")
# Keywords by what they contain.
_SCHEMA: Final = frozenset({"items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames"})
_SCHEMAS: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_NAMED: Final = frozenset({"properties", "dependentSchemas"})
_PLAIN: Final = frozenset(
    {
        *("type", "enum", "const", "default", "required", "minimum", "maximum", "exclusiveMinimum", "pattern"),
        *("exclusiveMaximum", "multipleOf", "minLength", "maxLength", "minItems", "maxItems", "uniqueItems"),
        *("minProperties", "maxProperties", "minContains", "maxContains", "format", "deprecated", "readOnly"),
        *("writeOnly", "contentMediaType", "contentEncoding", "dependentRequired"),
    }
)
_TEXTS: Final = frozenset({"title", "description"})
_REFUSED: Final = frozenset(
    {
        *("$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor", "patternProperties"),
        *("unevaluatedProperties", "unevaluatedItems", "additionalItems", "dependencies"),
    }
)

QUICK: Final = 5_000  # steps of a check: at most a few tenths of a second
LONG: Final = 100_000  # the same in a thread: at most a few seconds
Check = Callable[[object], str | None]


class SchemaRefused(Exception):
    """This schema can't be used; one line."""


def usable_schema(schema: object) -> dict[str, object]:
    """The schema with resolved references, its texts cut and cleaned, and nothing unknown. Raises SchemaRefused."""
    if not is_object(schema):
        raise SchemaRefused("a schema that isn't an object")
    found = _SchemaReader(schema).read(schema, depth=0, within=())
    if not is_object(found) or found.get("type", "object") != "object":
        raise SchemaRefused("a schema of something other than an object")
    return {"type": "object", **found}


class _SchemaReader:
    """Reads one schema; counts what it reads."""

    def __init__(self, root: Mapping[str, object]) -> None:
        self._root = root
        self._left = NODES
        self._size_left = patterns.MOST

    def read(self, node: object, *, depth: int, within: tuple[str, ...]) -> object:
        if isinstance(node, bool):
            return node
        if not is_object(node):
            raise SchemaRefused("a schema that is neither an object nor a boolean")
        self._left -= 1
        if self._left < 0 or depth > DEPTH:
            raise SchemaRefused(f"a schema of more than {NODES} parts or {DEPTH} levels")
        reference = node.get("$ref")
        if reference is not None:
            others = {name: value for name, value in node.items() if name != "$ref"}
            target = self._target(reference, within)
            found = self.read(target, depth=depth + 1, within=(*within, str(reference)))
            rest = self.read(others, depth=depth + 1, within=within)
            if not is_object(rest) or not rest:
                return found
            if is_object(found) and found.keys().isdisjoint(rest):
                return {**found, **rest}
            return {**rest, "allOf": [*self._list(rest.get("allOf")), found]}
        return dict(self._members(node, depth=depth, within=within))

    def _members(
        self, node: Mapping[str, object], *, depth: int, within: tuple[str, ...]
    ) -> Iterator[tuple[str, object]]:
        for name, value in node.items():
            if name in _REFUSED:
                raise SchemaRefused(f"a schema with {name}")
            if name in _SCHEMA:
                yield name, self.read(value, depth=depth + 1, within=within)
            elif name in _SCHEMAS:
                yield name, [self.read(one, depth=depth + 1, within=within) for one in self._list(value)]
            elif name in _NAMED and is_object(value):
                yield (
                    name,
                    {_name(member): self.read(one, depth=depth + 1, within=within) for member, one in value.items()},
                )
            elif name in _TEXTS and isinstance(value, str):
                yield name, as_description(value, limit=_PROSE)
            elif name == "pattern":
                yield name, self._pattern(value)
            elif name in _PLAIN:
                yield name, _plain(name, value)

    def _pattern(self, value: object) -> str:
        if isinstance(value, str):
            self._size_left -= patterns.size_of(value)
        if not isinstance(value, str) or self._size_left < 0 or _matcher(value) is None:
            raise SchemaRefused("a schema with a pattern that can't be checked in bounded time")
        return value

    def _target(self, reference: object, within: tuple[str, ...]) -> object:
        if not isinstance(reference, str) or not reference.startswith(_LOCAL):
            raise SchemaRefused("a schema that refers to another document")
        if reference in within:
            raise SchemaRefused("a schema that contains itself")
        _, group, name = reference.split("/", 2)
        known = self._root.get(group)
        if not is_object(known) or name not in known:
            raise SchemaRefused("a schema that refers to nothing")
        return known[name]

    @staticmethod
    def _list(value: object) -> list[object]:
        return list(value) if is_array(value) else []


def _name(member: str) -> str:
    if not 0 < len(member) <= _NAME or not member.isprintable() or as_description(member, limit=_NAME) != member:
        raise SchemaRefused("a schema with an unreadable member name")
    return member


def _plain(keyword: str, value: object) -> object:
    """A keyword that contains no schema; texts for a model must be readable."""
    said = json.dumps(value)
    if len(said) > 20_000 or (is_array(value) and len(value) > _ITEMS):
        raise SchemaRefused(f"a schema with a long {keyword}")
    if any(as_description(text, limit=len(text) + 1) != text.strip() for text in _texts_in(value)):
        raise SchemaRefused(f"a schema with unreadable text in {keyword}")
    return value


def _texts_in(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif is_array(value):
        for one in value:
            yield from _texts_in(one)
    elif is_object(value):
        for name, one in value.items():
            yield name
            yield from _texts_in(one)


@lru_cache(maxsize=512)
def _matcher(pattern: str) -> SchemaValidator | None:
    """Finds the pattern in a text, in linear time; None if the engine can't handle it."""
    try:
        return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex", strict=True))
    except SchemaError:
        return None


def _library() -> Any:  # which has no type hints
    import jsonschema

    return jsonschema


class _TooMuch(Exception):
    """The check takes too many steps."""


@dataclass(slots=True)
class _Budget:
    """The remaining budget of a check. `sizes`: those of the parts of the value, by identity."""

    left: int
    sizes: Mapping[int, int]

    def spend(self, wanted: object, instance: object, *, factor: int = 1) -> None:
        """Charge one keyword. The library's message about a mismatch repeats the part of the value, so its size
        counts."""
        listed = len(wanted) if is_array(wanted) or is_object(wanted) else 0
        size = len(instance) if isinstance(instance, str) else self.sizes.get(id(instance), 1)
        self.left -= 1 + listed * factor // 4 + size // 500
        if self.left < 0:
            raise _TooMuch


_budget: ContextVar[_Budget] = ContextVar("_budget")


def _sizes(value: object) -> Mapping[int, int]:
    """The approximate number of characters in each list and object of the value, by identity."""
    found: dict[int, int] = {}
    waiting: list[tuple[object, bool]] = [(value, False)]
    while waiting:
        one, is_ready = waiting.pop()
        if not (is_array(one) or is_object(one)):
            continue
        inner: list[object] = list(one.values()) if is_object(one) else list(one)
        if is_ready:
            texts = sum(len(part) if isinstance(part, str) else found.get(id(part), 1) for part in inner)
            found[id(one)] = texts + (sum(map(len, one)) if is_object(one) else 0)
        else:
            waiting += [(one, True), *((part, False) for part in inner)]
    return found


def _with_counting(keyword: Any) -> Any:
    def run(validator: object, wanted: object, instance: object, whole: object) -> object:
        _budget.get().spend(wanted, instance)
        return keyword(validator, wanted, instance, whole)

    return run


def checker(schema: Mapping[str, object], *, steps: int = QUICK) -> Check:
    """What is wrong with a value according to a usable schema, in a text that repeats no part of it; None if it fits. A
    value whose check takes more than these steps doesn't fit. Raises SchemaRefused for a keyword with an invalid value.
    """
    jsonschema = _library()
    draft, wrong = jsonschema.Draft202012Validator, jsonschema.ValidationError

    def pattern(validator: object, wanted: str, instance: object, whole: object) -> Iterator[object]:
        if isinstance(instance, str) and not _matches(wanted, instance):
            yield wrong("pattern")

    def unique(validator: object, wanted: object, instance: object, whole: object) -> Iterator[object]:
        if wanted is True and is_array(instance):
            _budget.get().spend(instance, instance, factor=4)
            said = [json.dumps(one, sort_keys=True) for one in instance]
            if len(set(said)) != len(said):
                yield wrong("uniqueItems")

    try:
        draft.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise SchemaRefused("a schema that isn't valid JSON Schema") from error
    keywords = {**draft.VALIDATORS, "pattern": pattern, "uniqueItems": unique}
    kind = jsonschema.validators.extend(draft, {name: _with_counting(one) for name, one in keywords.items()})
    validator = kind(schema)  # without references, it fetches nothing

    def check(value: object) -> str | None:
        token = _budget.set(_Budget(steps, _sizes(value)))
        try:
            error: Any = next(validator.iter_errors(value), None)
        except (_TooMuch, RecursionError):
            return "the value takes too long to check"
        finally:
            _budget.reset(token)
        if error is None:
            return None
        place = ".".join(str(part)[:60] for part in error.absolute_path) or "the value"
        keyword, wanted, instance = str(error.validator), error.validator_value, error.instance
        detail = json.dumps(wanted)[:80] if keyword in _SAID else ""
        if keyword == "required" and is_object(instance):
            detail = next((str(one) for one in wanted if one not in instance), "")
        return f"{place} doesn't fit `{keyword}` {detail}".rstrip()

    return check


def _matches(pattern: str, text: str) -> bool:
    matcher = _matcher(pattern)
    if matcher is None:
        return False
    try:
        matcher.validate_python(text)
    except CoreError:
        return False
    return True


_SAID: Final = frozenset({"type", "minimum", "maximum", "minLength", "maxLength", "enum", "const", "pattern"})
