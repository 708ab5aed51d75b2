"""Read OpenAPI 3, Swagger 2 and Google's discovery documents, in one file or several, for the generator of rules."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import yaml

from tests.generating.foreign_documents import foreign_document, of_aws
from tests.generating.published import stripe_library


class _Loader(yaml.CSafeLoader):
    """Leaves what looks like a time as text, because some documents have invalid times."""


_Loader.yaml_implicit_resolvers = {
    start: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:timestamp"]
    for start, found in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}
_METHODS: Final = ("get", "post", "put", "patch", "delete")
_SEVERAL: Final = ("allOf", "oneOf", "anyOf")
_FORM: Final = ("application/x-www-form-urlencoded", "multipart/form-data")


def _content(path: Path) -> Mapping[str, object]:
    text = path.read_text(encoding="utf-8")
    content = json.loads(text) if path.suffix == ".json" else yaml.load(text, _Loader)
    if "endpointPrefix" in content.get("metadata", {}):
        return of_aws(content)
    return _of_discovery(content) if "discoveryVersion" in content else content


def _of_discovery(content: Mapping[str, object]) -> Mapping[str, object]:
    """One of Google's discovery documents as an OpenAPI document."""
    paths: dict[str, dict[str, object]] = {}
    for method in _methods_of(content):
        told = {**content.get("parameters", {}), **method.get("parameters", {})}
        made: dict[str, object] = {
            "parameters": [
                {
                    "name": name,
                    "in": about["location"],
                    "required": about.get("required", False),
                    "schema": {key: int(one) if key in ("minimum", "maximum") else one for key, one in about.items()},
                }
                for name, about in told.items()
            ]
        }
        if "request" in method:
            made["requestBody"] = {"content": {"application/json": {"schema": method["request"]}}}
        if "response" in method:
            made["responses"] = {"200": {"content": {"application/json": {"schema": method["response"]}}}}
        paths.setdefault("/" + str(method["path"]), {})[str(method["httpMethod"]).lower()] = made
    kept = json.loads(re.sub(r'"\$ref": "(\w+)"', r'"$ref": "#/schemas/\1"', json.dumps([paths, content["schemas"]])))
    return {"servers": [{"url": content["baseUrl"]}], "paths": kept[0], "schemas": kept[1]}


def _methods_of(resource: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    yield from resource.get("methods", {}).values()
    for inner in resource.get("resources", {}).values():
        yield from _methods_of(inner)


def _in_pieces(folder: Path) -> Mapping[str, object]:
    """Read a document with some members in separate files (`paths.json`, `definitions.json`, and `others.json`), or in
    another language.
    """
    if (found := foreign_document(folder)) is not None:
        return found
    members = {path.stem: _content(path) for path in folder.glob("*.json")}
    return {**members.pop("others"), **members}


def _in_folder(folder: Path) -> Mapping[str, object]:
    return stripe_library.content_of(folder) if stripe_library.is_library(folder) else _in_pieces(folder)


def template_of(path: str) -> str:
    """The path with `{}` for each parameter."""
    return re.sub(r"[{][^}]*[}]", "{}", path)


class Document:
    """An OpenAPI document whose parts may be in other files next to it, or several documents of one service."""

    def __init__(self, path: Path, *others: Path) -> None:
        self._read: dict[Path, Mapping[str, object]] = {}
        self.path = path.resolve()
        self._paths = (self.path, *(other.resolve() for other in others))
        self.content = self._file(self.path)
        self.is_swagger = "swagger" in self.content

    def _file(self, path: Path) -> Mapping[str, object]:
        if path not in self._read:
            self._read[path] = _in_folder(path) if path.is_dir() else _content(path)
        return self._read[path]

    @property
    def server(self) -> str:
        """The base URL of its paths, according to the document."""
        if not self.is_swagger:
            return str(self.content["servers"][0]["url"]).rstrip("/") if self.content.get("servers") else ""
        return f"https://{self.content.get('host', '')}{self.content.get('basePath', '')}".rstrip("/")

    def follow(self, value: Mapping[str, object], where: Path) -> tuple[Mapping[str, object], Path]:
        """The target of a reference and its file; the value itself if it isn't a reference. Elements of several kinds
        are any of these."""
        while "$ref" in value:
            name, _, inner = str(value["$ref"]).partition("#")
            name = name.rpartition("/")[2] if name.startswith("https:") else name  # of the same repository
            where = (where.parent / name).resolve() if name else where
            value = self._file(where)
            for step in unquote(inner).split("/")[1:]:
                value = value[step.replace("~1", "/").replace("~0", "~")]
        if isinstance(several := value.get("items"), list):
            value = {**value, "items": {"anyOf": several}}
        return value, where

    def operations(self) -> Iterator[tuple[str, str, Mapping[str, object], Sequence[object], Path]]:
        """Method, path, operation, its parameters, and the file that it is in."""
        items = ((path, item, file) for file in self._paths for path, item in self._file(file)["paths"].items())
        for path, item, file in items:
            item, where = self.follow(item, file)
            for method in _METHODS:
                if method in item:
                    operation, place = self.follow(item[method], where)
                    told = [*self._parameters(item, where), *self._parameters(operation, place)]
                    yield method.upper(), path, operation, told, place

    def _parameters(self, item: Mapping[str, object], where: Path) -> Iterator[Mapping[str, object]]:
        for one in item.get("parameters", []):
            with suppress(KeyError):  # Zoho's documents have references that lead nowhere
                yield self.follow(one, where)[0]

    def example_answer(self, operation: Mapping[str, object], where: Path) -> object:
        """The first example of an operation's successful answer; None if there is none."""
        for status, one in operation.get("responses", {}).items():
            response, _ = self.follow(one, where)
            for kind in response.get("content", {}).values() if str(status).startswith("2") else ():
                examples = [example.get("value") for example in kind.get("examples", {}).values()]
                return next((example for example in (kind.get("example"), *examples) if example is not None), None)
        return None

    def body(
        self, operation: Mapping[str, object], told: Sequence[object], where: Path
    ) -> tuple[Mapping[str, object], Path] | None:
        """The schema of an operation's JSON body or form; None if it has neither."""
        if self.is_swagger:
            fields = {one["name"]: one for one in told if one["in"] == "formData"}
            needed = [name for name, one in fields.items() if one.get("required")]
            made = {"type": "object", "properties": fields, "required": needed} if fields else None
            return next(((one["schema"], where) for one in told if one["in"] == "body" and "schema" in one), None) or (
                None if made is None else (made, where)
            )
        content, place = self.follow(operation.get("requestBody", {}), where)
        kinds = content.get("content", {})
        for kind, one in kinds.items():
            if "json" in kind and "schema" in one:
                return one["schema"], place
        return next(((kinds[kind]["schema"], place) for kind in _FORM if "schema" in kinds.get(kind, {})), None)

    def answer(self, operation: Mapping[str, object], where: Path) -> tuple[Mapping[str, object], Path] | None:
        """The schema of an operation's successful answer; None if the document has none."""
        responses = operation.get("responses", {})
        successes = [one for status, one in responses.items() if str(status).startswith("2")]
        for one in successes or [responses.get("default", {})]:
            response, place = self.follow(one, where)
            kinds = response.get("content", {"json": response})
            for kind, content in kinds.items():
                if "json" in kind and "schema" in content:
                    return content["schema"], place
        return None

    def members(self, schema: Mapping[str, object], where: Path) -> Iterator[str]:
        """The names of an object's members, in all of its shapes."""
        schema, where = self.follow(schema, where)
        yield from self.follow(schema.get("properties", {}), where)[0]
        for several in _SEVERAL:
            for one in schema.get(several, []):
                yield from self.members(one, where)

    def writable_members(self, schema: Mapping[str, object], where: Path) -> Iterator[str]:
        """The names of the members that a client can send, in all of its shapes."""
        for name in self.members(schema, where):
            found = self.member(schema, where, name)
            if found is None or not found[0].get("readOnly"):
                yield name

    def member(self, schema: Mapping[str, object], where: Path, name: str) -> tuple[Mapping[str, object], Path] | None:
        """The schema of one member, or of an array's elements; None if the document doesn't have it."""
        schema, where = self.follow(schema, where)
        if name in (found := schema.get("properties", {})):
            return self.follow(found[name], where)
        if "items" in schema:
            inner = self.follow(schema["items"], where)
            return inner if name.isdecimal() else self.member(*inner, name)
        for several in _SEVERAL:
            found = [inner for one in schema.get(several, []) if (inner := self.member(one, where, name)) is not None]
            if found and all("enum" in one for one, _ in found):  # what distinguishes the shapes
                return {**found[0][0], "enum": [word for one, _ in found for word in one["enum"]]}, found[0][1]
            if len(found) > 1 and several == "allOf" and not any("items" in one for one, _ in found):
                return {"allOf": [one for one, _ in found]}, found[0][1]
            if found:
                return found[0]
        return None

    def required_members(self, schema: Mapping[str, object], where: Path) -> set[str]:
        """The members that an object must have, according to itself or to all of its parts."""
        schema, where = self.follow(schema, where)
        found = {str(name) for name in schema.get("required", []) or []} if "properties" in schema else set[str]()
        for one in schema.get("allOf", []):
            found |= self.required_members(one, where)
        return found

    def kinds(self, schema: Mapping[str, object], where: Path) -> set[str]:
        """The JSON types that a value can have; empty means any."""
        schema, where = self.follow(schema, where)
        if (told := schema.get("type", schema.get("types"))) is not None:  # Gong's document has `types`
            return {told} if isinstance(told, str) else set(told)
        if "properties" in schema:
            return {"object"}
        found: set[str] = set()
        for several in _SEVERAL:
            parts = [self.kinds(one, where) for one in schema.get(several, [])]
            if several != "allOf" and not all(parts):
                return set()
            found |= set().union(*parts) if parts else set()
        return found

    def words(self, schema: Mapping[str, object], where: Path) -> list[str]:
        """The texts that a value is limited to; empty means no limit."""
        schema, where = self.follow(schema, where)
        if "enum" in schema:
            return [str(one) for one in schema["enum"]]
        parts = [self.words(one, where) for one in schema.get("allOf", [])]
        return next((one for one in parts if one), [])

    def example(self, schema: Mapping[str, object], where: Path, *, depth: int = 6) -> object:
        """A value that fits the schema, from its examples if there are any."""
        schema, where = self.follow(schema, where)
        if "example" in schema:
            return schema["example"]
        if "allOf" in schema or "properties" in schema:
            parts = [*schema.get("allOf", []), *([schema] if "properties" in schema else [])]
            made: dict[str, object] = {}
            for part in parts:
                part, place = self.follow(part, where) if part is not schema else (part, where)
                if "allOf" in part and part is not schema:
                    made |= self.example(part, place, depth=depth)
                    continue
                properties, place = self.follow(part.get("properties", {}), place)
                if depth > 0:
                    made |= {name: self.example(one, place, depth=depth - 1) for name, one in properties.items()}
            return made
        for several in ("oneOf", "anyOf"):
            if several in schema:
                return self.example(schema[several][0], where, depth=depth)
        match schema.get("type"):
            case "array":
                return [self.example(schema["items"], where, depth=depth - 1)] if depth > 0 else []
            case "integer" | "number":
                return 1
            case "boolean":
                return True
            case "object":
                return {}
            case _:
                return schema["enum"][0] if "enum" in schema else "text"
