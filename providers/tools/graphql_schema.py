"""Reads the schema of a GraphQL API: the answer to an introspection query, or SDL where `graphql-core` is installed.

`providers.tools.graphql_import` makes rules and tools from it. GraphQL specification (October 2021) §4.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from providers.outbound.json_values import is_object
from providers.tools.openapi_document import LARGEST, DocumentRefused, LeftOut, Schema, list_of, object_of, text_of

OPERATIONS: Final = 2_000
_WRAPPERS: Final = 8  # levels of lists and non-nulls around a type
_NAME: Final = re.compile(r"[_A-Za-z][_0-9A-Za-z]*")  # GraphQL specification §2.1.9
_TOKENS: Final = 400_000  # of SDL
_NO_SDL: Final = (
    "is GraphQL SDL, which needs a package: install graphql-core, or give the JSON answer to an introspection query"
)


@dataclass(frozen=True, slots=True)
class GraphQLType:
    """The type of an argument or field: the type inside its lists, and its notation in a query."""

    inner: Schema
    written: str
    is_required: bool
    lists: int

    @property
    def name(self) -> str:
        return text_of(self.inner.get("name"))

    @property
    def kind(self) -> str:
        return text_of(self.inner.get("kind"))


@dataclass(frozen=True, slots=True)
class GraphQLOperation:
    """A field of the query or mutation type."""

    root: str  # query or mutation
    content: Schema

    @property
    def name(self) -> str:
        return text_of(self.content.get("name"))

    @property
    def call(self) -> str:
        return f"{self.root} {self.name}"


class GraphQLSchema:
    """The types of an API by name."""

    def __init__(self, content: Schema) -> None:
        self._content = content
        found = (object_of(one) for one in list_of(content.get("types")))
        self._types: Mapping[str, Schema] = {text_of(one.get("name")): one for one in found}

    def operations(self) -> Iterator[GraphQLOperation]:
        """Each query, then each mutation. Raises DocumentRefused for too many."""
        count = 0
        for root in ("query", "mutation"):
            name = text_of(object_of(self._content.get(f"{root}Type")).get("name"))
            for one in list_of(object_of(self._types.get(name)).get("fields")):
                count += 1
                if count > OPERATIONS:
                    raise DocumentRefused(f"has more than {OPERATIONS} operations; cut it to those that agents need")
                yield GraphQLOperation(root, object_of(one))

    def type_of(self, value: object) -> GraphQLType:
        """The type that a reference means. Raises LeftOut."""
        here, around = object_of(value), list[str]()
        for _ in range(_WRAPPERS):
            kind = text_of(here.get("kind"))
            if kind not in {"NON_NULL", "LIST"}:
                break
            around.append(kind)
            here = object_of(here.get("ofType"))
        inner = self._types.get(text_of(here.get("name")))
        if inner is None:
            raise LeftOut("it uses a type that the schema doesn't describe")
        written = text_of(inner.get("name"))
        if _NAME.fullmatch(written) is None:
            raise LeftOut("the name of a type has other characters")
        for kind in reversed(around):
            written = f"[{written}]" if kind == "LIST" else f"{written}!"
        return GraphQLType(inner, written, around[:1] == ["NON_NULL"], around.count("LIST"))


def parse_schema(content: bytes) -> GraphQLSchema:
    """The schema in a document. Raises DocumentRefused."""
    if len(content) > LARGEST:
        raise DocumentRefused(f"is larger than {LARGEST // 1_000_000} MB")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise DocumentRefused("isn't text in UTF-8") from error
    read = _from_json(text) if text.lstrip().startswith("{") else _from_sdl(text)
    schema = read.get("__schema")
    if not is_object(schema):
        raise DocumentRefused("isn't the answer to an introspection query: it has no member `__schema`")
    return GraphQLSchema(schema)


def _from_json(text: str) -> Schema:
    try:
        read: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DocumentRefused("isn't valid JSON") from error
    whole = object_of(read)
    return object_of(whole["data"]) if "data" in whole else whole


def _from_sdl(text: str) -> Schema:
    try:
        import graphql
    except ImportError as error:
        raise DocumentRefused(_NO_SDL) from error
    try:
        document = graphql.parse(text, no_location=True, max_tokens=_TOKENS)
        schema = graphql.build_ast_schema(document, assume_valid_sdl=True)
        return object_of(json.loads(json.dumps(graphql.introspection_from_schema(schema))))
    except (graphql.GraphQLError, TypeError, KeyError, RecursionError) as error:
        raise DocumentRefused("isn't GraphQL SDL that can be read") from error
