"""The simulator as a whole: what it records, who controls it, how it runs and stops, and that it needs nothing else."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from providers.simulator import Simulator, consent, running_simulator
from tests.support.simulator_apps import CLIENT, REDIRECT, VERIFIER, GoogleApp, SlackApp, parameters

ROOT = Path(__file__).parent.parent.parent.parent


async def test_the_books_hold_no_token_code_verifier_or_secret(
    simulator: Simulator, simulator_client: tuple[Simulator, httpx2.AsyncClient]
) -> None:
    slack, google = SlackApp(simulator, simulator_client[1]), GoogleApp(simulator, simulator_client[1])
    code = await google.code(code_challenge=VERIFIER, code_challenge_method="plain")
    first = (await google.redeem(code, code_verifier=VERIFIER)).json()
    second = (await google.refresh(first["refresh_token"])).json()
    user = await slack.connect()
    await slack.refresh("xoxe-1-never-issued-canary")
    await slack.call("chat.postMessage", None, token=user["access_token"], channel="general", text="hello")
    await slack.call("auth.test", "xoxp-never-issued-canary")
    await google.api("GET", "/calendars/primary/events", None, access_token=second["access_token"])
    await slack.call("auth.revoke", user["access_token"])
    secrets = [code, VERIFIER, CLIENT[1], "canary", *(user[name] for name in ("access_token", "refresh_token"))]
    secrets += [first["access_token"], first["refresh_token"], first["id_token"], second["access_token"]]
    kept = json.dumps(simulator.books())
    assert [secret for secret in secrets if secret in kept] == []
    assert "hello" in kept
    assert (await simulator_client[1].get(f"{simulator.url}/_control/books")).json() == simulator.books()


async def test_an_api_call_is_booked_with_its_family_scopes_and_arguments(
    simulator: Simulator, simulator_client: tuple[Simulator, httpx2.AsyncClient]
) -> None:
    slack = SlackApp(simulator, simulator_client[1])
    tokens = await slack.connect(user_scope="chat:write")
    await slack.call("chat.postMessage", tokens["access_token"], channel="general", text="hello")
    call = simulator.books()["api_calls"][0]
    assert (call["method"], call["http_method"], call["path"]) == (
        "chat.postMessage",
        "POST",
        "/slack/api/chat.postMessage",
    )
    assert (call["token_family"], call["token"], call["account"]) == ("slack-1", "slack-1:a0", "alice")
    assert (call["scopes"], call["outcome"]) == (["chat:write"], "ok")
    assert call["body"] == {"channel": "general", "text": "hello"}


async def test_redemptions_tell_how_the_client_authenticated_and_whether_it_sent_a_verifier(
    simulator: Simulator, simulator_client: tuple[Simulator, httpx2.AsyncClient]
) -> None:
    google = GoogleApp(simulator, simulator_client[1])
    await google.redeem(await google.code())
    form = {"grant_type": "authorization_code", "code": "4/0none", "redirect_uri": REDIRECT, "code_verifier": VERIFIER}
    await google.token(post=True, **form)
    entries = simulator.books()["redemptions"]
    assert [(entry["client_auth"], entry["sent_verifier"], entry["outcome"]) for entry in entries] == [
        ("basic", False, "ok"),
        ("post", True, "unknown"),
    ]


async def test_a_snapshot_of_the_books_does_not_change_and_reset_empties_them(
    simulator: Simulator, simulator_client: tuple[Simulator, httpx2.AsyncClient]
) -> None:
    slack = SlackApp(simulator, simulator_client[1])
    tokens = await slack.connect()
    before = simulator.books()
    simulator.advance(1000)
    await slack.call("auth.test", tokens["access_token"])
    assert before["api_calls"] == []
    simulator.reset()
    assert all(page == [] for page in simulator.books().values())
    assert (await slack.call("auth.test", tokens["access_token"]))["error"] == "invalid_auth"
    assert (await slack.connect())["id"] == "U0SBALICE01"


async def test_control_takes_json_only_so_that_no_web_page_can_send_it(
    simulator: Simulator, simulator_client: tuple[Simulator, httpx2.AsyncClient]
) -> None:
    http, url = simulator_client[1], f"{simulator.url}/_control/clock"
    before = simulator.now()
    for content_type in ("text/plain", "application/x-www-form-urlencoded"):
        refused = await http.post(url, content='{"advance": 5000}', headers={"content-type": content_type})
        assert refused.status_code == 415
    assert simulator.now() < before + 1000
    accepted = await http.post(url, json={"advance": 5000})
    assert accepted.json()["ok"] is True
    assert simulator.now() >= before + 5000
    assert (await http.post(url, json={"advance": "soon"})).status_code == 400
    assert (await http.post(url, json=[])).status_code == 400
    assert (await http.post(f"{simulator.url}/_control/nonsense", json={})).status_code == 404
    assert (await http.post(url, json={"padding": "x" * 1_100_000})).status_code == 413


async def test_only_loopback_host_names_are_answered(
    simulator: Simulator, simulator_client: tuple[Simulator, httpx2.AsyncClient]
) -> None:
    http = simulator_client[1]
    assert (await http.get(simulator.url, headers={"host": "rebound.example"})).status_code == 400
    assert (await http.get(simulator.url, headers={"host": "localhost:1"})).status_code == 200


async def test_a_body_above_a_megabyte_is_refused(
    simulator: Simulator, simulator_client: tuple[Simulator, httpx2.AsyncClient]
) -> None:
    url = f"{simulator.url}/slack/api/auth.test"
    assert (await simulator_client[1].post(url, data={"text": "x" * 1_100_000})).status_code == 400
    assert (await simulator_client[1].post(url, data={"text": "x"})).status_code == 200


async def test_every_control_command_is_reachable_over_http(
    simulator: Simulator, simulator_client: tuple[Simulator, httpx2.AsyncClient]
) -> None:
    http, url = simulator_client[1], f"{simulator.url}/_control"
    commands: dict[str, object] = {
        "rules": {"face": "google", "page_size": 2},
        "rotation": {"face": "slack", "mode": "none"},
        "lifetimes": {"face": "slack", "access": 60},
        "omit_refresh_token": {"face": "slack"},
        "faults": {"faults": [{"endpoint": "slack.api", "kind": "html"}]},
        "release": {},
        "clear_faults": {},
        "expire": {},
        "revoke_grant": {"face": "slack"},
        "accounts": {"account": "bob", "active": True},
        "client": {"redirect_uris": None},
        "consent": {"face": "slack", "account": "alice"},
        "id_token": {"claims": {"aud": "x"}},
        "seed": {"face": "slack", "count": 2, "scopes": ["chat:write"]},
        "brief_books": {"entries": 5},
        "tally": {},
        "reset": {},
    }
    for command, body in commands.items():
        answer = await http.post(f"{url}/{command}", json=body)
        assert (command, answer.status_code, answer.json().get("ok")) == (command, 200, True)
    state = (await http.get(f"{url}/state")).json()
    assert (state["held"], state["faults"], state["rules"]["slack"]["rotation"]) == ([], [], "strict")


async def test_two_simulators_share_nothing() -> None:
    async with (
        running_simulator() as one,
        running_simulator() as other,
        httpx2.AsyncClient(trust_env=False, timeout=30) as http,
    ):
        assert one.url != other.url
        tokens = await SlackApp(one, http).connect()
        assert (await SlackApp(other, http).call("auth.test", tokens["access_token"]))["error"] == "invalid_auth"
        assert (await SlackApp(one, http).call("auth.test", tokens["access_token"]))["ok"] is True


async def test_a_taken_port_is_an_error_and_leaves_nothing_open() -> None:
    async with running_simulator() as simulator:
        port = int(simulator.url.rsplit(":", 1)[1])
        with pytest.raises(OSError, match="in use"):
            async with running_simulator(port=port):
                pass


async def test_it_runs_as_a_process_of_its_own_and_stops_when_told() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-W", "error", "-m", "providers.simulator", "--port", "0", "--json"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        facts = json.loads(await asyncio.wait_for(process.stdout.readline(), 30))
        assert facts["url"].startswith("http://127.0.0.1:")
        slack = facts["providers"]["slack"]
        url = f"{slack['authorize_url']}?client_id={facts['client_id']}&redirect_uri={REDIRECT}&user_scope=chat:write"
        code = parameters(await consent(url, account="bob"))["code"]
        async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
            form = {"code": code, "redirect_uri": REDIRECT}
            answer = (await http.post(slack["token_url"], data=form, auth=CLIENT)).json()
        assert answer["authed_user"]["scope"] == "chat:write"
        process.send_signal(signal.SIGTERM)
        _, errors = await asyncio.wait_for(process.communicate(), 30)
        assert (process.returncode, errors) == (0, b"")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def test_it_imports_nothing_else_of_the_project() -> None:
    program = (
        "import sys, providers.simulator, providers.simulator.__main__\n"
        "ours = {'vault', 'server', 'providers', 'tests'}\n"
        "print('\\n'.join(name for name in sys.modules if name.split('.')[0] in ours))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(done.stdout.split())
    assert "providers.simulator.state.tokens" in loaded
    assert {name for name in loaded if name != "providers" and not name.startswith("providers.simulator")} == set()


async def test_the_settings_name_every_address(simulator: Simulator) -> None:
    for name, section in simulator.settings().items():
        assert section["client_id"] == CLIENT[0]
        assert section["client_secret"] == CLIENT[1]
        for key in ("authorize_url", "token_url", "revoke_url", "userinfo_url"):
            assert str(section[key]).startswith(f"{simulator.url}/{name}/")
