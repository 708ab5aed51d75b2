"""What can go wrong with an outbound request, as one small tree; where the HTTP client's own errors become ours.

Each says whether anything was sent. Sending is `providers.http`.
"""

from __future__ import annotations

from types import TracebackType
from typing import Final

import aiohttp


class HttpError(Exception):
    """Base of the tree; never raised itself. `reason` is one of our own constants: no URL, no header, no body."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NotReached(HttpError):
    """Nothing of the request was sent: repeating it is safe."""


class AddressRefused(NotReached):
    """The URL, or an address its host resolves to, is not one that we connect to."""


class Crowded(NotReached):
    """Too many of our own calls are in flight there: this says nothing of the peer."""


class NoAnswer(HttpError):
    """The request left and no usable answer came: whether it was carried out is unknown."""


class TooLarge(NoAnswer):
    """The answer exceeds the limit; the rest was not read."""


async def translate(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Turn connection errors into ours at the innermost place.

    aiohttp repeats GET, PUT and DELETE by itself when it sees its own disconnect errors come out of here; ours it
    does not know, so a request reaches a server at most once.
    """
    try:
        return await handler(request)
    except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError) as error:
        raise NotReached("TLS failed") from error
    except aiohttp.ClientConnectorDNSError as error:
        raise NotReached("name not found") from error
    except aiohttp.ClientConnectorError as error:
        raise NotReached("could not connect") from error
    except aiohttp.ConnectionTimeoutError as error:
        raise NotReached("connecting took too long") from error
    except TimeoutError as error:  # an OSError too
        raise NoAnswer("no answer in time") from error
    except (aiohttp.ClientError, OSError) as error:
        raise NoAnswer("connection broke") from error


class _Reading:
    """Translates what aiohttp raises while an answer is awaited or read; a generator would cost each call more."""

    __slots__ = ()

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, TimeoutError):
            raise NoAnswer("no answer in time") from error
        if isinstance(error, aiohttp.ClientError | OSError):
            raise NoAnswer("answer was cut") from error


READING: Final = _Reading()
