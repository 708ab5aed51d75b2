"""The schemas that clients see: what helps a model fill in arguments, and nothing that wastes its tokens.

A client puts every schema into its model's context. Titles repeat the names of members, patterns repeat what the
descriptions say, and JSON Schema 2020-12 is MCP's dialect without `$schema` (MCP 2025-11-25, "JSON Schema Usage").
The models themselves check all of it on the server.
"""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel

from providers.outbound.json_values import is_array, is_object

VAULT: Final = "_vault"  # no result has a member with this name, because names of fields begin with a letter
_UNSEEN: Final = frozenset({"title", "pattern", "minLength"})
_PROSE: Final = 500  # limits in characters from which a model must know them, unless a pattern gives the form
_NULL: Final = {"type": "null"}


def input_schema(model: type[BaseModel]) -> dict[str, object]:
    """The schema of a tool's arguments. An optional one is omitted rather than null, although the server also accepts
    null."""
    return _members(_lean(model.model_json_schema(mode="validation"), is_input=True))


def output_schema(model: type[BaseModel]) -> dict[str, object]:
    """The schema of a structured result, with the line that `server.mcp.tool_answers` puts first in each."""
    lean = _members(_lean(model.model_json_schema(mode="serialization"), is_input=False))
    required = lean.get("required", [])
    return {
        **lean,
        "properties": {VAULT: {"type": "string"}, **_members(lean.get("properties", {}))},
        "required": [VAULT, *(required if is_array(required) else ())],
    }


def _members(value: object) -> dict[str, object]:
    return {str(name): member for name, member in value.items()} if is_object(value) else {}


def _lean(node: object, *, is_input: bool) -> object:
    """The schema without the parts that only a validator needs."""
    if is_array(node):
        return [_lean(one, is_input=is_input) for one in node]
    if not is_object(node):
        return node
    kept: dict[str, object] = {}
    for name, value in node.items():
        if name in ("properties", "$defs"):  # our own names are below this, not keywords
            kept[name] = {member: _lean(schema, is_input=is_input) for member, schema in _members(value).items()}
        elif name in ("default", "enum", "const", "required"):
            kept[name] = value
        elif _is_seen(name, value, node, is_input=is_input):
            kept[name] = _lean(value, is_input=is_input)
    return _without_null(kept, is_input=is_input)


def _is_seen(name: str, value: object, node: object, *, is_input: bool) -> bool:
    if name in ("minimum", "minItems"):
        return value not in (0, 1)
    if name == "maxLength":
        is_prose = isinstance(value, int) and value >= _PROSE and is_object(node) and "pattern" not in node
        return is_input and is_prose
    if name == "description" and is_object(node) and "properties" in node:
        return False  # the docstring of a model; the tool has its own description
    if name == "additionalProperties":
        return is_input
    return name not in _UNSEEN


def _without_null(node: dict[str, object], *, is_input: bool) -> dict[str, object]:
    """Write an optional value without a choice of two schemas."""
    choices = node.get("anyOf")
    if not is_array(choices) or _NULL not in choices:
        return node
    others = [one for one in choices if one != _NULL]
    rest = {name: value for name, value in node.items() if name != "anyOf"}
    if is_input and rest.get("default", 0) is None:
        del rest["default"]
    if len(others) != 1:
        return {"anyOf": others if is_input else choices, **rest}
    (only,) = others
    found = _members(only)
    if is_input:
        return {**found, **rest}
    if set(found) == {"type"}:
        return {"type": [found["type"], "null"], **rest}
    return node
