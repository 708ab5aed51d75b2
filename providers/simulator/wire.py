"""The HTTP edge of the simulator: parses a request once, applies a scripted fault, answers.

Handlers are plain functions: their changes take effect at once and completely, before any byte of the answer is sent.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from urllib.parse import unquote_plus

from pydantic import JsonValue, TypeAdapter, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive

from providers.simulator.accounts import Face, RegisteredClient
from providers.simulator.calls import SimulatedCall
from providers.simulator.misbehave import DroppedConnection, distort
from providers.simulator.state.faults import WAITING, Fault
from providers.simulator.state.sandbox import Sandbox

MAX_BODY = 1024 * 1024
_OBJECT: TypeAdapter[dict[str, JsonValue]] = TypeAdapter(dict[str, JsonValue])


Handler = Callable[[SimulatedCall], Response]
Endpoint = Callable[[Request], Awaitable[Response]]


class ClientRefused(Exception):
    """`reason`: missing, unknown, secret, two_methods."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def authenticate(
    call: SimulatedCall, clients: Mapping[str, RegisteredClient], *, allow_public: bool = False
) -> tuple[RegisteredClient, str]:
    """The client of a token request and the method it used (RFC 6749 §2.3.1). Raises ClientRefused.

    `allow_public`: this face has apps that need no secret; the method is then `none`.
    """
    sent_id, sent_secret = call.text("client_id"), call.text("client_secret")
    if call.basic is not None:
        if sent_secret is not None or (sent_id is not None and sent_id != call.basic[0]):
            raise ClientRefused("two_methods")
        (client_id, secret), method = call.basic, "basic"
    elif sent_id is not None:
        client_id, secret, method = sent_id, sent_secret or "", "post"
    else:
        raise ClientRefused("missing")
    client = clients.get(client_id)
    if client is None:
        raise ClientRefused("unknown")
    if allow_public and client.is_public and method == "post" and sent_secret is None:
        return client, "none"
    if secret != client.client_secret:
        raise ClientRefused("secret")
    return client, method


def endpoint(
    sandbox: Sandbox,
    face: Face | Callable[[SimulatedCall], Face],
    name: str | Callable[[SimulatedCall], str],
    handler: Handler,
) -> Endpoint:
    """An endpoint to which faults can apply under this name."""

    async def answer(request: Request) -> Response:
        try:
            call = await _read(request)
        except ClientDisconnect:
            return DroppedConnection()
        if call is None:
            return JSONResponse({"error": "invalid_request"}, status_code=400)
        whose = face if isinstance(face, str) else face(call)
        full_name = f"{whose}.{name if isinstance(name, str) else name(call)}"
        fault = sandbox.faults.take(full_name, lambda: _family(sandbox, whose, call))
        arrival = sandbox.books.write(
            "arrivals",
            sandbox.clock.now(),
            endpoint=full_name,
            method=call.method,
            fault=None if fault is None else fault.kind,
            answered=False,
        )
        if fault is None:
            response = handler(call)
        elif fault.kind in WAITING:
            early = handler(replace(call, fault=fault.kind)) if fault.when == "after" else None
            if await _wait(sandbox, full_name, fault=fault, request=request):
                response = early or handler(replace(call, fault=fault.kind))
            else:
                response = DroppedConnection()
        else:
            true = handler(replace(call, fault=fault.kind)) if fault.when == "after" else None
            response = distort(fault, true, face=whose, trap=f"{sandbox.url}/_trap")
        arrival["answered"] = not isinstance(response, DroppedConnection)
        return response

    return answer


def _family(sandbox: Sandbox, face: Face, call: SimulatedCall) -> str | None:
    """The owner of a request's tokens."""
    tokens = sandbox.faces[face].tokens
    access = tokens.find_access(call.bearer or call.text("token") or "")
    known = access or tokens.find_refresh(call.text("refresh_token") or "")
    return None if known is None else known.family.label


async def _wait(sandbox: Sandbox, name: str, *, fault: Fault, request: Request) -> bool:
    """Wait as the fault requires. False if the caller gave up, or the simulator stopped, before the end."""
    over: asyncio.Task[None] | None = None
    leaving = asyncio.Event().wait() if fault.persists else _wait_for_disconnect(request.receive)
    gone = asyncio.create_task(leaving, name="simulator-caller")
    closing = asyncio.create_task(_wait_for_closing(sandbox), name="simulator-closing")
    tasks = {gone, closing}
    if fault.kind == "hold":
        over = asyncio.create_task(sandbox.faults.hold(name), name="simulator-hold")
        tasks.add(over)
    try:
        done, _ = await asyncio.wait(
            tasks,
            timeout=fault.seconds if fault.kind == "slow" else None,
            return_when=asyncio.FIRST_COMPLETED,
        )
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return gone not in done and closing not in done


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _wait_for_closing(sandbox: Sandbox) -> None:
    await sandbox.faults.closing.wait()


async def _read(request: Request) -> SimulatedCall | None:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            return None
    content_type = request.headers.get("content-type", "")
    kind = content_type.split(";")[0].strip().lower()
    arguments: dict[str, JsonValue] = {}
    if kind == "application/json" and bytes(body) not in (b"", b"null"):  # Dropbox: no arguments are sent as null
        try:
            arguments = _OBJECT.validate_json(bytes(body))
        except ValidationError:
            return None
    elif body and kind != "application/json":
        form = _form(bytes(body))
        if form is None:
            return None
        arguments = dict(form)
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    is_bearer = scheme.lower() in {"bearer", "oauth2", "zoho-oauthtoken"}
    return SimulatedCall(
        method=request.method,
        path=request.url.path,
        path_params={name: str(value) for name, value in request.path_params.items()},
        query=dict(request.query_params),
        arguments=arguments,
        content_type=content_type,
        bearer=credentials.strip() if is_bearer else request.headers.get("x-shopify-access-token"),
        basic=_basic(credentials) if scheme.lower() == "basic" else None,
        is_json=kind == "application/json",
        headers=dict(request.headers),
    )


def _form(body: bytes) -> dict[str, str] | None:
    """RFC 6749 §3.2: parameters must not be included more than once."""
    try:
        pairs = [pair.partition("=") for pair in body.decode("ascii").split("&") if pair]
    except UnicodeDecodeError:
        return None
    fields = {unquote_plus(name): unquote_plus(value) for name, _, value in pairs}
    return fields if len(fields) == len(pairs) else None


def _basic(credentials: str) -> tuple[str, str] | None:
    try:
        name, colon, secret = base64.b64decode(credentials, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return (unquote_plus(name), unquote_plus(secret)) if colon else None
