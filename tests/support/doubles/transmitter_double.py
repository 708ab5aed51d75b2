"""A transmitter of security events on loopback: its metadata, its keys, and a queue that can be polled (RFC 8936)."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from joserfc.jwk import ECKey, RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.support.harness import free_socket, serving
from tests.support.rooms.oauth_world import signed

CAEP = "https://schemas.openid.net/secevent/caep/event-type/"
RISC = "https://schemas.openid.net/secevent/risc/event-type/"
Claims = dict[str, object]


@dataclass
class Transmitter:
    """Signs what it is told to. `queue` is what a poll brings; `polls` are the requests that came."""

    url: str
    now: Callable[[], int]
    key: RSAKey | ECKey = field(default_factory=lambda: ECKey.generate_key("P-256", {"kid": "set-1"}))
    published: bool = True
    queue: dict[str, str] = field(default_factory=dict[str, str])
    polls: list[Claims] = field(default_factory=list[Claims])
    authorizations: list[str] = field(default_factory=list[str])
    at_once: int = 50
    status: int = 200

    def claims(self, audience: str, kind: str, subject: object, **changes: object) -> Claims:
        """An honest event; None leaves a claim out."""
        found: Claims = {
            "iss": self.url,
            "aud": audience,
            "jti": secrets.token_urlsafe(12),
            "iat": self.now(),
            "sub_id": subject,
            "events": {kind: {"event_timestamp": self.now()}},
        }
        return {name: value for name, value in (found | changes).items() if value is not None}

    def sign(self, claims: Claims, **header: object) -> str:
        """A token of these claims under the transmitter's key; None leaves a member out."""
        own = {"alg": "ES256", "typ": "secevent+jwt", "kid": self.key.kid} | header
        return signed({name: value for name, value in own.items() if value is not None}, claims, self.key)

    async def _metadata(self, request: Request) -> Response:
        if not self.published:
            return Response(status_code=503)
        return JSONResponse({"issuer": self.url, "jwks_uri": f"{self.url}/jwks", "spec_version": "1_0"})

    async def _jwks(self, request: Request) -> Response:
        if not self.published:
            return Response(status_code=503)
        return JSONResponse({"keys": [dict(self.key.as_dict(private=False))]})

    async def _poll(self, request: Request) -> Response:
        asked: Claims = await request.json()
        self.polls.append(asked)
        self.authorizations.append(request.headers.get("authorization", ""))
        done = [*asked.get("ack", []), *asked.get("setErrs", {})]  # pyright: ignore
        for token_id in done:
            self.queue.pop(str(token_id), None)
        sets = dict(list(self.queue.items())[: min(self.at_once, int(str(asked["maxEvents"])))])
        return JSONResponse({"sets": sets, "moreAvailable": len(sets) < len(self.queue)}, self.status)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/.well-known/ssf-configuration", self._metadata),
                Route("/.well-known/risc-configuration", self._metadata),
                Route("/jwks", self._jwks),
                Route("/poll", self._poll, methods=["POST"]),
            ]
        )


@asynccontextmanager
async def running_transmitter(now: Callable[[], int]) -> AsyncGenerator[Transmitter]:
    """Listen on a free loopback port until the block ends."""
    listening = free_socket()
    double = Transmitter(f"http://127.0.0.1:{listening.getsockname()[1]}", now)
    async with serving(double.app(), listening):
        yield double
