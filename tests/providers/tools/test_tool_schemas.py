"""What a client shows its model about a tool: everything that it needs to fill in arguments, and no more."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Annotated

import jsonschema
import pytest
from pydantic import Field, ValidationError

from providers.tools.builtin import builtin_tools
from providers.tools.schemas import VAULT, input_schema, output_schema
from providers.tools.search import ToolIndex
from providers.tools.sets import builtin_sets
from providers.tools.spec import ToolInput, ToolOutput, ToolSpec
from server.mcp.offer import connections_spec, discovery
from server.mcp.offer.discovery import DISCOVERY, FOUND
from server.mcp.offer.tool_list import size_of, text_of
from server.settings import Settings
from tests.conftest import unavailable
from tests.generating.shipped_tools import shipped_tools
from tests.support.foreign import foreign
from tests.support.toolset_cases import CASES

SPECS = (*builtin_tools(), *shipped_tools().values(), connections_spec.SPEC)
USUAL = {case.provider for case in CASES.values()} | {None}  # the services with the most tools
BUDGETS = {  # characters in names, descriptions and input schemas of the usual services; 4.4 are a token of o200k
    "everything": 46_500,  # 66,950 before the schemas were made lean
    "everyday": 33_500,
    "read-only": 27_500,
    "slack": 6_000,
    "discovery": 1_500,
}


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

    title: Annotated[str, Field(min_length=1, max_length=10_000, pattern="^[a-z]+$", description="A word")]
    text: Annotated[str, Field(min_length=1, max_length=4000, description="Prose")]
    limit: Annotated[int, Field(default=5, ge=1, le=20, description="How many")]
    cursor: Annotated[str | None, Field(default=None, max_length=20, description="Where to go on")]


def schemas_below(node: object, *, is_schema: bool = True) -> Iterator[dict[str, object]]:
    """Each schema in a schema, but not the maps from names to schemas."""
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


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_what_to_search_for_is_the_query_of_every_tool(spec: ToolSpec) -> None:
    assert not {"q", "search", "term", "words", "keywords"} & set(spec.input_schema["properties"])


def test_the_list_of_each_set_and_of_discovery_stays_small() -> None:
    usual = [spec for spec in SPECS if spec.provider in USUAL]
    sets = {one.name: one.tools for one in builtin_sets(usual, titles={})}
    sets["discovery"] = frozenset(spec.name for spec in DISCOVERY)
    for name, budget in BUDGETS.items():
        listed = [spec for spec in (*usual, *DISCOVERY) if spec.name in sets[name] or spec is connections_spec.SPEC]
        assert budget * 0.8 < size_of(listed) < budget, name


@pytest.mark.group("node")
def test_the_list_of_the_usual_services_is_less_than_half_of_the_tokens_that_it_was() -> None:
    """62 tools were 17,863 tokens of names, descriptions, and input schemas before these were made lean."""
    usual = [spec for spec in SPECS if spec.provider in USUAL]
    package = foreign.FOLDER / "auth0" / "node_modules" / "js-tiktoken"
    if not package.exists():
        unavailable("Auth0's SDKs need: make node")
    count = (
        f"const {{getEncoding}} = require({str(package)!r});"
        "console.log(getEncoding('o200k_base').encode(require('fs').readFileSync(0, 'utf8')).length)"
    )
    counted = subprocess.run(
        [foreign.node(), "-e", count], input=text_of(usual), capture_output=True, text=True, check=True, timeout=60
    )
    assert len(usual) >= 62
    assert int(counted.stdout) / len(usual) < 17_863 / 62 / 2


def test_each_further_service_adds_little() -> None:
    for name in {spec.provider for spec in SPECS} - USUAL:
        added = [spec for spec in SPECS if spec.provider == name]
        assert size_of(added) < max(3_500, 600 * len(added)), name
        assert max(size_of([spec]) for spec in added) < 1_000, name


def test_a_list_stays_small_however_many_services_are_set_up() -> None:
    limit = Settings().tools.list_limit
    largest = sorted((size_of([spec]) for spec in SPECS), reverse=True)
    assert len(SPECS) > limit
    assert sum(largest[:limit]) < 56_000  # with one more, only the tools of discovery are listed


def test_finding_and_describing_a_tool_cost_less_than_a_tenth_of_the_list() -> None:
    index = ToolIndex(SPECS, titles={})
    for spec in SPECS:
        found = index.find(spec.title, among=frozenset(one.name for one in SPECS), limit=FOUND)
        answers = discovery.findings(found, titles={}, services=[]), discovery.description_of(spec, titles={})
        assert sum(len(str(one)) for one in answers) < BUDGETS["everything"] / 10, spec.name
