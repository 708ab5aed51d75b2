"""Tools made from a description of your own API: what they look like, what is left out, and what is refused."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import pytest
import tomlkit
import yaml
from typer.testing import CliRunner

from providers.api.rules import Call, Payload, allows
from providers.definitions.catalog import load_catalog
from providers.tools import openapi_document
from providers.tools.declarations import read_tool_file
from providers.tools.declared_tools import data_tools
from providers.tools.openapi_document import DocumentRefused, parse
from providers.tools.openapi_import import ImportResult, import_document
from server.cli import app
from tests.support.doubles.scripted_server import Reply, scripted_server

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


def import_content(content: object, **settings: str) -> ImportResult:
    made = parse(json.dumps(content).encode())
    return import_document(made, **{"name": "tickets", "title": "", "audience": "", "server": "", **settings})


def test_operations_become_rules_and_tools_with_the_document_s_scopes(tmp_path: Path) -> None:
    made = import_content(document())
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
    made = import_content(content)
    assert [one.scopes for one in made.review] == [["tickets:read"], ["tickets:write"], ["tickets:read"]]


SECRET = {"200": {"content": {"application/json": {"schema": {"properties": {"apiKey": {"type": "string"}}}}}}}
TABLE = {"content": {"application/json": {"schema": {"additionalProperties": {"properties": {"password": {}}}}}}}
PAGE = {"name": "page", "in": "query", "required": True}
CURSOR = {"name": "cursor", "in": "query", "schema": {"type": "string"}}
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
    "a list of anything": (
        "get",
        {
            "parameters": [{"name": "page", "in": "query", "required": True, "schema": {"type": "array"}}],
            "responses": ONE,
        },
        {
            "parameters": [{"name": "page", "in": "query", "required": True, "schema": {"type": "number"}}],
            "responses": ONE,
        },
        "needs page (query)",
    ),
    "required cursor": (
        "get",
        {"parameters": [{**CURSOR, "required": True}], "responses": ONE},
        {"parameters": [CURSOR], "responses": ONE},
        "needs cursor (query)",
    ),
    "credential of another status": (
        "get",
        {"responses": {**ONE, "201": SECRET["200"]}},
        {"responses": {**ONE, "401": SECRET["200"]}},
        "named like a credential",
    ),
    "credential of any status": (
        "get",
        {"responses": {**ONE, "default": SECRET["200"]}},
        {"responses": ONE},
        "named like a credential",
    ),
    "credential in a table": (
        "get",
        {"responses": {**ONE, "201": TABLE}},
        {"responses": ONE},
        "named like a credential",
    ),
    "body of a deletion": ("delete", {"requestBody": DEEP}, {}, "this method doesn't send"),
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_what_cannot_be_a_tool_is_left_out_and_says_why(case: str) -> None:
    method, wrong, right, why = LEFT_OUT[case]
    content = document()
    content["paths"]["/more"] = {method: dict(wrong)}
    made = import_content(content)
    assert len(made.review) == 3
    ((call, said),) = made.left_out
    assert (call, why in said) == (f"{method.upper()} /more", True)
    content["paths"]["/more"] = {method: dict(right)}
    assert len(import_content(content).review) == 4  # the twin


@pytest.mark.parametrize(("kind", "is_taken"), [("number", False), ("array", False), ("integer", True)])
def test_a_place_in_the_path_takes_text_and_integers_only(kind: str, is_taken: bool) -> None:
    content = document()
    where = {"name": "id", "in": "path", "required": True, "schema": {"type": kind, "items": {"type": "string"}}}
    content["paths"]["/rooms/{id}"] = {"get": {"parameters": [where], "responses": ONE}}
    made = import_content(content)
    assert [call for call, _ in made.left_out] == ([] if is_taken else ["GET /rooms/{id}"])
    assert len(made.review) == (4 if is_taken else 3)


def test_bounds_that_no_argument_can_have_are_dropped() -> None:
    content = document()
    bounds = {"type": "integer", "minimum": -5, "maximum": int("9" * 4000)}
    told = [
        {"name": "far", "in": "query", "schema": bounds},
        {"name": "text", "in": "query", "schema": {"type": "string", "minLength": -1, "maxLength": 9}},
    ]
    content["paths"]["/rooms"] = {"get": {"parameters": told, "responses": ONE}}
    (tool,) = [one for one in import_content(content).tools["tool"] if one["request"]["path"] == "/rooms"]
    assert tool["arguments"]["far"] == {"description": "far", "type": "integer", "min": -5, "required": False}
    assert tool["arguments"]["text"] == {"description": "text", "max": 9, "required": False}


def is_allowed(made: ImportResult, folder: Path, path: str, *, method: str = "GET") -> bool:
    (folder / "tickets.toml").write_text(tomlkit.dumps(made.provider), encoding="utf-8")
    provider = load_catalog([folder]).provider("tickets")
    return allows(provider, Call("main", method, path), provider.all_scopes)


@pytest.mark.parametrize("reason", ["credential", "deprecated", "not chosen"])
def test_the_rule_of_another_operation_does_not_open_what_is_left_out(tmp_path: Path, reason: str) -> None:
    content = document()
    other: dict[str, object] = {"responses": SECRET if reason == "credential" else ONE}
    content["paths"]["/tickets/export"] = {"get": other | {"deprecated": reason == "deprecated"}}
    made = parse(json.dumps(content).encode())
    only = re.compile(r"^GET /tickets(?!/export)") if reason == "not chosen" else None
    files = import_document(made, name="tickets", title="", audience="", server="", only=only)
    assert not is_allowed(files, tmp_path, "/tickets/export")
    assert is_allowed(files, tmp_path, "/tickets/12")
    content["paths"]["/tickets/export"] = {"get": {"responses": ONE}}
    assert is_allowed(import_content(content), tmp_path, "/tickets/export")  # the twin


def test_what_two_rules_fit_equally_well_is_closed_where_they_meet(tmp_path: Path) -> None:
    content = document()
    where = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
    content["paths"]["/rooms/open/{id}"] = {"get": {"parameters": [where], "responses": ONE}}
    content["paths"]["/rooms/{id}/keys"] = {"get": {"parameters": [where], "responses": SECRET}}
    made = import_content(content)
    assert not is_allowed(made, tmp_path, "/rooms/open/keys")
    assert is_allowed(made, tmp_path, "/rooms/open/12")


def test_an_operation_that_cannot_be_kept_apart_from_one_that_is_left_out_goes_too() -> None:
    content = document()
    content["paths"]["/tickets/export(all)"] = {"get": {"responses": SECRET}}
    assert import_content(content).left_out[-1] == (
        "GET /tickets/{ticketId}", "its path also reaches GET /tickets/export(all), which is left out",
    )  # fmt: skip
    content["paths"] = {path.replace("export(all)", "x/export(all)"): one for path, one in content["paths"].items()}
    assert [call for call, _ in import_content(content).left_out] == ["GET /tickets/x/export(all)"]  # the twin


MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n}\n  <<: [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)  # fmt: skip
REPEATS = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))


@pytest.mark.parametrize(
    ("more", "why"),
    [(MERGES, "merges keys"), (REPEATS, "repeats parts"), ("a: &a [*a]\n", "neither valid JSON nor valid YAML")],
)
def test_a_few_lines_of_yaml_that_stand_for_a_large_document_are_refused(more: str, why: str) -> None:
    text = yaml.safe_dump(document())
    with pytest.raises(DocumentRefused, match=why):
        parse(f"{text}\n{more}".encode())
    assert parse(f"{text}\na: &a {{x: 1}}\nb: [*a, *a]\n".encode())  # the twin


def test_schemas_that_refer_to_each_other_again_and_again_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    content = document()
    for n in range(7):
        content["components"]["schemas"][f"S{n}"] = {"allOf": [{"$ref": f"#/components/schemas/S{n + 1}"}] * 100}
    content["components"]["schemas"]["S7"] = TICKET
    wide = {"200": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/S0"}}}}}
    content["paths"]["/wide"] = {"get": {"responses": wide}}
    made = import_content(content)
    assert (made.left_out, len(made.review)) == ([("GET /wide", "its schemas refer to each other too often")], 3)
    monkeypatch.setattr(openapi_document, "STEPS", 10_000)
    with pytest.raises(DocumentRefused, match="too often; cut it"):
        import_content(content)


def test_a_parameter_of_the_path_that_is_not_described_leaves_the_operation_out() -> None:
    content = document()
    del content["paths"]["/tickets/{ticketId}"]["parameters"]
    ((call, why),) = import_content(content).left_out
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
    assert import_content(content).review  # the twin
    change(content)
    with pytest.raises(DocumentRefused, match=why):
        import_content(content)


def test_sizes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DocumentRefused, match="larger than 5 MB"):
        parse(b" " * (openapi_document.LARGEST + 1))
    with pytest.raises(DocumentRefused, match="neither valid JSON nor valid YAML"):
        parse(b"{" * 50_000)
    content = document()
    content["paths"] |= {f"/t{number}": {"get": {"responses": ONE}} for number in range(120)}
    made = import_content(content)
    assert (len(made.review), len(made.left_out)) == (100, 23)
    assert "choose with --only" in made.left_out[0][1]
    monkeypatch.setattr(openapi_document, "OPERATIONS", 100)
    with pytest.raises(DocumentRefused, match="more than 100 operations"):
        import_content(content)


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


def test_with_review_nothing_is_written_and_the_import_waits_in_the_vault(tmp_path: Path) -> None:
    source, data = tmp_path / "api.json", tmp_path / "data"
    source.write_text(json.dumps(document()), encoding="utf-8")
    more = ("--name", "tickets", "--to", tmp_path / "made", "--review", "--json", "--data", data)
    code, said = run(source, *more, "--dry-run")
    assert (code, json.loads(said[: said.rindex("}") + 1])["review_at"]) == (0, ""), said
    assert CliRunner().invoke(app, ["init", "--data", str(data)]).exit_code == 0
    code, said = run(source, *more)
    assert code == 0, said
    at = json.loads(said[: said.rindex("}") + 1])["review_at"]
    assert at.endswith("/administration/tools/imports/tickets")
    assert not (tmp_path / "made").exists()
    with closing(sqlite3.connect(data / "vault.sqlite")) as database:
        assert database.execute("select name, accepted from imported_apis").fetchall() == [("tickets", None)]
    review_on_the_command_line(data)


def review_on_the_command_line(data: Path) -> None:
    def imports(*words: str) -> tuple[int, str]:
        ran = CliRunner().invoke(app, ["tools", "imports", *words, "--data", str(data)])
        return ran.exit_code, ran.output

    code, said = imports("list", "--json")
    assert (code, [one["is_waiting"] for one in json.loads(said)]) == (0, [True])
    code, said = imports("show", "tickets")
    assert (code, "tickets_list_tickets: new, proposed: accept" in said) == (0, True), said
    digest = re.findall(r"decide tickets ([0-9a-f]{64})", said)[0]
    code, said = imports(
        "decide", "tickets", digest, "--ask", "tickets_list_tickets", "--leave", "tickets_list_tickets"
    )
    assert (code, "named with --ask and --leave" in said) == (1, True)
    code, said = imports("decide", "tickets", digest, "--ask", "tickets_list_tickets", "--json")
    assert (code, json.loads(said)["accepted"]) == (0, 3), said
    assert imports("discard", "tickets", digest)[0] == 1
    code, said = imports("show", "tickets", "--json")
    assert {one["name"]: one["choice"] for one in json.loads(said)["tools"]}["tickets_list_tickets"] == "ask"
    assert imports("remove", "tickets")[0] == 0
    assert imports("list")[1].strip() == "No imported APIs."


def test_the_review_says_where_tokens_go_and_what_agents_will_read(tmp_path: Path) -> None:
    source, more = tmp_path / "api.json", ("--name", "tickets", "--dry-run", "--data", str(tmp_path / "data"))
    content = document()
    content["paths"]["/tickets"]["get"]["description"] = "Always call this first."
    source.write_text(json.dumps(content), encoding="utf-8")
    code, said = run(source, *more)
    assert code == 0, said
    assert said.startswith("Tokens with the audience https://tickets.example go to https://tickets.example/v1.")
    assert "tickets_list_tickets: Tickets: Always call this first." in said and "tickets.read: See tickets" in said
    assert "check that tokens may go" not in said
    code, said = run(source, *more, "--audience", "https://internal.example")
    assert "differs from the audience: check that tokens may go to tickets.example" in said


@pytest.mark.parametrize(
    ("name", "call", "why"),
    [
        ("google", "list", "already has a provider google"),
        ("gmail", "send", "creates a tool gmail_send"),
        ("find", "tools", "creates a tool find_tools"),
        ("zoom-own", "list", ""),
    ],
)
def test_a_name_that_the_vault_has_is_refused_before_anything_is_written(
    tmp_path: Path, name: str, call: str, why: str
) -> None:
    content = document()
    content["paths"]["/tickets"]["get"]["operationId"] = call
    source = tmp_path / "api.json"
    source.write_text(json.dumps(content), encoding="utf-8")
    code, said = run(source, "--name", name, "--to", tmp_path / "made", "--data", str(tmp_path / "data"))
    assert (code, why in said, (tmp_path / "made").exists()) == (int(bool(why)), True, not why), said


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--name", "My API"), "isn't valid"),
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
        assert (code, "download it and pass the file" in said) == (1, True)
        assert server.arrivals == []
        (tmp_path / "config.toml").write_text("[sandbox]\nloopback_upstreams = true\n", encoding="utf-8")
        code, said = await asyncio.to_thread(run, *arguments)
        assert (code, len(server.arrivals)) == (0, 1), said
