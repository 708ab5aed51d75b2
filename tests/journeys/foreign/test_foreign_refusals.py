"""What a provider's own SDK, unmodified, shows when the vault refuses: the vault's sentence and code."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator

import pytest
from github import Auth, Github, GithubException
from google.oauth2.credentials import Credentials
from googleapiclient.discovery import build
from googleapiclient.errors import HttpError
from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError

from tests.support.foreign.foreign import FOLDER, node
from tests.support.foreign.foreign import run as run_program
from tests.support.rooms.proxy_room import ProxyHandle, ProxyRoom, proxy_room
from vault.handles import PREFIX

SCOPES = {
    "slack": frozenset({"channels:read"}),
    "github": frozenset({"issues:read"}),
    "google": frozenset({"https://www.googleapis.com/auth/gmail.readonly"}),
    "microsoft": frozenset({"Mail.Read"}),
    "salesforce": frozenset({"api"}),
    "notion": frozenset({"read"}),
}
NO_COVER = "doesn't cover this call"


@pytest.fixture(scope="module")
async def room(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[ProxyRoom]:
    others = {"microsoft": "graph", "salesforce": "main", "notion": "main"}
    async with proxy_room(tmp_path_factory.mktemp("refusals"), others=others) as opened:
        yield opened


async def handle_of(room: ProxyRoom, provider: str) -> ProxyHandle:
    agent = await room.agent()
    connection = await room.account(agent, provider=provider, scopes=SCOPES[provider])
    return await room.handle(agent, connection, scopes=SCOPES[provider])


@pytest.mark.parametrize("is_known", [True, False])
async def test_pygithub_shows_it(room: ProxyRoom, *, is_known: bool) -> None:
    handle = await handle_of(room, "github")
    value = handle.value if is_known else PREFIX + secrets.token_urlsafe(32)

    def use() -> GithubException:
        with Github(auth=Auth.Token(value), base_url=handle.base("rest"), retry=None, lazy=True) as github:
            with pytest.raises(GithubException) as refused:
                github.get_repo("alice/garden").create_issue(title="Weeds")
            return refused.value

    error = await asyncio.to_thread(use)
    if is_known:
        assert (error.status, NO_COVER in str(error.message), error.data["code"]) == (403, True, "scope_missing")
    else:
        assert (error.status, "access token is missing, invalid" in str(error.message)) == (401, True)


OCTOKIT = """
import { Octokit } from "octokit";
const octokit = new Octokit({ auth: process.env.HANDLE, baseUrl: process.env.BASE, retry: { enabled: false } });
try {
  await octokit.rest.issues.create({ owner: "alice", repo: "garden", title: "Weeds" });
} catch (error) {
  console.log(JSON.stringify({ message: error.message, status: error.status, code: error.response.data.code }));
}
"""


@pytest.mark.group("node")
async def test_octokit_shows_it(room: ProxyRoom, tmp_path_factory: pytest.TempPathFactory) -> None:
    handle = await handle_of(room, "github")
    program = FOLDER / f"refused-{secrets.token_hex(4)}.mjs"
    program.write_text(OCTOKIT, encoding="utf-8")
    try:
        env = {"HANDLE": handle.value, "BASE": handle.base("rest"), "NODE_OPTIONS": "--no-warnings"}
        ran = await run_program(node(), str(program), folder=tmp_path_factory.mktemp("octokit"), env=env)
    finally:
        program.unlink()
    said = ran.content
    assert (NO_COVER in str(said["message"]), said["status"], said["code"]) == (True, 403, "scope_missing")


async def test_googles_client_shows_it(room: ProxyRoom) -> None:
    handle = await handle_of(room, "google")

    def use() -> str:
        where = {"api_endpoint": handle.base("gmail")}
        with build("gmail", "v1", credentials=Credentials(token=handle.value), client_options=where) as gmail:
            with pytest.raises(HttpError) as refused:
                gmail.users().messages().send(userId="me", body={"raw": "eA=="}).execute()
            return str(refused.value)

    assert NO_COVER in await asyncio.to_thread(use)


async def test_slack_sdk_shows_it(room: ProxyRoom) -> None:
    handle = await handle_of(room, "slack")

    def use() -> SlackApiError:
        with pytest.raises(SlackApiError) as refused:
            WebClient(token=handle.value, base_url=handle.base() + "/").chat_postMessage(channel="C1", text="hi")
        return refused.value

    error = await asyncio.to_thread(use)
    assert (error.response["ok"], error.response["error"]) == (False, "scope_missing")
    assert NO_COVER in str(error)


async def test_microsofts_errors_are_objects_with_code_and_message(room: ProxyRoom) -> None:
    """As msgraph's ODataError reads them: JSON by content type, `error.code`, `error.message`."""
    handle = await handle_of(room, "microsoft")
    answer = await handle.call("POST", "/me/sendMail", api="graph", json={})
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert (error["code"], NO_COVER in error["message"]) == ("scope_missing", True)


@pytest.mark.parametrize(
    ("api", "code", "notions"),
    [("main", "scope_missing", "restricted_resource"), ("other", "unknown_target", "object_not_found")],
)
async def test_notions_errors_have_one_of_its_own_codes(room: ProxyRoom, api: str, code: str, notions: str) -> None:
    """As required by parseAPIErrorResponseBody of @notionhq/client 5."""
    handle = await handle_of(room, "notion")
    answer = await handle.call("POST", "/pages", api=api, json={})
    content = answer.json()
    assert (content["code"], content["message"] == content["title"]) == (notions, True)
    assert answer.headers["token-vault-refusal"] == code
    assert content["type"].endswith(f":{code}")


async def test_a_list_of_errors_is_answered_where_the_service_has_one(room: ProxyRoom) -> None:
    handle = await handle_of(room, "salesforce")
    answer = await handle.call("GET", "/nothing", api="main")
    (error,) = answer.json()
    assert (error["errorCode"], error["code"]) == ("call_not_allowed", "call_not_allowed")
    assert "No request rule" in error["message"]


async def test_whoever_asks_for_problem_details_gets_them(room: ProxyRoom) -> None:
    handle = await handle_of(room, "github")
    for accept, kind in (("application/problem+json", "application/problem+json"), ("*/*", "application/json")):
        answer = await handle.call("GET", "/nothing", api="rest", headers={"accept": accept})
        assert answer.headers["content-type"] == kind
        assert (answer.json()["status"], answer.json()["code"]) == (403, "call_not_allowed")
        assert answer.headers["token-vault-refusal"] == "call_not_allowed"
