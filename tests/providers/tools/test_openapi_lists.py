"""A list in the query, as an imported document writes it."""

from __future__ import annotations

import json

import pytest

from providers.tools.declarations import Argument, ToolFile
from providers.tools.openapi_document import parse
from providers.tools.openapi_import import ImportResult, import_document


def import_with(style: dict[str, object]) -> ImportResult:
    """A document whose only operation takes a list in the query."""
    states = {"name": "states", "in": "query", "schema": {"type": "array", "items": {"type": "string"}}, **style}
    ticket = {"type": "object", "properties": {"title": {"type": "string"}}}
    answers = {"200": {"content": {"application/json": {"schema": ticket}}}}
    document = {
        "openapi": "3.1.0",
        "servers": [{"url": "https://tickets.example/v1"}],
        "paths": {"/tickets": {"get": {"parameters": [states], "responses": answers}}},
    }
    return import_document(parse(json.dumps(document).encode()), name="tickets", title="", audience="", server="")


def argument(made: ImportResult) -> Argument:
    (tool,) = ToolFile.model_validate(made.tools).tool
    return tool.arguments["states"]


@pytest.mark.parametrize(
    ("style", "separator"),
    [
        ({}, None),
        ({"style": "form", "explode": True}, None),
        ({"explode": False}, ","),
        ({"style": "spaceDelimited"}, " "),
        ({"style": "pipeDelimited", "explode": False}, "|"),
        ({"style": "pipeDelimited", "explode": True}, None),
    ],
)
def test_a_list_is_written_in_the_style_of_its_parameter(style: dict[str, object], separator: str | None) -> None:
    found = argument(import_with(style))
    assert (found.type, found.separator) == ("texts", separator)


def test_a_list_in_an_unknown_style_is_left_out() -> None:
    assert import_with({"style": "deepObject"}).review[0].left_out == ["states"]
    assert import_with({"style": "form"}).review[0].left_out == []
