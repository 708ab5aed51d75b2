"""Bytes of HTTP/1.1 connections for the wire tests: valid requests, and some malformed where parsers disagree."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import strategies as st

Connection = tuple[bytes, tuple[int, ...]]  # what is sent, and where it is split into packets, in thousandths

LINE_ENDS = (b"\r\n",) * 40 + (b"\n", b"\r", b"\r\r\n", b"\n\r\n", b"\r\n ", b"\x00\r\n", b"")
METHODS = (b"GET", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"HEAD") * 2 + (
    b"CONNECT",
    b"PATCH",
    b"get",
    b"TRACE",
    b"G T",
)
VERSIONS = (b"HTTP/1.1",) * 12 + (b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/1.2", b"http/1.1", b"HTTP/1.1 ", b"")
BLANKS = (b" ",) * 24 + (b"  ", b"\t", b"\x0b", b"\x0c", b"")
COLONS = (b": ",) * 20 + (b":", b" : ", b"\t:", b":\t", b":  ", b": \x0b", b":\x00")
CODINGS = (
    *(
        b"chunked",
        b"chunked",
        b"chunked",
        b"Chunked",
        b"identity",
        b"gzip, chunked",
        b"chunked, chunked",
        b"chunked;q=1",
    ),
    *(b"xchunked", b"chunked, identity", b"", b'"chunked"', b"chunked,", b",chunked", b"chun\x00ked", b"chunked\x0b"),
)
LENGTHS = (
    *(
        b"+5",
        b"-5",
        b"0x5",
        b"5 5",
        b"5,5",
        b"5, 6",
        b"",
        b"5\t",
        b"05",
        b"1e1",
        b"5;",
        b"\xb25",
        b"18446744073709551621",
    ),
    *(b"9999999999999999999999999", b"4294967301"),
)
SIZES = (
    b"+5",
    b"-5",
    b"0x5",
    b" 5",
    b"5 ",
    b"5\t",
    b"",
    b"g",
    b"05",
    b"00000000000000005",
    b"10000000000000005",
    b"5.",
)
EXTENSIONS = (
    *(b"",) * 10,
    *(
        b";a",
        b";a=b",
        b'; a="b"',
        b';a="\\""',
        b";",
        b";=b",
        b';a="b',
        b";a\r",
        b";a\n",
        b';a="\r\n"',
        b";a\x00",
        b" ;a",
    ),
)
OTHERS = (
    *(b"Connection: close", b"Connection: keep-alive", b"Connection: Upgrade", b"Upgrade: h2c", b"Upgrade: websocket"),
    *(b"Connection: Upgrade, HTTP2-Settings", b"Connection: content-length", b"Connection: transfer-encoding"),
    *(b"Expect: 100-continue", b"TE: trailers", b"Trailer: X-Late", b"X-Odd\x00: a", b"X-Odd: a\x01", b"X Odd: a"),
    *(b"Content-Length : 5", b"Transfer-Encoding : chunked", b" Folded: a", b"NoColon", b"Content_Length: 5", b": a"),
    *(b"X-Fold: a\r\n b", b"X: \r\nTransfer-Encoding: chunked", b"X-High: \xff\xfe", b"Content-Length\x0b: 5"),
)
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: HOST\r\n\r\n"
TRAILERS = (b"X-Late: a", b"Transfer-Encoding: chunked", b"Content-Length: 5", b"X: a\rb", b" a")
BODIES = (b"", b"hello", SMUGGLED, b"0\r\n\r\n" + SMUGGLED, b"\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n")
JOINS = (b"",) * 12 + (b"\r\n", b"\n", b"\r", b" ", b"\x00")


@st.composite
def chunk_body(draw: st.DrawFn, body: bytes, *, bent: bool) -> bytes:
    """The body in chunks."""

    def pick(choices: tuple[bytes, ...]) -> bytes:
        return draw(st.sampled_from(choices)) if bent else choices[0]

    out = bytearray()
    while body:
        size = draw(st.integers(1, len(body)))
        out += pick((b"%x" % size,) * 12 + SIZES)
        out += pick(EXTENSIONS) + pick(LINE_ENDS) + body[:size] + pick(LINE_ENDS)
        body = body[size:]
    out += b"0" + pick(EXTENSIONS) + pick(LINE_ENDS)
    if bent and draw(st.booleans()):
        out += draw(st.sampled_from(TRAILERS)) + pick(LINE_ENDS)
    return bytes(out + pick(LINE_ENDS))


@st.composite
def requests(
    draw: st.DrawFn, starts: tuple[bytes, ...], targets: tuple[bytes, ...], fields: tuple[bytes, ...]
) -> bytes:
    """One request, valid or malformed. `starts`: valid methods with targets; `fields`: lines that each request has."""
    bent = draw(st.booleans())

    def pick(choices: tuple[bytes, ...]) -> bytes:
        """In a valid request, the first one, which is valid."""
        return draw(st.sampled_from(choices)) if bent else choices[0]

    method, _, target = draw(st.sampled_from(starts)).partition(b" ")
    if bent and draw(st.booleans()):
        method, target = draw(st.sampled_from(METHODS)), draw(st.sampled_from(targets))
    lines = [method + pick(BLANKS) + target + pick(BLANKS) + pick(VERSIONS), b"Host" + pick(COLONS) + b"HOST", *fields]
    body = draw(st.sampled_from(BODIES)) if method != b"GET" else b""
    way = draw(st.sampled_from(("length", "chunks", "none") + (("both", "two lengths", "two codings") if bent else ())))
    if way in {"length", "both", "two lengths"} or (way == "none" and body):
        lines.append(b"Content-Length" + pick(COLONS) + b"%d" % len(body))
    if way == "two lengths":
        lines.append(b"Content-Length: " + pick((b"%d" % len(body), *LENGTHS)))
    if way in {"chunks", "both", "two codings"}:
        lines.append(b"Transfer-Encoding" + pick(COLONS) + pick(CODINGS))
        if way != "both" or draw(st.booleans()):
            body = draw(chunk_body(body, bent=bent and draw(st.booleans())))
    if way == "two codings":
        lines.append(b"Transfer-Encoding: " + pick(CODINGS))
    if bent:
        lines += draw(st.lists(st.sampled_from(OTHERS), max_size=2))
    elif draw(st.integers(0, 5)) == 5:
        lines += [b"Connection: keep-alive, Upgrade", b"Upgrade: h2c"]
    rest = draw(st.permutations(lines[1:]))
    return b"".join(line + pick(LINE_ENDS) for line in (lines[0], *rest)) + pick(LINE_ENDS) + body


@st.composite
def connections(
    draw: st.DrawFn, starts: tuple[bytes, ...], targets: tuple[bytes, ...], fields: tuple[bytes, ...] = ()
) -> Connection:
    """What one client sends."""
    data = b""
    for one in draw(st.lists(requests(starts, targets, fields), min_size=1, max_size=3)):
        data += one + draw(st.sampled_from(JOINS))
    if draw(st.integers(0, 7)) == 7:
        data = data[: draw(st.integers(0, len(data)))]
    return data, tuple(sorted(draw(st.lists(st.integers(0, 1000), max_size=3))))


def pieces_of(connection: Connection, names: Mapping[bytes, bytes]) -> list[bytes]:
    """The pieces to send, with these words in place of the names."""
    data, cuts = connection
    for name, value in names.items():
        data = data.replace(name, value)
    ends = [len(data) * cut // 1000 for cut in cuts]
    return [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]
