"""Sign-in with this machine's browser: a loopback listener that accepts one answer (RFC 8252, RFC 7636, RFC 9207).

The person gets a short address of the listener, which redirects to the long one, so that its `state` is never shown.
"""

from __future__ import annotations

import asyncio
import hmac
import html
import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qs, urlsplit

from providers.oauth.authorization_request import authorization_url
from server.bridge.address import RemoteVault
from server.bridge.authority import AuthorizationServer, scope_of
from server.bridge.credentials import Credentials
from server.bridge.refusals import BridgeRefused, GrantOver
from server.errors import status_of

_LINE_LIMIT: Final = 8192  # bytes
_READ_TIME: Final = 5.0  # seconds
_HEADERS: Final = (
    "Content-Type: text/html; charset=utf-8\r\n"
    "Content-Security-Policy: default-src 'none'; frame-ancestors 'none'\r\n"
    "Referrer-Policy: no-referrer\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
    "Connection: close\r\n"
)


class BrowserSignIn:
    """One attempt. The person opens `address`; `answer` waits for the code."""

    def __init__(self, vault: RemoteVault, *, authorize: str, client_id: str, port: int) -> None:
        self._vault = vault
        self._authorize = authorize
        self._client_id = client_id
        self._host = f"127.0.0.1:{port}"
        self._start = f"/{secrets.token_urlsafe(12)}"
        self._state = secrets.token_urlsafe(32)
        self._answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.verifier = secrets.token_urlsafe(48)

    @property
    def address(self) -> str:
        return f"http://{self._host}{self._start}"

    @property
    def redirect_uri(self) -> str:
        return f"http://{self._host}/callback"

    async def code(self) -> str:
        """The authorization code. Raises BridgeRefused if the person or the vault refuses."""
        return await self._answer

    def _authorize_url(self) -> str:
        query = {
            "client_id": self._client_id,
            "redirect_uri": self.redirect_uri,
            "scope": scope_of(self._vault),
            "state": self._state,
            "resource": self._vault.resource,
        }
        return authorization_url(self._authorize, query, code_verifier=self.verifier)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one browser request; the page never repeats any part of it."""
        try:
            async with asyncio.timeout(_READ_TIME):
                head = await reader.readuntil(b"\r\n\r\n")
            writer.write(self._page_for(head))
            async with asyncio.timeout(_READ_TIME):
                await writer.drain()
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
            pass  # a browser that opened a connection in advance, or has left
        finally:
            writer.close()

    def _page_for(self, head: bytes) -> bytes:
        first, *lines = head.decode("latin-1").split("\r\n")
        hosts = [line.partition(":")[2].strip() for line in lines if line.lower().startswith("host:")]
        method, _, rest = first.partition(" ")
        target = urlsplit(rest.partition(" ")[0])
        if method != "GET" or hosts != [self._host]:  # a different name for this address: DNS rebinding
            return _page(status_of("invalid_request"), "bridge.address")
        if hmac.compare_digest(target.path.encode(), self._start.encode()):
            return _redirect(self._authorize_url())
        if target.path != "/callback":
            return _page(status_of("not_found"), "bridge.no_page")
        return self._take_answer(parse_qs(target.query, keep_blank_values=True))

    def _take_answer(self, query: Mapping[str, list[str]]) -> bytes:
        values = {name: found[0] for name, found in query.items() if len(found) == 1}
        if not hmac.compare_digest(values.get("state", "").encode(), self._state.encode()):
            return _page(status_of("invalid_request"), "bridge.other")
        if self._answer.done():
            return _page(status_of("invalid_request"), "bridge.over")
        code, error = values.get("code", ""), values.get("error", "")
        if values.get("iss") != self._vault.origin:  # RFC 9207 §2.4: the mix-up attack
            self._answer.set_exception(
                BridgeRefused("the answer to the sign-in came from a different server: nothing was done")
            )
            return _page(status_of("invalid_request"), "bridge.other_server")
        if error or not code:
            self._answer.set_exception(GrantOver("the vault refused the sign-in", error=error))
            return _page(HTTPStatus.OK, "bridge.denied")
        self._answer.set_result(code)
        return _page(HTTPStatus.OK, "bridge.done")


@asynccontextmanager
async def browser_sign_in(
    vault: RemoteVault, authority: AuthorizationServer, *, client_id: str
) -> AsyncGenerator[BrowserSignIn]:
    """An attempt with a listener that runs for the duration of the block."""
    authorize = (await authority.endpoints()).authorize
    attempts: list[BrowserSignIn] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for attempt in attempts:
            await attempt.serve(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=_LINE_LIMIT)
    async with server:
        port: int = server.sockets[0].getsockname()[1]
        attempts.append(BrowserSignIn(vault, authorize=authorize, client_id=client_id, port=port))
        yield attempts[0]


async def redeem_code(attempt: BrowserSignIn, authority: AuthorizationServer, *, client_id: str) -> Credentials:
    """Wait for the person, then fetch the tokens."""
    code = await attempt.code()
    return await authority.redeem(client_id, code, verifier=attempt.verifier, redirect_uri=attempt.redirect_uri)


def _page(status: int, name: str) -> bytes:
    """The page with the text of that name and its title."""
    from server.http.page_texts import text  # loaded only when a person signs in, so that the bridge starts faster

    title, words = text(f"{name}_title"), text(name)
    body = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
        f"<h1>{html.escape(title)}</h1><p>{html.escape(words)}</p></html>"
    ).encode()
    return (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{_HEADERS}Content-Length: {len(body)}\r\n\r\n".encode()
        + body
    )


def _redirect(url: str) -> bytes:
    return f"HTTP/1.1 303 See Other\r\n{_HEADERS}Location: {url}\r\nContent-Length: 0\r\n\r\n".encode()
