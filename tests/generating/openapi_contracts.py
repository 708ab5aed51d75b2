"""Extract what a published document says about the operations that declared tools call: names, types, what is required.

The extracts have nothing else and no prose. `tests/providers/tools/test_tool_contracts.py` compares each tool's
request, and the members of the answer that it reads, with them. `tests.generating.openapi` writes them along with the
rules.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from providers.definitions.catalog import load_catalog
from providers.definitions.model import Provider
from providers.outbound.json_values import put
from providers.tools import declarations
from providers.tools.declarations import Tool
from providers.tools.declared_tools import query_names, whole_body
from tests.generating.openapi_document import Document, template_of
from tests.generating.openapi_services import SERVICES, Service

KEPT: Final = Path(__file__).parents[1] / "data" / "operations"
Schema = dict[str, object]


def keep_contract(name: str, documents: Sequence[Document], *, version: str) -> None:
    """Write the extract for one service's tools, and print what the documents lack."""
    path = declarations.BUILT_IN / f"{name}.toml"
    if not path.exists():
        return
    service = SERVICES[name]
    provider = load_catalog().provider(name)
    calls: dict[str, list[Tool]] = {}
    addresses: dict[str, str] = {}  # method and address -> the call
    for tool in declarations.read_tool_file(path).tool:
        call = call_of(tool)
        calls.setdefault(call, []).append(tool)
        addresses[f"{tool.request.method} {address_of(tool, provider)}"] = call
    found = {
        call: {"address": address} | _amend(_extract(*where, tools=calls[call], service=service), call, service=service)
        for call, (address, *where) in _operations(documents, addresses, server=service.server).items()
    }
    lacking = sorted(calls.keys() - found.keys())
    for call in lacking:
        print(f"{name}: the document has no {call}")
    content = {"document": f"{service.compared or service.repository} {version}".strip()} | (
        {"lacking": lacking} if lacking else {}
    )
    lines = ",\n".join(f"{json.dumps(call)}: {json.dumps(found[call])}" for call in sorted(found))
    KEPT.mkdir(exist_ok=True)
    head = json.dumps(content)[:-1]
    (KEPT / f"{name}.json").write_text(f'{head}, "operations": {{\n{lines}\n}}}}\n', encoding="utf-8")


def call_of(tool: Tool) -> str:
    """Method and path of a tool's request, and AWS's name of the operation if one address has several."""
    return f"{tool.request.method} {template_of(tool.request.path)}{_operation_name(tool)}"


def address_of(tool: Tool, provider: Provider) -> str:
    """The whole address of a tool's request, likewise."""
    address = template_of(provider.apis[tool.request.api].rstrip("/") + tool.request.path)
    return (address if _operation_name(tool) else address.rstrip("/")) + _operation_name(tool)


def _operation_name(tool: Tool) -> str:
    name = tool.request.headers.get("x-amz-target") or tool.request.query.get("Action")
    return f" {name}" if name else ""


_Found = tuple[str, Document, Mapping[str, object], Sequence[Mapping[str, object]], Path]


def _operations(
    documents: Sequence[Document], addresses: Mapping[str, str], *, server: str | None
) -> Mapping[str, _Found]:
    """The operation of each call. A documented address with the fewest parameters is the closest."""
    found: dict[str, _Found] = {}
    for document in documents:
        for method, way, operation, told, where in document.operations():
            address = template_of((document.server if server is None else server) + way).rstrip("/")
            pattern = re.compile(re.escape(f"{method} {address}").replace(r"\{\}", "[^/]+"))
            for one, call in addresses.items():
                if pattern.fullmatch(one) and (call not in found or found[call][0].count("{}") > address.count("{}")):
                    found[call] = (address, document, operation, told, where)
    return found


def _amend(made: Schema, call: str, *, service: Service) -> Schema:
    """The extract without what is known to be wrong in the document."""
    if call in service.unshaped:
        made.pop("answer", None)
        made |= {"body": {"type": "object"}} if "body" in made else {}
    if call in service.partial:
        made["body"] = _without_required(made["body"])
    return made


def _without_required(schema: object) -> object:
    if isinstance(schema, list):
        return [_without_required(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {name: [] if name == "required" else _without_required(one) for name, one in schema.items()}


def _extract(
    document: Document,
    operation: Mapping[str, object],
    told: Sequence[Mapping[str, object]],
    where: Path,
    *,
    tools: Sequence[Tool],
    service: Service,
) -> Schema:
    names = frozenset[str]().union(*(query_names(tool) for tool in tools))
    query = {
        one["name"]: _value(document, one.get("schema", one), where)
        | ({"required": True} if one.get("required") else {})
        for one in told
        if one.get("in") == "query" and (one["name"] in names or one.get("required"))
    }
    made: Schema = {"query": query}
    sent: dict[str, object] = {}
    for tool in tools:
        for member in _members(whole_body(tool)):
            put(sent, member, "")
    content = document.body(operation, told, where)
    if service.takes_body and sent and content is None:
        needed = sorted(name for name, about in query.items() if about.get("required"))
        content = (
            {"type": "object", "properties": {one["name"]: one.get("schema", one) for one in told}, "required": needed},
            where,
        )
        made["query"] = {}
    if content is not None and sent:
        made["body"] = _body(document, *content, sent)
    answer = document.answer(operation, where)
    if answer is not None:
        tree: Schema = {}
        for tool in tools:
            example = document.example_answer(operation, where)
            for steps in _ways(document, answer, tool, example):
                _insert(document, *answer, steps, tree, _kind_of(_at(example, steps)))
        made["answer"] = tree
    return made


def _members(body: Mapping[str, object], way: str = "") -> list[str]:
    found: list[str] = []
    for name, value in body.items():
        if isinstance(value, dict):
            found += _members(value, f"{way}{name}.")
        elif isinstance(value, list):
            for number, one in enumerate(value):
                found += _members(one, f"{way}{name}.{number}.") if isinstance(one, dict) else [f"{way}{name}.{number}"]
        else:
            found.append(f"{way}{name}")
    return found


def _value(document: Document, schema: Mapping[str, object], where: Path) -> Schema:
    """The type, and the allowed words if there are few."""
    kinds = sorted(document.kinds(schema, where))
    made: Schema = {"type": kinds} if kinds else {}
    if (words := document.words(schema, where)) and len(words) <= 40 and kinds == ["string"]:
        made["enum"] = words
    followed, place = document.follow(schema, where)
    made |= {bound: followed[bound] for bound in ("minimum", "maximum") if bound in followed}
    if "items" in followed:
        made["items"] = _value(document, followed["items"], place)
    return made


def _body(document: Document, schema: Mapping[str, object], where: Path, sent: Mapping[str, object]) -> Schema:
    """JSON Schema of the members that are sent, and the members that the document also requires."""
    properties: Schema = {}
    for name, value in sent.items():
        inner = document.member(schema, where, name)
        if inner is None:
            print(f"the body has no {name}")
            continue
        properties[name] = _body_value(document, *inner, value)
    required = sorted(document.required_members(schema, where))
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _body_value(document: Document, schema: Mapping[str, object], where: Path, value: object) -> Schema:
    if isinstance(value, dict) and (not value or document.kinds(schema, where) != {"array"}):
        return _body(document, schema, where, value) if list(document.members(schema, where)) else {"type": ["object"]}
    if isinstance(value, list | dict):
        followed, place = document.follow(schema, where)
        first = next(iter(value.values() if isinstance(value, dict) else value), "")
        return {"type": "array", "items": _body_value(document, *document.follow(followed["items"], place), first)}
    return _value(document, schema, where)


def _ways(
    document: Document, answer: tuple[Mapping[str, object], Path], tool: Tool, example: object
) -> list[list[str]]:
    """The path to each value that the tool reads in an answer: in its schema, or else in its example."""
    result = tool.result
    before = [] if result.items is None else result.items.split(".")
    if before == ["items"] and document.member(*answer, "items") is None:
        before = []  # the answer itself is the list
    found = [] if result.next is None else [result.next.split(".")]
    for name, output in result.fields.items():
        ways = [[*before, *one.split(".")] for one in output.paths]
        known = [way for way in ways if _leads(document, *answer, way)]
        known = known or [way for way in ways if _at(example, way) is not None]
        if not known:
            print(f"{tool.name}: the answer has no {'.'.join(before)} {name} = {output.path}")
        found += known[:1]
    return found


def _leads(document: Document, schema: Mapping[str, object], where: Path, steps: Sequence[str]) -> bool:
    for step in steps:
        inner = document.member(schema, where, step)
        if inner is None:
            return False
        schema, where = inner
    return True


def _at(value: object, steps: Sequence[str]) -> object:
    """The value at a path in an example, in the first of several."""
    for step in steps:
        while isinstance(value, list) and value:
            value = value[0]
        if not isinstance(value, dict):
            return None
        value = value.get(step)
    return value


def _kind_of(value: object) -> str | None:
    return None if value is None else {bool: "boolean", int: "integer", float: "number"}.get(type(value), "string")


def _insert(
    document: Document, schema: Mapping[str, object], where: Path, steps: Sequence[str], tree: Schema, kind: str | None
) -> None:
    """Add the path to one value, whose type is `kind` if only an example has it."""
    schema, where = document.follow(schema, where)
    if "items" in schema and steps:
        tree["type"] = "array"
        inner = tree.setdefault("items", {})
        rest = steps[1:] if steps[0].isdecimal() else steps
        _insert(document, schema["items"], where, rest, inner, kind)
        return
    if not steps:
        tree |= {key: value for key, value in _value(document, schema, where).items() if key != "enum"}
        return
    found = document.member(schema, where, steps[0])
    if found is None:
        if kind is not None and len(steps) == 1:
            tree["type"] = "object"
            tree.setdefault("properties", {})[steps[0]] = {"type": [kind]}
        return
    tree["type"] = "object"
    properties = tree.setdefault("properties", {})
    _insert(document, *found, steps[1:], properties.setdefault(steps[0], {}), kind)
