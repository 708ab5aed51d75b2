"""The Python client against a real vault: an exchange, tools in unmodified frameworks, and administration."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import sys
from pathlib import Path

import pytest

from server.api.document import openapi_document
from server.checkpoints.publication import publish
from tests.api.conftest import STATUSES, answer_alike
from tests.conftest import unavailable
from tests.generating import admin_clients
from tests.support.rooms.admin_room import running_admin_room
from tests.support.rooms.exchange_room import SECRET, Caller, ExchangeRoom
from tests.support.rooms.mcp_room import Agent

ROOT = Path(__file__).parents[2]
SDK = ROOT / ".venv/sdks/clients/bin/python"
sys.path.insert(0, str(ROOT / "clients/python"))

from token_vault_client import AsyncVault, ConnectionNeeded, UpstreamToken, Vault, VaultRefused, acting_for  # noqa: E402
from token_vault_client.admin import AdminClient  # noqa: E402

SCOPES = ["channels:history"]


async def _person(place: ExchangeRoom, name: str, *, connects: bool) -> tuple[Caller, Agent]:
    caller = await place.caller()
    agent = await place.agent(caller, name)
    if connects:
        await place.slack(agent)
    return caller, agent


def test_the_generated_clients_are_up_to_date() -> None:
    for path, content in admin_clients.client_modules().items():
        assert path.read_text(encoding="utf-8") == content, "write it again: python -m tests.generating.admin_clients"


def test_what_an_operation_needs_has_no_default_and_the_rest_has_one() -> None:
    operations = [one for by in openapi_document("https://vault.example")["paths"].values() for one in by.values()]
    needed = set[tuple[str, str]]()
    for one in operations:
        taken = inspect.signature(getattr(AdminClient, one["operationId"])).parameters
        for part in one["parameters"]:
            name = part["name"].lower().replace("-", "_")
            assert (taken[name].default is inspect.Parameter.empty) is part["required"], (one["operationId"], name)
            if part["required"] and part["in"] == "query":
                needed.add((one["operationId"], name))
    assert needed >= {("show_panic", "of"), ("explain_account_use", "agent_id")}


async def test_a_token_comes_in_three_lines_and_is_kept(place: ExchangeRoom) -> None:
    caller, agent = await _person(place, "kept", connects=True)

    def exchange() -> None:
        token = vault.token("slack", scopes=SCOPES, subject=agent.token)
        assert token.scopes == frozenset(SCOPES)
        assert token.value not in repr(token) + str(token)
        assert vault.token("slack", scopes=SCOPES, subject=agent.token) is token
        assert vault.token("slack", scopes=SCOPES, subject=agent.token, fresh=True) is not token
        with acting_for(agent.token):
            assert vault.token("slack", SCOPES).scopes == frozenset(SCOPES)
        with pytest.raises(LookupError, match="whose token"):
            vault.token("slack", SCOPES)
        with pytest.raises(VaultRefused) as refused:
            vault.token("slack", ["admin"], subject=agent.token)
        assert (refused.value.code, refused.value.missing_scope) == ("invalid_scope", "admin")

    with Vault(place.url, client_id=caller.client.id, client_secret=SECRET) as vault:
        await asyncio.to_thread(exchange)


async def test_who_must_act_first_is_told_where(place: ExchangeRoom) -> None:
    caller, agent = await _person(place, "unconnected", connects=False)
    async with AsyncVault(place.url, client_id=caller.client.id, client_secret=SECRET) as vault:
        with pytest.raises(ConnectionNeeded) as needed:
            await vault.token("slack", SCOPES, subject=agent.token)
        assert needed.value.connect_uri.startswith(f"{place.url}/connect/")

        @vault.tool("slack", scopes=SCOPES)
        async def look(*, token: object) -> str:
            return "looked"

        with acting_for(agent.token):
            assert place.url in await look()
        await place.slack(agent)  # the twin: the same once it is connected
        with acting_for(agent.token):
            assert await look() == "looked"


async def test_a_coroutine_with_a_synchronous_vault_does_not_stop_other_tasks(place: ExchangeRoom) -> None:
    """The vault that answers here is one of them."""
    caller, agent = await _person(place, "synchronous", connects=True)
    with Vault(place.url, client_id=caller.client.id, client_secret=SECRET) as vault:

        @vault.tool("slack", scopes=SCOPES)
        async def look(*, token: UpstreamToken) -> frozenset[str]:
            return token.scopes

        with acting_for(agent.token):
            async with asyncio.timeout(30):
                assert await look() == frozenset(SCOPES)  # pyright: ignore[reportCallIssue] -- the decorator gives it


@pytest.mark.long
@pytest.mark.group("sdks")
@pytest.mark.timeout(300)
async def test_a_tool_runs_in_every_framework_for_its_person(place: ExchangeRoom) -> None:
    if not SDK.exists():
        unavailable("the SDKs need: make sdks")
    caller = await place.caller()
    ready, waiting = await place.agent(caller, "frameworks"), await place.agent(caller, "frameworks-unconnected")
    await place.slack(ready)
    subjects = {"ready": ready.token, "waiting": waiting.token}
    facts = {"url": place.url, "client_id": caller.client.id, "client_secret": SECRET, "subjects": subjects}
    process = await asyncio.create_subprocess_exec(
        SDK, str(ROOT / "tests/sdks/run_tools.py"),
        env=os.environ | {"PLACE": json.dumps(facts), "PYTHONPATH": str(ROOT / "clients/python")},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(280):
        out, err = await process.communicate()
    said = {(one["framework"], one["who"]): one["said"] for one in map(json.loads, out.decode().splitlines())}
    frameworks = {"langgraph", "llama_index", "openai_agents", "pydantic_ai", "fastapi", "fastapi_without_await"}
    assert {framework for framework, _ in said} == frameworks, err.decode()
    for framework in frameworks:
        assert said[framework, "ready"] == "granted channels:history at True", framework
        assert f"{place.url}/connect/" in said[framework, "waiting"], framework  # the twin


@pytest.mark.group("sdks")
async def test_an_endpoint_answers_with_the_status_that_its_caller_can_act_on(place: ExchangeRoom) -> None:
    if not SDK.exists():
        unavailable("the SDKs need: make sdks")
    caller, agent = await _person(place, "statuses", connects=True)
    busy, broken = answer_alike("429 Too Many Requests\r\nretry-after: 7"), answer_alike("502 Bad Gateway")
    async with busy as busy_url, broken as broken_url:
        facts = {
            "url": place.url,
            "client_id": caller.client.id,
            "client_secret": SECRET,
            "subject": agent.token,
            "busy": busy_url,
            "broken": broken_url,
        }
        process = await asyncio.create_subprocess_exec(
            SDK, str(ROOT / "tests/sdks/run_statuses.py"),
            env=os.environ | {"PLACE": json.dumps(facts), "PYTHONPATH": str(ROOT / "clients/python")},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(100):
            out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert json.loads(out) == STATUSES


async def test_the_admin_client_speaks_for_a_service_account(tmp_path: Path) -> None:
    async with running_admin_room(tmp_path / "vault") as opened:
        account = await opened.service_account()

        def administer() -> None:
            url, secret = opened.room.url, account.secret or ""
            with AdminClient(url, client_id=account.client.id, client_secret=secret) as admin:
                for number in range(3):
                    admin.add_person({"name": f"person-{number}"})
                found = list(admin.walk(admin.list_people, find="person-", limit=2))
                assert [one["name"] for one in found] == ["person-0", "person-1", "person-2"]
                assert admin.change_person(found[0]["id"], {"disabled": True})["disabled"] is True
                assert admin.delete_person(found[0]["id"]) is None
                with pytest.raises(VaultRefused) as refused:
                    admin.get_person(found[0]["id"])
                assert (refused.value.code, refused.value.status) == ("no_person", 404)
                first = admin.register_agent(
                    {"name": "A", "redirect_uris": ["https://a.example/"]}, idempotency_key="0123456789abcdef"
                )
                assert admin.get_agent(first["agent"]["id"])["name"] == "A"
                assert admin.export_events(kind="user.created").count("\n") >= 3
                assert admin.get_event_proof(1).endswith(f"\n\n{admin.get_checkpoint()}")
                assert admin.list_activity_keys()["items"][-1]["origin"] == admin.get_checkpoint().split("\n")[0]

        await publish(opened.deployment, at_once=True)
        await asyncio.to_thread(administer)
