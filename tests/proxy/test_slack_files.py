"""Slack's files, which are at a host of their own that gets the token, too."""

from __future__ import annotations

import pytest
from starlette.types import Receive, Scope, Send

from providers.api.api import TokenRejected, UpstreamAPI
from providers.definitions.catalog import ProviderOverrides, load_catalog
from providers.outbound.addresses import AddressPolicy
from providers.outbound.client import Outbound
from tests.support.doubles.proxied_api import Upstream, reply_in_pieces
from tests.support.doubles.scripted_server import Reply, json_reply, scripted_server
from tests.support.rooms.proxy_room import UPSTREAM_TOKEN, ProxyHandle, ProxyRoom

FILES = frozenset({"files:read", "channels:read"})
NOTES = "/files-pri/T1-F1/download/notes.json"
DEAD = b'{"ok":false,"error":"token_revoked"}'


async def ready(room: ProxyRoom, scopes: frozenset[str] = FILES) -> ProxyHandle:
    agent = await room.agent()
    connection = await room.account(agent, name="T1:U1", scopes=FILES)
    return await room.handle(agent, connection, scopes=scopes)


@pytest.mark.parametrize("path", [NOTES, "/files-pri/T1-F1/notes.json", "/files-tmb/T1-F1-0a1b/notes_360.png"])
async def test_an_agent_reads_a_file_with_the_accounts_token(room: ProxyRoom, upstream: Upstream, path: str) -> None:
    arrived: list[Scope] = []
    reply = reply_in_pieces(b"what a person wrote", headers=[(b"content-type", b"text/plain")])

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        arrived.append(scope)
        await reply(scope, receive, send)

    upstream.answer = answer
    handle = await ready(room)
    found = await handle.call("GET", path, api="files")
    assert (found.status_code, found.text) == (200, "what a person wrote")
    (scope,) = arrived
    assert scope["path"] == f"/slack-files{path}"
    assert dict(scope["headers"])[b"authorization"] == f"Bearer {UPSTREAM_TOKEN}".encode()


@pytest.mark.parametrize(
    ("method", "path", "api", "scopes", "params"),
    [
        ("GET", NOTES, "files", FILES - {"files:read"}, {}),
        ("POST", NOTES, "files", FILES, {}),
        ("GET", "/upload/v1/1", "files", FILES, {}),
        ("GET", NOTES, "web", FILES, {}),
        ("GET", NOTES, "files", FILES, {"t": "xoxe-another-token"}),
        ("GET", NOTES, "files", FILES, {"token": "xoxe-another-token"}),
        ("GET", NOTES, "files", FILES - {"channels:read"}, {"pub_secret": "1a2b"}),
    ],
)
async def test_nothing_else_is_sent_to_the_host_of_files(
    room: ProxyRoom,
    upstream: Upstream,
    method: str,
    path: str,
    api: str,
    scopes: frozenset[str],
    params: dict[str, str],
) -> None:
    """The twin is above."""
    upstream.answer = reply_in_pieces(b"reached")
    handle = await ready(room, scopes)
    found = await handle.call(method, path, api=api, params=params)
    assert found.status_code in {400, 403}
    assert b"reached" not in found.content


async def test_a_file_that_reads_like_slacks_error_does_not_make_the_token_dead(
    room: ProxyRoom, upstream: Upstream
) -> None:
    upstream.answer = reply_in_pieces(
        DEAD, headers=[(b"content-type", b"application/json"), (b"content-length", b"36")]
    )
    handle = await ready(room)
    found = await handle.call("GET", NOTES, api="files")
    assert (found.status_code, found.content) == (200, DEAD)
    twin = await handle.call("GET", "/files.info", params={"file": "F1"})  # the API's own answer
    assert twin.status_code != 200


async def test_the_sign_in_page_to_which_slack_redirects_without_permission_is_not_followed(
    room: ProxyRoom, upstream: Upstream
) -> None:
    upstream.answer = reply_in_pieces(b"", status=302, headers=[(b"location", b"https://acme.slack.com/?redir=x")])
    found = await (await ready(room)).call("GET", NOTES, api="files")
    assert found.headers["token-vault-refusal"] == "redirect_refused"


@pytest.mark.parametrize(
    ("apis", "files"),
    [
        ({}, "https://files.slack.com"),
        ({"web": "https://slack.corp.example/api"}, None),
        ({"web": "https://slack.corp.example/api", "files": "https://f.corp.example"}, "https://f.corp.example"),
    ],
)
def test_slacks_host_of_files_gets_no_token_of_an_operators_own_server(apis: dict[str, str], files: str | None) -> None:
    slack = load_catalog(overrides={"slack": ProviderOverrides(apis=apis)}).provider("slack")
    assert slack.apis.get("files") == files
    assert any(rule.api == "files" for rule in slack.rules) is (files is not None)


async def test_tools_read_no_error_in_a_file_either() -> None:
    async with (
        scripted_server(lambda _: json_reply({"ok": False, "error": "token_revoked"})) as server,
        Outbound(AddressPolicy(allow_loopback=True)) as outbound,
    ):
        slack = load_catalog().provider("slack").model_copy(update={"apis": {"web": server.url, "files": server.url}})
        api = UpstreamAPI(slack, outbound, token="upstream-token-canary", scopes=FILES, now=0)
        segments = ["T1-F1", "notes.json"]
        found = await api.send("GET", "files", "/files-pri/{}/{}", segments=segments, is_write=False)
        assert found == {"ok": False, "error": "token_revoked"}
        with pytest.raises(TokenRejected):
            await api.get("web", "/files.info", params={"file": "F1"})
        server.answer = lambda _: Reply(
            404, b'{"ok":false,"error":"file_not_found"}', {"content-type": "application/json"}
        )
        with pytest.raises(Exception, match="file_not_found"):
            await api.send("GET", "files", "/files-pri/{}/{}", segments=segments, is_write=False)
