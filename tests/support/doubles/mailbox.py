"""A mail server on loopback that keeps what it gets, and a receiver of webhooks; both can refuse."""

from __future__ import annotations

import asyncio
import email
import email.policy
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.support.harness import free_socket, serve_app


@dataclass
class Mailbox:
    """What arrived; `refuses` is the reply to every recipient, such as `550 no such user`.

    `replies`: to a greeting (`HELO`), a command, or a whole message (`MAIL`); an empty one hangs up.
    """

    port: int = 0
    mails: list[EmailMessage] = field(default_factory=list[EmailMessage])
    refuses: str = ""
    replies: dict[str, str] = field(default_factory=dict[str, str])

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, with as much of RFC 5321 as a client needs to send one message."""
        writer.write(f"{self.replies.get('HELO', '220 mail.example ESMTP')}\r\n".encode())
        while line := await reader.readline():
            match line[:4].upper():
                case b"EHLO":
                    writer.write(b"250-fine\r\n250 AUTH PLAIN\r\n")
                case b"AUTH":
                    writer.write(f"{self.replies.get('AUTH', '235 signed in')}\r\n".encode())
                case b"DATA":
                    writer.write(b"354 go on\r\n")
                    content = await reader.readuntil(b"\r\n.\r\n")
                    found = email.message_from_bytes(content[:-3], policy=email.policy.default)
                    assert isinstance(found, EmailMessage)
                    self.mails.append(found)
                    if not (reply := self.replies.get("MAIL", "250 kept")):
                        break
                    writer.write(f"{reply}\r\n".encode())
                case b"RCPT" if self.refuses:
                    writer.write(f"{self.refuses}\r\n".encode())
                case b"QUIT":
                    writer.write(b"221 bye\r\n")
                    break
                case _:
                    writer.write(b"250 fine\r\n")
            await writer.drain()
        writer.close()


@asynccontextmanager
async def running_mailbox() -> AsyncGenerator[Mailbox]:
    """Listen until the block ends."""
    box = Mailbox()
    server = await asyncio.start_server(box.talk, "127.0.0.1", 0)
    box.port = server.sockets[0].getsockname()[1]
    async with server:
        yield box


@dataclass
class Receiver:
    """A receiver of webhooks and ntfy messages; `status` is what it answers."""

    url: str
    posted: list[tuple[str, bytes]] = field(default_factory=list[tuple[str, bytes]])  # path, body
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict[str, str], repr=False)  # of the last one
    overflows: bool = False  # answers with more than a client reads
    holds: asyncio.Event | None = None  # until this is set

    async def take(self, request: Request) -> Response:
        self.headers = dict(request.headers)
        self.posted.append((request.url.path, await request.body()))
        if self.holds is not None:
            await self.holds.wait()
        return Response(b"x" * 100_000 if self.overflows else b"", status_code=self.status)


@asynccontextmanager
async def running_receiver() -> AsyncGenerator[Receiver]:
    """Listen until the block ends."""
    listening = free_socket()
    receiver = Receiver(f"http://127.0.0.1:{listening.getsockname()[1]}")
    app = Starlette(routes=[Route("/{path:path}", receiver.take, methods=["POST"])])
    async with serve_app(app, listening):
        yield receiver
