"""One ID in everything that a request produces: its answer, the activity, the log, refusals, and spans."""

from __future__ import annotations

import asyncio
import hmac
import io
import json
import logging
import os
import re
import subprocess
import sys
from base64 import urlsafe_b64encode
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx2
import pytest
import rfc8785

from server.runtime.logs import JsonRecords, is_json
from tests.support.inspection import read_events
from tests.support.processes import ROOT, Place, free_port
from tests.support.rooms.mcp_room import Agent, Room, legacy_headers, legacy_session, modern, modern_headers, room
from vault.audit.audit import Activity, list_events
from vault.records import Event
from vault.spans import REQUEST_ID
from vault.storage.database import Database

WRITE = frozenset({"chat:write"})
POST = {"channel": "#general", "text": "hello"}
MADE = re.compile(r"[0-9a-f]{16}")


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    async with room(tmp_path_factory.mktemp("ids")) as made:
        yield made


@pytest.fixture(scope="module")
async def behind(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    async with room(tmp_path_factory.mktemp("behind"), server={"trusted_proxies": ["127.0.0.1"]}) as made:
        yield made


async def post(place: Room, agent: Agent, **headers: str) -> httpx2.Response:
    message = modern("tools/call", {"name": "slack_post", "arguments": POST})
    async with place.http(agent) as http:
        return await http.post("/mcp", json=message, headers=modern_headers("tools/call", "slack_post") | headers)


async def ids_of(place: Room, kind: str) -> list[object]:
    events = await read_events(place.vault.deployment)
    return [event.details.get("request_id") for event in events if event.kind == kind]


async def test_the_answer_and_each_event_of_a_call_name_the_same_request(place: Room) -> None:
    agent = await place.agent()
    await place.connect(agent, "slack", scopes=WRITE)
    answers = [await post(place, agent) for _ in range(2)]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert all(MADE.fullmatch(one) for one in ids)
    assert ids[0] != ids[1]
    assert (await ids_of(place, "tool.called"))[-2:] == ids
    assert (await ids_of(place, "token.exchanged"))[-2:] == ids


async def test_a_calls_exchange_names_its_arguments_without_telling_them(place: Room) -> None:
    agent = await place.agent("erin")
    await place.connect(agent, "slack", scopes=WRITE, account="bob")
    await post(place, agent)
    events = await read_events(place.vault.deployment)
    (event,) = [one for one in events if one.kind == "token.exchanged" and one.user_id == agent.principal.user_id]
    spec = place.vault.deployment.tool("slack_post")
    assert spec is not None
    given = spec.input.model_validate(POST).model_dump(mode="json")
    key = place.vault.deployment.vault.keys.subkey("arguments")  # without a key, a short text could be guessed
    digest = hmac.digest(key, rfc8785.dumps(given), "sha256")
    assert event.details["arguments_hash"] == urlsafe_b64encode(digest).rstrip(b"=").decode()
    assert event.details["purpose"] == "slack_post"
    assert "hello" not in str(event.details)


async def test_calls_of_one_session_have_ids_of_their_own(place: Room) -> None:
    agent = await place.agent("bob")
    await place.connect(agent, "slack", scopes=WRITE, account="bob")
    async with place.http(agent) as http:
        session = await legacy_session(http)

        async def call(number: int) -> str:
            message = {"jsonrpc": "2.0", "id": number, "method": "tools/call"}
            message |= {"params": {"name": "slack_post", "arguments": POST}}
            return (await http.post("/mcp", json=message, headers=legacy_headers(session))).headers["x-request-id"]

        ids = await asyncio.gather(*(call(number) for number in range(10, 14)))
    assert sorted((await ids_of(place, "tool.called"))[-4:]) == sorted(ids)  # pyright: ignore[reportArgumentType]
    assert len(set(ids)) == 4


async def test_calls_over_the_old_event_stream_have_an_id(place: Room) -> None:
    agent = await place.agent("carol")
    await place.connect(agent, "slack", scopes=WRITE, account="carol")
    async with place.client(agent, transport="sse") as client:
        for _ in range(2):
            assert not (await client.call_tool("slack_post", POST)).is_error
    ids = (await ids_of(place, "tool.called"))[-2:]
    assert all(MADE.fullmatch(str(one)) for one in ids)
    assert ids[0] != ids[1]


@pytest.mark.parametrize(
    ("given", "is_taken"),
    [("trace-1/a", True), ("a" * 64, True), ("a" * 65, False), ('a"b', False), ("a b", False), ("", False)],
)
async def test_the_id_of_a_trusted_proxy_is_taken_if_it_is_well_formed(
    behind: Room, given: str, is_taken: bool
) -> None:
    async with behind.http() as http:
        answer = await http.get("/healthz", headers={"x-request-id": given})
    assert (answer.headers["x-request-id"] == given) is is_taken
    if not is_taken:
        assert MADE.fullmatch(answer.headers["x-request-id"])


async def test_two_ids_of_a_proxy_are_none(behind: Room) -> None:
    async with behind.http() as http:
        answer = await http.get("/healthz", headers=[("x-request-id", "one"), ("x-request-id", "two")])
    assert MADE.fullmatch(answer.headers["x-request-id"])


async def test_the_id_of_anybody_else_is_not_taken(place: Room, tmp_path: Path) -> None:
    async with place.http() as http:
        answer = await http.get("/healthz", headers={"x-request-id": "trace-1"})
    assert MADE.fullmatch(answer.headers["x-request-id"])
    async with room(tmp_path, server={"trusted_proxies": ["192.0.2.1"]}) as other, other.http() as http:
        answer = await http.get("/healthz", headers={"x-request-id": "trace-1"})
    assert MADE.fullmatch(answer.headers["x-request-id"])


async def test_every_shape_of_a_refusal_names_the_request(place: Room) -> None:
    async with place.http() as http:
        answers = [
            await http.post("/token", data={"grant_type": "nothing"}),
            await http.post("/mcp", json={}),
            await http.post("/mcp", json={}, headers={"authorization": "Bearer x"}),
            await http.get("/proxy/x/y", headers={"authorization": "Bearer x"}),
            await http.get("/nothing-here"),
        ]
    for answer in answers:
        content = answer.json()
        named = content.get("request_id") or content["error"]["data"]["request_id"]
        assert named == answer.headers["x-request-id"], content
        assert answer.status_code >= 400


async def test_an_event_outside_of_a_request_names_none_and_repeats_belong_to_no_one(
    database: Database, activity: Activity
) -> None:
    await activity.record(Event("outside"))
    reset = REQUEST_ID.set("first")
    try:
        await activity.record(Event("inside"))
        await activity.record(Event("inside", details={"one": 1}), details='{"one":1}')
        for _ in range(3):
            await activity.record_refusal(Event("refused", outcome="refused"))
    finally:
        REQUEST_ID.reset(reset)
    await activity.close()  # writes the repeats
    found = [
        (event.kind, event.details.get("request_id"), event.details.get("repeats"))
        for event in await list_events(database)
    ]
    assert found == [
        ("outside", None, None),
        ("inside", "first", None),
        ("inside", "first", None),
        ("refused", "first", None),
        ("refused", None, 2),
    ]


# The log


def record_of(name: str = "token_vault.test", **extra: object) -> logging.LogRecord:
    return logging.getLogger(name).makeRecord(name, logging.INFO, __file__, 1, "told %s", ("x",), None, extra=extra)


def test_a_json_record_has_its_facts_and_its_request_and_cannot_be_forged() -> None:
    reset = REQUEST_ID.set("abc")
    try:
        line = JsonRecords().format(record_of(code="a", line='x"\n{"level":"error"}', level="forged"))
    finally:
        REQUEST_ID.reset(reset)
    assert "\n" not in line
    content = json.loads(line)
    assert content.pop("time").endswith("+00:00")
    assert content == {
        "level": "info",
        "logger": "token_vault.test",
        "message": "told x",
        "request_id": "abc",
        "code": "a",
        "line": 'x"\n{"level":"error"}',
    }
    assert "request_id" not in json.loads(JsonRecords().format(record_of()))


def test_records_are_json_unless_on_a_terminal_or_as_the_operator_wants() -> None:
    terminal, theirs = os.openpty()
    try:
        with os.fdopen(terminal, "w") as shown:
            assert not is_json("auto", shown)
            assert is_json("json", shown)
    finally:
        os.close(theirs)
    assert is_json("auto", io.StringIO())
    assert not is_json("console", io.StringIO())


STATEMENT = """
import asyncio, logging, sys
from pathlib import Path
from server.runtime.logs import configure
from vault.storage.database_url import open_database

if sys.argv[1] == "configured":
    configure(verbose=True)
else:
    logging.basicConfig()
for name in ("", "aiosqlite", "token_vault"):
    logging.getLogger(name).setLevel(logging.DEBUG)

async def main():
    database = await open_database("sqlite:", data=Path(sys.argv[2]))
    await database.fetch("select :a as a", {"a": "canary-of-the-log"})
    logging.getLogger("aiosqlite").debug("canary-of-the-log")
    logging.getLogger("token_vault.x").debug("told")
    await database.close()

asyncio.run(main())
"""


@pytest.mark.parametrize("how", ["configured", "plain"])
def test_no_level_makes_a_driver_print_the_parameters_of_statements(tmp_path: Path, how: str) -> None:
    (tmp_path / "d").mkdir(mode=0o700)
    done = subprocess.run(
        [sys.executable, "-c", STATEMENT, how, str(tmp_path / "d")],
        capture_output=True, text=True, check=True, cwd=ROOT, timeout=60,
    )  # fmt: skip
    assert ("canary-of-the-log" in done.stderr) is (how == "plain")
    assert "told" in done.stderr


@pytest.mark.parametrize("form", ["json", "console"])
async def test_serve_writes_records_in_the_form_that_was_asked_for(tmp_path: Path, form: str) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    place = Place(tmp_path / "data", free_port())
    place.configure()
    config = place.data / "config.toml"
    config.write_text(config.read_text() + f'[logs]\nformat = "{form}"\n')
    async with place.serve() as process, httpx2.AsyncClient(trust_env=False, timeout=60) as http:
        headers = {"authorization": "Bearer x"}
        answer = await http.get(f"http://localhost:{place.port}/proxy/x/y", headers=headers)
        assert process.stderr is not None
        async with asyncio.timeout(60):
            while b"call refused" not in (line := await process.stderr.readline()):
                assert line
    identity = answer.headers["x-request-id"]
    if form == "json":
        assert json.loads(line)["request_id"] == identity
    else:
        assert not line.startswith(b"{")
        assert identity.encode() in line
