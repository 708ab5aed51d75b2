"""A body that streams to the provider while what its call depends on ends: its last part isn't sent."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from starlette.types import Message, Receive, Scope, Send

from server.proxy.endpoint import Proxy
from server.runtime.recent import KEPT
from tests.support.accounts import open_account, revoke
from tests.support.doubles.proxied_api import Upstream
from tests.support.doubles.stopped_clock import stopped_clock
from tests.support.inspection import read_events
from tests.support.network.held_requests import HeldRequest
from tests.support.rooms.proxy_room import ALL, ProxyHandle, ProxyRoom, proxy_room
from vault import clients, connections, delegations, grants, groups, shared_connections, users
from vault.shared_connections import SharingRule
from vault.upstream import Account, TokenAnswer

BEGINNING = 4096
LONG = 70_000  # a shorter body is read before the call
Change = Callable[[ProxyRoom, ProxyHandle], Awaitable[None]]


@dataclass
class Reader:
    """A provider that reads a body: how much has arrived, and whether the whole body has."""

    size: int = 0
    is_whole: bool | None = None
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] == "http.request":
            self.size += len(message["body"])
            self.begun.set()
            if not message["more_body"]:
                break
        self.is_whole = message["type"] == "http.request"
        self.ended.set()
        if self.is_whole:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b'{"ok":true}'})


@asynccontextmanager
async def upload(handle: ProxyHandle, upstream: Upstream, *, length: int | None) -> AsyncGenerator[HeldRequest]:
    """A body of which the provider has the beginning; in chunks if it has no length."""
    upstream.answer = reader = Reader()
    where = urlsplit(handle.base())
    incoming, writer = await asyncio.open_connection(where.hostname, where.port)
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    start = b"x" * BEGINNING
    writer.write(
        f"POST {where.path}/chat.postMessage HTTP/1.1\r\nHost: {where.netloc}\r\nConnection: close\r\n{size}\r\n"
        f"Authorization: Bearer {handle.value}\r\nContent-Type: application/octet-stream\r\n\r\n".encode()
        + (b"1000\r\n" + start + b"\r\n" if length is None else start)
    )
    try:
        async with asyncio.timeout(30):
            await reader.begun.wait()
        rest = b"1\r\nx\r\n0\r\n\r\n" if length is None else b"x" * (length - BEGINNING)
        yield HeldRequest(incoming, writer, rest)
        async with asyncio.timeout(30):
            await reader.ended.wait()
    finally:
        writer.close()


async def ready(room: ProxyRoom) -> ProxyHandle:
    agent = await room.agent(f"person-{secrets.token_hex(4)}")
    return await room.handle(agent, await room.account(agent, name="T1:U9"))


async def do_nothing(_room: ProxyRoom, _handle: ProxyHandle) -> None:
    pass


async def cut_off(room: ProxyRoom, handle: ProxyHandle) -> None:
    deployment = room.vault.deployment
    async with deployment.transaction() as transaction:
        await grants.revoke_grant(transaction, handle.agent.principal.grant_id, reason="user", now=deployment.now())


async def remove_client(room: ProxyRoom, handle: ProxyHandle) -> None:
    async with room.vault.deployment.transaction() as transaction:
        await clients.remove_client(transaction, handle.agent.principal.client_id, now=room.vault.deployment.now())


async def disable(room: ProxyRoom, handle: ProxyHandle) -> None:
    async with room.vault.deployment.transaction() as transaction:
        await users.disable_user(transaction, handle.agent.principal.user_id, now=room.vault.deployment.now())


async def disconnect(room: ProxyRoom, handle: ProxyHandle) -> None:
    deployment = room.vault.deployment
    async with deployment.transaction() as transaction:
        await connections.disconnect(transaction, deployment.keys, handle.connection, now=deployment.now())


async def take_away(room: ProxyRoom, handle: ProxyHandle) -> None:
    await revoke(room.vault.deployment, handle.agent.principal, handle.connection)


async def allow_less(room: ProxyRoom, handle: ProxyHandle) -> None:
    await room.allow(handle.agent, handle.connection, frozenset({"channels:read"}))


async def reconnect_with_more(room: ProxyRoom, handle: ProxyHandle) -> None:
    """Whether the call needs more than the handle allows can't be seen in a body that wasn't read."""
    deployment, more = room.vault.deployment, ALL | {"groups:history"}
    async with deployment.transaction() as transaction:
        await open_account(
            transaction,
            deployment,
            handle.agent.principal.user_id,
            "slack",
            TokenAnswer("xoxp-more", "refresh-2", more, 43200, Account("T1:U9", "again")),
        )


async def allow_as_before(room: ProxyRoom, handle: ProxyHandle) -> None:
    """Changes a fact, so that it is decided again."""
    await room.allow(handle.agent, handle.connection, ALL | {"channels:history"})


@pytest.mark.parametrize("length", [None, LONG])
@pytest.mark.parametrize(
    ("change", "status"),
    [
        *((end, 401) for end in (cut_off, remove_client, disable)),
        *((end, 403) for end in (disconnect, take_away, allow_less, reconnect_with_more)),
        *((change, 200) for change in (do_nothing, allow_as_before)),
    ],
)
async def test_a_streamed_body_ends_only_while_its_call_is_allowed(
    room: ProxyRoom, upstream: Upstream, change: Change, status: int, length: int | None
) -> None:
    handle = await ready(room)
    async with upload(handle, upstream, length=length) as held:
        await change(room, handle)
        answer = await held.finish()
    assert answer.status_code == status, answer.text
    assert isinstance(upstream.answer, Reader)
    assert upstream.answer.is_whole is (status == 200)
    assert (upstream.answer.size == (length or BEGINNING + 1)) is (status == 200)
    (event,) = await room.events(handle)
    assert event.outcome == ("ok" if status == 200 else "refused")


@pytest.mark.parametrize(("change", "status"), [(cut_off, 401), (do_nothing, 200)])
async def test_a_body_ends_with_its_last_byte_whatever_the_server_says(
    room: ProxyRoom, upstream: Upstream, change: Change, status: int
) -> None:
    """Some servers say only afterward, with an empty part, that it was the last one."""
    handle, parts, sent = await ready(room), asyncio.Queue[Message](), list[Message]()
    upstream.answer = reader = Reader()
    path = urlsplit(handle.base()).path + "/chat.postMessage"
    fields = {
        "authorization": f"Bearer {handle.value}",
        "content-type": "application/octet-stream",
        "content-length": str(LONG),
    }
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in fields.items()],
    }

    async def send(message: Message) -> None:
        sent.append(message)

    parts.put_nowait({"type": "http.request", "body": b"x" * BEGINNING, "more_body": True})
    call = asyncio.create_task(Proxy(room.vault.deployment)(scope, parts.get, send))
    async with asyncio.timeout(30):
        await reader.begun.wait()
        await change(room, handle)
        parts.put_nowait({"type": "http.request", "body": b"x" * (LONG - BEGINNING), "more_body": True})
        parts.put_nowait({"type": "http.request", "body": b"", "more_body": False})
        await call
        await reader.ended.wait()
    assert (sent[0]["status"], reader.is_whole) == (status, status == 200)


@pytest.mark.parametrize(("seconds", "status"), [(60, 403), (61, 200)])
async def test_a_permission_that_expires_meanwhile_ends_it_too(
    room: ProxyRoom, upstream: Upstream, seconds: int, status: int
) -> None:
    handle = await ready(room)
    deployment, principal = room.vault.deployment, handle.agent.principal
    async with deployment.transaction() as transaction:
        now = deployment.now()
        await delegations.allow(
            transaction,
            user_id=principal.user_id,
            client_id=principal.client_id,
            connection_id=handle.connection.id,
            scopes=ALL,
            now=now,
            expires_at=now + seconds,
        )
    async with upload(handle, upstream, length=None) as held:
        with stopped_clock(deployment.database, at=now + 60):
            assert (await held.finish()).status_code == status


@pytest.mark.parametrize("change", [cut_off, do_nothing])
async def test_a_long_stream_is_broken_off_soon_after_the_end(
    room: ProxyRoom, upstream: Upstream, change: Change
) -> None:
    handle = await ready(room)
    async with upload(handle, upstream, length=None) as held:
        await change(room, handle)
        await asyncio.sleep(1.1)
        held.writer.write(b"1\r\nx\r\n")  # not the last part
        reading = asyncio.create_task(held.reader.read())
        done, _ = await asyncio.wait([reading], timeout=30 if change is cut_off else 0.5)
        if change is do_nothing:
            assert not done
            held.writer.write(held.rest)
        assert (await reading).startswith(b"HTTP/1.1 401" if change is cut_off else b"HTTP/1.1 200")


@pytest.mark.parametrize(("leaves", "status"), [(True, 403), (False, 200)])
async def test_a_member_who_leaves_the_accounts_group_meanwhile_ends_it_too(
    room: ProxyRoom, upstream: Upstream, leaves: bool, status: int
) -> None:
    handle, group_id = await share(room)
    async with upload(handle, upstream, length=None) as held:
        if leaves:
            async with room.vault.deployment.transaction() as transaction:
                await groups.remove_member(transaction, group_id, handle.agent.principal.user_id, source="local")
        assert (await held.finish()).status_code == status


async def share(room: ProxyRoom) -> tuple[ProxyHandle, str]:
    """A handle for an account that belongs to a group, and the group."""
    deployment, agent = room.vault.deployment, await room.agent(f"person-{secrets.token_hex(4)}")
    own = await room.account(agent, name="T1:U9")
    async with deployment.transaction() as transaction:
        now, user_id = deployment.now(), agent.principal.user_id
        group = await groups.create_group(transaction, secrets.token_hex(4), now=now)
        await groups.add_member(transaction, group.id, user_id, source="local", now=now)
        given = await shared_connections.give(
            transaction, deployment.keys, own, group,
            rule=SharingRule(ALL), by="x", policy=deployment.vault.policies["slack"], now=now,
        )  # fmt: skip
    await room.allow(agent, given, ALL)
    return await room.handle(agent, given), group.id


async def decisions(room: ProxyRoom, handle: ProxyHandle) -> int:
    found = await read_events(room.vault.deployment)
    return sum(one.kind == "token.exchanged" and one.client_id == handle.agent.principal.client_id for one in found)


async def test_a_long_upload_to_ones_own_account_is_decided_once(room: ProxyRoom, upstream: Upstream) -> None:
    handle = await ready(room)
    async with upload(handle, upstream, length=LONG) as held:
        room.vault.deployment.database.clock_offset += KEPT
        assert (await held.finish()).status_code == 200
    assert await decisions(room, handle) == 1


@pytest.mark.parametrize(("has_policy", "times"), [(True, 1), (False, 2)])
async def test_the_operators_rules_judge_an_upload_once(
    upstream: Upstream, tmp_path: Path, *, has_policy: bool, times: int
) -> None:
    """A rule may ask the person, who answers once; without rules, the group's members are looked at again."""
    (tmp_path / "rules").mkdir()
    policy = {"policy": {"folder": str(tmp_path / "rules")}} if has_policy else {}
    async with proxy_room(tmp_path / "data", apis_at=upstream.url, **policy) as room:
        handle, _ = await share(room)
        async with upload(handle, upstream, length=LONG) as held:
            assert (await held.finish()).status_code == 200
        assert await decisions(room, handle) == times
