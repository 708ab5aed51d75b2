"""Google's mail and files: what is read as text, what is written, and what no argument can add."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from email import message_from_bytes
from email.policy import default

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from providers.api.api import RateLimited, UpstreamRefused
from providers.tools.mail_text import readable
from tests.support.doubles.scripted_server import Arrival, Reply, json_reply
from tests.support.tool_bench import Bench


def part(kind: str, content: bytes, **more: object) -> dict[str, object]:
    data = urlsafe_b64encode(content).decode().rstrip("=")
    return {"mimeType": kind, "filename": "", "body": {"size": len(content), "data": data}, **more}


def test_of_a_mail_the_plain_text_is_read() -> None:
    both = {
        "mimeType": "multipart/alternative",
        "parts": [part("text/plain", "Grüße".encode()), part("text/html", b"<p>no")],
    }
    file = part("text/plain", b"not the text", filename="x.txt")
    assert readable({"mimeType": "multipart/mixed", "parts": [both, file]}) == "Grüße"


@pytest.mark.parametrize("charset", ["iso-8859-1", '"windows-1252"', "no-such-charset", ""])
def test_a_mail_in_an_old_charset_is_read(charset: str) -> None:
    headers = [{"name": "Content-Type", "value": f"text/plain; charset={charset}"}]
    assert readable(part("text/plain", "Grüße".encode("latin-1"), headers=headers)) == "Grüße"


def test_html_is_read_without_its_markup_scripts_and_styles() -> None:
    markup = (
        b"<head><title>t</title><style>x{}</style></head><p>One&amp;two</p><script>bad()</script><br>three <b>four</b>"
    )
    assert readable(part("text/html", markup)) == "One&two\n\nthree four"


def test_a_mail_of_endlessly_nested_or_broken_parts_is_read_as_far_as_it_goes() -> None:
    nested: dict[str, object] = part("text/plain", b"deep")
    for _ in range(50):
        nested = {"mimeType": "multipart/mixed", "parts": [nested]}
    assert readable(nested) == ""
    assert readable({"mimeType": "text/plain", "body": {"data": "é!"}}) == ""
    assert readable(None) == ""


async def test_a_mail_is_written_as_plain_mime_whose_headers_cannot_be_added_to(bench: Bench) -> None:
    bench.server.answer = lambda _: json_reply({"id": "m", "threadId": "t"})
    await bench.run(
        "gmail_send",
        to=["bob@example.com"],
        bcc=["eve@example.com"],
        subject="Grüße, Bob",
        text="Bcc: x@example.com\n\nfrom me — ✓\n.\n",
        thread_id="t",
        in_reply_to="<m1@example.com>",
    )
    (sent,) = bench.server.arrivals
    assert sent.json["threadId"] == "t"
    raw = sent.json["raw"]
    assert isinstance(raw, str)
    message = message_from_bytes(urlsafe_b64decode(raw), policy=default)
    assert dict(message.items()) | {"Content-Transfer-Encoding": ""} == {
        "To": "bob@example.com",
        "Bcc": "eve@example.com",
        "Subject": "Grüße, Bob",
        "In-Reply-To": "<m1@example.com>",
        "References": "<m1@example.com>",
        "Content-Type": 'text/plain; charset="utf-8"',
        "Content-Transfer-Encoding": "",
        "MIME-Version": "1.0",
    }
    assert message.get_content().replace("\r\n", "\n") == "Bcc: x@example.com\n\nfrom me — ✓\n.\n"
    for subject in ("a\r\nBcc: x@example.com", "a\u2028b", "a\x0bb"):
        with pytest.raises(ValidationError):
            await bench.run("gmail_send", to=["bob@example.com"], subject=subject, text="x")


async def test_a_mail_search_tells_what_it_could_not_look_at(bench: Bench) -> None:
    def answer(arrival: Arrival) -> Reply:
        match arrival.path.rpartition("/")[2]:
            case "messages":
                return json_reply(
                    {"messages": [{"id": name} for name in ("gone", "a", "busy", "b")], "nextPageToken": "n"}
                )
            case "gone":
                return json_reply({"error": {"code": 404, "errors": [{"reason": "notFound"}]}}, status=404)
            case "busy":
                return Reply(429, headers={"Retry-After": "11"})
            case name:
                return json_reply({"id": name, "internalDate": "1790000000000"})

    bench.server.answer = answer
    output = (await bench.run("gmail_search", query="x")).model_dump()
    assert "a" in [one["id"] for one in output["messages"]]
    assert output["left_out"] == 4 - len(output["messages"]) >= 2
    assert output["messages"][0]["date"] == "2026-09-21T14:13:20Z"
    bench.server.answer = lambda arrival: (
        json_reply({"messages": [{"id": "busy"}]})
        if arrival.path.endswith("/messages")
        else Reply(429, headers={"Retry-After": "11"})
    )
    with pytest.raises(RateLimited):
        await bench.run("gmail_search")


@pytest.mark.requirement("S-158")
@given(st.text(min_size=1, max_size=40))
def test_no_word_of_a_file_search_becomes_a_condition(words: str) -> None:
    from providers.tools.google_drive import _literal  # pyright: ignore[reportPrivateUsage] -- the one place that quotes

    literal = _literal(words)
    inner = literal[1:-1]
    assert literal[0] == literal[-1] == "'"
    plain = inner.replace("\\\\", "\x00").replace("\\'", "\x01")
    assert "'" not in plain and "\\" not in plain
    assert plain.replace("\x01", "'").replace("\x00", "\\") == words or "\x00" in words or "\x01" in words


async def test_a_file_is_read_in_pieces(bench: Bench) -> None:
    about = {"id": "f", "name": "n", "mimeType": "text/plain", "size": "500"}
    bench.server.answer = lambda arrival: (
        Reply(200, b"x" * 300 + b"y" * 200, headers={"content-type": "text/plain"})
        if arrival.query.get("alt") == "media"
        else json_reply(about)
    )
    first = (await bench.run("drive_read", file="f", characters=300)).model_dump()
    assert (first["text"], first["characters"], first["next_offset"]) == ("x" * 300, 500, 300)
    last = (await bench.run("drive_read", file="f", characters=300, offset=300)).model_dump()
    assert (last["text"], last["next_offset"]) == ("y" * 200, None)


@pytest.mark.parametrize(
    ("about", "content", "code"),
    [
        ({"mimeType": "image/png"}, b"", "not_text"),
        ({"mimeType": "application/vnd.google-apps.shortcut", "shortcutDetails": {"targetId": "T"}}, b"", "not_text"),
        ({"mimeType": "text/plain", "size": "2000000"}, b"x", "too_large"),
        ({"mimeType": "text/plain"}, b"x" * 1_000_001, "too_large"),
        ({"mimeType": "text/plain"}, b"a\x00b", "not_text"),
        ({"mimeType": "text/plain"}, "Café".encode("utf-16"), "not_text"),
    ],
)
async def test_what_is_no_text_or_too_much_of_it_is_refused(
    bench: Bench, about: dict[str, object], content: bytes, code: str
) -> None:
    bench.server.answer = lambda arrival: (
        Reply(200, content, headers={"content-type": "text/plain"})
        if arrival.query.get("alt") == "media"
        else json_reply({"id": "f", **about})
    )
    with pytest.raises(UpstreamRefused) as refused:
        await bench.run("drive_read", file="f")
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("charset", "content"),
    [("utf-8", "\ufeffCafé".encode()), ("iso-8859-1", "Café".encode("latin-1")), ("odd", "Café".encode())],
)
async def test_a_file_is_read_in_the_charset_that_it_names(bench: Bench, charset: str, content: bytes) -> None:
    bench.server.answer = lambda arrival: (
        Reply(200, content, headers={"content-type": f"text/plain; charset={charset}"})
        if arrival.query.get("alt") == "media"
        else json_reply({"id": "f", "mimeType": "text/plain"})
    )
    assert (await bench.run("drive_read", file="f")).model_dump()["text"] == "Café"
