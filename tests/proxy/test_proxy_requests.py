"""Which requests the proxy lets through to a provider: every refusal has a twin that passes without its reason."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import shutil
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from providers.definitions.catalog import SHELF, read_provider
from server.runtime.rate_limits import agent_place
from tests.generating.documentation import DOCS
from tests.support.doubles.scripted_server import Reply
from tests.support.rooms.proxy_room import (
    ALL,
    POST,
    READ,
    UPSTREAM_TOKEN,
    ProxyHandle,
    ProxyRoom,
    post_reply,
    proxy_room,
)
from vault import handles


@pytest.fixture(scope="module")
async def shared_room(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[ProxyRoom]:
    async with proxy_room(tmp_path_factory.mktemp("proxy"), proxy={"body_limit": 200_000}) as room:
        yield room


@pytest.fixture
def room(shared_room: ProxyRoom) -> ProxyRoom:
    shared_room.provider.arrivals.clear()
    shared_room.provider.answer = post_reply
    return shared_room


@pytest.fixture(scope="module")
async def handle(shared_room: ProxyRoom) -> ProxyHandle:
    return await shared_room.ready()


async def raw(
    handle: ProxyHandle, target: str, *headers: str, method: str = "GET", body: bytes = b""
) -> tuple[int, str]:
    """Status and `Token-Vault-Refusal` of a request whose head is sent exactly as given."""
    where = urlsplit(handle.vault.url)
    reader, writer = await asyncio.open_connection("127.0.0.1", where.port)
    lines = [f"{method} {target} HTTP/1.1", f"Host: {where.netloc}", f"Authorization: Bearer {handle.value}", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    writer.write("\r\n".join(lines).encode("latin-1") + b"\r\nConnection: close\r\n\r\n" + body)
    async with asyncio.timeout(30):
        answer = (await reader.read()).decode("latin-1")
    writer.close()
    head = answer.partition("\r\n\r\n")[0]
    found = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:])
    return int(answer.split(" ", 2)[1]), found.get("token-vault-refusal", "")


async def test_a_call_reaches_the_provider_with_the_accounts_credential_and_comes_back(
    room: ProxyRoom, handle: ProxyHandle
) -> None:
    answer = await handle.call(json={"channel": "C1", "text": "hi"})
    assert (answer.status_code, answer.json()["ts"]) == (200, "1.2")
    (arrival,) = room.provider.arrivals
    assert (arrival.method, arrival.target) == ("POST", "/slack/chat.postMessage")
    assert arrival.headers["authorization"] == f"Bearer {UPSTREAM_TOKEN}"
    assert arrival.json == {"channel": "C1", "text": "hi"}


async def test_the_example_of_the_guide_arrives_as_the_guide_shows(room: ProxyRoom, handle: ProxyHandle) -> None:
    page = (DOCS / "guides/api-proxy.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```text\n(.*?)```", page, flags=re.DOTALL)
    (method, url, sent), (method_there, url_there, credential) = (
        re.split(r" +", line, maxsplit=2) for line in example.splitlines()
    )
    url = url.replace("{public_url}", handle.vault.url).replace("CONNECTION", handle.connection.id)
    assert sent == f"Authorization: Bearer {handles.PREFIX}..."
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
        answer = await http.request(
            method,
            url.replace("API", "web"),
            headers={"authorization": f"Bearer {handle.value}"},
            json={"channel": "C1", "text": "hi"},
        )
    assert answer.status_code == 200
    (arrival,) = room.provider.arrivals
    base = read_provider(SHELF / "slack.toml").apis["web"]
    assert (arrival.method, arrival.target.replace("/slack", base)) == (method_there, url_there)
    shown = f"Authorization: {arrival.headers['authorization']}"
    assert shown.replace(UPSTREAM_TOKEN, "(the account's token)") == credential


@pytest.mark.requirement("S-101")
async def test_the_handle_never_leaves_and_the_credential_never_comes(room: ProxyRoom, handle: ProxyHandle) -> None:
    answer = await handle.call(json={"channel": "C1", "text": "hi"})
    assert handle.value not in room.provider.log
    assert UPSTREAM_TOKEN in room.provider.log
    assert UPSTREAM_TOKEN not in answer.text + str(answer.headers)
    for where in (f"/conversations.list?cursor={handle.value}", f"/chat.postMessage?{handle.value}=1"):
        refused = await handle.call("GET", where)
        assert refused.headers["token-vault-refusal"] == "credential_refused"
    assert handle.value not in room.provider.log


@pytest.mark.parametrize(
    "path",
    [
        *("/conversations.list/", "//conversations.list", "/./conversations.list", "/x/../conversations.list"),
        *("/%2e/conversations.list", "/x/%2e%2e/conversations.list", "/x/.%2E/conversations.list"),
        *("/x%2fconversations.list", "/x%2Fconversations.list", "/%252fconversations.list", "/conversations%252elist"),
        *("/x%5cconversations.list", "/x\\conversations.list", "/..\\conversations.list", "/conversations.list;x=1"),
        *("/conversations.list%3bx", "/conversations.list%00", "/conversations.list%0d%0aX:1", "/conversations.list%"),
        *(
            "/conversations.list%zz",
            "/%c0%ae%c0%ae/conversations.list",
            "/%ff",
            "/x%ef%bc%8fy",
            "/%ef%bc%8e%ef%bc%8e/y",
        ),
        *("/conversations%2Elist", "/conversation%73.list", "/..%252f..%252fadmin", "/conversations.list%2f"),
        *('/conversations.list"', "/conversations.list<", "/{}", "/conversations.list|"),
    ],
)
@pytest.mark.requirement("S-158")
async def test_a_path_that_can_be_read_in_two_ways_is_refused_unsent(
    room: ProxyRoom, handle: ProxyHandle, path: str
) -> None:
    prefix = f"/proxy/{handle.connection.id}/web"
    status, code = await raw(handle, prefix + path)
    assert status in {400, 404}
    assert code in {"ambiguous_path", "unknown_target"}
    assert room.provider.arrivals == []
    assert (await raw(handle, prefix + "/conversations.list"))[0] == 200


async def test_a_name_in_a_path_may_hold_escaped_characters_and_arrives_as_it_was_sent(room: ProxyRoom) -> None:
    google = frozenset({"https://www.googleapis.com/auth/calendar.events.readonly"})
    agent = await room.agent()
    connection = await room.account(agent, provider="google", scopes=google)
    handle = await room.handle(agent, connection, scopes=google)
    path = "/calendars/en.usa%23holiday%40group.v.calendar.google.com/events"
    status, _ = await raw(handle, f"/proxy/{connection.id}/calendar{path}?timeMin=2026-01-01T00%3A00%3A00Z")
    assert status == 200
    assert room.provider.arrivals[-1].target == f"/google{path}?timeMin=2026-01-01T00%3A00%3A00Z"


async def test_where_a_parameter_could_change_the_method_every_body_is_read(room: ProxyRoom) -> None:
    google = frozenset({"https://www.googleapis.com/auth/calendar.events"})
    agent = await room.agent()
    connection = await room.account(agent, provider="google", scopes=google)
    handle = await room.handle(agent, connection, scopes=google)
    for kind, code in (("application/json", None), ("text/plain", "unsupported_body")):
        answer = await handle.call(
            "POST",
            "/calendars/primary/events",
            api="calendar",
            content=b'{"summary":"s"}',
            headers={"content-type": kind},
        )
        assert answer.headers.get("token-vault-refusal") == code, answer.text


async def test_a_header_that_the_provider_wants_is_there_unless_the_client_says_it(room: ProxyRoom) -> None:
    scopes = frozenset({"metadata:read"})
    agent = await room.agent()
    handle = await room.handle(agent, await room.account(agent, provider="github", scopes=scopes), scopes=scopes)
    for sent, arrived in (({}, "2022-11-28"), ({"x-github-api-version": "2026-01-01"}, "2026-01-01")):
        await handle.call("GET", "/user", api="rest", headers=sent)
        assert room.provider.arrivals[-1].headers["x-github-api-version"] == arrived


async def test_no_rule_no_call(room: ProxyRoom, handle: ProxyHandle) -> None:
    for method, path in (("POST", "/admin.users.list"), ("DELETE", "/chat.postMessage"), ("GET", "/chat.postMessage")):
        answer = await handle.call(method, path)
        assert (answer.status_code, answer.headers["token-vault-refusal"]) == (403, "call_not_allowed")
    assert room.provider.arrivals == []
    assert (await handle.call("POST", "/chat.postMessage", json={})).status_code == 200


async def test_a_handle_is_held_to_its_scopes(room: ProxyRoom) -> None:
    narrow, wide = await room.ready(scopes=READ), await room.ready(scopes=READ | POST)
    refused = await narrow.call(json={"channel": "C1", "text": "hi"})
    assert (refused.status_code, refused.json()["code"]) == (403, "scope_missing")
    assert refused.json()["scopes"] == ["chat:write"]
    assert room.provider.arrivals == []
    assert (await wide.call(json={"channel": "C1", "text": "hi"})).status_code == 200


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        ("query", {"params": {"types": "public_channel"}}, {"params": {"types": "im"}}),
        ("form", {"data": {"types": "public_channel"}}, {"data": {"types": "im"}}),
        ("json", {"json": {"types": "public_channel"}}, {"json": {"types": "im"}}),
    ],
)
async def test_a_rule_may_look_at_a_parameter_wherever_it_stands(
    room: ProxyRoom, handle: ProxyHandle, kind: str, right: dict[str, object], wrong: dict[str, object]
) -> None:
    refused = await handle.call("POST", "/conversations.list", **wrong)
    assert refused.status_code == 403, kind
    assert room.provider.arrivals == []
    assert (await handle.call("POST", "/conversations.list", **right)).status_code == 200


FORM = "application/x-www-form-urlencoded"
JSON = "application/json"


@pytest.mark.parametrize(
    ("query", "kind", "body"),
    [
        ("types=public_channel&types=im", FORM, b""),
        ("types=public_channel", FORM, b"types=im"),
        ("types=im", JSON, b'{"types":"public_channel"}'),
        ("", FORM, b"types=public_channel&types=im"),
        ("", JSON, b'{"types":"public_channel","types":"im"}'),
        ("", JSON, b'{"types":"im","\\u0074ypes":"public_channel"}'),
        ("a=1;types=im", FORM, b""),
        ("types[]=im", FORM, b""),
        ("Types=im", FORM, b""),
        ("%20types=im", FORM, b""),
        ("", FORM, b"+types=im"),
        ("", JSON, b'{"types":["public_channel","im"]}'),
        ("", JSON, b"\xef\xbb\xbf{}"),
        ("", JSON, '{"types":"im"}'.encode("utf-16")),
        ("", JSON + ";charset=utf-7", b'{"types":"im"}'),
        ("", JSON + "\xa0", b'{"types":"public_channel"}'),
        ("", "\xa0" + FORM, b"types=public_channel"),
        ("", JSON, b'{"types":NaN}'),
        ("", JSON, b"[" * 100_000),
        ("", JSON, b'["types"]'),
        ("", FORM, b"%ff=1"),
        ("", "text/plain", b'{"types":"im"}'),
        ("", "", b'{"types":"im"}'),
        (
            "",
            "multipart/form-data; boundary=x",
            b'--x\r\ncontent-disposition: form-data; name="types"\r\n\r\nim\r\n--x--',
        ),
        ("", "application/xml", b"<types>im</types>"),
    ],
)
async def test_a_parameter_that_can_be_read_in_two_ways_is_refused_unsent(
    room: ProxyRoom, handle: ProxyHandle, query: str, kind: str, body: bytes
) -> None:
    target = f"/proxy/{handle.connection.id}/web/conversations.list"
    headers = [f"Content-Type: {kind}"] if kind else []
    status, code = await raw(handle, target + f"?{query}" * bool(query), *headers, method="POST", body=body)
    assert status in {400, 403, 413, 415}, code
    assert code
    assert room.provider.arrivals == []
    twin = await raw(handle, target, f"Content-Type: {FORM}", method="POST", body=b"types=public_channel&limit=5")
    assert twin == (200, "")


async def test_a_body_that_has_to_be_read_is_read_up_to_a_limit(room: ProxyRoom, handle: ProxyHandle) -> None:
    around = len(json.dumps({"types": "public_channel", "pad": ""}))
    for size, status in ((200_000, 200), (200_001, 413)):
        body = json.dumps({"types": "public_channel", "pad": "x" * (size - around)})
        answer = await handle.call(
            "POST", "/conversations.list", content=body, headers={"content-type": "application/json"}
        )
        assert answer.status_code == status


@pytest.mark.parametrize(
    ("parameter", "where"),
    [
        *(("access_token", "query"), ("oauth_token", "query"), ("ACCESS_TOKEN", "query"), ("token", "query")),
        *(("token", "form"), ("access_token", "form"), ("client_secret", "form"), (" token", "form")),
        *(("token[]", "form"), ("access_token[0]", "query")),
    ],
)
async def test_a_parameter_that_brings_a_credential_is_refused(
    room: ProxyRoom, handle: ProxyHandle, parameter: str, where: str
) -> None:
    for name, status in ((parameter, 400), ("text", 200)):
        sent = {"params": {name: "xoxp-mine"}} if where == "query" else {"data": {name: "xoxp-mine"}}
        answer = await handle.call(**sent)
        assert answer.status_code == status, answer.text
    assert len(room.provider.arrivals) == 1


async def test_the_method_cannot_be_changed_on_the_way(room: ProxyRoom, handle: ProxyHandle) -> None:
    # removing it silently would turn a long GET, which an SDK sends as a POST, into another call
    for name in ("X-HTTP-Method-Override", "x-http-method", "x-method-override"):
        refused = await handle.call(json={}, headers={name: "GET"})
        assert (refused.status_code, refused.headers["token-vault-refusal"]) == (400, "method_override")
    for name in ("_method", "$httpMethod"):
        refused = await handle.call(params={name: "DELETE"})
        assert refused.headers["token-vault-refusal"] == "method_override"
    assert room.provider.arrivals == []
    assert (await handle.call(json={})).status_code == 200


async def test_headers_go_on_by_name_only(room: ProxyRoom, handle: ProxyHandle) -> None:
    kept = {"accept": "application/json", "user-agent": "an SDK", "if-none-match": '"x"'}
    cut = {
        "cookie": "a=b",
        "proxy-authorization": "Basic eDp5",
        "x-api-key": "mine",
        "x-goog-api-key": "mine",
        "dpop": "proof",
        "forwarded": "for=1.2.3.4",
        "x-forwarded-for": "1.2.3.4",
        "x-forwarded-host": "evil.example",
        "x-real-ip": "1.2.3.4",
        "x-original-url": "/admin",
        "via": "1.1 x",
        "te": "trailers",
        "origin": "null",
        "x-slack-user": "U2",
        "range": "bytes=0-5",
        "if-range": '"x"',
        "accept-language": "de",
        "connection": "close, accept-language",
    }
    del cut["origin"]
    answer = await handle.call("GET", "/conversations.list", headers=kept | cut)
    assert answer.status_code == 200
    sent = room.provider.arrivals[-1].headers
    assert {name: sent[name] for name in kept} == kept
    assert not set(sent) & set(cut) - {"connection"}
    assert sent["accept-encoding"] == "identity"
    assert set(sent) == {*kept, "host", "accept-encoding", "authorization"}


async def test_a_header_that_must_stand_once_stands_once(room: ProxyRoom, handle: ProxyHandle) -> None:
    target = f"/proxy/{handle.connection.id}/web/chat.postMessage"
    twice = ["Content-Type: application/json", "Content-Type: text/plain"]
    assert await raw(handle, target, *twice, method="POST", body=b"{}") == (400, "ambiguous_header")
    # would be judged with its content type here, but sent without one
    hop = [twice[0], "Connection: content-type"]
    assert await raw(handle, target, *hop, method="POST", body=b"{}") == (400, "ambiguous_header")
    assert room.provider.arrivals == []
    assert await raw(handle, target, twice[0], method="POST", body=b"{}") == (200, "")


@pytest.mark.parametrize(
    ("headers", "body", "code"),
    [
        ({"content-type": JSON, "content-encoding": "gzip"}, gzip.compress(b"{}", mtime=0), "unsupported_body"),
        ({"content-type": "multipart/form-data; boundary=x"}, b"--x--", "unsupported_body"),
    ],
)
async def test_bodies_that_cannot_be_judged_are_refused(
    room: ProxyRoom, handle: ProxyHandle, headers: dict[str, str], body: bytes, code: str
) -> None:
    refused = await handle.call(headers=headers, content=body)
    assert (refused.status_code, refused.headers["token-vault-refusal"]) == (415, code)
    assert room.provider.arrivals == []
    assert (await handle.call(headers={"content-type": JSON}, content=b"{}")).status_code == 200


async def test_a_get_with_a_body_is_refused(room: ProxyRoom, handle: ProxyHandle) -> None:
    refused = await handle.call("GET", "/conversations.list", content=b"types=im", headers={"content-type": FORM})
    assert refused.headers["token-vault-refusal"] == "body_refused"
    assert room.provider.arrivals == []
    assert (await handle.call("GET", "/conversations.list")).status_code == 200


async def test_an_upgrade_is_refused(room: ProxyRoom, handle: ProxyHandle) -> None:
    target = f"/proxy/{handle.connection.id}/web/conversations.list"
    status, code = await raw(handle, target, "Upgrade: h2c", "HTTP2-Settings: x")
    assert (status, code) == (501, "upgrade_refused")
    websocket = ["Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
    where = urlsplit(handle.vault.url)
    for method in ("GET", "POST"):  # a POST can't be upgraded, and must not wait for more
        reader, writer = await asyncio.open_connection("127.0.0.1", where.port)
        lines = [f"{method} {target} HTTP/1.1", f"Host: {where.netloc}", f"Authorization: Bearer {handle.value}"]
        writer.write(("\r\n".join([*lines, *websocket, "Connection: Upgrade"]) + "\r\n\r\n").encode())
        async with asyncio.timeout(30):
            status_line = (await reader.readline()).decode()
        writer.close()
        assert status_line.split()[1] == "501"
    assert room.provider.arrivals == []
    assert (await raw(handle, target))[0] == 200


async def test_what_stands_after_a_body_is_no_header(room: ProxyRoom, handle: ProxyHandle) -> None:
    target = f"/proxy/{handle.connection.id}/web/conversations.list"
    where = urlsplit(handle.vault.url)
    for trailers in ("", "Authorization: Bearer x\r\nHost: evil.example\r\nConnection: content-type\r\nPrefer: x\r\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", where.port)
        head = [f"POST {target} HTTP/1.1", f"Host: {where.netloc}", f"Authorization: Bearer {handle.value}"]
        head += ["Content-Type: application/json", "Transfer-Encoding: chunked", "Connection: close"]
        writer.write(("\r\n".join(head) + f"\r\n\r\n2\r\n{{}}\r\n0\r\n{trailers}\r\n").encode())
        async with asyncio.timeout(30):
            answer = (await reader.read()).decode("latin-1")
        writer.close()
        assert answer.startswith("HTTP/1.1 200"), answer
        assert "prefer" not in room.provider.arrivals[-1].headers


async def test_a_provider_that_switches_protocols_is_not_followed(room: ProxyRoom, handle: ProxyHandle) -> None:
    switching = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"
    for raw_answer, status in ((switching, 502), (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", 200)):
        room.provider.answer = lambda _, raw_answer=raw_answer: Reply(raw=raw_answer)
        assert (await handle.call("GET", "/conversations.list")).status_code == status


async def test_what_has_no_answer_may_have_been_carried_out_if_it_writes(room: ProxyRoom, handle: ProxyHandle) -> None:
    room.provider.answer = lambda _: Reply(raw=b"")
    for method, path, said in (
        ("GET", "/conversations.list", "Nothing was changed"),
        ("POST", "/chat.postMessage", "may have been carried out"),
    ):
        answer = await handle.call(method, path)
        assert (answer.status_code, answer.headers["token-vault-refusal"]) == (502, "upstream_unavailable")
        assert said in answer.text


async def test_refused_calls_have_a_limit_and_failed_ones_do_not_count(room: ProxyRoom) -> None:
    handle, other = await room.ready(), await room.ready()
    who, budgets = handle.agent.principal, room.vault.deployment.budgets
    while not budgets.spend(who.user_id, agent_place(who.client_id), now=time.monotonic() + 600):
        pass
    limited = await handle.call("POST", "/nothing")
    assert (limited.status_code, limited.json()["code"]) == (429, "rate_limited")
    assert int(limited.headers["retry-after"]) > 0
    assert (await other.call("POST", "/nothing")).status_code == 403
    room.provider.answer = lambda _: Reply(raw=b"")
    assert (await handle.call(json={})).json()["code"] == "upstream_unavailable"
    room.provider.answer = post_reply
    assert (await handle.call(json={})).status_code == 200


@pytest.mark.parametrize(("path", "rows"), [("/nothing", 1), ("/conversations.list", 3)])
async def test_the_same_refusal_again_is_no_further_row_and_each_call_is(room: ProxyRoom, path: str, rows: int) -> None:
    handle = await room.ready()
    for _ in range(3):
        await handle.call("GET", path)
    assert len(await room.events(handle)) == rows


async def test_the_portals_cookie_is_refused_and_others_are_cut(room: ProxyRoom, handle: ProxyHandle) -> None:
    from server.sign_in.password import cookie_name

    name = cookie_name(room.vault.deployment, "session")
    refused = await handle.call("GET", "/conversations.list", headers={"cookie": f"a=b; {name}=x"})
    assert refused.headers["token-vault-refusal"] == "cookie_refused"
    assert room.provider.arrivals == []
    passed = await handle.call("GET", "/conversations.list", headers={"cookie": "a=b"})
    assert passed.status_code == 200
    assert "cookie" not in room.provider.arrivals[-1].headers


@pytest.mark.requirement("S-116")
async def test_a_handle_opens_no_other_account_and_no_other_api(room: ProxyRoom) -> None:
    mine, other = await room.ready(), await room.ready(name="T1:U2")
    for target in (f"/proxy/{other.connection.id}/web", f"/proxy/{mine.connection.id}/calendar", "/proxy/x/web"):
        status, code = await raw(mine, f"{target}/conversations.list")
        assert (status, code) == (404, "unknown_target")
    assert room.provider.arrivals == []
    assert (await raw(mine, f"/proxy/{mine.connection.id}/web/conversations.list"))[0] == 200


async def test_two_accounts_of_a_person_are_never_mixed_up(room: ProxyRoom) -> None:
    agent = await room.agent()
    handles = []
    for number in range(3):
        connection = await room.account(agent, name=f"T1:V{number}", token=f"xoxp-of-{number}")
        handles.append(await room.handle(agent, connection))
    for number, handle in enumerate(handles):
        assert (await handle.call("GET", "/conversations.list")).status_code == 200
        assert room.provider.arrivals[-1].headers["authorization"] == f"Bearer xoxp-of-{number}"


async def test_a_wider_token_serves_no_call_that_does_not_show_how_far_it_reaches(room: ProxyRoom) -> None:
    agent = await room.agent()
    history = frozenset({"channels:history"})
    wide = await room.account(agent, name="T9:WIDE", scopes=history | {"groups:history"})
    narrow = await room.account(agent, name="T9:NARROW", scopes=history)
    for connection, status in ((wide, 403), (narrow, 200)):
        handle = await room.handle(agent, connection, scopes=history)
        answer = await handle.call("GET", "/conversations.history", params={"channel": "C123"})
        assert answer.status_code == status, answer.text
    assert len(room.provider.arrivals) == 1


async def test_each_call_is_an_event_without_values(room: ProxyRoom) -> None:
    handle = await room.ready(scopes=ALL)
    await handle.call(params={"secret_word": "needle"}, json={"channel": "C1", "text": "needle"})
    await handle.call("POST", "/nothing/needle")
    called, refused = await room.events(handle)
    assert (called.outcome, refused.outcome) == ("ok", "refused")
    assert called.connection_id == handle.connection.id
    assert (called.details["api"], called.details["path"]) == ("web", "/chat.postMessage")
    assert (called.details["method"], called.details["status"]) == ("POST", 200)
    assert (called.details["sent"], called.details["received"]) == (
        32,
        len(json.dumps({"ok": True, "channel": "C1", "ts": "1.2"})),
    )
    assert (called.details["account"], called.details["narrowing"]) == (handle.connection.label, "upstream")
    assert called.details["scopes"]
    assert 0 <= int(str(called.details["milliseconds"])) < 600_000
    assert (refused.details["code"], refused.details["path"]) == ("call_not_allowed", "")
    assert refused.details.keys() & {"scopes", "narrowing", "account"} == set()
    assert "needle" not in str(called) + str(refused)


@pytest.mark.parametrize(
    ("table", "header", "value"),
    [
        ('scheme = "OAuth2"', "authorization", f"OAuth2 {UPSTREAM_TOKEN}"),
        ('header = "X-Access-Token"\nscheme = ""', "x-access-token", UPSTREAM_TOKEN),
    ],
)
async def test_the_credential_goes_as_the_file_says_and_the_clients_own_header_does_not(
    tmp_path: Path, table: str, header: str, value: str
) -> None:
    """For tools, too: they call through `providers.api.api`, with the same header."""
    folder = tmp_path / "files"
    shutil.copytree(SHELF / "rules", folder / "rules")
    shipped = (SHELF / "slack.toml").read_text(encoding="utf-8")
    (folder / "slack.toml").write_text(f"{shipped}\n[authorization]\n{table}\n", encoding="utf-8")
    async with proxy_room(tmp_path / "data", provider_folders=[str(folder)]) as room:
        handle = await room.ready()
        sent = {"channel": "C1", "text": "hi"}
        assert (await handle.call(json=sent, headers={"x-access-token": "mine"})).status_code == 200
        async with room.client(handle.agent) as client:
            assert not (await client.call_tool("slack_post", {"channel": "C123", "text": "hi"})).is_error
        for arrival in room.provider.arrivals:
            assert arrival.headers[header] == value
            assert "mine" not in arrival.headers.values()
            assert header == "authorization" or "authorization" not in arrival.headers
        assert len(room.provider.arrivals) == 2
