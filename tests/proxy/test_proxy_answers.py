"""What comes back through the proxy: masked, streamed, bounded, and never mistaken for the vault's own answer."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncGenerator, Callable
from urllib.parse import urlsplit

import httpx2
import pytest
from starlette.types import Message, Receive, Scope, Send

from providers.outbound.messages import HttpError, NoAnswer, NotReached, PeerBusy, TooLarge
from server.proxy import answers
from server.proxy.endpoint import Proxy
from server.proxy.refusals import of_http
from tests.support.doubles.proxied_api import Upstream, reply_in_pieces
from tests.support.rooms.proxy_room import UPSTREAM_TOKEN, ProxyHandle, ProxyRoom, proxy_room

MASK = "*" * len(UPSTREAM_TOKEN)


@pytest.fixture(scope="module")
async def handle(room: ProxyRoom) -> ProxyHandle:
    return await room.ready()


async def get(handle: ProxyHandle, path: str = "/conversations.list", **options: object) -> httpx2.Response:
    return await handle.call("GET", path, **options)


@pytest.mark.requirement("S-117")
@pytest.mark.parametrize("cut", [1, 5, 12, 20, 31])
async def test_a_credential_that_a_provider_repeats_is_masked_wherever_the_stream_is_cut(
    upstream: Upstream, handle: ProxyHandle, cut: int
) -> None:
    secret = UPSTREAM_TOKEN.encode()
    upstream.answer = reply_in_pieces(b'{"token":"' + secret[:cut], secret[cut:] + b'","x":"', secret + b'"}')
    answer = await get(handle)
    assert answer.text == f'{{"token":"{MASK}","x":"{MASK}"}}'


async def test_a_short_answer_and_its_headers_are_masked_too(upstream: Upstream, handle: ProxyHandle) -> None:
    body = b'{"authorization":"Bearer ' + UPSTREAM_TOKEN.encode() + b'"}'
    headers = [(b"x-echo", UPSTREAM_TOKEN.encode()), (b"content-length", str(len(body)).encode())]
    upstream.answer = reply_in_pieces(body, headers=headers)
    answer = await get(handle)
    assert answer.json() == {"authorization": f"Bearer {MASK}"}
    assert answer.headers["x-echo"] == MASK
    assert answer.headers["content-length"] == str(len(body))


@pytest.mark.parametrize(
    "spelled",
    [
        UPSTREAM_TOKEN.replace("x", "\\u0078"),
        UPSTREAM_TOKEN.replace("c", "\\u0063", 1),
        "".join(f"\\u{ord(one):04X}" for one in UPSTREAM_TOKEN),
        UPSTREAM_TOKEN.replace("y", "%79"),
    ],
)
@pytest.mark.parametrize("pieces", [1, 2, 9])
async def test_a_credential_with_an_escaped_letter_is_masked(
    upstream: Upstream, handle: ProxyHandle, spelled: str, pieces: int
) -> None:
    body = f'{{"token":"{spelled}","x":"\\u0078"}}'.encode()
    step = len(body) // pieces + 1
    upstream.answer = reply_in_pieces(*(body[at : at + step] for at in range(0, len(body), step)))
    assert (await get(handle)).text == f'{{"token":"{"*" * len(spelled)}","x":"\\u0078"}}'


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_an_answer_that_is_compressed_all_the_same_is_masked(
    upstream: Upstream, handle: ProxyHandle, encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    upstream.answer = reply_in_pieces(
        pack(UPSTREAM_TOKEN.encode() * 9), headers=[(b"content-encoding", encoding.encode())]
    )
    answer = await get(handle, headers={"accept-encoding": encoding})
    assert answer.text == MASK * 9
    assert "content-encoding" not in answer.headers


@pytest.mark.parametrize("size", [65_536, 65_537, 400_000])
async def test_a_short_compressed_answer_that_unpacks_to_a_long_one_is_masked_and_complete(
    upstream: Upstream, handle: ProxyHandle, size: int
) -> None:
    content = bytes(size - len(MASK)) + UPSTREAM_TOKEN.encode()
    packed = gzip.compress(content)
    headers = [(b"content-encoding", b"gzip"), (b"content-length", str(len(packed)).encode())]
    upstream.answer = reply_in_pieces(packed, headers=headers)
    answer = await get(handle)
    assert answer.content == content.replace(UPSTREAM_TOKEN.encode(), MASK.encode())


async def test_a_compressed_answer_that_unpacks_to_more_than_the_limit_is_cut_off(
    upstream: Upstream, handle: ProxyHandle
) -> None:
    packed = gzip.compress(bytes(400_001))
    headers = [(b"content-encoding", b"gzip"), (b"content-length", str(len(packed)).encode())]
    upstream.answer = reply_in_pieces(packed, headers=headers)
    with pytest.raises(httpx2.RemoteProtocolError):
        await get(handle)


@pytest.mark.parametrize("encodings", [["x-unknown"], ["gzip, gzip"], ["gzip", "identity"]])
async def test_an_encoding_in_which_nothing_can_be_found_is_refused(
    upstream: Upstream, handle: ProxyHandle, encodings: list[str]
) -> None:
    upstream.answer = reply_in_pieces(b"x", headers=[(b"content-encoding", one.encode()) for one in encodings])
    answer = await get(handle)
    assert (answer.status_code, answer.headers["token-vault-refusal"]) == (502, "answer_unreadable")
    upstream.answer = reply_in_pieces(b"x", headers=[(b"content-encoding", b"identity")])
    assert (await get(handle)).text == "x"


async def test_an_answer_streams(upstream: Upstream, handle: ProxyHandle) -> None:
    go_on = asyncio.Event()

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"data: 2\n\n"})

    upstream.answer = answer
    headers = {"authorization": f"Bearer {handle.value}"}
    async with (
        asyncio.timeout(30),
        httpx2.AsyncClient(trust_env=False, timeout=30) as http,
        http.stream("GET", handle.base() + "/conversations.list", headers=headers) as streamed,
    ):
        pieces = streamed.aiter_raw()
        assert await anext(pieces) == b"data: 1\n\n"
        go_on.set()
        assert b"".join([piece async for piece in pieces]) == b"data: 2\n\n"


@pytest.mark.parametrize("announced", [True, False])
async def test_an_answer_over_the_limit_is_refused_or_cut_off(
    upstream: Upstream, handle: ProxyHandle, announced: bool
) -> None:
    for size in (390_000, 410_000):
        headers = [(b"content-length", str(size).encode())] if announced else []
        upstream.answer = reply_in_pieces(*[b"x" * 10_000] * (size // 10_000), headers=headers)
        if size < 400_000:
            answer = await get(handle)
            assert len(answer.content) == size
            assert answer.headers.get("content-length") == (str(size) if announced else None)
        elif announced:
            assert (await get(handle)).headers["token-vault-refusal"] == "answer_too_large"
        else:
            with pytest.raises(httpx2.RemoteProtocolError):
                await get(handle)


async def test_an_answer_that_breaks_off_is_not_taken_for_whole(
    room: ProxyRoom, upstream: Upstream, handle: ProxyHandle
) -> None:
    async def break_off(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 100, "more_body": True})

    upstream.answer, before = break_off, len(await room.events(handle))
    with pytest.raises(httpx2.RemoteProtocolError):
        await get(handle)
    async with asyncio.timeout(30):
        while not (events := (await room.events(handle))[before:]):
            await asyncio.sleep(0.05)
    assert [(one.outcome, one.details["status"]) for one in events] == [("failed", 200)], "what the client was told"


async def test_a_provider_that_hangs_costs_the_deadline_and_no_more(
    upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async def never_answer(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async def redirect_to_a_file(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/file":
            await never_answer(scope, receive, send)
        else:
            await redirect(scope, receive, send)

    redirect = reply_in_pieces(b"", status=302, headers=[(b"location", f"{upstream.url}/file".encode())])
    async with proxy_room(
        tmp_path_factory.mktemp("hanging"),
        apis_at=upstream.url,
        settings={"slack": {"downloads": [urlsplit(upstream.url).netloc]}},
        proxy={"deadline": 1},
    ) as room:
        handle = await room.ready()
        for method, path, reply, is_unsure in (
            ("POST", "/chat.postMessage", never_answer, True),
            ("GET", "/conversations.list", redirect_to_a_file, False),
        ):
            upstream.answer = reply
            answer = await handle.call(method, path)
            assert (answer.status_code, answer.json()["code"]) == (504, "timeout")
            assert ("may have been carried out" in answer.json()["title"]) is is_unsure
            event = (await room.events(handle))[-1]
            assert (event.outcome, event.details["code"]) == ("failed", "timeout")
            assert 1000 <= int(str(event.details["milliseconds"])) < 60_000


async def test_a_client_that_leaves_ends_the_providers_answer(
    upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> None:
    ended = asyncio.Event()

    async def watch(receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        gone = asyncio.ensure_future(watch(receive))
        while not gone.done():
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            await asyncio.sleep(0.001)
        ended.set()

    upstream.answer = endless
    async with proxy_room(tmp_path_factory.mktemp("leaving"), apis_at=upstream.url) as room:
        handle = await room.ready()
        headers = {"authorization": f"Bearer {handle.value}"}
        async with asyncio.timeout(30):
            async with (
                httpx2.AsyncClient(trust_env=False, timeout=30) as http,
                http.stream("GET", handle.base() + "/conversations.list", headers=headers) as streamed,
            ):
                assert await anext(streamed.aiter_raw())
            await ended.wait()
        assert await outcome(room, handle) == "client_gone"


def scope_of(handle: ProxyHandle) -> Scope:
    """The ASGI scope of a call that lists channels."""
    path = urlsplit(handle.base()).path + "/conversations.list"
    return {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"authorization", f"Bearer {handle.value}".encode())],
    }


async def test_a_long_answer_waits_once_for_its_client_to_leave(
    room: ProxyRoom, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "_WATCH_AFTER", 1)

    async def in_pieces(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(4):
            await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
            await asyncio.sleep(0.05)
        await send({"type": "http.response.body", "body": b""})

    upstream.answer, waits, sent = in_pieces, list[asyncio.Event](), list[Message]()
    handle = await room.ready()

    async def receive() -> Message:
        waits.append(asyncio.Event())
        await waits[-1].wait()
        raise AssertionError("nothing comes")

    async def send(message: Message) -> None:
        sent.append(message)

    scope = scope_of(handle)
    async with asyncio.timeout(30):
        await Proxy(room.vault.deployment)(scope, receive, send)
    assert sum(len(one.get("body", b"")) for one in sent) == 4000
    assert len(waits) == 1


async def test_a_call_that_the_end_of_the_process_stops_is_recorded_as_such(
    room: ProxyRoom, upstream: Upstream
) -> None:
    arrived = asyncio.Event()

    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        arrived.set()
        while (await receive())["type"] != "http.disconnect":
            pass

    upstream.answer = silent
    handle = await room.ready()
    deployment, sent, scope = room.vault.deployment, list[object](), scope_of(handle)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    call = asyncio.create_task(Proxy(deployment)(scope, receive, send))
    async with asyncio.timeout(30):
        await arrived.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    (event,) = await room.events(handle)
    assert (event.outcome, event.details["code"], sent) == ("failed", "interrupted", [])


async def test_a_defect_of_ours_is_told_without_its_cause(room: ProxyRoom) -> None:
    handle = await room.ready()
    path = urlsplit(handle.base()).path + "/chat.postMessage"
    sent: list[Message] = []
    headers = {"authorization": f"Bearer {handle.value}", "content-type": "application/json", "content-length": "2"}
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }

    async def receive() -> Message:
        raise RuntimeError("the-cause")

    async def send(message: Message) -> None:
        sent.append(message)

    await Proxy(room.vault.deployment)(scope, receive, send)
    start, body = sent
    assert (start["status"], json.loads(body["body"])["code"]) == (500, "internal_error")
    assert b"the-cause" not in body["body"]
    (event,) = await room.events(handle)
    assert (event.outcome, event.details["code"]) == ("failed", "internal_error")


async def outcome(room: ProxyRoom, handle: ProxyHandle) -> object:
    """The code of the first call, after it has ended."""
    async with asyncio.timeout(30):
        while not (events := await room.events(handle)):
            await asyncio.sleep(0.01)
    return events[0].details.get("code")


@pytest.mark.parametrize("announced", [1000, 100_000])
async def test_a_client_that_leaves_in_the_middle_of_its_body_sends_nothing(
    room: ProxyRoom, upstream: Upstream, announced: int
) -> None:
    upstream.answer = reply_in_pieces(b"{}")
    handle = await room.ready()
    where = urlsplit(room.url)
    _, writer = await asyncio.open_connection("127.0.0.1", where.port)
    lines = [f"POST {urlsplit(handle.base()).path}/chat.postMessage HTTP/1.1", f"Host: {where.netloc}"]
    lines += [f"Authorization: Bearer {handle.value}", "Content-Type: application/json", f"Content-Length: {announced}"]
    writer.write(("\r\n".join(lines) + "\r\n\r\n{").encode())
    await writer.drain()
    writer.close()
    assert await outcome(room, handle) == "client_gone"
    (event,) = await room.events(handle)
    assert event.details["status"] == 0, "nobody answered"


async def test_a_body_in_pieces_that_a_rule_looks_at_is_put_together(upstream: Upstream, handle: ProxyHandle) -> None:
    async def pieces(*parts: bytes) -> AsyncGenerator[bytes]:
        for part in parts:
            yield part
            await asyncio.sleep(0.01)

    upstream.answer = reply_in_pieces(b"{}")
    headers = {"content-type": "application/json"}
    for kind, status in ((b"im", 403), (b"public_channel", 200)):
        content = pieces(b'{"types":"', kind, b'"}')
        assert (
            await handle.call("POST", "/conversations.list", content=content, headers=headers)
        ).status_code == status


async def test_patience_that_the_provider_asks_for_passes(upstream: Upstream, handle: ProxyHandle) -> None:
    for status in (429, 503):
        upstream.answer = reply_in_pieces(
            b"{}", status=status, headers=[(b"retry-after", b"17"), (b"x-ratelimit", b"0")]
        )
        answer = await get(handle)
        assert (answer.status_code, answer.headers["retry-after"]) == (status, "17")
        assert answer.headers["x-ratelimit"] == "0"
        assert "token-vault-refusal" not in answer.headers


async def test_headers_about_the_hop_the_provider_and_the_browser_stay_behind(
    upstream: Upstream, handle: ProxyHandle
) -> None:
    cut = {
        "set-cookie": "a=b",
        "clear-site-data": '"*"',
        "access-control-allow-origin": "*",
        "access-control-allow-credentials": "true",
        "content-security-policy": "default-src *",
        "strict-transport-security": "max-age=1",
        "cache-control": "public, max-age=9",
        "refresh": "0;url=https://evil.example/",
        "x-accel-redirect": "/etc/passwd",
        "x-guploader-uploadid": "what an upload session is opened by",
        "alt-svc": 'h3=":443"',
        "www-authenticate": "Basic",
        "token-vault-refusal": "scope_missing",
        "x-forwarded-for": "1.2.3.4",
        "keep-alive": "timeout=5",
        "x-hop": "named by Connection",
        "connection": "x-hop",
    }
    headers = [(name.encode(), value.encode()) for name, value in cut.items()]
    upstream.answer = reply_in_pieces(b"{}", headers=[*headers, (b"etag", b'"v1"'), (b"x-request-id", b"7")])
    answer = await get(handle)
    assert {name: answer.headers[name] for name in ("etag", "x-request-id")} == {"etag": '"v1"', "x-request-id": "7"}
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-security-policy"] == "sandbox"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert not set(answer.headers) & set(cut) - {"cache-control", "content-security-policy"}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed_and_leads_nowhere_else(
    upstream: Upstream, handle: ProxyHandle, status: int
) -> None:
    for location in (
        "https://evil.example/",
        "//evil.example/x",
        f"{upstream.url}/other",
        f"{upstream.url}/slackish/x",
    ):
        upstream.answer = reply_in_pieces(b"", status=status, headers=[(b"location", location.encode())])
        answer = await get(handle)
        assert (answer.status_code, answer.headers["token-vault-refusal"]) == (502, "redirect_refused")
        assert "location" not in answer.headers
    for location in (f"{upstream.url}/slack/users.list?a=b", "users.list?a=b", "/slack/users.list?a=b"):
        upstream.answer = reply_in_pieces(b"", status=status, headers=[(b"location", location.encode())])
        answer = await get(handle)
        assert (answer.status_code, answer.headers["location"]) == (status, f"{handle.base()}/users.list?a=b")


@pytest.mark.parametrize(
    "below",
    [
        "../oauth",
        "%2e%2e/oauth",
        "x/%2E%2e/%2e%2e/admin",
        "..%2foauth",
        "..\\oauth",
        "x/..;/y",
        "%252e%252e/x",
        "./x",
        "//x",
    ],
)
async def test_a_redirect_that_climbs_out_of_the_api_is_refused(
    upstream: Upstream, handle: ProxyHandle, below: str
) -> None:
    location = f"{upstream.url}/slack/{below}"
    upstream.answer = reply_in_pieces(b"", status=302, headers=[(b"location", location.encode())])
    answer = await get(handle)
    assert (answer.status_code, answer.headers["token-vault-refusal"]) == (502, "redirect_refused")
    upstream.answer = reply_in_pieces(b"{}", status=201, headers=[(b"location", location.encode())])
    answer = await get(handle)
    assert (answer.status_code, answer.headers.get("location")) == (201, None)
    upstream.answer = reply_in_pieces(
        b"", status=302, headers=[(b"location", f"{upstream.url}/slack/x..y?a=../b".encode())]
    )
    assert (await get(handle)).headers["location"] == f"{handle.base()}/x..y?a=../b"


async def test_where_something_was_made_is_told_if_it_is_at_this_api(upstream: Upstream, handle: ProxyHandle) -> None:
    for location, told in (
        (f"{upstream.url}/slack/files/7", f"{handle.base()}/files/7"),
        (f"{upstream.url}/slack/files?upload_id=canary", None),
        ("https://elsewhere.example/7", None),
    ):
        upstream.answer = reply_in_pieces(b"{}", status=201, headers=[(b"location", location.encode())])
        answer = await get(handle)
        assert (answer.status_code, answer.headers.get("location")) == (201, told)


async def test_answers_without_a_body_pass(upstream: Upstream, handle: ProxyHandle) -> None:
    upstream.answer = reply_in_pieces(status=304, headers=[(b"etag", b'"v1"')])
    assert (await get(handle)).status_code == 304
    upstream.answer = reply_in_pieces(status=204)
    assert (await get(handle)).status_code == 204
    for status in (203, 205, 303, 305):  # these may have a body
        upstream.answer = reply_in_pieces(b"kept", status=status)
        answer = await get(handle)
        assert (answer.status_code, answer.text) == (status, "kept")


async def test_our_refusals_are_told_from_the_providers(upstream: Upstream, handle: ProxyHandle) -> None:
    upstream.answer = reply_in_pieces(b'{"message":"no"}', status=403, headers=[(b"content-type", b"application/json")])
    theirs, ours = await get(handle), await get(handle, "/no.such.method")
    assert (theirs.status_code, theirs.json()) == (403, {"message": "no"})
    assert "token-vault-refusal" not in theirs.headers
    assert (ours.status_code, ours.headers["content-type"]) == (403, "application/json")
    assert ours.headers["token-vault-refusal"] == ours.json()["code"] == "call_not_allowed"
    assert ours.headers["content-security-policy"] == "sandbox"


async def test_addresses_of_the_api_become_the_vaults_where_clients_follow_them(
    room: ProxyRoom, upstream: Upstream
) -> None:
    scopes = frozenset({"issues:read", "pull_requests:read"})  # GitHub's list of issues includes pull requests
    agent = await room.agent()
    connection = await room.account(agent, provider="github", scopes=scopes | {"issues:write"})
    handle = await room.handle(agent, connection, scopes=scopes)
    theirs, path = f"{upstream.url}/github", "/repos/a/b/issues"
    body = f'{{"url":"{theirs}/x","other":"https://github.com/x"}}'.encode()
    headers = [(b"content-type", b"application/json"), (b"link", f'<{theirs}{path}?page=2>; rel="next"'.encode())]
    upstream.answer = reply_in_pieces(body[:20], body[20:], headers=headers)
    answer = await handle.call("GET", path, api="rest")
    ours = handle.base("rest")
    assert answer.json() == {"url": f"{ours}/x", "other": "https://github.com/x"}
    assert answer.headers["link"] == f'<{ours}{path}?page=2>; rel="next"'
    upstream.answer = reply_in_pieces(body, headers=[(b"content-type", b"text/plain")])
    assert (await handle.call("GET", path, api="rest")).content == body
    writing = await room.handle(handle.agent, handle.connection, scopes=frozenset({"issues:write"}))
    await room.allow(handle.agent, handle.connection, frozenset({"issues:write"}))
    upstream.answer, bodies = body_collector()
    sent = {"title": f"{ours}/x", "body": "https://github.com/x"}
    await writing.call("POST", path, api="rest", json=sent)
    assert bodies == [{"title": f"{theirs}/x", "body": "https://github.com/x"}]
    plain = await room.ready()  # Slack's clients don't follow such addresses
    upstream.answer = reply_in_pieces(body, headers=[(b"content-type", b"application/json")])
    assert (await get(plain)).content == body


def body_collector() -> tuple[Callable[[Scope, Receive, Send], object], list[object]]:
    """A provider that accepts everything, and the JSON bodies that it received."""
    bodies: list[object] = []

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        bodies.append(json.loads(message["body"]))
        await send({"type": "http.response.start", "status": 201, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})

    return answer, bodies


@pytest.mark.parametrize(
    ("error", "is_write", "status", "says"),
    [
        (PeerBusy("too many calls in flight"), True, 503, "Nothing was sent"),
        (NotReached("couldn't connect"), True, 502, "Nothing was changed"),
        (NoAnswer("no answer in time"), True, 502, "may have been carried out"),
        (NoAnswer("no answer in time"), False, 502, "Nothing was changed"),
        (TooLarge("answer too large"), False, 502, "size limit"),
    ],
)
def test_what_went_wrong_on_the_way_says_whether_it_may_be_repeated(
    error: HttpError, is_write: bool, status: int, says: str
) -> None:
    refused = of_http(error, is_write=is_write)
    assert refused.status == status
    assert says in refused.description
    assert ("Retry-After" in refused.headers) == (status == 503)
