"""HTTP to the remote vault's MCP endpoint: adds and renews the token, and turns every failure into a JSON-RPC error.

The SDK's transport ends with the first exception of its HTTP client. This module therefore raises nothing for temporary
failures: the affected message gets an error that includes the fix, and the next message is tried again.
"""

from __future__ import annotations

import asyncio
import itertools
from http import HTTPStatus
from typing import Final

import httpx2
from mcp_types import INTERNAL_ERROR, ErrorData, JSONRPCError

from server.bridge.access import Access
from server.bridge.address import RemoteVault
from server.bridge.authority import HEADERS, unreachable
from server.bridge.refusals import RemoteUnreachable
from server.errors import status_of
from vault.refusals import VaultError

SESSION_LOST: Final = "token_vault_session_lost"  # `data` of the error for a message that met an unknown session
_SESSION: Final = "mcp-session-id"
_READ: Final = frozenset({"content-type", _SESSION})  # headers that are kept from a whole answer
_BACK_OFF: Final = (1.0, 2.0, 5.0, 15.0, 30.0)  # seconds between attempts to open the stream of notifications
_ANSWER_LIMIT: Final = 4 * 2**20  # bytes; a vault's answers are far smaller, and an event of a stream may have 1 MiB
_LAST_WORDS: Final = 3.0  # seconds to wait for ending a session
_UNSENT: Final = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError)


class RemoteClient(httpx2.AsyncClient):
    """The client for the SDK's transport."""

    def __init__(self, vault: RemoteVault, access: Access) -> None:
        timeout = httpx2.Timeout(30.0, read=300.0)  # like the SDK's own; a stream gets a keep-alive every 15 s
        super().__init__(timeout=timeout, trust_env=not vault.is_loopback, headers=HEADERS)
        self._vault = vault
        self._access = access
        self.session_lost = False
        self._stream_at = 0.0  # when the next stream may be opened, since the vault may ask for immediate reconnects

    async def send(self, request: httpx2.Request, **options: object) -> httpx2.Response:
        """Send a request. Never raises for temporary failures; see the module docstring."""
        match request.method:
            case "GET":
                return await self._open_stream(request)
            case "DELETE":
                request.extensions["timeout"] = httpx2.Timeout(_LAST_WORDS).as_dict()
                return await self._answer(request)
            case _:
                answer = await self._answer(request)
                if answer.status_code == HTTPStatus.NOT_FOUND and _SESSION in request.headers:
                    self.session_lost = True
                    await answer.aclose()
                    return _error(request, status_of("not_found"), "the session has ended", data=SESSION_LOST)
                return answer

    async def _open_stream(self, request: httpx2.Request) -> httpx2.Response:
        """Open the stream of notifications as soon as the vault is reachable; the transport ends the wait.

        It doesn't justify asking the person, so it waits until a call has obtained a token.
        """
        now = asyncio.get_running_loop().time()
        self._stream_at = max(now, self._stream_at) + _BACK_OFF[0]
        await asyncio.sleep(self._stream_at - _BACK_OFF[0] - now)
        for pause in itertools.chain(_BACK_OFF, itertools.repeat(_BACK_OFF[-1])):
            token = self._access.held_token
            if token is not None:
                answer = await self._try_stream(request, token)
                if answer is not None:
                    return answer
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def _try_stream(self, request: httpx2.Request, token: str) -> httpx2.Response | None:
        try:
            answer = await self._try(request, token)
        except httpx2.RequestError:
            return None
        if _is_stream(answer) or (answer.is_client_error and answer.status_code != HTTPStatus.UNAUTHORIZED):
            return answer
        await answer.aclose()
        return None

    async def _answer(self, request: httpx2.Request) -> httpx2.Response:
        try:
            token = await self._access.token()
            answer = await self._try(request, token)
            if answer.status_code == HTTPStatus.UNAUTHORIZED:
                await answer.aclose()
                answer = await self._try(request, await self._access.after(token))
            return await self._check(request, answer)
        except VaultError as refusal:  # of this package, or of the file with the credentials
            kind = "temporarily_unavailable" if isinstance(refusal, RemoteUnreachable) else "invalid_token"
            return _error(request, status_of(kind), refusal.description)
        except _UNSENT as error:
            return _error(request, status_of("temporarily_unavailable"), unreachable(self._vault, error).description)
        except httpx2.RequestError as error:
            text = (
                f"The connection to {self._vault.origin} broke ({type(error).__name__}) before the "
                "answer came. If the call changes something, check whether it was done before you try "
                "again"
            )
            return _error(request, status_of("temporarily_unavailable"), text)

    async def _try(self, request: httpx2.Request, token: str) -> httpx2.Response:
        request.headers["authorization"] = f"Bearer {token}"
        answer = await super().send(request, stream=True, follow_redirects=False)
        for name in _READ & set(answer.headers):
            if not answer.headers[name].isascii():  # such a header can't be sent back or copied
                del answer.headers[name]
        return answer if _is_stream(answer) else await self._read(request, answer)

    async def _read(self, request: httpx2.Request, answer: httpx2.Response) -> httpx2.Response:
        """Read the whole answer here, where a broken connection is noticed, up to the size limit.

        Keeps no headers that lead elsewhere: a redirect isn't a vault's answer, and the token must not follow it.
        """
        body = bytearray()
        try:
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > _ANSWER_LIMIT:
                    return _error(
                        request,
                        status_of("answer_too_large"),
                        f"the answer from {self._vault.origin} is too large for a vault: check --url",
                    )
        finally:
            await answer.aclose()
        kept = {name: answer.headers[name] for name in _READ & set(answer.headers)}
        return httpx2.Response(answer.status_code, headers=kept, content=bytes(body), request=request)

    async def _check(self, request: httpx2.Request, answer: httpx2.Response) -> httpx2.Response:
        """The answer if it comes from an MCP endpoint; otherwise an error with a sentence."""
        status = answer.status_code
        if status < 300 or _is_stream(answer) or b'"jsonrpc"' in answer.content or status == HTTPStatus.NOT_FOUND:
            return answer
        origin = self._vault.origin
        match status:
            case _ if status < 400:
                text, status = (
                    f"{origin} redirects elsewhere, which the bridge doesn't follow: check --url",
                    status_of("redirect_refused"),
                )
            case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
                text = (
                    f"{origin} doesn't accept this agent, even with a fresh token: use --sign-out, then sign in again"
                )
            case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                text = "the message is larger than the vault accepts"
            case HTTPStatus.TOO_MANY_REQUESTS:
                text = f"{origin} is rate limiting: try again in a minute"
            case HTTPStatus.METHOD_NOT_ALLOWED | HTTPStatus.MISDIRECTED_REQUEST:
                text = f"the server at {origin} isn't a vault, or its proxy changes the requests: check --url"
            case _:
                text = f"{origin} answered {status}: it's starting, or its proxy can't reach it. Try again in a minute"
        return _error(request, status, text)


def _is_stream(answer: httpx2.Response) -> bool:
    return answer.headers.get("content-type", "").lower().startswith("text/event-stream")


def _error(request: httpx2.Request, status: int, text: str, *, data: str | None = None) -> httpx2.Response:
    """A JSON-RPC error as an HTTP answer; the transport adds the ID of the request."""
    text = text[:1].upper() + text[1:] + ("" if text.endswith((".", "`")) else ".")
    error = JSONRPCError(jsonrpc="2.0", id=None, error=ErrorData(code=INTERNAL_ERROR, message=text, data=data))
    body = error.model_dump_json(by_alias=True, exclude_unset=True).encode()
    return httpx2.Response(status, headers={"content-type": "application/json"}, content=body, request=request)
