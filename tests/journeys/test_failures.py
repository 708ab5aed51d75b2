"""When our own code raises, each endpoint answers in its own format, with an id that is in the log; over real HTTP.

The failure is real: a stored client of a kind that this program doesn't know, as after a downgrade or a damaged row.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

import httpx2
import pytest

from tests.support.rooms.mcp_room import SLACK, Agent, Room, modern, modern_headers, room

PAGE = "https://app.example"  # of another origin, which the operator allows
INTERNAL = ("Traceback", "ValueError", "ClientKind", "stranger", "site-packages", ".py")
BROWSER = "text/html,application/xhtml+xml"


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    async with room(tmp_path_factory.mktemp("failures"), server={"allowed_origins": [PAGE]}) as opened:
        yield opened


@asynccontextmanager
async def damage_agent(place: Room, agent: Agent) -> AsyncGenerator[None]:
    """Give the agent's row an unknown kind until the block ends."""

    async def write(kind: str) -> None:
        async with place.vault.deployment.transaction() as transaction:
            await transaction.execute(
                "update clients set kind = :kind where id = :id", {"kind": kind, "id": agent.principal.client_id}
            )

    await write("stranger")
    try:
        yield
    finally:
        await write("dynamic")


def check_told(answer: httpx2.Response, text: object, caplog: pytest.LogCaptureFixture) -> None:
    """Check status, caching, and log, which are the same for every endpoint."""
    assert answer.status_code == 500
    assert "no-store" in answer.headers["cache-control"]
    assert not [internal for internal in INTERNAL if internal in answer.text]
    records = [one for one in caplog.records if one.name == "token_vault.http" and one.levelno == logging.ERROR]
    assert records[-1].exc_info
    assert records[-1].request_id in str(text)
    assert not [one for one in caplog.records if one.name == "uvicorn.error"], "logged once"


@pytest.mark.parametrize("path", ["/token", "/token/", "/revoke", "/par"])
async def test_an_oauth_endpoint_answers_with_an_error_that_any_page_may_read(
    place: Room, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    agent = await place.agent()
    form = {
        "grant_type": "authorization_code",
        "code": "x",
        "token": "x",
        "client_id": agent.principal.client_id,
        "redirect_uri": "http://127.0.0.1:33418/callback",
        "code_verifier": "v" * 43,
    }
    async with place.http() as http:
        async with damage_agent(place, agent):
            answer = await http.post(path, data=form, headers={"origin": "https://page.example"})
            check_told(answer, answer.json()["error_description"], caplog)
            assert answer.headers["content-type"] == "application/json"
            assert answer.json()["error"] == "server_error"
            assert answer.headers["access-control-allow-origin"] == "*"
        assert (await http.post(path, data=form)).status_code < 500, "the twin"


@pytest.mark.parametrize(
    ("method", "params", "name", "identity"),
    [
        ("tools/list", {}, None, None),  # this fails before the body is read
        ("tools/call", {"name": "slack_post", "arguments": {"channel": 7}}, "slack_post", "seven"),
    ],
)
async def test_mcp_answers_with_a_jsonrpc_error_that_names_the_request_it_has_read(
    place: Room,
    caplog: pytest.LogCaptureFixture,
    method: str,
    params: Mapping[str, object],
    name: str | None,
    identity: str | None,
) -> None:
    agent = await place.agent()
    await place.connect(agent, "slack", scopes=SLACK)
    headers = modern_headers(method, name, origin=PAGE)
    async with place.http(agent) as http:
        async with damage_agent(place, agent):
            answer = await http.post("/mcp", json=modern(method, params, id="seven"), headers=headers)
            content = answer.json()
            check_told(answer, content["error"]["message"], caplog)
            assert answer.headers["content-type"] == "application/json"
            assert (content["jsonrpc"], content["id"], content["error"]["code"]) == ("2.0", identity, -32603)
            assert answer.headers["access-control-allow-origin"] == PAGE
        again = await http.post("/mcp", json=modern(method, params, id="seven"), headers=headers)
        assert again.status_code == 200, "the twin"


@pytest.mark.parametrize(("method", "path"), [("GET", "/sse"), ("POST", "/messages/?session_id=x"), ("GET", "/mcp")])
async def test_the_streams_answer_so_too(place: Room, caplog: pytest.LogCaptureFixture, method: str, path: str) -> None:
    agent = await place.agent()
    async with place.http(agent) as http, damage_agent(place, agent):
        answer = await http.request(method, path, headers={"accept": "text/event-stream"})
        check_told(answer, answer.json()["error"]["message"], caplog)
        assert answer.json()["id"] is None


async def test_a_page_answers_with_a_page_for_a_browser_and_json_for_a_program(
    place: Room, caplog: pytest.LogCaptureFixture
) -> None:
    agent = await place.agent()
    query = {"client_id": agent.principal.client_id, "response_type": "code"}
    async with place.http() as http:
        async with damage_agent(place, agent):
            page = await http.get("/authorize", params=query, headers={"accept": BROWSER})
            check_told(page, page.text, caplog)
            assert re.search(r"give the person who runs this vault the number [0-9a-f]{16}:", page.text)
            assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
            german = await http.get("/authorize", params=query, headers={"accept": BROWSER, "accept-language": "de"})
            check_told(german, german.text, caplog)
            assert "Im Log steht die Ursache" in german.text
            program = await http.get("/authorize", params=query)
            check_told(program, program.json()["error_description"], caplog)
            assert "access-control-allow-origin" not in program.headers
        assert (await http.get("/authorize", params=query)).status_code < 500, "the twin"
