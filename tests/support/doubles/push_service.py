"""A push service on loopback, and browsers that subscribe to it and decrypt messages themselves (RFC 8291)."""

from __future__ import annotations

import json
import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc import jwt
from joserfc.jwk import ECKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.support.harness import free_socket, serve_app

CURVE = ec.SECP256R1()


def encode(value: bytes) -> str:
    return urlsafe_b64encode(value).rstrip(b"=").decode()


def decode(value: str) -> bytes:
    return urlsafe_b64decode(value + "=" * (-len(value) % 4))


def point(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


@dataclass(frozen=True)
class SubscribedBrowser:
    """A browser's subscription with the keys that only it has."""

    endpoint: str
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(CURVE))
    auth: bytes = field(default_factory=lambda: os.urandom(16))

    def subscription(self, **changes: object) -> str:
        """What `JSON.stringify(subscription)` gives in a browser; `changes` replace its keys."""
        keys: dict[str, object] = {"p256dh": encode(point(self.key)), "auth": encode(self.auth)} | changes
        return json.dumps({"endpoint": self.endpoint, "expirationTime": None, "keys": keys})

    def read(self, body: bytes) -> bytes:
        """The message in a body of content coding aes128gcm (RFC 8188 §2.1, RFC 8291 §4)."""
        salt, size, length = body[:16], int.from_bytes(body[16:20], "big"), body[20]
        sender, record = body[21 : 21 + length], body[21 + length :]
        assert len(record) <= size
        shared = self.key.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(CURVE, sender))
        secret = _hkdf(self.auth, b"WebPush: info\x00" + point(self.key) + sender, 32, of=shared)
        key = _hkdf(salt, b"Content-Encoding: aes128gcm\x00", 16, of=secret)
        nonce = _hkdf(salt, b"Content-Encoding: nonce\x00", 12, of=secret)
        padded = AESGCM(key).decrypt(nonce, record, None).rstrip(b"\x00")
        assert padded[-1:] == b"\x02", "the last record"
        return padded[:-1]


def _hkdf(salt: bytes, info: bytes, length: int, *, of: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=info).derive(of)


@dataclass(frozen=True)
class PushMessage:
    """What the vault sent to one browser."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    def claims(self, url: str, key: str) -> Mapping[str, object]:
        """What the vault states about itself, signed with the key that browsers subscribed with (RFC 8292 §2, §4)."""
        scheme, _, parameters = self.headers["authorization"].partition(" ")
        assert scheme == "vapid"
        found = dict(one.strip().split("=", 1) for one in parameters.split(","))
        assert found["k"] == key
        raw = decode(key)
        public = ECKey.import_key({"kty": "EC", "crv": "P-256", "x": encode(raw[1:33]), "y": encode(raw[33:])})
        claims = jwt.decode(found["t"], public, algorithms=["ES256"]).claims
        assert claims["aud"] == url
        return claims


@dataclass
class PushService:
    """Accepts every message; `status` is what it answers."""

    url: str
    messages: list[PushMessage] = field(default_factory=list[PushMessage])
    status: int = 201

    def browser(self, name: str) -> SubscribedBrowser:
        return SubscribedBrowser(f"{self.url}/push/{name}")

    def sent_to(self, browser: SubscribedBrowser) -> list[PushMessage]:
        return [one for one in self.messages if browser.endpoint == self.url + one.path]

    async def take(self, request: Request) -> Response:
        self.messages.append(PushMessage(request.url.path, dict(request.headers), await request.body()))
        return Response(status_code=self.status)


@asynccontextmanager
async def running_push_service() -> AsyncGenerator[PushService]:
    """Listen until the block ends."""
    listening = free_socket()
    service = PushService(f"http://127.0.0.1:{listening.getsockname()[1]}")
    app = Starlette(routes=[Route("/push/{name}", service.take, methods=["POST"])])
    async with serve_app(app, listening):
        yield service
