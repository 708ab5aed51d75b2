"""Tools made of a description of an API of one's own: what comes of it, what is left out, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import tomlkit
import yaml
from typer.testing import CliRunner

from providers.api.rules import Call, Payload, allows
from providers.definitions.catalog import load_catalog
from providers.tools import openapi_reading
from providers.tools.declarations import read_tool_file
from providers.tools.declared import data_tools
from providers.tools.openapi_import import Imported, import_document
from providers.tools.openapi_reading import DocumentRefused, parse
from server.cli import app
from tests.support.doubles.scripted import Reply, scripted_server

TICKET = {
    "type": "object",
    "properties": {
        "id": {"type": "integer"},
        "title": {"type": "string"},
        "owner": {"type": "object", "properties": {"name": {"type": "string"}}},
    },
}
LISTED = {
    "200": {
        "content": {"application/json": {"schema": {"type": "array", "items": {"$ref": "#/components/schemas/Ticket"}}}}
    }
}
ONE = {"200": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Ticket"}}}}}
NEW = {
    "type": "object",
    "required": ["title", "place"],
    "properties": {
        "title": {"type": "string", "description": "What it is about", "maxLength": 200},
        "state": {"type": "string", "enum": ["open", "closed"]},
        "place": {"type": "object", "required": ["roomNumber"], "properties": {"roomNumber": {"type": "integer"}}},
        "history": {"type": "array", "items": {"type": "object"}},
        "created": {"type": "string", "readOnly": True},
    },
}


def document() -> dict[str, dict[str, dict[str, dict[str, object]]]]:
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tickets"},
        "servers": [{"url": "https://tickets.example/v1"}],
        "security": [{"oauth": ["tickets.read"]}],
        "paths": {
            "/tickets": {
                "get": {
                    "operationId": "listTickets",
                    "summary": "Tickets",
                    "parameters": [{"name": "page-size", "in": "query", "schema": {"type": "integer", "maximum": 50}}],
                    "responses": LISTED,
                },
                "post": {
                    "summary": "Open a ticket",
                    "security": [{"oauth": ["tickets.write", "rooms.read"]}],
                    "requestBody": {"content": {"application/json": {"schema": NEW}}},
                    "responses": ONE,
                },
            },
            "/tickets/{ticketId}": {
                "parameters": [{"name": "ticketId", "in": "path", "required": True, "schema": {"type": "string"}}],
                "get": {"operationId": "tickets_get_ticket", "responses": ONE},
            },
        },
        "components": {
            "schemas": {"Ticket": TICKET},
            "securitySchemes": {
                "oauth": {"type": "oauth2", "flows": {"implicit": {"scopes": {"tickets.read": "See tickets"}}}}
            },
        },
    }


def imported(content: object, **settings: str) -> Imported:
    made = parse(json.dumps(content).encode())
    return import_document(made, **{"name": "tickets", "title": "", "audience": "", "server": "", **settings})


def test_operations_become_rules_and_tools_with_the_document_s_scopes(tmp_path: Path) -> None:
    made = imported(document())
    assert [(one.name, one.call, one.effect) for one in made.review] == [
        ("tickets_list_tickets", "GET /tickets", "read"),
        ("tickets_post_tickets", "POST /tickets", "create"),
        ("tickets_get_ticket", "GET /tickets/{ticketId}", "read"),
    ]
    assert made.left_out == []
    assert made.review[1].left_out == ["history"]
    assert (made.provider["title"], made.provider["audience"]) == ("Tickets", "https://tickets.example")
    (tmp_path / "tickets.toml").write_text(tomlkit.dumps(made.provider), encoding="utf-8")
    catalog = load_catalog([tmp_path])
    (tmp_path / "tools.tools").write_text(tomlkit.dumps(made.tools), encoding="utf-8")
    listed, opened, read = data_tools([(tmp_path, read_tool_file(tmp_path / "tools.tools"))], catalog)
    assert set(listed.input_schema["properties"]) == {"account", "page_size"}
    assert set(opened.input_schema["properties"]) == {"account", "title", "state", "place_room_number"}
    assert opened.input_schema["required"] == ["title", "place_room_number"]
    assert (opened.approval, opened.scopes) == (True, {"tickets.write", "rooms.read"})
    assert (read.read_only, read.approval, read.scopes) == (True, False, {"tickets.read"})
    provider = catalog.provider("tickets")
    call = Call("main", "POST", "/tickets", payload=Payload(body={"title": "x"}))
    assert allows(provider, call, frozenset({"tickets.write", "rooms.read"}))
    assert not allows(provider, call, frozenset({"tickets.write"}))


def test_without_scopes_there_is_one_for_reading_and_one_for_changing() -> None:
    content = document()
    del content["components"]["securitySchemes"]
    made = imported(content)
    assert [one.scopes for one in made.review] == [["tickets:read"], ["tickets:write"], ["tickets:read"]]


SECRET = {"200": {"content": {"application/json": {"schema": {"properties": {"apiKey": {"type": "string"}}}}}}}
HEADER = {"name": "X-Tenant", "in": "header", "schema": {"type": "string"}}
TEXT = {"content": {"text/plain": {"schema": {"type": "string"}}}}
DEEP = {"content": {"application/json": {"schema": {"required": ["rows"], "properties": {"rows": {"type": "array"}}}}}}
LEFT_OUT: Mapping[str, tuple[str, Mapping[str, object], Mapping[str, object], str]] = {
    "credential": ("get", {"responses": SECRET}, {"responses": ONE}, "named like a credential"),
    "header": (
        "get",
        {"parameters": [{**HEADER, "required": True}], "responses": ONE},
        {"parameters": [HEADER], "responses": ONE},
        "needs X-Tenant (header)",
    ),
    "deprecated": ("get", {"deprecated": True, "responses": ONE}, {"responses": ONE}, "deprecated"),
    "no answer": ("get", {"responses": {"204": {}}}, {"responses": ONE}, "what its answer has"),
    "text": ("post", {"requestBody": TEXT, "responses": ONE}, {"responses": ONE}, "isn't JSON"),
    "objects": ("post", {"requestBody": DEEP, "responses": ONE}, {"responses": ONE}, "needs rows (body)"),
    "outside": ("get", {"responses": {"200": {"$ref": "other.json#/x"}}}, {"responses": ONE}, "another document"),
    "circle": ("get", {"$ref": "#/paths/~1more/get"}, {"responses": ONE}, "in a circle"),
    "body of a deletion": ("delete", {"requestBody": DEEP}, {}, "this method doesn't send"),
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_what_cannot_be_a_tool_is_left_out_and_says_why(case: str) -> None:
    method, wrong, right, why = LEFT_OUT[case]
    content = document()
    content["paths"]["/more"] = {method: dict(wrong)}
    made = imported(content)
    assert len(made.review) == 3
    ((call, said),) = made.left_out
    assert (call, why in said) == (f"{method.upper()} /more", True)
    content["paths"]["/more"] = {method: dict(right)}
    assert len(imported(content).review) == 4  # the twin


def test_a_parameter_of_the_path_that_is_not_described_leaves_the_operation_out() -> None:
    content = document()
    del content["paths"]["/tickets/{ticketId}"]["parameters"]
    ((call, why),) = imported(content).left_out
    assert (call, "every parameter of its path" in why) == ("GET /tickets/{ticketId}", True)


def _without(name: str) -> Callable[[dict[str, object]], object]:
    return lambda content: content.pop(name)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda content: content.update(swagger="2.0"), "convert the document to OpenAPI 3"),
        (lambda content: content.update(openapi="2.9"), "isn't an OpenAPI 3.0 or 3.1 document"),
        (_without("paths"), "has no `paths`"),
        (_without("servers"), "give it with --server"),
        (lambda content: content.update(servers=[{"url": "http://tickets.example"}]), "an https address"),
        (lambda content: content.update(paths={"/x": {"get": {"deprecated": True}}}), "can become a tool: GET /x"),
    ],
)
def test_a_document_that_cannot_be_meant_is_refused(change: Callable[[object], object], why: str) -> None:
    content = document()
    assert imported(content).review  # the twin
    change(content)
    with pytest.raises(DocumentRefused, match=why):
        imported(content)


def test_sizes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DocumentRefused, match="larger than 5 MB"):
        parse(b" " * (openapi_reading.LARGEST + 1))
    with pytest.raises(DocumentRefused, match="neither valid JSON nor valid YAML"):
        parse(b"{" * 50_000)
    content = document()
    content["paths"] |= {f"/t{number}": {"get": {"responses": ONE}} for number in range(120)}
    made = imported(content)
    assert (len(made.review), len(made.left_out)) == (100, 23)
    assert "choose with --only" in made.left_out[0][1]
    monkeypatch.setattr(openapi_reading, "OPERATIONS", 100)
    with pytest.raises(DocumentRefused, match="more than 100 operations"):
        imported(content)


def run(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["tools", "import", "openapi", *map(str, arguments)])
    return result.exit_code, result.output


def test_the_command_writes_both_files_once_and_nothing_when_it_is_dry(tmp_path: Path) -> None:
    source, data = tmp_path / "api.yaml", ("--data", str(tmp_path / "data"))
    source.write_text(yaml.safe_dump(document()) + "\nx-example: 2026-02-31T09:00:00Z\n", encoding="utf-8")
    to = tmp_path / "made"
    code, said = run(source, "--name", "tickets", "--to", to, "--dry-run", *data)
    assert (code, to.exists()) == (0, False), said
    assert "tickets_post_tickets" in said and "Nothing was written" in said
    code, said = run(source, "--name", "tickets", "--to", to, "--only", "^GET", "--json", *data)
    assert code == 0, said
    row = json.loads(said[: said.rindex("}") + 1])
    assert [one["tool"] for one in row["tools"]] == ["tickets_list_tickets", "tickets_get_ticket"]
    assert sorted(path.name for path in to.iterdir()) == ["tickets-tools.toml", "tickets.toml"]
    code, said = run(source, "--name", "tickets", "--to", to, *data)
    assert (code, "already exists" in said) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--name", "My API"), "has other characters"),
        (("--name", "tickets", "--only", "("), "isn't a regular expression"),
        (("--name", "tickets", "--only", "nowhere"), "can become a tool"),
    ],
)
def test_the_command_says_what_to_correct(tmp_path: Path, arguments: tuple[str, ...], why: str) -> None:
    source = tmp_path / "api.json"
    source.write_text(json.dumps(document()), encoding="utf-8")
    more = ("--dry-run", "--data", str(tmp_path / "data"))
    code, said = run(source, *arguments, *more)
    assert (code, why in said) == (1, True), said
    assert run(source, "--name", "tickets", *more)[0] == 0  # the twin


async def test_a_document_is_fetched_from_public_addresses_only(tmp_path: Path) -> None:
    import asyncio

    async with scripted_server(lambda _: Reply(200, json.dumps(document()).encode())) as server:
        arguments = (f"{server.url}/api.json", "--name", "tickets", "--dry-run", "--data", str(tmp_path))
        code, said = await asyncio.to_thread(run, *arguments)
        assert (code, "download it and give the file" in said) == (1, True)
        assert server.arrivals == []
        (tmp_path / "config.toml").write_text("[sandbox]\nloopback_upstreams = true\n", encoding="utf-8")
        code, said = await asyncio.to_thread(run, *arguments)
        assert (code, len(server.arrivals)) == (0, 1), said
