"""The outbound client: address guard, one arrival per send, deadlines, size, and what failures mean."""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
import threading
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import fields, replace
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from providers.outbound.addresses import PUBLIC_ONLY, AddressPolicy, address_problem, url_problem
from providers.outbound.client import Outbound
from providers.outbound.messages import (
    AddressRefused,
    HttpError,
    NoAnswer,
    NotReached,
    OutboundRequest,
    PeerBusy,
    TooLarge,
)
from tests.support.doubles.scripted_server import Arrival, Reply, ScriptedServer, scripted_server

LOOPBACK = AddressPolicy(allow_loopback=True)


@pytest_asyncio.fixture
async def canary() -> AsyncGenerator[ScriptedServer]:
    async with scripted_server(lambda _: Reply(body=b"reached")) as server:
        yield server


@pytest_asyncio.fixture
async def http() -> AsyncGenerator[Outbound]:
    async with Outbound(LOOPBACK) as outbound:
        yield outbound


FORBIDDEN = [
    "https://127.0.0.1:{port}/",
    "https://127.1:{port}/",
    "https://2130706433:{port}/",
    "https://0x7f000001:{port}/",
    "https://0x7f.0.0.1:{port}/",
    "https://017700000001:{port}/",
    "https://0177.0.0.1:{port}/",
    "https://0.0.0.0:{port}/",
    "https://0:{port}/",
    "https://localhost:{port}/",
    "https://LOCALHOST:{port}/",
    "https://app.localhost:{port}/",
    "https://localhost.:{port}/",
    "https://[::1]:{port}/",
    "https://[::]:{port}/",
    "https://[::ffff:127.0.0.1]:{port}/",
    "https://[::ffff:7f00:1]:{port}/",
    "https://[64:ff9b::7f00:1]:{port}/",
    "https://[2002:7f00:1::]:{port}/",
    "https://[2001:0:7f00:1::]:{port}/",
    "https://user@127.0.0.1:{port}/",
    "https://example.com@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}/",
    "https://127.0.0.1\\@example.com:{port}/",
    "https://169.254.169.254/latest/meta-data/",
    "https://168.63.129.16/machine",
    "https://10.0.0.1/",
    "https://172.16.0.1/",
    "https://192.168.1.1/",
    "https://100.100.100.200/",
    "https://224.0.0.1/",
    "https://[fe80::1%25lo]:{port}/",
    "https://[fd00:ec2::254]/",
    "https://[ff02::1]/",
    "ftp://127.0.0.1:{port}/",
    "file:///etc/passwd",
    "//127.0.0.1:{port}/",
    "https:///path",
    "https://exa mple.com/",
    "https://example.com:0/",
    "https://127。0。0。1:{port}/",
]


@pytest.mark.requirement("S-034", "S-035")
async def test_no_forbidden_address_is_ever_connected_to(canary: ScriptedServer) -> None:
    async with Outbound() as outbound:
        for template in FORBIDDEN:
            url = template.replace("{port}", str(canary.port))
            with pytest.raises(AddressRefused):
                await outbound.fetch_document(url, policy=PUBLIC_ONLY, on_behalf_of="192.0.2.1")
    assert canary.connections == 0
    async with Outbound() as outbound:  # the twin: the same canary answers when loopback is allowed
        answer = await outbound.fetch_document(canary.url, policy=LOOPBACK, on_behalf_of="192.0.2.1")
    assert (answer.status, canary.connections) == (200, 1)


@pytest.mark.requirement("S-034")
@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["10.1.2.3"], ["8.8.8.8", "127.0.0.1"], ["::ffff:127.0.0.1"], ["64:ff9b::a00:1"], ["fe80::1"]],
)
async def test_a_name_with_any_forbidden_address_is_not_connected_to(
    canary: ScriptedServer, addresses: Sequence[str]
) -> None:
    asked: list[str] = []

    async def lookup(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return addresses

    async with Outbound(lookup=lookup) as outbound:
        with pytest.raises(AddressRefused):
            await outbound.fetch_document(
                f"https://client.example:{canary.port}/", policy=PUBLIC_ONLY, on_behalf_of="192.0.2.1"
            )
    assert asked == ["client.example"]
    assert canary.connections == 0


async def test_the_connection_goes_to_the_address_that_was_checked(canary: ScriptedServer) -> None:
    """A rebinding name server gives a good address first and another one later; nobody asks it a second time."""
    given = iter([["127.0.0.1"], ["127.0.0.2"]])

    async def lookup(host: str, port: int) -> Sequence[str]:
        return next(given)

    async with Outbound(LOOPBACK, lookup=lookup) as outbound:
        answer = await outbound.send(OutboundRequest("GET", f"http://localhost:{canary.port}/"))
    assert answer.body == b"reached"
    assert next(given) == ["127.0.0.2"]


async def test_a_connection_opened_under_a_looser_policy_serves_no_stricter_request(canary: ScriptedServer) -> None:
    async with Outbound(LOOPBACK) as outbound:
        await outbound.send(OutboundRequest("GET", canary.url))
        with pytest.raises(AddressRefused):
            await outbound.send(OutboundRequest("GET", canary.url, policy=PUBLIC_ONLY))
    assert len(canary.arrivals) == 1


def test_a_request_with_other_headers_keeps_everything_else() -> None:
    request = OutboundRequest(**{one.name: object() for one in fields(OutboundRequest)})  # pyright: ignore[reportArgumentType] -- any values
    assert request.with_headers({"a": "b"}) == replace(request, headers={"a": "b"}) != request


def test_public_addresses_are_allowed_and_the_special_ones_are_not() -> None:
    for address in ("8.8.8.8", "142.250.74.110", "2001:4860:4860::8888", "2a00:1450:4001::1"):
        assert address_problem(address, PUBLIC_ONLY) is None
    for address in ("127.0.0.1", "::1", "0.0.0.0", "192.0.2.1", "2001:db8::1", "240.0.0.1", "::", "nonsense", "1.2.3"):
        assert address_problem(address, PUBLIC_ONLY) is not None
    assert address_problem("127.0.0.1", LOOPBACK) is None
    assert address_problem("10.0.0.1", LOOPBACK) is not None


def test_plain_https_urls_are_allowed() -> None:
    for url in ("https://slack.com/api/auth.test?a=b", "https://xn--bcher-kva.example/x", "https://example.com:8443/"):
        assert url_problem(url, PUBLIC_ONLY) is None
    assert url_problem("http://example.com/", LOOPBACK) is not None
    assert url_problem("http://localhost:8080/", LOOPBACK) is None
    assert url_problem("https://[::1/", PUBLIC_ONLY) is not None
    assert url_problem("https://example.com:99999/", PUBLIC_ONLY) is not None
    assert url_problem("https://example.com/" + "a" * 9000, PUBLIC_ONLY) is not None


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST", "PATCH", "HEAD"])
async def test_a_request_whose_answer_is_lost_arrives_exactly_once(http: Outbound, method: str) -> None:
    """Also on a reused connection, on which aiohttp would itself repeat GET, PUT and DELETE."""
    async with scripted_server(lambda _: Reply(body=b"")) as server:
        await http.send(OutboundRequest("GET", server.url))  # leaves a connection that can be reused
        server.arrivals.clear()
        server.answer = lambda _: Reply(close=True)
        with pytest.raises(NoAnswer):
            await http.send(OutboundRequest(method, server.url, body=None if method in ("GET", "HEAD") else b"x"))
        assert server.connections == 1
        assert server.count_arrivals(method) == 1
        server.answer = lambda _: Reply()
        await http.send(OutboundRequest(method, server.url))  # the twin: the same request, answered
        assert server.count_arrivals(method) == 2


async def test_a_request_that_must_not_meet_a_stale_connection_gets_its_own(http: Outbound) -> None:
    async with scripted_server(lambda _: Reply()) as server:
        await http.send(OutboundRequest("POST", server.url))
        await http.send(OutboundRequest("POST", server.url))
        assert server.connections == 1
        await http.send(OutboundRequest("POST", server.url, reuse=False))
        await http.send(OutboundRequest("POST", server.url, reuse=False))
        assert server.connections == 3


async def test_not_reached_and_no_answer_are_told_apart(http: Outbound) -> None:
    unused = socket.create_server(("127.0.0.1", 0))
    closed_port = unused.getsockname()[1]
    unused.close()
    with pytest.raises(NotReached, match="couldn't connect"):
        await http.send(OutboundRequest("POST", f"http://127.0.0.1:{closed_port}/"))

    async def nowhere(host: str, port: int) -> Sequence[str]:
        raise OSError("no such name")

    async with Outbound(lookup=nowhere) as outbound:
        with pytest.raises(NotReached, match="name not found"):
            await outbound.send(OutboundRequest("POST", "https://nowhere.example/"))

    async def empty(host: str, port: int) -> Sequence[str]:
        return []

    async with Outbound(lookup=empty) as outbound:
        with pytest.raises(NotReached, match="name not found"):
            await outbound.send(OutboundRequest("POST", "https://nowhere.example/"))
    for reply in (
        Reply(close=True),
        Reply(body=b"12345", claimed_length=10),
        Reply(raw=b"this is not HTTP\r\n\r\n"),
        Reply(raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"),
    ):
        async with scripted_server(lambda _, reply=reply: reply) as server:
            with pytest.raises(NoAnswer):
                await http.send(OutboundRequest("POST", server.url))
            assert server.count_arrivals("POST") == 1


@pytest.mark.requirement("S-148")
async def test_a_server_that_hangs_costs_the_deadline_and_no_more(http: Outbound) -> None:
    async with scripted_server(lambda _: Reply(hang=True)) as server:
        started = asyncio.get_running_loop().time()
        with pytest.raises(NoAnswer, match="no answer in time"):
            await http.send(OutboundRequest("POST", server.url, timeout=0.5))
        assert asyncio.get_running_loop().time() - started < 10
        with pytest.raises(NoAnswer, match="no answer in time"):
            await http.send(OutboundRequest("POST", server.url, timeout=0.5, reuse=False))
        server.answer = lambda _: Reply(body=b"12345", claimed_length=10, stall=True)
        with pytest.raises(NoAnswer, match="no answer in time"):
            await http.send(OutboundRequest("POST", server.url, timeout=0.5))


async def read_after_standing_still(http: Outbound, *, answers: bool) -> tuple[float, bytes | NoAnswer]:
    """How long the request took to arrive, and its result after this process stood still beyond the deadline."""
    read, go_on, stay = threading.Event(), threading.Event(), threading.Event()

    def serve(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(65536)
            read.set()
            assert go_on.wait(30)
            if answers:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nkept")
            stay.wait(30)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = threading.Thread(target=serve, args=(listening,))
        serving.start()
        try:
            url, began = f"http://127.0.0.1:{listening.getsockname()[1]}/", time.monotonic()
            sending = asyncio.create_task(http.send(OutboundRequest("POST", url, timeout=1, reuse=False)))
            async with asyncio.timeout(30):
                while not read.is_set():
                    await asyncio.sleep(0.005)
            arrived = time.monotonic() - began
            go_on.set()
            time.sleep(1.2)
            try:
                return arrived, (await sending).body
            except NoAnswer as error:
                return arrived, error
        finally:
            go_on.set()
            stay.set()
            serving.join(30)


@pytest.mark.parametrize("answers", [True, False])
async def test_an_answer_that_came_while_the_process_stood_still_is_read_after_the_deadline(
    http: Outbound, *, answers: bool
) -> None:
    for _ in range(20):
        arrived, result = await read_after_standing_still(http, answers=answers)
        if arrived < 0.7:
            break  # otherwise the machine was too busy: the deadline may have passed before
    if answers:
        assert result == b"kept"
    else:
        assert isinstance(result, NoAnswer)
        assert "no answer in time" in str(result)


@pytest.mark.requirement("S-148")
async def test_a_server_that_does_not_accept_is_given_up_within_the_connect_timeout() -> None:
    listening = socket.socket()  # it listens, but its queue is full, so connecting hangs
    listening.bind(("127.0.0.1", 0))
    listening.listen(0)
    address = listening.getsockname()
    queued = [socket.socket() for _ in range(3)]
    try:
        for each in queued:
            each.setblocking(False)
            each.connect_ex(address)
        async with Outbound(LOOPBACK, connect_timeout=0.2) as outbound:
            with pytest.raises(NotReached, match="took too long"):
                await outbound.send(OutboundRequest("POST", f"http://127.0.0.1:{address[1]}/"))
    finally:
        for each in (*queued, listening):
            each.close()


@pytest.mark.requirement("S-148")
async def test_an_answer_over_the_limit_is_refused_without_reading_it(http: Outbound) -> None:
    async with scripted_server(lambda _: Reply(body=b"x" * 2000)) as server:
        for reply in (
            Reply(body=b"x" * 2000),
            Reply(body=b"", claimed_length=30_000_000),
            Reply(raw=b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"x" * 2000),
        ):
            server.answer = lambda _, reply=reply: reply
            with pytest.raises(TooLarge):
                await http.send(OutboundRequest("GET", server.url, max_bytes=1999))
        server.answer = lambda _: Reply(body=b"x" * 1999)
        assert len((await http.send(OutboundRequest("GET", server.url, max_bytes=1999))).body) == 1999


@pytest.mark.requirement("S-148")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_an_answer_and_never_followed(http: Outbound, canary: ScriptedServer, status: int) -> None:
    async with scripted_server(lambda _: Reply(status, headers={"Location": canary.url})) as server:
        answer = await http.send(OutboundRequest("POST", server.url, body=b"secret"))
    assert answer.status == status
    assert canary.connections == 0


def _self_signed(folder: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=36500))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


@pytest.mark.requirement("S-148")
async def test_a_certificate_that_nobody_vouches_for_ends_the_connection_unsent(http: Outbound, tmp_path: Path) -> None:
    async with scripted_server(lambda _: Reply(body=b"reached"), tls=_self_signed(tmp_path)) as server:
        with pytest.raises(NotReached, match="TLS failed"):
            await http.send(OutboundRequest("POST", f"https://localhost:{server.port}/", body=b"secret"))
    assert server.arrivals == []


async def test_an_account_that_hangs_leaves_places_at_its_peer_to_the_others() -> None:
    async with (
        Outbound(LOOPBACK, calls_per_peer=4, calls_per_account=2, connect_timeout=0.5) as outbound,
        scripted_server(lambda a: Reply(hang=a.path == "/hang")) as server,
    ):
        hung = [
            asyncio.create_task(
                outbound.send(OutboundRequest("GET", f"{server.url}/hang", peer="slow", account="A", timeout=60))
            )
            for _ in range(2)
        ]
        async with asyncio.timeout(30):
            while len(server.arrivals) < 2:
                await asyncio.sleep(0)
        with pytest.raises(PeerBusy):
            await outbound.send(OutboundRequest("GET", f"{server.url}/quick", peer="slow", account="A"))
        answer = await outbound.send(OutboundRequest("GET", f"{server.url}/quick", peer="slow", account="B"))
        assert answer.status == 200
        waiting = asyncio.create_task(
            outbound.send(OutboundRequest("GET", f"{server.url}/quick", peer="slow", account="A"))
        )
        await asyncio.sleep(0)
        hung[0].cancel()
        await asyncio.gather(*hung[:1], return_exceptions=True)
        assert (await waiting).status == 200
        hung[1].cancel()
        await asyncio.gather(*hung, return_exceptions=True)


async def test_calls_to_one_peer_cannot_use_up_those_to_another() -> None:
    async with (
        Outbound(LOOPBACK, calls_per_peer=2, connect_timeout=0.5) as outbound,
        scripted_server(lambda a: Reply(hang=a.path == "/hang")) as server,
    ):
        hanging = [
            asyncio.create_task(outbound.send(OutboundRequest("GET", f"{server.url}/hang", peer="slow", timeout=60)))
            for _ in range(2)
        ]
        async with asyncio.timeout(30):
            while len(server.arrivals) < 2:
                await asyncio.sleep(0)
        with pytest.raises(NotReached, match="too many calls"):
            await outbound.send(OutboundRequest("GET", f"{server.url}/quick", peer="slow"))
        answer = await outbound.send(OutboundRequest("GET", f"{server.url}/quick", peer="other"))
        assert answer.status == 200
        for task in hanging:
            task.cancel()
        assert all(
            isinstance(r, asyncio.CancelledError) for r in await asyncio.gather(*hanging, return_exceptions=True)
        )
        assert (await outbound.send(OutboundRequest("GET", f"{server.url}/quick", peer="slow"))).status == 200


async def test_headers_with_line_breaks_are_refused_before_sending(http: Outbound, canary: ScriptedServer) -> None:
    for headers in ({"X-A": "b\r\nX-C: d"}, {"X-A\r\nX-B": "c"}, {"X-A": "b\x00"}):
        with pytest.raises(NotReached, match="header"):
            await http.send(OutboundRequest("GET", canary.url, headers=headers))
    with pytest.raises(NotReached, match="method"):
        await http.send(OutboundRequest("GET /x HTTP/1.1\r\nX-A: b", canary.url))
    assert canary.connections == 0
    assert (await http.send(OutboundRequest("GET", canary.url, headers={"X-A": "b"}))).status == 200


async def test_no_cookie_proxy_or_own_repetition_reaches_a_server(
    http: Outbound, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    async with scripted_server(lambda _: Reply(headers={"Set-Cookie": "a=b; Path=/"})) as server:
        await http.send(OutboundRequest("GET", server.url))
        await http.send(OutboundRequest("GET", server.url))
        assert "cookie" not in server.arrivals[1].headers


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("30", 30),
        ("999999999999", 86400),
        ("Wed, 21 Oct 2026 07:28:30 GMT", 30),
        ("Wed, 21 Oct 2026 07:27:00 GMT", 0),
        ("soon", None),
        ("-5", None),
        ("", None),
    ],
)
async def test_retry_after_is_read_as_seconds_or_against_the_answers_date(
    http: Outbound, value: str, expected: int | None
) -> None:
    headers = {"Retry-After": value, "Date": "Wed, 21 Oct 2026 07:28:00 GMT"}
    async with scripted_server(lambda _: Reply(429, headers=headers)) as server:
        answer = await http.send(OutboundRequest("GET", server.url))
    assert answer.retry_after == expected


async def test_errors_and_requests_show_no_url_header_or_body(http: Outbound) -> None:
    def close_connection(_: Arrival) -> Reply:
        return Reply(close=True)

    async with scripted_server(close_connection) as server:
        request = OutboundRequest(
            "POST", f"{server.url}/?token=hush-1", headers={"Authorization": "Bearer hush-2"}, body=b"hush-3"
        )
        with pytest.raises(HttpError) as caught:
            await http.send(request)
    assert "hush" not in repr(request) + repr(caught.value) + str(caught.value)
