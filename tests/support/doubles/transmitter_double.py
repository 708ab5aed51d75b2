"""A transmitter of security events on loopback: its metadata, its keys, and a queue for polling (RFC 8936)."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from joserfc.jwk import ECKey, RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.support.harness import free_socket, serve_app
from tests.support.rooms.oauth_world import sign_jwt
from vault.records import new_id

CAEP = "https://schemas.openid.net/secevent/caep/event-type/"
RISC = "https://schemas.openid.net/secevent/risc/event-type/"
Claims = dict[str, object]


@dataclass
class Transmitter:
    """Signs what it is told to. `queue` is what a poll returns; `polls` are the requests that arrived."""

    url: str
    now: Callable[[], int]
    key: RSAKey | ECKey = field(default_factory=lambda: ECKey.generate_key("P-256", {"kid": "set-1"}))
    published: bool = True
    queue: dict[str, str] = field(default_factory=dict[str, str])
    polls: list[Claims] = field(default_factory=list[Claims])
    authorizations: list[str] = field(default_factory=list[str])
    at_once: int = 50
    status: int = 200
    streams: dict[str, Claims] = field(default_factory=dict[str, Claims])
    states: dict[str, str] = field(default_factory=dict[str, str])  # of streams, as SSF names them
    asked: list[tuple[str, str, Claims]] = field(default_factory=list[tuple[str, str, Claims]])
    managed: bool = True
    metadata: Claims = field(default_factory=dict[str, object])  # said instead
    answer: Callable[[Claims], Claims | list[Claims] | Response] = lambda content: content

    def claims(self, audience: str, kind: str, subject: object, **changes: object) -> Claims:
        """An honest event; None omits a claim."""
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
        """A token with these claims, signed with the transmitter's key; None omits a member."""
        own = {"alg": "ES256", "typ": "secevent+jwt", "kid": self.key.kid} | header
        return sign_jwt({name: value for name, value in own.items() if value is not None}, claims, self.key)

    async def _metadata(self, request: Request) -> Response:
        if not self.published:
            return Response(status_code=503)
        found: Claims = {"issuer": self.url, "jwks_uri": f"{self.url}/jwks", "spec_version": "1_0"}
        if self.managed:
            ways = ("configuration", "status", "verification")
            found |= {f"{name}_endpoint": f"{self.url}/ssf/{name}" for name in ways}
        return JSONResponse(found | self.metadata)

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

    async def _manage(self, request: Request) -> Response:
        """SSF 1.0 §8.1.1 and §8.1.2; `answer` changes what is reported about a stream."""
        raw = await request.body()
        content: Claims = json.loads(raw) if raw else {}
        way = request.url.path.rpartition("/")[2]
        self.asked.append((request.method, way, content))
        self.authorizations.append(request.headers.get("authorization", ""))
        stream_id = str(content.get("stream_id", request.query_params.get("stream_id", "")))
        if request.method == "POST" and way == "configuration":
            stream_id = new_id(9)  # a command accepts it
            self.streams[stream_id] = {"stream_id": stream_id, "iss": self.url, "aud": "unset"}
        elif request.method == "GET" and way == "configuration":
            return self._respond([dict(one) for one in self.streams.values()])
        elif stream_id not in self.streams:
            return Response(status_code=404)
        if way == "verification":
            self.states[stream_id] = str(content["state"])
            return Response(status_code=204)
        if way == "status":
            self.states[stream_id] = str(content.get("status", self.states.get(stream_id, "enabled")))
            return self._respond({"stream_id": stream_id, "status": self.states[stream_id]})
        if request.method == "DELETE":
            del self.streams[stream_id]
            return Response(status_code=204)
        stream, delivery = self.streams[stream_id], dict(content["delivery"])  # pyright: ignore
        if delivery["method"] == "urn:ietf:rfc:8936":
            delivery["endpoint_url"] = f"{self.url}/poll"
        stream |= {"aud": delivery.get("endpoint_url", ""), **content, "delivery": delivery}
        wanted: list[str] = content["events_requested"]  # pyright: ignore
        stream["events_delivered"] = [one for one in wanted if one.startswith(CAEP)]
        return self._respond(dict(stream), status=201 if request.method == "POST" else 200)

    def _respond(self, content: Claims | list[Claims], *, status: int = 200) -> Response:
        found = [self.answer(one) for one in content] if isinstance(content, list) else self.answer(content)
        return found if isinstance(found, Response) else JSONResponse(found, status)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/.well-known/ssf-configuration", self._metadata),
                Route("/.well-known/risc-configuration", self._metadata),
                Route("/jwks", self._jwks),
                Route("/poll", self._poll, methods=["POST"]),
                Route("/ssf/{way}", self._manage, methods=["GET", "POST", "PATCH", "DELETE"]),
            ]
        )


@asynccontextmanager
async def running_transmitter(now: Callable[[], int]) -> AsyncGenerator[Transmitter]:
    """Listen on a free loopback port until the block ends."""
    listening = free_socket()
    double = Transmitter(f"http://127.0.0.1:{listening.getsockname()[1]}", now)
    async with serve_app(double.app(), listening):
        yield double
