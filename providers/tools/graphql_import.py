"""Makes a provider file and a tool file from a GraphQL schema, for a person to review before anything is turned on.
Each operation becomes one fixed query document, which its request rule matches literally: no agent can send another
one, and a tool that reads sends a query, never a mutation. Arguments are sent as variables.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from pydantic import ValidationError

from providers.tools.declarations import Tool
from providers.tools.graphql_schema import GraphQLOperation, GraphQLSchema, GraphQLType
from providers.tools.openapi_document import DocumentRefused, LeftOut, Schema, list_of, object_of, text_of
from providers.tools.openapi_import import (
    ARGUMENTS,
    CHOICES,
    CREDENTIAL,
    FIELDS,
    TOOLS,
    ImportResult,
    ReviewedTool,
    Table,
    argument_name,
    one_line,
    readable_line,
)

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,80}")
_KINDS: Final[Mapping[str, str]] = {
    "String": "text",
    "ID": "text",
    "Int": "integer",
    "Float": "number",
    "Boolean": "boolean",
}
_SHAPELESS: Final = re.compile(r"json|map|any|object|upload|record|hash", re.IGNORECASE)  # scalars with an unknown form
_DELETES: Final = re.compile(r"delete|remove|destroy|archive|revoke|cancel|clear|purge", re.IGNORECASE)
_CREATES: Final = frozenset({"create", "add", "insert", "new", "post", "send", "invite", "upload"})
_UPDATES: Final = frozenset({"update", "set", "edit", "change"})
_LONGEST_QUERY: Final = 4_000  # characters


@dataclass(slots=True)
class _GraphQLInputs:
    """An operation's input: the declared and passed variables, and the tool's arguments."""

    declared: list[str] = field(default_factory=list[str])
    passed: list[str] = field(default_factory=list[str])
    arguments: dict[str, Table] = field(default_factory=dict[str, Table])
    skipped: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, slots=True)
class _GraphQLAnswer:
    """An operation's output: its selection, and the paths of the tool's values below `data`."""

    selection: str
    items: str
    fields: Mapping[str, Table]


def import_schema(
    schema: GraphQLSchema, *, name: str, title: str, audience: str, server: str, only: re.Pattern[str] | None = None
) -> ImportResult:
    """The files for a GraphQL API at `server`, named `name`, which takes the vault's tokens for `audience`.

    `only`: the operations to take, by a part of `query NAME` or `mutation NAME`. Raises DocumentRefused.
    """
    parts = urlsplit(server)
    path = parts.path.rstrip("/")
    if parts.scheme != "https" or not parts.netloc or not path or parts.query or "{" in server:
        raise DocumentRefused("needs the https address of the API's endpoint: give it with --server")
    address = f"{parts.scheme}://{parts.netloc}{path.rpartition('/')[0]}"
    endpoint = "/" + path.rpartition("/")[2]
    rules, tools, review = list[Table](), list[Table](), list[ReviewedTool]()
    left_out = list[tuple[str, str]]()
    for operation in schema.operations():
        if only is not None and only.search(operation.call) is None:
            continue
        if len(tools) == TOOLS:
            left_out.append((operation.call, f"there are {TOOLS} tools already; choose with --only"))
            continue
        try:
            rule, tool, shown = _make_tool(schema, operation, name, endpoint, taken={str(one["name"]) for one in tools})
        except LeftOut as why:
            left_out.append((operation.call, str(why)))
        else:
            rules.append(rule)
            tools.append(tool)
            review.append(shown)
    if not tools:
        first = f": {left_out[0][0]}: {left_out[0][1]}" if left_out else ""
        raise DocumentRefused(f"has no operation that can become a tool{first}")
    titles = {f"{name}:read": "Read what you can see there", f"{name}:write": "Create, change, and delete there"}
    used = {scope: words for scope, words in titles.items() if any(scope in one.scopes for one in review)}
    provider: Table = {
        "name": name,
        "title": one_line(title or name, limit=120),
        "audience": audience or f"{parts.scheme}://{parts.netloc}",
        "apis": {"main": address},
        "scopes": {scope: {"title": words} for scope, words in used.items()},
        "overrides": {"parameters": []},
        "rules": rules,
    }
    return ImportResult(
        server, str(provider["audience"]), used, provider, {"provider": name, "tool": tools}, review, left_out
    )


def _make_tool(
    schema: GraphQLSchema, operation: GraphQLOperation, name: str, endpoint: str, *, taken: set[str]
) -> tuple[Table, Table, ReviewedTool]:
    """The rule, the tool, and its review. Raises LeftOut."""
    if operation.content.get("isDeprecated") is True:
        raise LeftOut("it is deprecated")
    if _NAME.fullmatch(operation.name) is None or operation.name.startswith("__"):
        raise LeftOut("its name has other characters")
    inputs, answer = _inputs(schema, operation), _answer(schema, operation)
    tool_name = _tool_name(name, operation.name, taken)
    query = _query(operation, inputs, answer)
    if len(query) > _LONGEST_QUERY:
        raise LeftOut("its query is too long")
    effect, scope = _effect(operation), f"{name}:{'read' if operation.root == 'query' else 'write'}"
    title = one_line(re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", operation.name).replace("_", " ").capitalize(), limit=80)
    description = one_line(text_of(operation.content.get("description")) or title, limit=300)
    result: Table = {"needs": f"data.{operation.name}"}
    result |= {"allows_null": True} if effect != "read" else {}
    result |= {"items": answer.items} if answer.items else {}
    result |= {"line": readable_line(answer.fields), "fields": dict(answer.fields)}
    request: Table = {"api": "main", "method": "POST", "path": endpoint, "body": {"query": query}}
    tool: Table = {"name": tool_name, "title": title, "description": description, "scopes": [scope], "effect": effect}
    if effect != "read":
        tool["approval"] = True
    tool |= {"request": request, "arguments": inputs.arguments, "result": result}
    try:
        Tool.model_validate(tool)
    except ValidationError as refused:
        raise LeftOut(f"it makes a tool with a problem: {refused.errors()[0]['msg']}") from refused
    rule: Table = {"api": "main", "method": "POST", "path": endpoint, "scopes": [scope]}
    rule |= {"body": ["variables"]} if inputs.arguments else {}
    rule["where"] = {"query": re.escape(query)}
    shown = ReviewedTool(tool_name, query, title, description, effect, [scope], inputs.skipped)
    return rule, tool, shown


def _query(operation: GraphQLOperation, inputs: _GraphQLInputs, answer: _GraphQLAnswer) -> str:
    declared = f"({', '.join(inputs.declared)})" if inputs.declared else ""
    passed = f"({', '.join(inputs.passed)})" if inputs.passed else ""
    return f"{operation.root} Tool{declared} {{ {operation.name}{passed}{answer.selection} }}"


def _effect(operation: GraphQLOperation) -> str:
    """The effect by the first word of its name, because a schema doesn't state it: anything not plainly harmless counts
    as deleting."""
    if operation.root == "query":
        return "read"
    if _DELETES.search(operation.name):
        return "delete"
    verb = argument_name(operation.name, taken={}).partition("_")[0]
    if verb in _CREATES:
        return "create"
    return "update" if verb in _UPDATES else "delete"


def _tool_name(name: str, field_name: str, taken: set[str]) -> str:
    plain = argument_name(field_name, taken={})
    first = name.replace("-", "_")
    made = (plain if plain.startswith(f"{first}_") else f"{first}_{plain}")[:56].rstrip("_")
    found, number = made, 2
    while found in taken:
        found, number = f"{made}_{number}", number + 1
    return found


def _inputs(schema: GraphQLSchema, operation: GraphQLOperation) -> _GraphQLInputs:
    """The input. Raises LeftOut for something required that a tool can't send."""
    made = _GraphQLInputs()
    for one in map(object_of, list_of(operation.content.get("args"))):
        name, kind = text_of(one.get("name")), schema.type_of(one.get("type"))
        needed = kind.is_required and one.get("defaultValue") is None
        before = len(made.arguments)
        if _NAME.fullmatch(name) is None:
            raise LeftOut("an argument's name has other characters")
        if kind.kind == "INPUT_OBJECT" and not kind.lists:
            _add_members(schema, kind, name, made, is_needed=needed)
        else:
            _add(schema, made, name, f"variables.{name}", kind, text_of(one.get("description")), is_needed=needed)
        added = list(made.arguments.values())[before:]
        if needed and not added:
            raise LeftOut(f"it needs {name}, which a tool can't send")
        if added:
            made.declared.append(f"${name}: {_declared_type(kind, added, is_needed=needed)}")
            made.passed.append(f"{name}: ${name}")
    return made


def _declared_type(kind: GraphQLType, added: Sequence[Table], *, is_needed: bool) -> str:
    """The type of a variable that an agent may leave out; the server's default then applies, or an empty object.

    GraphQL specification §5.8.5.
    """
    if not is_needed:
        return kind.written.removesuffix("!")
    is_optional = all(one.get("required") is False for one in added)
    return f"{kind.written} = {{}}" if is_optional else kind.written


def _add_members(schema: GraphQLSchema, kind: GraphQLType, name: str, made: _GraphQLInputs, *, is_needed: bool) -> None:
    members = list(map(object_of, list_of(kind.inner.get("inputFields"))))
    if not is_needed and any(schema.type_of(one.get("type")).is_required for one in members):
        made.skipped.append(name)  # the whole object, because it can only be given as a whole
        return
    for one in members:
        inner, member = schema.type_of(one.get("type")), text_of(one.get("name"))
        if _NAME.fullmatch(member) is None:
            raise LeftOut("a member's name has other characters")
        needed = inner.is_required and one.get("defaultValue") is None
        words = text_of(one.get("description"))
        _add(schema, made, member, f"variables.{name}.{member}", inner, words, is_needed=needed)


def _add(
    schema: GraphQLSchema,
    made: _GraphQLInputs,
    sent: str,
    way: str,
    kind: GraphQLType,
    words: str,
    *,
    is_needed: bool,
) -> None:
    about = None if CREDENTIAL.search(sent) else _argument(kind)
    if about is None or len(made.arguments) == ARGUMENTS:
        if is_needed:
            raise LeftOut(f"it needs {way.removeprefix('variables.')}, which a tool can't send")
        made.skipped.append(way.removeprefix("variables."))
        return
    name = argument_name(sent, taken=made.arguments)
    name = f"{name}_value" if name == "cursor" else name
    declared: Table = {"description": one_line(words or sent, limit=200), **about, "as": way, "place": "body"}
    made.arguments[name] = declared if is_needed else {**declared, "required": False}


def _argument(kind: GraphQLType) -> Table | None:
    """The argument's declaration; None if it can't be an argument."""
    if kind.kind == "ENUM":
        names = [text_of(object_of(one).get("name")) for one in list_of(kind.inner.get("enumValues"))]
        return None if kind.lists or not 0 < len(names) <= CHOICES else {"choices": names}
    if kind.kind != "SCALAR":
        return None
    told = _KINDS.get(kind.name) or (None if _SHAPELESS.search(kind.name) else "text")
    if told is None or kind.lists > 1 or (kind.lists and told != "text"):
        return None
    return {"type": "texts" if kind.lists else told}


def _answer(schema: GraphQLSchema, operation: GraphQLOperation) -> _GraphQLAnswer:
    """What to select: a list if the answer has one, otherwise its plain values. Raises LeftOut."""
    kind, base = schema.type_of(operation.content.get("type")), f"data.{operation.name}"
    if kind.kind in {"SCALAR", "ENUM"}:
        if kind.lists:
            raise LeftOut("its answer is a list of plain values")
        if CREDENTIAL.search(operation.name) and kind.name not in {"Boolean", "Int", "Float"}:
            raise LeftOut("its answer is a value that is named like a credential")
        return _GraphQLAnswer("", "", {"value": {"path": base, "type": _KINDS.get(kind.name, "text")}})
    if kind.lists:
        fields = _fields(schema, kind.inner, "")
        return _of(fields, base, wrap="{ %s }", is_list=True)
    for name, wrap, way in (("nodes", "{ nodes { %s } }", ""), ("edges", "{ edges { node { %s } } }", "node.")):
        inner = _member(schema, kind.inner, name)
        if inner is None or not inner.lists:
            continue
        node = inner if name == "nodes" else _member(schema, inner.inner, "node")
        if node is not None and (fields := _fields(schema, node.inner, way)):
            return _of(fields, f"{base}.{name}", wrap=wrap, is_list=True, way=way)
    if fields := _fields(schema, kind.inner, f"{base}."):
        return _of(fields, "", wrap="{ %s }", is_list=False, way=f"{base}.")
    for one in _plain_members(schema, kind.inner, is_object=True):
        inner, member = schema.type_of(one.get("type")), text_of(one.get("name"))
        if not inner.lists and (fields := _fields(schema, inner.inner, f"{base}.{member}.")):
            return _of(fields, "", wrap=f"{{ {member} {{ %s }} }}", is_list=False, way=f"{base}.{member}.")
    raise LeftOut("its answer has no plain values")


def _of(fields: Mapping[str, Table], items: str, *, wrap: str, is_list: bool, way: str = "") -> _GraphQLAnswer:
    if not fields:
        raise LeftOut("its answer has no plain values")
    selected = " ".join(str(one["path"]).removeprefix(way) for one in fields.values())
    return _GraphQLAnswer(" " + wrap % selected, items if is_list else "", fields)


def _member(schema: GraphQLSchema, inner: Schema, name: str) -> GraphQLType | None:
    for one in map(object_of, list_of(inner.get("fields"))):
        if one.get("name") == name and not list_of(one.get("args")):
            return schema.type_of(one.get("type"))
    return None


def _fields(schema: GraphQLSchema, inner: Schema, way: str) -> Mapping[str, Table]:
    found: dict[str, Table] = {}
    for one in _plain_members(schema, inner, is_object=False):
        kind, name = schema.type_of(one.get("type")), text_of(one.get("name"))
        if len(found) < FIELDS and not kind.lists and not _SHAPELESS.search(kind.name):
            told = _KINDS.get(kind.name, "text")
            found[argument_name(name, taken=found)] = {"path": way + name, "type": told}
    return found


def _plain_members(schema: GraphQLSchema, inner: Schema, *, is_object: bool) -> Iterator[Schema]:
    """The fields that can be selected without arguments, and aren't named like a credential."""
    wanted: Sequence[str] = ("OBJECT", "INTERFACE") if is_object else ("SCALAR", "ENUM")
    for one in map(object_of, list_of(inner.get("fields"))):
        needed = [
            arg for arg in map(object_of, list_of(one.get("args"))) if schema.type_of(arg.get("type")).is_required
        ]
        name = text_of(one.get("name"))
        if needed or _NAME.fullmatch(name) is None or CREDENTIAL.search(name) or one.get("isDeprecated") is True:
            continue
        if schema.type_of(one.get("type")).kind in wanted:
            yield one
