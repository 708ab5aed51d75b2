"""The page on token exchange: each curl line runs unchanged, and gets the answer that the page shows."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from collections.abc import AsyncGenerator, Mapping

import httpx2
import pytest

from tests.conftest import unavailable
from tests.support.documented import DOCS, section
from tests.support.exchange_room import API, SECRET, ExchangeRoom
from tests.support.mcp_room import room

PAGE = DOCS / "guides/token-exchange.md"


def curl_lines() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [block for block in blocks if block.startswith("curl ")]


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[ExchangeRoom]:
    if shutil.which("curl") is None:
        unavailable("the curl lines need: curl")
    async with (
        room(tmp_path_factory.mktemp("guide") / "data") as opened,
        httpx2.AsyncClient(base_url=opened.url, timeout=20, trust_env=False) as http,
    ):
        yield ExchangeRoom(opened, http)


@pytest.fixture(scope="module")
async def variables(place: ExchangeRoom) -> dict[str, str]:
    """What the page's variables stand for."""
    backend = await place.caller()
    agent = await place.agent(backend)
    await place.slack(agent)
    await place.google(agent)
    page, api = await place.caller(public=True), await place.caller(resources=("https://back.example/",))
    await place.link(api)
    await place.link(await place.caller(), "https://back.example/")
    received = await place.agent(page, audience=API)
    (connection,) = [
        await place.slack(await place.agent(api)),
    ]
    assert connection.provider == "slack"
    handle = (await place.exchange(backend, agent.token, scope="chat:write")).json()["access_token"]
    return {
        "VAULT": place.url,
        "CLIENT_ID": backend.client.id,
        "CLIENT_SECRET": SECRET,
        "ACCESS_TOKEN": agent.token,
        "API_ID": api.client.id,
        "API_SECRET": SECRET,
        "RECEIVED_TOKEN": received.token,
        "SLACK_API": place.deployment.catalog.provider("slack").apis["web"],
        "HANDLE": handle,
    }


async def run(line: str, variables: Mapping[str, str]) -> dict[str, object]:
    process = await asyncio.create_subprocess_exec(
        "bash", "-euc", line, env={"PATH": os.environ["PATH"], **variables}, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(20):
        out, _ = await process.communicate()
    assert process.returncode == 0
    return json.loads(out)


async def test_every_curl_line_runs_as_it_stands(place: ExchangeRoom, variables: dict[str, str]) -> None:
    answers = [await run(line, variables) for line in curl_lines()]
    handle, narrowed, for_api, own, refused, introspected = answers
    text = PAGE.read_text(encoding="utf-8")
    shown = json.loads(re.search(r"^```json\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)[1])
    assert handle.keys() == shown.keys()
    for name in ("issued_token_type", "token_type", "expires_in", "scope", "narrowing"):
        assert handle[name] == shown[name]
    assert str(handle["access_token"]).startswith("tvp_")
    assert narrowed["narrowing"] == "upstream"
    assert "api_base_url" not in narrowed
    assert str(for_api["api_base_url"]).startswith(f"{place.url}/proxy/")
    assert str(own["access_token"]).count(".") == 2
    assert (refused["error"], refused["reason"], refused["missing_scope"]) == ("invalid_scope", "scopes", "groups:read")
    assert introspected["active"] is True


async def test_the_page_names_every_reason(place: ExchangeRoom) -> None:
    written = {
        word for row in section(PAGE, "When it does not work").rows for word in re.findall(r"`(\w+)`", row["`reason`"])
    }
    assert written == {
        "missing",
        "needs_reauth",
        "ambiguous",
        "account",
        "not_configured",
        "scopes",
        "delegation",
        "approval",
    }
