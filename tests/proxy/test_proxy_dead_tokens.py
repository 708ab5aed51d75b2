"""Tokens that die while a call goes through the proxy: renewed once, and the call is repeated where that is safe."""

from __future__ import annotations

import gzip
from collections.abc import Callable

import pytest
from starlette.types import Receive, Scope, Send

from server.connecting.links import LINKS
from tests.support.doubles.proxied_api import Upstream, reply_in_pieces
from tests.support.doubles.scripted_server import Reply, json_reply
from tests.support.inspection import read_events
from tests.support.rooms.proxy_room import UPSTREAM_TOKEN, ProxyRoom


def rotate_tokens(room: ProxyRoom) -> list[str]:
    """Let the token endpoint issue tokens; returns a list that grows with each token."""
    issued: list[str] = []

    def answer(_: object) -> Reply:
        issued.append(f"xoxp-new-{len(issued) + 1}")
        tokens = {"access_token": issued[-1], "refresh_token": f"r{len(issued)}", "expires_in": 43200}
        return json_reply({"ok": True, "authed_user": {**tokens, "scope": "chat:write,channels:read,channels:history"}})

    room.provider.answer = answer
    return issued


def accept_newest(tokens: list[str], *, refusal: Callable[[Scope, Receive, Send], object]) -> tuple[object, list[str]]:
    """A provider that accepts the newest of `tokens`, and the tokens that it saw."""
    seen: list[str] = []

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        sent = dict(scope["headers"])[b"authorization"].decode().removeprefix("Bearer ")
        seen.append(sent)
        chosen = reply_in_pieces(b'{"ok":true}') if tokens and sent == tokens[-1] else refusal
        await chosen(scope, receive, send)

    return answer, seen


DEAD = b'{"ok":false,"error":"token_expired"}'
PACKED = gzip.compress(DEAD)
REFUSALS = [
    reply_in_pieces(b"no", status=401),
    reply_in_pieces(DEAD, headers=[(b"content-length", b"36")]),
    reply_in_pieces(PACKED, headers=[(b"content-length", str(len(PACKED)).encode()), (b"content-encoding", b"gzip")]),
]


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_token_that_the_provider_calls_dead_is_renewed_once_and_the_call_repeated(
    room: ProxyRoom, upstream: Upstream, refusal: Callable[[Scope, Receive, Send], object]
) -> None:
    handle, issued = await room.ready(), rotate_tokens(room)
    upstream.answer, seen = accept_newest(issued, refusal=refusal)
    answer = await handle.call(json={"text": "once"})
    assert answer.json() == {"ok": True}
    assert seen == [UPSTREAM_TOKEN, "xoxp-new-1"]


async def test_a_body_that_streamed_is_not_repeated_but_the_next_try_works(room: ProxyRoom, upstream: Upstream) -> None:
    handle, issued = await room.ready(), rotate_tokens(room)
    upstream.answer, seen = accept_newest(issued, refusal=REFUSALS[0])
    headers = {"content-type": "application/octet-stream"}
    largest = b"x" * 65_536  # the most that is read before the call
    first = await handle.call(content=largest + b"x", headers=headers)
    assert (first.status_code, first.headers["token-vault-refusal"]) == (503, "token_renewed")
    assert first.headers["retry-after"] == "0"
    assert (await handle.call(content=largest + b"x", headers=headers)).json() == {"ok": True}
    assert seen == [UPSTREAM_TOKEN, "xoxp-new-1"]
    issued.append("another")
    assert (await handle.call(content=largest, headers=headers)).json() == {"ok": True}


async def test_a_provider_that_refuses_every_token_ends_in_one_refresh(room: ProxyRoom, upstream: Upstream) -> None:
    handle, issued = await room.ready(), rotate_tokens(room)
    upstream.answer = REFUSALS[0]
    answer = await handle.call(json={})
    assert (answer.status_code, answer.headers["token-vault-refusal"]) == (502, "upstream_unauthorized")
    assert len(issued) == 1


async def test_an_ended_grant_is_told_with_the_link_that_renews_it(room: ProxyRoom, upstream: Upstream) -> None:
    handle = await room.ready()
    room.provider.answer = lambda _: json_reply({"ok": False, "error": "invalid_refresh_token"})
    upstream.answer = REFUSALS[0]
    answer = await handle.call(json={})
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (403, "connection_required")
    assert problem["connect_uri"].startswith(room.url + "/connect/")
    assert problem["user_code"]
    links = [(await handle.call(json={})).json().get("connect_uri") for _ in range(LINKS)]
    assert links[-2] is not None
    assert links[-1] is None  # a program in a loop must not fill the database
    events = await read_events(room.vault.deployment)
    assert UPSTREAM_TOKEN not in str(events)
