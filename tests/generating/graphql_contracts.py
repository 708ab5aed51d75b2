"""Extract from a GraphQL API's schema what the queries of its declared tools use.

    git clone https://github.com/mondaycom/mcp
    python -m tests.generating.graphql_contracts monday packages/agent-toolkit/src/monday-graphql/schema.graphql
    python -m tests.generating.graphql_contracts shopify admin_2026-07.json "@shopify/dev-mcp 1.16.0 (npm)"

The schema is SDL or the JSON answer to an introspection query, and the last argument is its source, for which a
checkout has its version. `tests/providers/tools/test_graphql_contracts.py` validates each tool's request against the
extract, and makes an answer of the types that it names.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import graphql
from graphql import GraphQLSchema, TypeInfo, TypeInfoVisitor, Visitor

from providers.tools import declarations
from providers.tools.declared_tools import whole_body
from tests.generating.openapi_contracts import KEPT

MANY: Final = 40  # words that are left out, as for other documents
SOURCES: Final = {"monday": "github.com/mondaycom/mcp"}


class Usage(Visitor):
    """The members of a schema that queries use: type -> field -> arguments."""

    def __init__(self, info: TypeInfo) -> None:
        super().__init__()
        self._info = info
        self.fields: dict[str, dict[str, set[str]]] = {}
        self.inputs: dict[str, set[str]] = {}
        self.kinds: dict[str, graphql.GraphQLNamedType] = {}

    def note(self, kind: object) -> None:
        """Remember a type, whatever it's wrapped in."""
        named = graphql.get_named_type(kind)
        self.kinds[named.name] = named

    def enter_field(self, node: graphql.FieldNode, *_: object) -> None:
        parent, field = self._info.get_parent_type(), self._info.get_field_def()
        if parent is None or field is None:
            raise SystemExit(f"the schema has no {node.name.value}")
        self.note(parent)
        self.note(field.type)
        needed = {name for name, one in field.args.items() if graphql.is_required_argument(one)}
        sent = {one.name.value for one in node.arguments or ()}
        self.fields.setdefault(parent.name, {}).setdefault(node.name.value, set()).update(needed | sent)
        for name in needed | sent:
            self.note(field.args[name].type)

    def note_input(self, kind: graphql.GraphQLNamedType, value: object) -> None:
        """Remember the members of an input object that a tool sends, and the required ones."""
        self.note(kind)
        if not isinstance(kind, graphql.GraphQLInputObjectType):
            return
        sent: Mapping[str, object] = value if isinstance(value, dict) else {}
        for name, one in kind.fields.items():
            if name in sent or graphql.is_required_input_field(one):
                self.inputs.setdefault(kind.name, set()).add(name)
                self.note_input(graphql.get_named_type(one.type), sent.get(name))


def used_by(schema: GraphQLSchema, tools: declarations.ToolFile) -> Usage:
    """What the tools' queries use of the schema."""
    info = TypeInfo(schema)
    used = Usage(info)
    for tool in tools.tool:
        document = graphql.parse(str(tool.request.body["query"]))
        graphql.visit(document, TypeInfoVisitor(info, used))
        sent = whole_body(tool).get("variables")
        for one in document.definitions:
            for variable in one.variable_definitions or ():
                kind = graphql.get_named_type(graphql.type_from_ast(schema, variable.type))
                used.note_input(kind, sent.get(variable.variable.name.value) if isinstance(sent, dict) else None)
    return used


def extract_of(schema: GraphQLSchema, used: Usage) -> str:
    """SDL of what is used, without descriptions."""
    lines = [line for name in sorted(used.kinds) if (line := _line(used, used.kinds[name]))]
    roots = {"query": schema.query_type, "mutation": schema.mutation_type}
    named = " ".join(f"{root}: {kind.name}" for root, kind in roots.items() if kind and kind.name in used.fields)
    return "\n".join([f"schema {{ {named} }}", *lines, ""])


def _line(used: Usage, kind: graphql.GraphQLNamedType) -> str:
    match kind:
        case graphql.GraphQLEnumType() if len(kind.values) > MANY:
            return f"scalar {kind.name}"
        case graphql.GraphQLEnumType():
            return f"enum {kind.name} {{ {' '.join(kind.values)} }}"
        case graphql.GraphQLScalarType():
            return "" if graphql.is_specified_scalar_type(kind) else f"scalar {kind.name}"
        case graphql.GraphQLInputObjectType():
            fields = (f"{name}: {kind.fields[name].type}" for name in sorted(used.inputs[kind.name]))
            return f"input {kind.name} {{ {', '.join(fields)} }}"
        case graphql.GraphQLObjectType() | graphql.GraphQLInterfaceType():
            fields = (_field(kind.fields[name], name, sent) for name, sent in sorted(used.fields[kind.name].items()))
            return f"type {kind.name} {{ {', '.join(fields)} }}"
        case _:
            raise SystemExit(f"{kind.name}: a {type(kind).__name__} can't be extracted")


def _field(field: graphql.GraphQLField, name: str, sent: set[str]) -> str:
    told = ", ".join(f"{one}: {field.args[one].type}" for one in sorted(sent))
    return f"{name}({told}): {field.type}" if told else f"{name}: {field.type}"


def main(name: str, path: Path, source: str) -> None:
    """Write the extract of one service."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        content = json.loads(text)
        schema = graphql.build_client_schema(content.get("data", content), assume_valid=True)
    else:
        schema = graphql.build_schema(text, assume_valid=True)
    if not source:
        git = ["git", "-C", str(path.parent), "log", "-1", "--format=%h %cs"]
        source = f"{SOURCES[name]} {subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip()}"
    tools = declarations.read_tool_file(declarations.BUILT_IN / f"{name}.toml")
    made = extract_of(schema, used_by(schema, tools))
    (KEPT / f"{name}.graphql").write_text(f"# {source}\n{made}", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), "".join(sys.argv[3:]))
