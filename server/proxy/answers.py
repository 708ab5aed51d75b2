"""Answers: which parts of a provider's answer are passed on, with the credential masked, whole or piece by piece.

`server.proxy.endpoint` decides whether to pass on an answer at all, and what to do if the provider rejects the token.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from providers.api.masked_members import MemberMask, UnreadableAnswer, masked_names
from providers.api.masking import Replacer, needles
from providers.credentials.aws import error_code, is_clock_error
from providers.definitions.model import Provider
from providers.definitions.paths import path_problem
from providers.outbound.json_values import at, parse_object, text_at
from server.http import answers
from server.http.answers import SANDBOXED, send_whole
from server.proxy import refusals
from server.proxy.call import ProxiedCall, ProxyRequest
from server.proxy.downloads import REDIRECTS
from server.proxy.wire import DECODED, response_headers

if TYPE_CHECKING:
    from providers.outbound.sessions import StreamedAnswer

SMALL: Final = 65536  # bytes; a body up to this size is read at once
_WATCH_AFTER: Final = 1024 * 1024  # bytes of an answer after which we check whether the client still reads


async def read_small(answer: StreamedAnswer) -> bytes | None:
    """The whole body of a short answer; None for one that streams, also because it unpacks to a long one."""
    if answer.status in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}:
        return b""
    fields = {name.lower(): value for name, value in answer.headers}
    length = fields.get("content-length", "")
    if not length.isdigit() or int(length) > SMALL:
        return None
    return await answer.read_at_most(SMALL) if "content-encoding" in fields else await answer.read()


def is_unauthorized(provider: Provider, api: str, answer: StreamedAnswer, body: bytes | None) -> bool:
    """Whether the provider rejects the token, by status or, if this API answers 200 to everything, by its own code."""
    if answer.status == HTTPStatus.UNAUTHORIZED:
        return True
    errors = provider.errors
    is_signed = provider.credential is not None and provider.credential.send.aws is not None
    if is_signed and answer.status in {HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN}:
        return error_code(body or b"") in errors.unauthorized and not is_clock_error(body or b"")
    if (
        errors.ok_flag is None
        or api in errors.file_apis
        or answer.status != HTTPStatus.OK
        or body is None
        or b"false" not in body
    ):
        return False
    content = parse_object(body)
    return (
        content is not None
        and at(content, errors.ok_flag) is False
        and any(text_at(content, path) in errors.unauthorized for path in errors.code)
    )


async def hand_on(
    incoming: ProxyRequest,
    call: ProxiedCall,
    answer: StreamedAnswer,
    *,
    body: bytes | None,
    secrets: Sequence[bytes],
    is_file: bool = False,
) -> None:
    """Send this answer to the client. Raises ProxyRefused, before the first byte, if it must not be passed on.

    `is_file`: it comes from a host of downloads, so what it contains isn't the API's.
    """
    fields = {name.lower(): value for name, value in answer.headers}
    encodings = [value.strip().lower() for name, value in answer.headers if name.lower() == "content-encoding"]
    if answer.status < 200 or len(encodings) > 1 or not DECODED.issuperset(encodings):
        raise refusals.answer_unreadable(call.provider)
    place, session = None, call.session
    if "location" in fields and not is_file:
        place, session = _location(call, fields["location"], status=answer.status)
    secrets = [*secrets, *needles(session)] if session else secrets
    masker = replacer = Replacer(secrets)
    headers = response_headers(answer.headers, masker)
    if not is_file and call.provider.proxied.links and (links := dict(call.links)):
        linker = Replacer(secrets, links)
        headers = [(name, linker.whole(value) if name == b"link" else value) for name, value in headers]
        if "json" in fields.get("content-type", ""):
            replacer = linker
    if place is not None:
        headers.append((b"location", masker.whole(place)))
    members = None if is_file else _member_mask(incoming, call, fields.get("content-type", ""), headers)
    headers += [*SANDBOXED, *incoming.cors]
    incoming.status = answer.status
    incoming.is_answering = True
    if incoming.method == "HEAD":
        length = [(b"content-length", fields["content-length"].encode("latin-1"))] if "content-length" in fields else []
        await answers.start(incoming.send, answer.status, [*headers, *length])
        await answers.piece(incoming.send, b"", is_last=True)
        return
    if body is not None:
        incoming.received = len(body)
        content = replacer.whole(body)
        if members is not None:
            content = await members.whole_in_turns(content)
        await send_whole(incoming.send, answer.status, headers, content)
        return
    if encodings in ([], ["identity"]) and "content-length" in fields and replacer is masker:
        headers.append((b"content-length", fields["content-length"].encode("latin-1")))
    await _stream(incoming, answer, headers, replacer, members)


def _member_mask(
    incoming: ProxyRequest, call: ProxiedCall, content_type: str, headers: list[tuple[bytes, bytes]]
) -> MemberMask | None:
    """What masks members of this answer, which a header tells. Raises ProxyRefused if they can't be found in it."""
    scopes = frozenset[str]() if incoming.token is None else incoming.token.scopes
    api, path = call.target.api, call.target.path
    try:
        masked = masked_names(
            call.provider, scopes, api=api, method=incoming.method, path=path, content_type=content_type
        )
    except UnreadableAnswer as error:
        raise refusals.answer_unreadable(call.provider) from error
    if masked is not None:
        headers.append((b"token-vault-masked", str(masked).encode()))
        incoming.members = masked.mask()
    return incoming.members


async def _stream(
    incoming: ProxyRequest,
    answer: StreamedAnswer,
    headers: Sequence[tuple[bytes, bytes]],
    replacer: Replacer,
    members: MemberMask | None,
) -> None:
    await answers.start(incoming.send, answer.status, headers)
    gone: asyncio.Future[None] | None = None
    try:
        async for chunk in answer.chunks():
            incoming.received += len(chunk)
            piece = replacer.feed(chunk)
            if members is not None:
                piece = await members.feed_in_turns(piece)
            if piece:
                await answers.piece(incoming.send, piece)
            if gone is None and incoming.received > _WATCH_AFTER:
                gone = asyncio.ensure_future(_wait_for_disconnect(incoming.receive))
            if gone is not None and gone.done():
                raise ClientDisconnect
    finally:
        if gone is not None:
            gone.cancel()
    rest = replacer.finish()
    if members is not None:
        rest = members.feed(rest) + members.finish()
    await answers.piece(incoming.send, rest, is_last=True)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _location(call: ProxiedCall, location: str, *, status: int) -> tuple[bytes | None, str | None]:
    """The address here of the `Location`, if it is at this API, and the upload session that it opens.

    Raises ProxyRefused for a redirect elsewhere, which must not receive a handle. None for another address that is only
    informative, such as that of a created object, and for one with a query, which may grant access without a
    credential, like that of an upload session. A session that the provider file names is sealed.
    """
    base = call.provider.apis[call.target.api].rstrip("/")
    there = urljoin(call.url, location)
    below = there.removeprefix(base)
    path, _, query = below.partition("?")
    if there.startswith(base + "/") and _stays(below):
        here, session = call.address_here(call.target.api), call.session
        closed = call.sessions.close(replace(call.target, path=path), query)
        if closed is not None:
            below, session = f"{path}?{closed.query}", closed.session
        if status in REDIRECTS or not query or closed is not None:
            return f"{here}{below}".encode("latin-1", "replace"), session
    if status in REDIRECTS:
        raise refusals.redirect_refused(call.provider)
    return None, call.session


def _stays(below: str) -> bool:
    """Whether a redirect leads to exactly this path: dot segments lead elsewhere, even out of the vault."""
    return path_problem(re.split("[?#]", below)[0]) is None and below.isprintable()
