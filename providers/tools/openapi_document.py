"""Reads an OpenAPI 3 document of your own API: with limits, and without following references outside it.

`providers.tools.openapi_import` makes rules and tools from it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from providers.outbound.json_values import is_array, is_object

LARGEST: Final = 5_000_000  # bytes
OPERATIONS: Final = 2_000
_HOPS: Final = 20  # references that lead to references
_METHODS: Final = ("get", "post", "put", "patch", "delete")
_VARIANTS: Final = ("allOf", "oneOf", "anyOf")
_DEEPEST: Final = 6  # variants within variants
_SPREAD: Final = 4 * LARGEST  # characters of a YAML document after expanding its aliases
STEPS: Final = 2_000_000  # parts that are examined, counting each reference
_STEPS_OF_ONE: Final = 20_000  # for one operation
_MERGE: Final = "tag:yaml.org,2002:merge"

Schema = Mapping[str, object]


class DocumentRefused(Exception):
    """The document can't be imported; one line that says why and what to do."""


class LeftOut(Exception):
    """One operation can't become a tool; a few words that say why."""


@dataclass(frozen=True, slots=True)
class OpenAPIOperation:
    """One operation, with its parameters and those of its path."""

    method: str
    path: str
    content: Schema
    parameters: Sequence[Schema]

    @property
    def call(self) -> str:
        return f"{self.method} {self.path}"


class OpenAPIDocument:
    """An OpenAPI document."""

    def __init__(self, content: Schema) -> None:
        version = content.get("openapi")
        if "swagger" in content:
            raise DocumentRefused("Swagger 2.0 isn't supported; convert the document to OpenAPI 3")
        if not isinstance(version, str) or not version.startswith(("3.0", "3.1")):
            raise DocumentRefused("isn't an OpenAPI 3.0 or 3.1 document: the member `openapi` doesn't say so")
        if not is_object(content.get("paths")):
            raise DocumentRefused("has no `paths`; there is nothing to import")
        self._content = content
        self._steps = self._steps_of_one = 0

    def spend(self, steps: int = 1) -> None:
        """Count the parts that are read. Raises LeftOut, or DocumentRefused once all operations together took too
        many."""
        self._steps += steps
        self._steps_of_one += steps
        if self._steps > STEPS:
            raise DocumentRefused("has schemas that refer to each other too often; cut it to what agents need")
        if self._steps_of_one > _STEPS_OF_ONE:
            raise LeftOut("its schemas refer to each other too often")

    @property
    def title(self) -> str:
        return text_of(object_of(self._content.get("info")).get("title"))

    @property
    def server(self) -> str:
        """The address of the first server; empty without one."""
        first = next(iter(list_of(self._content.get("servers"))), None)
        return text_of(object_of(first).get("url")).rstrip("/")

    def resolve(self, value: object) -> Schema:
        """The object that a value is, or refers to. Raises LeftOut."""
        for _ in range(_HOPS):
            self.spend()
            if not is_object(value):
                raise LeftOut("a part of it isn't an object")
            way = value.get("$ref")
            if way is None:
                return value
            if not isinstance(way, str) or not way.startswith("#/"):
                raise LeftOut("it refers to another document")
            value = self._content
            for step in way[2:].split("/"):
                value = value.get(step.replace("~1", "/").replace("~0", "~")) if is_object(value) else None
        raise LeftOut("its references lead in a circle")

    def operations(self) -> Iterator[OpenAPIOperation | tuple[str, str]]:
        """Each operation, or its method and path and why it can't be read."""
        count = 0
        for path, item in object_of(self._content.get("paths")).items():
            for method in _METHODS:
                if not is_object(item) or method not in item:
                    continue
                count += 1
                if count > OPERATIONS:
                    raise DocumentRefused(f"has more than {OPERATIONS} operations; cut it to those that agents need")
                self._steps_of_one = 0
                try:
                    content = self.resolve(item[method])
                    told = [*list_of(item.get("parameters")), *list_of(content.get("parameters"))]
                    by_name = {(one.get("in"), one.get("name")): one for one in map(self.resolve, told)}
                    yield OpenAPIOperation(method.upper(), str(path), content, tuple(by_name.values()))
                except LeftOut as why:
                    yield f"{method.upper()} {path}", str(why)

    def security(self, operation: OpenAPIOperation) -> object:
        """The alternatives that allow the operation."""
        return operation.content.get("security", self._content.get("security"))

    def oauth_schemes(self) -> Mapping[str, Mapping[str, str]]:
        """OAuth 2.0 and OpenID Connect schemes, and what the document calls their scopes."""
        made: dict[str, Mapping[str, str]] = {}
        components = object_of(self._content.get("components"))
        for name, value in object_of(components.get("securitySchemes")).items():
            scheme = self.resolve(value)
            if scheme.get("type") not in ("oauth2", "openIdConnect"):
                continue
            told = [object_of(flow).get("scopes") for flow in object_of(scheme.get("flows")).values()]
            made[name] = {scope: str(words) for one in told for scope, words in object_of(one).items()}
        return made

    def json_of(self, content: object) -> Schema | None:
        """The schema of the JSON in a body or answer; None without any."""
        for kind, value in object_of(self.resolve(content).get("content")).items():
            one = object_of(value)
            if "json" in kind and "schema" in one:
                return self.resolve(one["schema"])
        return None

    def members(self, schema: Schema, *, depth: int = 0) -> Mapping[str, Schema]:
        """The members of an object, from all its possible shapes."""
        found: dict[str, Schema] = {}
        for name, value in object_of(schema.get("properties")).items():
            found[str(name)] = self.resolve(value)
        for variant in _VARIANTS if depth < _DEEPEST else ():
            for one in list_of(schema.get(variant)):
                for name, value in self.members(self.resolve(one), depth=depth + 1).items():
                    found.setdefault(name, value)
        return found

    def required_members(self, schema: Schema, *, depth: int = 0) -> frozenset[str]:
        """The members that an object must have."""
        told = list_of(schema.get("required"))
        self.spend(len(told))
        names = frozenset(one for one in told if isinstance(one, str))
        for one in list_of(schema.get("allOf")) if depth < _DEEPEST else ():
            names |= self.required_members(self.resolve(one), depth=depth + 1)
        return names

    def kind(self, schema: Schema, *, depth: int = 0) -> str:
        """The JSON type of a value; empty if it can have several."""
        told = schema.get("type")
        kinds = {str(one) for one in told if one != "null"} if is_array(told) else {str(told)} if told else set[str]()
        if not kinds and "properties" in schema:
            kinds = {"object"}
        for variant in _VARIANTS if not kinds and depth < _DEEPEST else ():
            kinds |= {self.kind(self.resolve(one), depth=depth + 1) for one in list_of(schema.get(variant))} - {"null"}
        return kinds.pop() if len(kinds) == 1 else ""

    def items(self, schema: Schema) -> Schema:
        """The schema of an array's elements."""
        return self.resolve(schema.get("items", {}))


def parse(text: bytes) -> OpenAPIDocument:
    """A document in JSON or YAML. Raises DocumentRefused."""
    if len(text) > LARGEST:
        raise DocumentRefused(f"is larger than {LARGEST // 1_000_000} MB; cut it to the operations that agents need")
    try:
        content: object = json.loads(text)
    except (ValueError, RecursionError):
        content = _read_yaml(text)
    if not is_object(content):
        raise DocumentRefused("is neither a JSON nor a YAML object")
    try:
        return OpenAPIDocument(content)
    except LeftOut as why:
        raise DocumentRefused(str(why)) from why


def _read_yaml(text: bytes) -> object:
    import yaml  # only for such documents

    class Loader(yaml.CSafeLoader):
        """Leaves text that looks like a time as text, because some examples have invalid times. Merged keys are copied
        at once, including nested ones, so a few lines could fill the memory.
        """

        def flatten_mapping(self, node: yaml.MappingNode) -> None:
            if any(key.tag == _MERGE for key, _ in node.value):
                raise DocumentRefused("merges keys with `<<`, which isn't supported; write them out")

    Loader.yaml_implicit_resolvers = {
        start: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:timestamp"]
        for start, found in yaml.CSafeLoader.yaml_implicit_resolvers.items()
    }
    try:
        content: object = yaml.load(text, Loader)  # noqa: S506 -- a safe one
        spread = _spread(content, {})
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DocumentRefused("is neither valid JSON nor valid YAML") from error
    if spread > _SPREAD:
        raise DocumentRefused("repeats parts by name too often; write out those that agents need")
    return content


def _spread(value: object, known: dict[int, int]) -> int:
    """The number of characters in a value, counting each repetition of a part. Raises ValueError for a circular
    value."""
    if isinstance(value, str):
        return len(value) + 1
    parts = [*value, *value.values()] if is_object(value) else list_of(value)
    if (found := known.get(id(value))) is None:
        known[id(value)] = -1
        found = known[id(value)] = 1 + sum(_spread(one, known) for one in parts)
    elif found < 0:
        raise ValueError("a part contains itself")
    return found


def text_of(value: object) -> str:
    """The value if it is a text; otherwise empty."""
    return value if isinstance(value, str) else ""


def list_of(value: object) -> Sequence[object]:
    """The value if it is an array; otherwise empty."""
    return value if is_array(value) else ()


def object_of(value: object) -> Schema:
    """The value if it is an object; otherwise empty."""
    return value if is_object(value) else {}
