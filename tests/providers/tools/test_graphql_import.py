"""Files made from a GraphQL schema: each tool sends one fixed query, valid according to graphql-core, and no other."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import graphql
import pytest
import tomlkit
from typer.testing import CliRunner

from providers.api.rules import Call, Payload, allows
from providers.definitions.catalog import check_file, load_catalog
from providers.tools import graphql_schema
from providers.tools.declarations import read_tool_file
from providers.tools.declared_tools import data_tools
from providers.tools.graphql_import import import_schema
from providers.tools.graphql_schema import parse_schema
from providers.tools.imported_api import content_of, read_imported, tables_of, with_choices
from providers.tools.openapi_document import DocumentRefused
from providers.tools.openapi_import import ImportResult
from server.cli import app

SDL = """
scalar DateTime
scalar JSON
enum State { OPEN DONE }
directive @auth(role: String) on FIELD_DEFINITION
type Ticket {
  id: ID! title: String! state: State! size: Int at: DateTime apiKey: String raw: JSON
  comments(first: Int!): [Comment!]! owner: Person
}
type Comment { id: ID! text: String }
type Person { id: ID! name: String }
type TicketEdge { cursor: String node: Ticket }
type TicketConnection { edges: [TicketEdge] nodes: [Ticket] }
type EdgeOnly { edges: [TicketEdge] }
type Payload { success: Boolean! ticket: Ticket }
type Nested { ticket: Ticket }
input Place { room: String! floor: Int }
input NewTicket { title: String! state: State tags: [String!] place: Place password: String }
input Needs { place: Place! }
input Optional { note: String size: Int = 3 }
input Unsendable { place: Place password: String }
type Query {
  "All tickets, the newest first."
  tickets(first: Int = 10, state: State, tags: [String!]): TicketConnection!
  edges: EdgeOnly
  ticket(id: ID!): Ticket
  people: [Person!]! @auth(role: "x")
  count: Int!
  old: Int @deprecated(reason: "gone")
  names: [String!]!
  search(filter: JSON!): [Ticket!]!
  nested: Nested
  items(first: Int! = 10, only: Optional! = {note: "x"}): [Ticket!]!
}
type Mutation {
  createTicket(input: NewTicket!): Payload!
  updateTicket(id: ID!, input: NewTicket!): Payload!
  deleteTicket(id: ID!): Payload!
  promote(id: ID!): Payload!
  place(input: Needs!): Payload!
  touch(input: Optional!): Boolean
  hide(input: Unsendable!): Boolean
}
"""
SCHEMA = graphql.build_schema(SDL)
INTROSPECTED = json.dumps({"data": graphql.introspection_from_schema(SCHEMA)}).encode()
ENDPOINT = "https://tickets.example/api/graphql"


def import_content(content: bytes = INTROSPECTED, **settings: Any) -> ImportResult:
    always = {"name": "tickets", "title": "", "audience": "", "server": ENDPOINT}
    return import_schema(parse_schema(content), **{**always, **settings})


def queries(made: ImportResult) -> Mapping[str, str]:
    return {one.name: one.call for one in made.review}


def test_every_made_query_is_valid_and_reads_what_the_tool_returns() -> None:
    made = import_content()
    for query in queries(made).values():
        assert graphql.validate(SCHEMA, graphql.parse(query)) == [], query
    assert queries(made)["tickets_tickets"] == (
        "query Tool($first: Int, $state: State, $tags: [String!]) { tickets(first: $first, state: $state, tags: $tags)"
        " { nodes { id title state size at } } }"
    )
    assert queries(made)["tickets_nested"] == "query Tool { nested { ticket { id title state size at } } }"
    assert queries(made)["tickets_count"] == "query Tool { count }"
    assert {one.name: one.effect for one in made.review} == {
        **dict.fromkeys(
            [f"tickets_{one}" for one in ("tickets", "edges", "ticket", "people", "count", "nested", "items")], "read"
        ),
        "tickets_create_ticket": "create",
        "tickets_update_ticket": "update",
        "tickets_delete_ticket": "delete",
        "tickets_touch": "delete",
        "tickets_promote": "delete",  # nothing indicates that it is harmless
    }
    assert dict(made.left_out) == {
        "query old": "it is deprecated",
        "query names": "its answer is a list of plain values",
        "query search": "it needs filter, which a tool can't send",
        "mutation place": "it needs input.place, which a tool can't send",
        "mutation hide": "it needs input, which a tool can't send",
    }


def test_what_an_agent_may_leave_out_is_filled_in_by_the_server() -> None:
    tools = {str(one["name"]): one for one in import_content().tools["tool"]}
    got = dict[str, Any]()

    def resolve(_: object, info: graphql.GraphQLResolveInfo, **given: Any) -> object:
        got[info.field_name] = given
        return [] if info.field_name == "items" else None

    for name in ("items", "touch"):
        query = tools[f"tickets_{name}"]["request"]["body"]["query"]
        assert not [one for one in tools[f"tickets_{name}"]["arguments"].values() if one.get("required", True)]
        done = graphql.graphql_sync(SCHEMA, query, field_resolver=resolve, variable_values={})
        assert (done.data, done.errors) == ({name: [] if name == "items" else None}, None)
    assert got == {
        "items": {"first": 10, "only": {"note": "x", "size": 3}},
        "touch": {"input": {"size": 3}},
    }


@pytest.mark.parametrize(
    ("name", "effect"),
    [
        *((one, "create") for one in ("createPost", "add_user", "SendMail", "new")),
        *((one, "update") for one in ("updatePost", "set_name", "EditAll")),
        *((one, "delete") for one in ("erasePost", "reportAddress", "creditRefund", "assetWipe", "resetAll")),
        *((one, "delete") for one in ("createdWipe", "additional", "addAndRemove", "settle")),
    ],
)
def test_only_the_first_word_of_a_mutation_says_that_it_deletes_nothing(name: str, effect: str) -> None:
    sdl = f"type Query {{ a: Int }} type Mutation {{ {name}: Int }}"
    assert [one.effect for one in import_content(sdl.encode(), only=re.compile("mutation")).review] == [effect]


@pytest.mark.parametrize("root", ["query", "mutation"])
def test_a_value_that_is_named_like_a_credential_reaches_no_agent(root: str) -> None:
    """A member with such a name isn't selected; here the operation itself is the value."""
    fields = "accessToken: String! createApiKey: ID resetPassword: DateTime hasPassword: Boolean! newTitle: String"
    sdl = f"scalar DateTime type Query {{ {fields} }} type Mutation {{ {fields} }}"
    made = import_content(sdl.encode(), only=re.compile(root))
    assert [one.name for one in made.review] == ["tickets_has_password", "tickets_new_title"]
    why = "its answer is a value that is named like a credential"
    assert dict(made.left_out) == {f"{root} {one}": why for one in ("accessToken", "createApiKey", "resetPassword")}
    assert len(made.provider["rules"]) == 2, "nor can it be called through the proxy"


def test_a_type_whose_name_is_no_name_gets_into_no_query() -> None:
    evil = "DateTime) { count } deleteTicket(id: 1) #"
    sdl = SDL.replace("count: Int!", "count(at: DateTime): Int!")
    content = json.dumps(graphql.introspection_from_schema(graphql.build_schema(sdl)))
    assert "$at: DateTime)" in queries(import_content(content.encode()))["tickets_count"]
    made = import_content(content.replace('"DateTime"', json.dumps(evil)).encode())
    assert ("query count", "the name of a type has other characters") in made.left_out
    assert not [query for query in queries(made).values() if "#" in query]


def test_a_mutation_says_done_where_it_answers_null() -> None:
    tools = {str(one["name"]): one["result"] for one in import_content().tools["tool"]}
    assert tools["tickets_touch"]["allows_null"] is True
    assert tools["tickets_delete_ticket"]["allows_null"] is True
    assert "allows_null" not in tools["tickets_ticket"]


def test_sdl_and_the_answer_to_an_introspection_query_make_the_same_files() -> None:
    assert import_content(SDL.encode()) == import_content()
    with pytest.raises(DocumentRefused, match="SDL"):
        import_content(SDL.replace("enum", "enmu").encode())


def test_only_the_stored_query_is_let_through_and_reading_never_writes(tmp_path: Path) -> None:
    made = import_content()
    (tmp_path / "tickets.toml").write_text(tomlkit.dumps(made.provider), encoding="utf-8")
    assert check_file(tmp_path / "tickets.toml") == []
    catalog = load_catalog([tmp_path])
    (tmp_path / "tools.tools").write_text(tomlkit.dumps(made.tools), encoding="utf-8")
    tools = {one.name: one for one in data_tools([(tmp_path, read_tool_file(tmp_path / "tools.tools"))], catalog)}
    listed, created = tools["tickets_tickets"], tools["tickets_create_ticket"]
    assert (listed.read_only, listed.approval, created.read_only, created.approval) == (True, False, False, True)
    assert created.input_schema["required"] == ["title"]
    assert set(created.input_schema["properties"]) == {"account", "title", "state", "tags"}
    provider, read, write = catalog.provider("tickets"), frozenset({"tickets:read"}), frozenset({"tickets:write"})

    def let(query: str, scopes: frozenset[str], **more: object) -> bool:
        body = {"query": query, **more}
        call = Call("main", "POST", "/graphql", body, Payload(body=body))
        return allows(provider, call, scopes)

    reads, writes = queries(made)["tickets_tickets"], queries(made)["tickets_delete_ticket"]
    assert let(reads, read, variables={"first": 3})
    assert let(writes, write, variables={"id": "1"})
    assert not let(writes, read, variables={"id": "1"})
    for other in (
        f"{reads} {writes}",
        reads.replace("nodes { id", "nodes { id apiKey"),
        reads.replace("query", "mutation"),
        f" {reads}",
        f"{reads}\n",
        "query Tool { count }}",
        "query Tool { __schema { types { name } } }",
        "",
    ):
        assert not let(other, read, variables={}), other


@pytest.mark.parametrize(
    ("content", "settings", "why"),
    [
        (b"{}", {}, "__schema"),
        (b'{"data": 1}', {}, "__schema"),
        (b"{", {}, "JSON"),
        (b"\xff", {}, "UTF-8"),
        (b"[" * 100_000, {}, "SDL"),
        (b'{"data":' + b"[" * 100_000, {}, "JSON"),
        (INTROSPECTED, {"server": "http://tickets.example/graphql"}, "--server"),
        (INTROSPECTED, {"server": "https://tickets.example"}, "--server"),
        (INTROSPECTED, {"only": re.compile("nothing")}, "no operation"),
    ],
)
def test_a_schema_that_cannot_be_meant_is_refused(content: bytes, settings: dict[str, Any], why: str) -> None:
    with pytest.raises(DocumentRefused, match=why):
        import_content(content, **settings)
    assert import_content().review


def test_sizes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphql_schema, "OPERATIONS", 5)
    with pytest.raises(DocumentRefused, match="more than 5 operations"):
        import_content()
    monkeypatch.setattr(graphql_schema, "LARGEST", 1000)
    with pytest.raises(DocumentRefused, match="larger than"):
        import_content()


def test_the_command_writes_files_that_the_server_takes(tmp_path: Path) -> None:
    source, to = tmp_path / "schema.graphql", tmp_path / "made"
    source.write_text(SDL, encoding="utf-8")
    arguments = ["tools", "import", "graphql", str(source), "--name", "tickets", "--to", str(to)]
    arguments += ["--data", str(tmp_path / "data")]
    missing = CliRunner().invoke(app, arguments)
    assert missing.exit_code != 0
    made = CliRunner().invoke(app, [*arguments, "--server", ENDPOINT, "--only", "^query"])
    assert made.exit_code == 0, made.output
    assert "Nothing is turned on yet" in made.output
    assert "query Tool { count }" in made.output
    assert {path.name for path in to.iterdir()} == {"tickets.toml", "tickets-tools.toml"}
    assert not [one for one in read_tool_file(to / "tickets-tools.toml").tool if one.effect != "read"]
    again = CliRunner().invoke(app, [*arguments, "--server", ENDPOINT])
    assert (again.exit_code, "already exists" in again.output) == (1, True)


def test_queries_that_an_admin_leaves_out_are_taken_from_the_rules_alone() -> None:
    """All queries share one path, so each rule accepts only its own exact document."""
    content = content_of(import_content())
    tables = tables_of(content)
    names = [str(tool["name"]) for tool in tables.tools]
    kept = read_imported("tickets", with_choices(content, {names[0]: "accept", names[-1]: "ask"}))
    assert [(tool.name, tool.approval) for tool in kept.tools.tool] == [(names[0], False), (names[-1], True)]
    chosen = [str(tables.rules[at]["where"]) for at in (0, -1)]
    assert [str(dict(rule.where)) for rule in kept.provider.rules] == chosen
    every = read_imported("tickets", with_choices(content, dict.fromkeys(names, "accept")))
    assert len(every.provider.rules) == len(names)  # the twin
