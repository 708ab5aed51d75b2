"""Redirects of a read to an address that works without a credential: the vault follows them, and clients see only the
file.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import threading
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

import httpx2
import pytest
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from providers.definitions.catalog import ProviderOverrides, load_catalog
from providers.outbound.addresses import matching_host
from providers.outbound.client import FOREIGN_SHARE
from server.proxy.downloads import download_headers
from server.proxy.refusals import download_failed
from tests.support.doubles.proxied_api import Upstream, reply_in_pieces
from tests.support.doubles.scripted_server import Arrival, Reply, ScriptedServer, scripted_server
from tests.support.rooms.proxy_room import UPSTREAM_TOKEN, ProxyHandle, ProxyRoom, proxy_room

READ = frozenset({"Files.Read", "User.Read"})
FILE = b"the content of a file, 40 bytes in total"
SECRET = "/y2pcT7OaUEExF7EHOlpTjCE55mIUoiX7H3sx1ff6I?tempauth=v1.canary-of-a-signature"
CONTENT = "/me/drive/items/1/content"


@dataclass
class Place:
    """A vault whose Graph redirects to a server of files, which isn't one of the provider's APIs."""

    room: ProxyRoom
    upstream: Upstream
    files: ScriptedServer

    def redirect_to(self, location: str, *, status: int = 302) -> list[Scope]:
        """Returns what arrives at the API from now on."""
        reply, arrived = reply_in_pieces(b"", status=status, headers=[(b"location", location.encode())]), list[Scope]()

        def answer(scope: Scope, receive: Receive, send: Send) -> object:
            arrived.append(scope)
            return reply(scope, receive, send)

        self.upstream.answer = answer
        return arrived

    async def handle(self, name: str = "m-1") -> ProxyHandle:
        agent = await self.room.agent()
        connection = await self.room.account(agent, provider="microsoft", name=name, scopes=READ, delegated=READ)
        return await self.room.handle(agent, connection, scopes=READ)


def send_file(_: Arrival) -> Reply:
    return Reply(200, FILE, {"Content-Type": "text/plain", "Content-Disposition": "attachment"})


@pytest.fixture(scope="module")
async def shared_place(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Place]:
    async with (
        scripted_server(send_file) as files,
        proxy_room(
            tmp_path_factory.mktemp("downloads"),
            apis_at=upstream.url,
            others={"microsoft": "graph"},
            settings={"microsoft": {"downloads": [f"127.0.0.1:{files.port}", "*.files.localhost:1"]}},
            proxy={"answer_limit": 400_000},
        ) as room,
    ):
        yield Place(room, upstream, files)


@pytest.fixture
def place(shared_place: Place) -> Place:
    shared_place.files.arrivals.clear()
    shared_place.files.answer = send_file
    return shared_place


async def get(handle: ProxyHandle, **options: object) -> httpx2.Response:
    return await handle.call("GET", CONTENT, api="graph", **options)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirected_read_answers_with_the_file_and_the_address_stays_inside(place: Place, status: int) -> None:
    handle = await place.handle()
    place.redirect_to(f"{place.files.url}{SECRET}#part", status=status)
    answer = await get(handle, headers={"user-agent": "client/1"})
    assert (answer.status_code, answer.content) == (200, FILE)
    assert answer.headers["content-disposition"] == "attachment"
    assert (answer.headers["cache-control"], answer.headers["content-security-policy"]) == ("no-store", "sandbox")
    assert "location" not in answer.headers
    (arrival,) = place.files.arrivals
    assert (arrival.method, arrival.target, arrival.headers["user-agent"]) == ("GET", SECRET, "client/1")
    assert "authorization" not in arrival.headers
    assert UPSTREAM_TOKEN not in str(arrival.headers)
    assert handle.value not in str(arrival.headers)


async def test_the_activity_has_the_host_as_the_file_names_it_and_never_the_address(place: Place) -> None:
    handle = await place.handle()
    place.redirect_to(f"{place.files.url}{SECRET}")
    await get(handle)
    (event,) = await place.room.events(handle)
    details = event.details
    assert (event.outcome, details["status"], details["received"]) == ("ok", 200, len(FILE))
    assert details["download"] == f"127.0.0.1:{place.files.port}"
    assert "canary" not in json.dumps(details)
    place.upstream.answer = reply_in_pieces(b"{}")
    await get(handle)  # the twin
    assert "download" not in (await place.room.events(handle))[-1].details


@pytest.mark.parametrize("kind", ["text/xml", "application/json; charset=utf-16", "application/json"])
async def test_a_files_content_is_not_searched_for_members_of_the_apis_answers(place: Place, kind: str) -> None:
    content = json.dumps({"@microsoft.graph.downloadUrl": "what a person wrote"}).encode()
    place.files.answer = lambda _: Reply(200, content, {"Content-Type": kind})
    handle = await place.handle()
    place.redirect_to(f"{place.files.url}{SECRET}")
    answer = await get(handle)
    assert (answer.status_code, answer.content) == (200, content)
    place.upstream.answer = reply_in_pieces(content, headers=[(b"content-type", b"application/json")])
    assert b"what a person wrote" not in (await get(handle)).content  # the twin: the API's own answer


async def test_an_address_or_token_that_comes_back_with_the_file_is_masked(place: Place) -> None:
    body = f"[{place.files.url}{SECRET}] [{SECRET}] [{UPSTREAM_TOKEN}]".encode()
    place.files.answer = lambda _: Reply(200, body, {"X-Source": SECRET})
    handle = await place.handle()
    place.redirect_to(f"{place.files.url}{SECRET}")
    answer = await get(handle)
    mask = "*" * len(SECRET)
    assert answer.text == f"[{place.files.url}{mask}] [{mask}] [{'*' * len(UPSTREAM_TOKEN)}]"
    assert answer.headers["x-source"] == mask


@pytest.mark.parametrize("path", ["/y2pcT7OaUEExF7EHOlpTjCE55mIUoiX7H3sx1ff6I", "/a"])
async def test_an_address_whose_path_is_the_secret_is_masked_too(place: Place, path: str) -> None:
    place.files.answer = lambda _: Reply(200, f"{place.files.url}{path} a/b/a".encode())
    handle = await place.handle()
    place.redirect_to(f"{place.files.url}{path}")
    answer = await get(handle)
    assert f"{place.files.url}{path}" not in answer.text
    assert answer.text.endswith(" a/b/a")


@pytest.mark.parametrize(("path", "is_masked"), [("/" + "p" * 14, False), ("/" + "p" * 15, True)])
async def test_a_path_that_could_be_in_any_text_is_masked_only_in_its_address(
    place: Place, path: str, *, is_masked: bool
) -> None:
    place.files.answer = lambda _: Reply(200, f"{place.files.url}{path} {path}".encode())
    handle = await place.handle()
    place.redirect_to(f"{place.files.url}{path}")
    whole, alone = (await get(handle)).text.split(" ")
    assert not whole.endswith(path)
    assert alone == ("*" * len(path) if is_masked else path)


@pytest.mark.parametrize("status", [206, 301, 302, 401, 403, 404, 429, 500])
async def test_another_answer_than_the_file_is_a_failure_and_its_text_stays_inside(place: Place, status: int) -> None:
    location = {"Location": f"{place.files.url}/further"} if status in {301, 302} else {}
    place.files.answer = lambda _: Reply(status, b"StringToSign: canary", location)
    handle = await place.handle()
    place.redirect_to(f"{place.files.url}{SECRET}")
    answer = await get(handle)
    assert (answer.status_code, answer.headers["token-vault-refusal"]) == (502, "upstream_unavailable")
    assert str(status) in answer.json()["title"]
    assert "canary" not in answer.text
    assert len(place.files.arrivals) == 1
    (event,) = await place.room.events(handle)
    assert (event.outcome, event.details["code"]) == ("failed", "upstream_unavailable")
    place.files.answer = send_file
    assert (await get(handle)).content == FILE  # the twin


async def test_a_redirect_to_a_host_that_the_file_does_not_name_is_refused(place: Place) -> None:
    handle = await place.handle()
    for location in (
        f"http://localhost:{place.files.port}/x",
        f"https://127.0.0.1.evil.example:{place.files.port}/x",
        f"http://127.0.0.1:{place.files.port + 1}/x",
        f"http://127.0.0.1:{place.files.port}@evil.example/x",
        f"{place.room.provider.url}/x",
        "https://contoso.sharepoint.com/x",  # named by the built-in file, which the setting replaces
    ):
        place.redirect_to(location)
        answer = await get(handle)
        assert (answer.status_code, answer.headers["token-vault-refusal"]) == (502, "redirect_refused")
    assert not place.files.arrivals
    assert not place.room.provider.arrivals
    place.redirect_to(f"{place.files.url}/x")
    assert (await get(handle)).content == FILE  # the twin


async def test_only_a_read_is_repeated_there(place: Place) -> None:
    agent = await place.room.agent()
    write = READ | {"Files.ReadWrite"}
    connection = await place.room.account(agent, provider="microsoft", name="m-3", scopes=write, delegated=write)
    handle = await place.room.handle(agent, connection, scopes=write)
    place.redirect_to(f"{place.files.url}{SECRET}")
    answer = await handle.call("PUT", CONTENT, api="graph", content=b"new")
    assert (answer.status_code, answer.headers["token-vault-refusal"]) == (502, "redirect_refused")
    assert not place.files.arrivals
    assert (await get(handle)).content == FILE  # the twin


async def test_a_head_is_answered_by_the_host_of_the_file(place: Place) -> None:
    handle = await place.handle()
    arrived = place.redirect_to(f"{place.files.url}{SECRET}")
    answer = await handle.call("HEAD", CONTENT, api="graph", headers={"range": "bytes=0-3"})
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", str(len(FILE)))
    assert answer.headers["content-disposition"] == "attachment"
    assert "location" not in answer.headers
    (arrival,) = place.files.arrivals
    assert (arrival.method, arrival.target) == ("HEAD", SECRET)
    assert not {"authorization", "range"} & arrival.headers.keys()
    assert [one["method"] for one in arrived] == ["HEAD"]


async def test_a_host_that_accepts_no_head_is_told_clearly(place: Place) -> None:
    handle = await place.handle()
    place.redirect_to(f"{place.files.url}{SECRET}")
    place.files.answer = lambda arrival: send_file(arrival) if arrival.method == "GET" else Reply(403, b"canary")
    assert (await handle.call("HEAD", CONTENT, api="graph")).status_code == 502
    (event,) = await place.room.events(handle)
    assert (event.outcome, event.details["code"], event.details["status"]) == ("failed", "upstream_unavailable", 502)
    said = download_failed(load_catalog().provider("microsoft"), 403, method="HEAD").description
    assert "answered to HEAD with status 403" in said and "send GET instead" in said
    assert (await get(handle)).content == FILE  # the twin


def send_part(arrival: Arrival) -> Reply:
    """Serve one range of the file, like a host of files."""
    match arrival.headers.get("range", "").removeprefix("bytes=").partition("-"):
        case (first, "-", last) if int(first) < len(FILE):
            part = FILE[int(first) : int(last) + 1 if last else None]
            place = f"bytes {first}-{int(first) + len(part) - 1}/{len(FILE)}"
            return Reply(206, part, {"Content-Type": "text/plain", "Content-Range": place})
        case (_, "-", _):
            return Reply(416, b"StringToSign: canary", {"Content-Range": f"bytes */{len(FILE)}"})
        case _:
            return send_file(arrival)


async def test_a_part_of_a_file_is_asked_for_at_its_host_only(place: Place) -> None:
    handle = await place.handle()
    place.files.answer = send_part
    arrived = place.redirect_to(f"{place.files.url}{SECRET}")
    answer = await get(handle, headers={"range": "bytes=4-10", "if-range": '"v1"'})
    assert (answer.status_code, answer.content) == (206, FILE[4:11])
    assert answer.headers["content-range"] == f"bytes 4-10/{len(FILE)}"
    assert answer.headers["content-length"] == "7"
    (arrival,) = place.files.arrivals
    assert (arrival.headers["range"], arrival.headers["if-range"]) == ("bytes=4-10", '"v1"')
    assert arrival.headers["accept-encoding"] == "identity", "a part of an encoded file can't be decoded"
    assert not {b"range", b"if-range"} & dict(arrived[0]["headers"]).keys()
    (event,) = await place.room.events(handle)
    assert (event.outcome, event.details["status"], event.details["received"]) == ("ok", 206, 7)
    rest = await get(handle, headers={"range": "bytes=30-"})
    assert (rest.status_code, rest.content) == (206, FILE[30:])
    whole = await get(handle)  # the twin
    assert (whole.status_code, whole.content) == (200, FILE)
    assert "range" not in place.files.arrivals[-1].headers


async def test_a_part_that_is_not_there_is_told_without_the_hosts_text(place: Place) -> None:
    handle = await place.handle()
    place.files.answer = send_part
    place.redirect_to(f"{place.files.url}{SECRET}")
    answer = await get(handle, headers={"range": "bytes=900-901"})
    assert (answer.status_code, answer.content) == (416, b"")
    assert answer.headers["content-range"] == f"bytes */{len(FILE)}"
    place.files.answer = lambda _: Reply(416, b"canary")
    refused = await get(handle)  # it wasn't asked for a part
    assert (refused.status_code, refused.headers["token-vault-refusal"]) == (502, "upstream_unavailable")


async def test_a_host_without_parts_answers_with_the_whole_file(place: Place) -> None:
    handle = await place.handle()
    place.redirect_to(f"{place.files.url}{SECRET}")
    answer = await get(handle, headers={"range": "bytes=4-10"})
    assert (answer.status_code, answer.content) == (200, FILE)
    part = {"Content-Range": f"bytes 0-9/{len(FILE)}"}
    for encoding, status in (("gzip", 502), ("identity", 206)):
        place.files.answer = lambda _, encoding=encoding: Reply(206, FILE[:10], {**part, "Content-Encoding": encoding})
        assert (await get(handle, headers={"range": "bytes=0-9"})).status_code == status


def test_a_repeated_range_is_none() -> None:
    def headers(*ranges: bytes, method: str = "GET", conditions: int = 0) -> dict[str, str]:
        sent = [*((b"range", one) for one in ranges), *[(b"if-range", b'"v1"')] * conditions]
        return download_headers({"user-agent": "a/1", "accept": "*/*"}, method=method, sent=Headers(raw=sent))

    assert headers(b"bytes=0-1") == {"user-agent": "a/1", "range": "bytes=0-1"}
    assert headers(b"bytes=0-1", conditions=1) == {"user-agent": "a/1", "range": "bytes=0-1", "if-range": '"v1"'}
    for none in (
        headers(b"bytes=0-1", b"bytes=4-5"),
        headers(b"bytes=0-1", conditions=2),
        headers(b"bytes=0-1", method="HEAD"),
        headers(conditions=1),
    ):
        assert none == {"user-agent": "a/1"}


async def test_a_redirect_within_the_api_is_still_the_clients_to_follow(place: Place) -> None:
    handle = await place.handle()
    place.redirect_to(f"{place.upstream.url}/microsoft/me/drive/items/2/content")
    answer = await get(handle)
    assert answer.headers["location"] == f"{handle.base('graph')}/me/drive/items/2/content"
    assert not place.files.arrivals


async def test_a_file_has_the_same_limits_as_an_answer(place: Place) -> None:
    handle = await place.handle()
    place.redirect_to(f"{place.files.url}{SECRET}")
    place.files.answer = lambda _: Reply(200, bytes(400_001))
    answer = await get(handle)
    assert (answer.status_code, answer.headers["token-vault-refusal"]) == (502, "answer_too_large")
    place.files.answer = lambda _: Reply(200, bytes(400_000))
    assert (await get(handle)).content == bytes(400_000)


async def test_a_compressed_file_arrives_unpacked(place: Place) -> None:
    handle = await place.handle()
    place.redirect_to(f"{place.files.url}{SECRET}")
    place.files.answer = lambda _: Reply(200, gzip.compress(FILE), {"Content-Encoding": "gzip"})
    assert (await get(handle)).content == FILE


async def test_an_unreachable_place_is_told_without_its_address(place: Place) -> None:
    handle = await place.handle()
    place.redirect_to(f"{place.files.url}{SECRET}")
    place.files.answer = lambda _: Reply(close=True)
    answer = await get(handle)
    assert (answer.status_code, answer.headers["token-vault-refusal"]) == (502, "upstream_unavailable")
    assert str(place.files.port) not in answer.text
    assert "canary" not in answer.text


async def test_names_that_are_not_answered_use_up_only_the_lookups_of_their_account(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    # whoever has an account at the service may have put the names there
    handle, other = await place.handle(), await place.handle("m-4")
    asked, may_end, look_up_address = list[str](), threading.Event(), socket.getaddrinfo

    def look_up(host: str | bytes, *how: int, **more: int) -> Sequence[object]:
        if isinstance(host, str) and host.endswith(".files.localhost"):
            asked.append(host)
            if host.startswith("slow"):
                may_end.wait(30)
            host = "127.0.0.1"
        return look_up_address(host, *how, **more)

    async def read_from(name: str, by: ProxyHandle) -> bool:
        """Whether its address was looked up."""
        place.redirect_to(f"https://{name}.files.localhost:1{SECRET}")
        assert (await get(by)).headers["token-vault-refusal"] == "upstream_unavailable"  # no server is there
        return f"{name}.files.localhost" in asked

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    waiting: list[asyncio.Task[bool]] = []
    async with asyncio.timeout(30):
        for number in range(FOREIGN_SHARE):
            waiting.append(asyncio.create_task(read_from(f"slow{number}", handle)))
            while len(asked) <= number:
                await asyncio.sleep(0.01)
        assert not await read_from("same", handle)
        assert await read_from("other", other)
        may_end.set()
        assert all(await asyncio.gather(*waiting))
        assert await read_from("same", handle)  # the twin


async def test_a_handle_without_the_scope_gets_no_file(place: Place) -> None:
    agent = await place.room.agent()
    connection = await place.room.account(agent, provider="microsoft", name="m-2", scopes=READ, delegated=READ)
    handle = await place.room.handle(agent, connection, scopes=frozenset({"User.Read"}))
    place.redirect_to(f"{place.files.url}{SECRET}")
    assert (await get(handle)).headers["token-vault-refusal"] == "scope_missing"
    assert not place.files.arrivals
    full = await place.room.handle(agent, connection, scopes=READ)
    assert (await get(full)).content == FILE  # the twin


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("https://contoso.sharepoint.com/x?y=z", "*.sharepoint.com"),
        ("https://CONTOSO.SharePoint.com/x", "*.sharepoint.com"),
        ("https://a.b.sharepoint.com:443/", "*.sharepoint.com"),
        ("https://dl.boxcloud.com/d/1/x", "dl.boxcloud.com"),
        ("https://files.example:8443/x", "files.example:8443"),
        ("https://sharepoint.com/x", None),
        ("https://evilsharepoint.com/x", None),
        ("https://contoso.sharepoint.com.evil.example/x", None),
        ("https://contoso.sharepoint.com:8443/x", None),
        ("https://contoso.sharepoint.com@evil.example/x", None),
        ("https://files.example/x", None),
        ("https://x.dl.boxcloud.com/x", None),
        ("https://[::1/x", None),
        ("https://a.example:port/x", None),
        ("", None),
    ],
)
def test_which_addresses_are_at_a_named_host(url: str, found: str | None) -> None:
    assert matching_host(url, ("*.sharepoint.com", "dl.boxcloud.com", "files.example:8443")) == found


def test_the_setting_replaces_the_files_hosts() -> None:
    def hosts(downloads: frozenset[str] | None) -> frozenset[str]:
        overrides = {"microsoft": ProviderOverrides(client_id="x", downloads=downloads)}
        return load_catalog(overrides=overrides).provider("microsoft").proxied.downloads

    assert "*.sharepoint.com" in hosts(None)
    assert hosts(frozenset({"*.sharepoint.us"})) == {"*.sharepoint.us"}
    assert hosts(frozenset()) == frozenset()


@pytest.mark.parametrize("name", ["microsoft", "box", "github", "github-app", "github-oauth-app"])
def test_services_whose_files_are_elsewhere_name_the_hosts_and_a_source(name: str) -> None:
    found = load_catalog().provider(name)
    assert found.proxied.downloads
    assert "downloads" in found.sources
