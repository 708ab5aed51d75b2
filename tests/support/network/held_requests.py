"""Requests whose body arrives late: the vault accepts the head, something changes, and then the rest is sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlencode, urlsplit

import httpx2

from tests.support.person import Person, forms_of, session_cookie

BEFORE = 3  # bytes of the body that are sent with the head


@dataclass
class HeldRequest:
    """A request that waits for the rest of its body."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    rest: bytes = field(repr=False)

    async def finish(self) -> httpx2.Response:
        """Send the rest; returns the answer."""
        self.writer.write(self.rest)
        await self.writer.drain()
        async with asyncio.timeout(30):
            raw = await self.reader.read()
        head, _, body = raw.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = [tuple(line.split(": ", 1)) for line in lines]
        return httpx2.Response(int(status.split()[1]), headers=headers, content=body)  # pyright: ignore[reportArgumentType] -- pairs


@asynccontextmanager
async def held_request(
    url: str, method: str, path: str, *, headers: Mapping[str, str], body: bytes
) -> AsyncGenerator[HeldRequest]:
    """Send the head and a part of the body, and wait until the vault has read them."""
    address = urlsplit(url)
    assert address.hostname is not None
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    sent = {"Host": address.netloc, "Connection": "close", "Content-Length": str(len(body)), **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
    try:
        writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body[:BEFORE])
        await writer.drain()
        await asyncio.sleep(0.3)  # nothing shows from outside that the credential was checked
        yield HeldRequest(reader, writer, body[BEFORE:])
    finally:
        writer.close()


@asynccontextmanager
async def held_form(
    person: Person,
    page: httpx2.Response,
    answers: dict[str, str | list[str] | None] | None = None,
    *,
    form: int | str,
    button: tuple[str, str] | None = None,
) -> AsyncGenerator[HeldRequest]:
    """A form of the page, like `Person.submit`."""
    forms = forms_of(page.text)
    chosen = forms[form] if isinstance(form, int) else next(one for one in forms if form in one.action)
    data = chosen.fill_in(answers or {}) + ([] if button is None else [button])
    headers = {
        "Origin": person.origin,
        "Cookie": session_cookie(person.http),
        "Content-Type": "application/x-www-form-urlencoded",
    }
    body = urlencode(data).encode()
    path = chosen.action or urlsplit(str(page.url)).path
    async with held_request(person.origin, "POST", path, headers=headers, body=body) as held:
        yield held


@asynccontextmanager
async def held_json(
    url: str, path: str, content: object, *, token: str, method: str = "POST", kind: str = "application/json",
    headers: Mapping[str, str] | None = None,
) -> AsyncGenerator[HeldRequest]:  # fmt: skip
    """A JSON body with a bearer token."""
    sent = {"Authorization": f"Bearer {token}", "Content-Type": kind, **(headers or {})}
    async with held_request(url, method, path, headers=sent, body=json.dumps(content).encode()) as held:
        yield held
