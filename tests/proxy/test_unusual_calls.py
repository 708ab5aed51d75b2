"""Calls that few programs make: HEAD, bodies without content, and names that look like a key."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import pytest

from providers.definitions.catalog import load_catalog
from providers.definitions.model import Provider
from server.proxy.wire import ProxyRefused, Target, aim, read_body, read_query, read_target
from tests.support.doubles.proxied_api import Upstream, reply_in_pieces
from tests.support.rooms.proxy_room import UPSTREAM_TOKEN, ProxyRoom
from vault import spans
from vault.spans import Attribute, Span

CATALOG = load_catalog()
SLACK = CATALOG.provider("slack")


@pytest.mark.parametrize("length", ["5", None])
async def test_a_head_gets_the_headers_of_the_answer_and_no_body(
    room: ProxyRoom, upstream: Upstream, length: str | None
) -> None:
    handle = await room.ready()
    headers = [(b"x-echo", UPSTREAM_TOKEN.encode())]
    headers += [] if length is None else [(b"content-length", length.encode())]
    upstream.answer = reply_in_pieces(status=206, headers=headers)
    answer = await handle.call("HEAD", "/conversations.list")
    assert (answer.status_code, answer.content, answer.headers.get("content-length")) == (206, b"", length)
    assert answer.headers["x-echo"] == "*" * len(UPSTREAM_TOKEN)
    (event,) = await room.events(handle)
    assert (event.details["method"], event.details["status"], event.details["received"]) == ("HEAD", 206, 0)


@pytest.mark.parametrize(
    ("kind", "body", "is_judged", "expected"),
    [
        ("image/png", b"", True, {}),
        ("image/png", b"x", True, "unsupported_body"),
        ("application/json", b"null", True, {}),
        ("application/json", b"{}", True, {}),
        ("application/json", b"0", True, "unsupported_body"),
        ("application/json", b"[]", True, "unsupported_body"),
        ("application/json", b"[]", False, None),
        ("application/json", b'{"a": 1}', False, {"a": 1}),
        ("application/json; charset=utf-8", b'{"a": 1}', True, {"a": 1}),
        ("application/json; charset=latin-1", b'{"a": 1}', True, "unsupported_body"),
    ],
)
def test_a_body_is_an_object_or_nothing_where_rules_look_at_it(
    kind: str, body: bytes, expected: dict[str, object] | str | None, *, is_judged: bool
) -> None:
    if isinstance(expected, str):
        with pytest.raises(ProxyRefused) as refused:
            read_body(kind, body, SLACK, is_judged=is_judged)
        assert refused.value.code == expected
    else:
        found = read_body(kind, body, SLACK, is_judged=is_judged)
        assert (None if found is None else found.values) == expected


@pytest.mark.parametrize("length", [39, 40, 41])
def test_a_refusal_repeats_forty_characters_of_a_name(length: int) -> None:
    name = "token[" + "x" * (length - 6)
    with pytest.raises(ProxyRefused) as refused:
        read_query(f"{name}=1".encode(), SLACK)
    assert f" {name[:40]}: it's a credential" in refused.value.description


@pytest.mark.parametrize("length", [8192, 8193])
def test_a_query_is_read_up_to_its_limit(length: int) -> None:
    query = b"a=" + b"x" * (length - 2)
    if length == 8192:
        assert read_query(query, SLACK).values == {"a": "x" * 8190}
    else:
        with pytest.raises(ProxyRefused, match="invalid_query"):
            read_query(query, SLACK)


GOOGLE = CATALOG.provider("google")
SLASHED = SLACK.model_copy(update={"trailing_slash": True})
ROOTED = SLACK.model_copy(update={"rules": (SLACK.rules[0].model_copy(update={"path": "/", "api": "web"}),)})


@pytest.mark.parametrize(
    ("provider", "path", "expected"),
    [
        (SLACK, "/proxy/c/web/a", ("web", "/a")),
        (SLACK, "/proxy/other/web/a", None),
        (SLACK, "/proxy/c/other/a", None),
        (SLACK, "/proxy/c/web/a/", "ambiguous_path"),
        (SLACK, "/proxy/c/web/", "unknown_target"),
        (SLACK, "/upload/a", None),
        (SLASHED, "/proxy/c/web/a/", ("web", "/a/")),
        (SLASHED, "/proxy/c/web/a", ("web", "/a/")),
        (ROOTED, "/proxy/c/web/", ("web", "/")),
        (ROOTED, "/proxy/c/other/", "unknown_target"),
        (ROOTED, "/proxy/other/web", None),
        (GOOGLE, "/proxy/c/drive/files", ("drive", "/files")),
        (GOOGLE, "/proxy/c/drive/upload/drive/v3/files", ("drive_upload", "/files")),
        (GOOGLE, "/proxy/c/gmail/upload/drive/v3/files", ("drive_upload", "/files")),
        (GOOGLE, "/upload/drive/v3/files", ("drive_upload", "/files")),
        (GOOGLE, "/upload/drive/v3", None),
        (GOOGLE, "/upload/drive/v30/files", None),
    ],
)
def test_a_target_is_at_one_api_of_the_account(
    provider: Provider, path: str, expected: tuple[str, str] | str | None
) -> None:
    target = read_target(path.encode())
    if isinstance(expected, str):
        with pytest.raises(ProxyRefused, match=expected):
            aim(target, provider, "c")
    else:
        assert aim(target, provider, "c") == (None if expected is None else Target("c", *expected))


class KeptSpan:
    """A span that keeps what it is told."""

    def __init__(self, name: str, attributes: dict[str, Attribute], parent: Mapping[str, str] | None) -> None:
        self.name, self.noted, self.parent = name, attributes, parent

    def note(self, **attributes: Attribute) -> None:
        self.noted |= attributes


async def test_each_call_with_a_handle_is_a_span_with_its_outcome(room: ProxyRoom, upstream: Upstream) -> None:
    seen: list[KeptSpan] = []

    @contextmanager
    def listener(name: str, attributes: dict[str, Attribute], parent: Mapping[str, str] | None) -> Generator[Span]:
        seen.append(KeptSpan(name, dict(attributes), parent))
        yield seen[-1]

    handle, trace = await room.ready(), {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01", "tracestate": "a=b"}
    upstream.answer = reply_in_pieces(b"{}")
    spans.listen(listener)
    try:
        assert (await handle.call("GET", "/conversations.list", headers=trace)).status_code == 200
        assert (await handle.call("GET", "/unknown")).status_code == 403
        assert (await replace(handle, value="tvp_" + "x" * 43).call("GET", "/conversations.list")).status_code == 401
    finally:
        spans.listen(None)
    found = [(one.noted["http_status"], one.noted.get("error"), one.parent) for one in seen if one.name == "proxy"]
    assert found == [(200, None, trace), (403, "call_not_allowed", None)]
