"""Raw HTTP bytes: requests that two servers could read differently, or that cost more than they should."""

from __future__ import annotations

import asyncio

import pytest

from tests.attacks.target import Target, talk

H = "Host: HOST\r\n"
SMUGGLED = f"GET /smuggled HTTP/1.1\r\n{H}\r\n"
CHUNKED = "Transfer-Encoding: chunked\r\n"
POST = f"POST /token HTTP/1.1\r\n{H}"
GET = f"GET /healthz HTTP/1.1\r\n{H}"

REFUSED = {
    "CL.TE": f"{POST}Content-Length: 6\r\n{CHUNKED}\r\n0\r\n\r\nG",
    "TE.CL": f"{POST}{CHUNKED}Content-Length: 4\r\n\r\n5c\r\n{SMUGGLED}\r\n0\r\n\r\n",
    "TE.TE identity second": f"{POST}{CHUNKED}Transfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "TE.TE identity first": f"{POST}Transfer-Encoding: identity\r\n{CHUNKED}\r\n0\r\n\r\n",
    "TE with a blank before the colon": f"{POST}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "TE behind a vertical tab": f"{POST}Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "TE folded": f"{POST}Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "TE quoted": f'{POST}Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "TE xchunked": f"{POST}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "TE chunked twice in a list": f"{POST}Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "TE gzip under chunked": f"{POST}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "TE chunked and then identity": f"{POST}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "TE empty": f"{POST}Transfer-Encoding:\r\n\r\n0\r\n\r\n",
    "TE in HTTP/1.0": f"POST /token HTTP/1.0\r\n{H}{CHUNKED}\r\n0\r\n\r\n",
    "two lengths that differ": f"{POST}Content-Length: 0\r\nContent-Length: {len(SMUGGLED)}\r\n\r\n{SMUGGLED}",
    "two lengths that agree": f"{POST}Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
    "a list of lengths": f"{POST}Content-Length: 0, {len(SMUGGLED)}\r\n\r\n{SMUGGLED}",
    "a length with a plus": f"{POST}Content-Length: +0\r\n\r\n",
    "a negative length": f"{POST}Content-Length: -1\r\n\r\n",
    "a hexadecimal length": f"{POST}Content-Length: 0x0\r\n\r\n",
    "a length beyond 64 bits": f"{POST}Content-Length: 18446744073709551616\r\n\r\n",
    "an empty length": f"{POST}Content-Length:\r\n\r\n{SMUGGLED}",
    "a length with a blank inside": f"{POST}Content-Length: 0 0\r\n\r\n",
    "a chunk size with 0x": f"{POST}{CHUNKED}\r\n0x0\r\n\r\n",
    "a negative chunk size": f"{POST}{CHUNKED}\r\n-1\r\n\r\n",
    "a chunk size beyond 64 bits": f"{POST}{CHUNKED}\r\n10000000000000000\r\n\r\n",
    "a chunk that does not end in CRLF": f"{POST}{CHUNKED}\r\n1\r\naXX0\r\n\r\n",
    "chunks ended by bare LF": f"{POST}{CHUNKED}\r\n1\na\n0\n\n",
    "a bare LF in a chunk extension": f"{POST}{CHUNKED}\r\n1;\n5c\r\na\r\n0\r\n\r\n",
    "a bare CR in a chunk extension": f"{POST}{CHUNKED}\r\n1;a\rb\r\na\r\n0\r\n\r\n",
    "a length among the trailers": f"{POST}{CHUNKED}\r\n0\r\nContent-Length: {len(SMUGGLED)}\r\n\r\n{SMUGGLED}",
    "a folded header": f"{GET}X-Folded: a\r\n b\r\n\r\n",
    "a bare CR between headers": f"{GET}X: a\rContent-Length: 5\r\n\r\n",
    "a bare LF between headers": f"{GET}X: a\nContent-Length: 5\r\n\r\n",
    "a NUL in a value": f"{GET}X: a\0b\r\n\r\n",
    "a NUL in a name": f"{GET}X\0: a\r\n\r\n",
    "a header without a colon": f"{GET}Nothing\r\n\r\n",
    "a header without a name": f"{GET}: a\r\n\r\n",
    "CONNECT": "CONNECT HOST HTTP/1.1\r\nHost: HOST\r\n\r\n",
    "CONNECT with a body": f"CONNECT HOST HTTP/1.1\r\n{H}Content-Length: {len(SMUGGLED)}\r\n\r\n{SMUGGLED}",
    "absolute-form for another host": f"GET http://evil.example/healthz HTTP/1.1\r\n{H}\r\n",
    "absolute-form with user information": f"GET http://HOST@evil.example/healthz HTTP/1.1\r\n{H}\r\n",
    "absolute-form of another scheme": f"GET ftp://HOST/healthz HTTP/1.1\r\n{H}\r\n",
    "authority-form of a GET": f"GET HOST HTTP/1.1\r\n{H}\r\n",
    "asterisk-form of a GET": f"GET * HTTP/1.1\r\n{H}\r\n",
    "a fragment in the target": f"GET /healthz#/mcp HTTP/1.1\r\n{H}\r\n",
    "a blank in the target": f"GET /healthz /mcp HTTP/1.1\r\n{H}\r\n",
    "HTTP/0.9": "GET /healthz\r\n\r\n",
    "HTTP/2.0 in a line": f"GET /healthz HTTP/2.0\r\n{H}\r\n",
    "the preface of HTTP/2": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an unknown method": f"ATTACK /healthz HTTP/1.1\r\n{H}\r\n",
    "a method in lower case": f"get /healthz HTTP/1.1\r\n{H}\r\n",
    "a tab after the method": f"GET\t/healthz HTTP/1.1\r\n{H}\r\n",
    "a TLS hello on the plain port": "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "a request line of 17 KiB": f"GET /{'a' * 17 * 1024} HTTP/1.1\r\n{H}\r\n",
    "a header of 17 KiB": f"{GET}X: {'a' * 17 * 1024}\r\n\r\n",
    "a head of 80 KiB": GET + "X: aaaaaaaaaaaaaaaa\r\n" * 4200 + "\r\n",
}


@pytest.mark.parametrize("name", REFUSED)
async def test_is_refused_and_nothing_behind_it_is_read(target: Target, name: str) -> None:
    data = REFUSED[name].replace("HOST", target.host).encode("latin-1")
    said = await talk(target.place.port, data)
    lines = [line for line in said.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    assert len(lines) <= 1, said
    assert not lines or lines[0][9:10] == b"4", said
    assert (await target.http.get("/healthz")).status_code == 200


HELD = {
    "two hosts": (f"{GET}Host: evil.example\r\n\r\n", b"421"),
    "no host": ("GET /healthz HTTP/1.1\r\n\r\n", b"421"),
    "a foreign host": ("GET /healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n", b"421"),
    "a host with user information": ("GET /healthz HTTP/1.1\r\nHost: HOST@evil.example\r\n\r\n", b"421"),
    "a host with a path": ("GET /healthz HTTP/1.1\r\nHost: HOST/evil\r\n\r\n", b"421"),
    "a host that only begins like ours": ("GET /healthz HTTP/1.1\r\nHost: localhost.evil.example\r\n\r\n", b"421"),
    "two origins": (f"{GET}Origin: http://HOST\r\nOrigin: http://evil.example\r\n\r\n", b"403"),
    "a foreign origin": (f"{GET}Origin: http://evil.example\r\n\r\n", b"403"),
    "a null origin": (f"{GET}Origin: null\r\n\r\n", b"403"),
    "an origin of another local port": (f"{GET}Origin: http://localhost:1\r\n\r\n", b"403"),
    "an origin with our host as its user": (f"{GET}Origin: http://HOST@evil.example\r\n\r\n", b"403"),
    "a body that announces a terabyte": (f"{POST}Content-Length: 1000000000000\r\n\r\n", b"413"),
    "dot segments before a route": (f"GET /x/../healthz HTTP/1.1\r\n{H}\r\n", b"404"),
    "TRACE": (f"TRACE /healthz HTTP/1.1\r\n{H}\r\n", b"405"),
    "an authorization twice": (
        f"{POST}Authorization: Bearer a\r\nAuthorization: Bearer b\r\nContent-Length: 0\r\n\r\n",
        b"400",
    ),
}


@pytest.mark.parametrize("name", HELD)
async def test_is_answered_with_the_right_refusal(target: Target, name: str) -> None:
    data, status = HELD[name]
    said = await talk(target.place.port, data.replace("HOST", target.host).encode(), seconds=2.0)
    assert said.split(b" ")[1] == status, said


@pytest.mark.parametrize("pause", [0.0, 0.1], ids=["in one packet", "in two packets"])
async def test_the_body_of_an_upgrade_is_not_read_as_a_request(target: Target, pause: float) -> None:
    head = f"{POST}Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: {len(SMUGGLED)}\r\n\r\n"
    pieces = [head, SMUGGLED] if pause else [head + SMUGGLED]
    said = await talk(
        target.place.port, *(one.replace("HOST", "x" * 4).encode() for one in pieces), pause=pause, seconds=2
    )
    assert said.count(b"HTTP/1.1 ") == 1, said


async def test_a_websocket_is_not_opened(target: Target) -> None:
    data = (
        f"{GET}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: A\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    said = await talk(target.place.port, data.replace("HOST", target.host).encode(), seconds=2.0)
    assert b" 101 " not in said
    assert said.startswith(b"HTTP/1.1 200")


async def test_trailers_do_not_count_as_headers(target: Target) -> None:
    data = f"{POST}{CHUNKED}\r\n0\r\nAuthorization: Bearer a\r\nX-Forwarded-For: 9.9.9.9\r\nHost: evil.example\r\n\r\n"
    said = await talk(target.place.port, data.replace("HOST", target.host).encode(), seconds=2.0)
    assert said.startswith(b"HTTP/1.1 4")
    assert not said.startswith(b"HTTP/1.1 421")


async def test_two_hundred_silent_connections_do_not_shut_others_out(target: Target) -> None:
    opened = await asyncio.gather(*(asyncio.open_connection("127.0.0.1", target.place.port) for _ in range(200)))
    try:
        assert (await target.http.get("/healthz")).status_code == 200
    finally:
        for _, writer in opened:
            writer.transport.abort()


async def test_an_endless_header_is_cut_off_while_others_are_served(target: Target) -> None:
    attack = asyncio.ensure_future(
        talk(target.place.port, f"{GET}X: ".replace("HOST", target.host).encode(), *[b"a" * 1_000_000] * 16)
    )
    assert (await target.http.get("/healthz")).status_code == 200
    said = await attack
    assert said == b"" or b" 431 " in said


async def test_five_thousand_pipelined_requests_end_the_connection(target: Target) -> None:
    said = await talk(target.place.port, (f"{GET}\r\n" * 5000).replace("HOST", target.host).encode(), seconds=5)
    assert said.count(b"HTTP/1.1 200") < 5000
    assert (await target.http.get("/healthz")).status_code == 200
