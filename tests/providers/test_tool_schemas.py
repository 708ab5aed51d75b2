"""What a client shows its model of a tool: all that it needs to fill in arguments, and no more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated

import jsonschema
import pytest
from pydantic import Field, ValidationError

from providers.tools.builtin import builtin_tools
from providers.tools.schemas import VAULT, input_schema, output_schema
from providers.tools.spec import ToolInput, ToolOutput, ToolSpec
from server.mcp import connections_spec
from tests.support.shipped_tools import shipped

SPECS = (*builtin_tools(), *shipped().values(), connections_spec.SPEC)
BUDGET = 40_000  # characters of name, description and input schema; 66,950 before the schemas were made lean


class Inner(ToolOutput):
    """One of them."""

    title: str
    size: int | None


class Output(ToolOutput):
    """All of them."""

    items: list[Inner]
    first: Inner | None
    link: str | None


class Input(ToolInput, title="Titled"):
    """Arguments of something."""

    title: Annotated[str, Field(min_length=1, max_length=100, pattern="^[a-z]+$", description="A word")]
    text: Annotated[str, Field(min_length=1, max_length=4000, description="Prose")]
    limit: Annotated[int, Field(default=5, ge=1, le=20, description="How many")]
    cursor: Annotated[str | None, Field(default=None, max_length=20, description="Where to go on")]


def schemas_below(node: object, *, is_schema: bool = True) -> Iterator[dict[str, object]]:
    """Each schema in a schema; the maps from names to schemas are none."""
    if isinstance(node, list):
        for one in node:
            yield from schemas_below(one)
    elif isinstance(node, dict):
        if is_schema:
            yield node
        for name, value in node.items():
            yield from schemas_below(value, is_schema=not (is_schema and name in ("properties", "$defs")))


def test_an_input_schema_keeps_what_a_model_needs_and_the_model_checks_the_rest() -> None:
    assert input_schema(Input) == {
        "additionalProperties": False,
        "properties": {
            "account": {"description": "Account, if several are connected", "type": "string"},
            "title": {"description": "A word", "type": "string"},
            "text": {"description": "Prose", "maxLength": 4000, "type": "string"},
            "limit": {"default": 5, "description": "How many", "maximum": 20, "type": "integer"},
            "cursor": {"description": "Where to go on", "type": "string"},
        },
        "required": ["title", "text"],
        "type": "object",
    }
    good = {"title": "abc", "text": "x"}
    assert Input.model_validate({**good, "cursor": None, "account": None})
    for wrong in ({"title": "ABC"}, {"text": ""}, {"limit": 0}, {"limit": 21}, {"cursor": "x" * 21}, {"more": 1}):
        with pytest.raises(ValidationError):
            Input.model_validate({**good, **wrong})


def test_an_output_schema_has_the_vaults_line_first_and_takes_what_is_returned() -> None:
    schema = output_schema(Output)
    assert list(schema["properties"]) == [VAULT, "items", "first", "link"]
    assert schema["required"] == [VAULT, "items", "first", "link"]
    assert schema["properties"]["link"] == {"type": ["string", "null"]}
    one = {"title": "x", "size": None}
    for first in (one, None):
        jsonschema.validate({VAULT: "x", "items": [one], "first": first, "link": None}, schema)
    for wrong in ({"items": [one], "first": None, "link": None}, {VAULT: "x", "items": [{}], "first": 1, "link": None}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_no_shipped_schema_has_what_only_a_validator_needs(spec: ToolSpec) -> None:
    for schema in (spec.input_schema, spec.output_schema):
        jsonschema.Draft202012Validator.check_schema(schema)
        for node in schemas_below(schema):
            assert not {"title", "$schema", "pattern", "minLength"} & set(node)
            assert {"type": "null"} not in node.get("anyOf", []) or "$ref" in str(node)
    for name, described in spec.input_schema["properties"].items():
        assert described["description"], name


def test_the_list_of_all_tools_stays_small() -> None:
    shown = [{"name": spec.name, "description": spec.description, "inputSchema": spec.input_schema} for spec in SPECS]
    assert len(json.dumps(shown, ensure_ascii=False, separators=(",", ":"))) < BUDGET
