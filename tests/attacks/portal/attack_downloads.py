"""What people and admins download: others' data by another URL, headers, or method; readers that never finish."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import time

import pytest

from tests.attacks.administration.attack_admin_api import admin_token
from tests.attacks.administration.attack_administration import form_for, id_of, someone
from tests.attacks.portal.attack_people import send
from tests.attacks.target import Target
from tests.support.person import Person, session_cookie

OWN = ("/account/data", "/activity/export?format=csv", "/activity/export?format=jsonl")
ADMINS = (
    *("/administration/activity/export?format=csv", "/administration/activity/export?format=jsonl"),
    "/administration/activity/1/proof",
)
API = (
    *("/admin/v1/activity/export?format=csv", "/admin/v1/activity/export?format=jsonl"),
    *("/admin/v1/activity/1/proof", "/admin/v1/activity/checkpoint", "/admin/v1/activity/keys"),
)


@pytest.fixture(autouse=True)
async def sign_checkpoint(target: Target) -> None:
    """Sign a checkpoint once, so that there are proofs."""
    if "signed" not in target.kept:
        target.kept["signed"] = await target.command("activity", "checkpoint")


@pytest.mark.parametrize("path", [*OWN, *ADMINS])
@pytest.mark.parametrize(
    "headers",
    [
        {"range": "bytes=0-10"},
        {"range": "bytes=0-0,2-2,4-4"},
        {"if-none-match": "*"},
        {"if-modified-since": "Thu, 01 Jan 2099 00:00:00 GMT"},
        {"accept": "text/html"},
        {"accept-encoding": "gzip, br, deflate"},
        {"x-forwarded-host": "evil.example"},
        {"x-original-url": "/account/data"},
        {"x-http-method-override": "DELETE"},
    ],
    ids=str,
)
async def test_a_file_is_whole_an_attachment_and_kept_by_nobody(
    target: Target, path: str, headers: dict[str, str]
) -> None:
    person = target.alice if path in ADMINS else target.mallory
    answer = await person.http.get(path, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-disposition"].startswith("attachment; filename=")
    assert "no-store" in answer.headers["cache-control"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "html" not in answer.headers["content-type"]
    assert "etag" not in answer.headers
    assert "evil" not in str(answer.headers) + answer.text[:2000]
    if path == "/account/data":
        assert json.loads(answer.text)["user"]["name"] == "mallory"


@pytest.mark.parametrize("path", [*OWN, *ADMINS, *API])
async def test_a_foreign_page_and_a_member_get_none_of_it(target: Target, path: str) -> None:
    if path not in API:
        for site in ("cross-site", "same-site"):
            for how in ("no-cors", "cors"):
                asked = {"sec-fetch-site": site, "sec-fetch-mode": how, "origin": "https://evil.example"}
                answer = await target.alice.http.get(path, headers=asked)
                assert answer.status_code == 403, (site, how)
        answer = await target.alice.http.get(path)
        assert "access-control-allow-origin" not in answer.headers
    if path not in OWN:
        answer = await target.mallory.http.get(path)
        assert answer.status_code in {401, 403}
        assert "alice" not in answer.text


@pytest.mark.parametrize("path", OWN)
@pytest.mark.parametrize("name", ["user", "user_id", "person", "id", "name", "tenant", "subject", "sub", "for"])
async def test_no_parameter_makes_it_somebody_elses(target: Target, path: str, name: str) -> None:
    alice = await id_of(target.alice)
    join = "&" if "?" in path else "?"
    for wanted in (alice, "alice"):
        answer = await target.mallory.http.get(f"{path}{join}{name}={wanted}", headers={f"x-{name}": wanted})
        assert answer.status_code in {200, 400}
        assert alice not in answer.text


@pytest.mark.parametrize("path", [*OWN, *ADMINS])
async def test_a_file_is_read_by_one_method(target: Target, path: str) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        answer = await target.alice.http.request(method, path, headers={"origin": target.url})
        assert answer.status_code in {403, 405}, method
    head = await target.alice.http.head(path)
    assert head.status_code == 200
    assert head.content == b""


FORMATS = ("", "CSV", "xlsx", "csv%00", "csv%0d%0aset-cookie:%20a=b", "../csv", "csv;x", "csv%22;filename=x.html")


@pytest.mark.parametrize("kind", FORMATS)
async def test_a_kind_of_file_that_is_none_is_refused(target: Target, kind: str) -> None:
    token = await admin_token(target, "read")
    for answer in (
        await target.mallory.http.get(f"/activity/export?format={kind}"),
        await target.alice.http.get(f"/administration/activity/export?format={kind}"),
        await target.http.get(f"/admin/v1/activity/export?format={kind}", headers={"authorization": f"Bearer {token}"}),
    ):
        assert answer.status_code == 400, answer.text[:200]
        assert "set-cookie" not in answer.headers
        assert "content-disposition" not in answer.headers


NO_NUMBERS = (
    *("0", "-1", "+1", "1.0", "1e3", "0x1", "\u0661", "\uff11", "1%00", "1%0d%0aset-cookie:%20a=b", "1%2f..%2f2"),
    *("9" * 15, "9" * 18, "9" * 19, "9" * 5000, "..", "1;x", "1%22;filename=x.html", "%27%20or%201=1--"),
)


@pytest.mark.parametrize("number", NO_NUMBERS, ids=lambda number: number[:20])
async def test_an_event_that_is_none_has_no_proof(target: Target, number: str) -> None:
    headers = {"authorization": f"Bearer {await admin_token(target, 'read')}"}
    for answer in (
        await target.alice.http.get(f"/administration/activity/{number}/proof"),
        await target.http.get(f"/admin/v1/activity/{number}/proof", headers=headers),
    ):
        assert answer.status_code in {400, 404}, answer.text[:200]
        assert "set-cookie" not in answer.headers
        assert "content-disposition" not in answer.headers


async def test_who_asks_for_proofs_again_and_again_makes_the_vault_sign_nothing(target: Target) -> None:
    """A checkpoint for each would reach witnesses, authorities, and buckets, where nothing can be deleted."""
    headers = {"authorization": f"Bearer {await admin_token(target, 'read')}"}
    before = await target.http.get("/admin/v1/activity/checkpoint", headers=headers)
    for _ in range(8):
        await target.alice.http.get("/administration/activity/export?format=csv")
        _, person = await someone(target)  # some events
        assert (await person.http.get("/activity")).status_code == 200
        listed = await target.http.get("/admin/v1/activity?limit=1", headers=headers)
        newest = listed.json()["items"][0]["sequence"]
        answers = await asyncio.gather(
            *(target.http.get(f"/admin/v1/activity/{newest}/proof", headers=headers) for _ in range(4)),
            *(target.alice.http.get(f"/administration/activity/{newest}/proof") for _ in range(4)),
        )
        assert {one.status_code for one in answers} == {409}
    after = await target.http.get("/admin/v1/activity/checkpoint", headers=headers)
    assert after.text == before.text


# Slow readers


class SlowReader:
    """A browser's request for a file, which reads almost nothing until told to."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        self.socket.setblocking(False)

    async def ask(self, path: str, header: str) -> SlowReader:
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self.socket, ("127.0.0.1", self.target.place.port))
        head = f"GET {path} HTTP/1.1\r\nhost: {self.target.host}\r\nconnection: close\r\n{header}\r\n\r\n"
        await loop.sock_sendall(self.socket, head.encode())
        return self

    async def rest(self) -> bytes:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        loop, found = asyncio.get_running_loop(), bytearray()
        async with asyncio.timeout(60):
            while part := await loop.sock_recv(self.socket, 1 << 16):
                found += part
        return bytes(found)


async def busy(target: Target, *, events: int) -> tuple[str, Person]:
    """A person with this many events; their id."""
    user_id, person = await someone(target)
    agent = await target.agent(person)
    for _ in range(events // 50):
        await asyncio.gather(*(target.call(agent, "slack_post", {"channel": "#x", "text": "x"}) for _ in range(50)))
    return user_id, person


async def test_files_that_nobody_reads_hold_nobody_up(target: Target) -> None:
    _, person = await busy(target, events=50)
    cookie = f"cookie: {session_cookie(person.http)}"
    readers = [await SlowReader(target).ask(path, cookie) for path in OWN * 8]
    try:
        started = time.monotonic()
        for _ in range(5):
            assert (await target.mallory.http.get("/connections")).status_code == 200
            assert (await target.alice.http.get("/account/data")).status_code == 200
        assert time.monotonic() - started < 15
    finally:
        for one in readers:
            one.socket.close()


async def test_a_file_that_is_still_read_tells_nothing_of_what_happens_after_its_session(target: Target) -> None:
    """The attacker has a stolen session and reads slowly."""
    user_id, person = await busy(target, events=200)
    cookie = f"cookie: {session_cookie(person.http)}"
    readers = [await SlowReader(target).ask(path, cookie) for path in OWN]
    await asyncio.sleep(0.5)
    page = await target.alice.open(f"/administration/people/{user_id}")
    assert (await send(target, target.alice, form_for(page, "disable"))).status_code == 303
    assert (await person.http.get("/account/data")).status_code == 303
    marker = secrets.token_hex(8)
    page = await target.alice.open(f"/administration/people/{user_id}")
    assert (await send(target, target.alice, form_for(page, "enable"))).status_code == 303
    for one in readers:
        text = (await one.rest()).decode(errors="replace")
        one.socket.close()
        assert "user.enabled" not in text
        assert marker not in text


async def test_a_token_that_ended_gets_no_file(target: Target) -> None:
    token = await admin_token(target, "read")
    for headers in ({"authorization": f"Bearer {token}x"}, {}):
        for path in API:
            answer = await target.http.get(path, headers=headers)
            assert answer.status_code == 401
            assert "content-disposition" not in answer.headers


async def test_files_of_many_at_once_come_whole(target: Target) -> None:
    _, person = await busy(target, events=100)
    answers = await asyncio.gather(*(person.http.get("/account/data") for _ in range(10)))
    sizes = {len(json.loads(one.text)["activity"]) for one in answers}
    assert len(sizes) == 1
