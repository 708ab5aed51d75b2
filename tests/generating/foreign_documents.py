"""Turn descriptions in other languages into OpenAPI documents: Bluesky's lexicons, Dropbox's Stone, and AWS's models.

The first two are folders of files. Only what `tests.generating.openapi_contracts` compares is kept. Stone needs the
package `stone`, which isn't among the development requirements: `pip install stone`.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

_POST: Final = "app.bsky.feed.post"  # lexicons leave records open: our tools read and write posts
_NUMBERS: Final[Mapping[str, str]] = {"Int": "integer", "UInt": "integer", "Float": "number"}


_KINDS: Final = {
    "integer": "integer",
    "long": "integer",
    "float": "number",
    "double": "number",
    "boolean": "boolean",
    "map": "object",
}


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


def of_aws(content: Mapping[str, Any]) -> Mapping[str, object]:
    """A service model of botocore as an OpenAPI document. Operations at one address have their name after it."""
    about: Mapping[str, Any] = content["metadata"]
    model = _AwsModel(content["shapes"], is_xml=about["protocol"] in ("query", "ec2", "rest-xml"))
    names_operations = not about["protocol"].startswith("rest")
    paths: dict[str, dict[str, object]] = {}
    for name, operation in sorted(content["operations"].items(), key=lambda one: "?" in one[1]["http"]["requestUri"]):
        way, _, fixed = operation["http"]["requestUri"].partition("?")
        if fixed and "list-type" not in fixed:
            continue  # parts of a bucket
        members = model.members(operation.get("input"))
        placed = {key: one for key, one in members.items() if one.get("location") == "querystring"}
        told = [_aws_parameter(one.get("locationName", key), model.schema(one["shape"])) for key, one in placed.items()]
        told += [
            _aws_parameter(key, {"type": "string", "enum": [value]}, required=True) for key, value in _pairs(fixed)
        ]
        target = ""
        if about["protocol"] in ("query", "ec2"):
            target = f" {name}"
            given = {"Action": name, "Version": about["apiVersion"]}
            told = [_aws_parameter(key, {"type": "string", "enum": [one]}, required=True) for key, one in given.items()]
            told += [_aws_parameter(key, model.schema(one["shape"])) for key, one in members.items()]
        elif names_operations:
            target = f" {about['targetPrefix']}.{name}"
        sends = not model.is_xml and operation["http"]["method"] != "GET"
        body = model.structure(operation["input"]["shape"]) if sends and "input" in operation else None
        answer = _aws_answer(model, name, operation, protocol=about["protocol"])
        method = "get" if target and model.is_xml else str(operation["http"]["method"]).lower()
        paths.setdefault(way + target, {})[method] = _operation(told, body, answer)
    server = f"https://{about['endpointPrefix']}.{{region}}.amazonaws.com"
    return {"openapi": "3", "servers": [{"url": server}], "paths": paths, "shapes": model.made}


def _pairs(query: str) -> Iterable[tuple[str, str]]:
    return [(key, value) for key, _, value in (one.partition("=") for one in query.split("&")) if value]


def _aws_parameter(name: str, schema: object, *, required: bool = False) -> Mapping[str, object]:
    return {"name": name, "in": "query", "required": required, "schema": schema}


def _aws_answer(
    model: _AwsModel, name: str, operation: Mapping[str, Any], *, protocol: str
) -> Mapping[str, object] | None:
    """The answer, in XML below the names of its wrappers."""
    output: Mapping[str, Any] | None = operation.get("output")
    if output is None:
        return None
    inner = model.structure(output["shape"])
    if protocol == "rest-xml":
        wrapper = model.shapes[output["shape"]].get("locationName", output["shape"])
        return {"type": "object", "properties": {wrapper: inner}}
    if model.is_xml and "resultWrapper" in output:
        inner = {"type": "object", "properties": {output["resultWrapper"]: inner}}
    return {"type": "object", "properties": {f"{name}Response": inner}} if model.is_xml else inner


class _AwsModel:
    """The shapes of a service, as schemas by name."""

    def __init__(self, shapes: Mapping[str, Any], *, is_xml: bool) -> None:
        self.shapes = shapes
        self.is_xml = is_xml
        self.made: dict[str, object] = {}

    def members(self, reference: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """The members of an operation's input."""
        return {} if reference is None else self.shapes[reference["shape"]].get("members", {})

    def structure(self, name: str) -> Mapping[str, object]:
        """A reference to the schema of a structure."""
        if name not in self.made:
            self.made[name] = {}
            shape: Mapping[str, Any] = self.shapes[name]
            members = {
                self._name(key, one): self._member(one)
                for key, one in shape.get("members", {}).items()
                if one.get("location") not in ("querystring", "uri", "header")
            }
            needed = [key for key in shape.get("required", ()) if key in members]
            self.made[name] = {"type": "object", "properties": members, "required": needed}
        return {"$ref": f"#/shapes/{name}"}

    def schema(self, name: str) -> Mapping[str, object]:
        """The schema of any shape."""
        shape: Mapping[str, Any] = self.shapes[name]
        match shape["type"]:
            case "structure":
                return self.structure(name)
            case "list":
                return {"type": "array", "items": self.schema(shape["member"]["shape"])}
            case "timestamp":
                return {"type": "string" if self.is_xml else "number"}
            case kind:
                bounds = {"minimum": "min", "maximum": "max"} if kind in ("integer", "long") else {}
                told = {bound: shape[key] for bound, key in bounds.items() if key in shape}
                return (
                    told | {"type": _KINDS.get(kind, "string")} | ({"enum": shape["enum"]} if "enum" in shape else {})
                )

    def _name(self, key: str, member: Mapping[str, Any]) -> str:
        shape: Mapping[str, Any] = self.shapes[member["shape"]]
        if self.is_xml and shape["type"] == "list" and shape.get("flattened"):
            return str(shape["member"].get("locationName", member.get("locationName", key)))
        return str(member.get("locationName", key))

    def _member(self, member: Mapping[str, Any]) -> Mapping[str, object]:
        """The schema of a member; in XML, the elements of a list have a name of their own."""
        shape: Mapping[str, Any] = self.shapes[member["shape"]]
        schema = self.schema(member["shape"])
        if not self.is_xml or shape["type"] != "list" or shape.get("flattened"):
            return schema
        return {"type": "object", "properties": {shape["member"].get("locationName", "member"): schema}}
