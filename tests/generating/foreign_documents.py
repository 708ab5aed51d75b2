"""Turn descriptions in other languages into OpenAPI documents: Bluesky's lexicons and Dropbox's Stone.

Each takes a folder of files. Only what `tests.generating.openapi_contracts` compares is kept. Stone needs the package
`stone`, which isn't among the development requirements: `pip install stone`.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

_POST: Final = "app.bsky.feed.post"  # lexicons leave records open: our tools read and write posts
_NUMBERS: Final[Mapping[str, str]] = {"Int": "integer", "UInt": "integer", "Float": "number"}


def foreign_document(folder: Path) -> Mapping[str, object] | None:
    """The folder's files as an OpenAPI document; None if they are in neither language."""
    if any(folder.glob("*.stone")):
        return _of_stone(sorted(folder.glob("*.stone")))
    if any(folder.glob("app/bsky")):
        return _of_lexicons(sorted(folder.glob("**/*.json")))
    return None


def _operation(
    parameters: object, body: Mapping[str, object] | None, answer: Mapping[str, object] | None
) -> Mapping[str, object]:
    made: dict[str, object] = {"parameters": parameters}
    if body is not None:
        made["requestBody"] = {"content": {"application/json": {"schema": body}}}
    if answer is not None:
        made["responses"] = {"200": {"content": {"application/json": {"schema": answer}}}}
    return made


def _of_lexicons(files: Iterable[Path]) -> Mapping[str, object]:
    paths: dict[str, object] = {}
    schemas: dict[str, dict[str, object]] = {}
    for file in files:
        lexicon = json.loads(file.read_text(encoding="utf-8"))
        name: str = lexicon["id"]
        for part, about in lexicon["defs"].items():
            made = dict(_lexicon_schema(about.get("record", about), name))
            if about["type"] == "record":
                made["properties"] = {"$type": {"type": "string", "enum": [name]}, **made["properties"]}
            schemas.setdefault(name, {})[part] = made
        main: Mapping[str, Any] = lexicon["defs"].get("main", {})
        told: Mapping[str, Any] = main.get("parameters", {})
        if main.get("type") in ("query", "procedure"):
            parameters = [
                {"name": one, "in": "query", "required": one in told.get("required", ()), "schema": about}
                for one, about in told.get("properties", {}).items()
            ]
            body, answer = (
                None if "schema" not in main.get(where, {}) else _lexicon_schema(main[where]["schema"], name)
                for where in ("input", "output")
            )
            method = "get" if main["type"] == "query" else "post"
            paths[f"/{name}"] = {method: _operation(parameters, body, answer)}
    return {"openapi": "3", "paths": paths, "schemas": schemas}


def _lexicon_schema(about: Mapping[str, Any], lexicon: str) -> Mapping[str, object]:
    match about.get("type"):
        case "ref":
            return _lexicon_reference(about["ref"], lexicon)
        case "union":
            return {"anyOf": [_lexicon_reference(one, lexicon) for one in about["refs"]]}
        case "object":
            properties = {
                name: _lexicon_reference(_POST, lexicon)
                if name == "record" and one["type"] == "unknown"
                else _lexicon_schema(one, lexicon)
                for name, one in about.get("properties", {}).items()
            }
            return {"type": "object", "properties": properties, "required": about.get("required", [])}
        case "array":
            return {"type": "array", "items": _lexicon_schema(about["items"], lexicon)}
        case "string" | "integer" | "boolean" as kind:
            return {key: about[key] for key in ("enum", "minimum", "maximum") if key in about} | {"type": kind}
        case _:
            return {}


def _lexicon_reference(target: str, lexicon: str) -> Mapping[str, object]:
    name, _, part = target.partition("#")
    return {"$ref": f"#/schemas/{name or lexicon}/{part or 'main'}"}


def _of_stone(files: Iterable[Path]) -> Mapping[str, object]:
    read: Any = importlib.import_module("stone.frontend.frontend")
    api: Any = read.specs_to_ir([(str(file), file.read_text(encoding="utf-8")) for file in files])
    paths: dict[str, object] = {}
    schemas: dict[str, object] = {}
    for space in api.namespaces.values():
        for kind in space.data_types:
            schemas[f"{space.name}.{kind.name}"] = _stone_definition(kind)
        for route in space.routes:
            name = route.name if route.version == 1 else f"{route.name}_v{route.version}"
            body, answer = (
                None if type(one).__name__ == "Void" else _stone_schema(one)
                for one in (route.arg_data_type, route.result_data_type)
            )
            paths[f"/{space.name}/{name}"] = {"post": _operation([], body, answer)}
    return {"openapi": "3", "paths": paths, "schemas": schemas}


def _stone_definition(kind: Any) -> Mapping[str, object]:
    """The members of a structure, or of a union: its tag, and what belongs to each."""
    if type(kind).__name__ == "Struct":
        own = {one.name: _stone_schema(one.data_type) for one in kind.all_fields}
        needed = [one.name for one in kind.all_required_fields]
        made: dict[str, object] = {"type": "object", "properties": own, "required": needed}
        if kind.has_enumerated_subtypes():
            made["anyOf"] = [_stone_schema(one.data_type) for one in kind.get_enumerated_subtypes()]
        return made
    members: dict[str, object] = {".tag": {"type": "string", "enum": [one.name for one in kind.all_fields]}}
    parts: list[object] = []
    for one in kind.all_fields:
        if type(one.data_type).__name__ == "Struct" and not one.data_type.has_enumerated_subtypes():
            parts.append(_stone_schema(one.data_type))  # a structure's members are beside the tag
        else:
            members[one.name] = _stone_schema(one.data_type)
    return {"type": "object", "properties": members, "anyOf": parts}


def _stone_schema(kind: Any) -> Mapping[str, object]:
    match type(kind).__name__:
        case "Nullable" | "Alias":
            return _stone_schema(kind.data_type)
        case "List":
            return {"type": "array", "items": _stone_schema(kind.data_type)}
        case "Struct" | "Union":
            return {"$ref": f"#/schemas/{kind.namespace.name}.{kind.name}"}
        case "Boolean":
            return {"type": "boolean"}
        case "String" | "Timestamp" | "Bytes":
            return {"type": "string"}
        case other if other.rstrip("3264") in _NUMBERS:
            bounds = {"minimum": kind.min_value, "maximum": kind.max_value}
            told = {name: value for name, value in bounds.items() if value is not None}
            return told | {"type": _NUMBERS[other.rstrip("3264")]}
        case _:
            return {"type": "object"}
