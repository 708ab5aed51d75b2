"""Web push: messages that only one browser can read (RFC 8291), signed by this vault (RFC 8292). No I/O.

The message goes through `server.notices.senders`, whose client checks every address. `pywebpush` brings HTTP clients
of its own, which anyone with an account here could point at the operator's network, and it isn't typed.
"""

from __future__ import annotations

import json
import os
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Final
from urllib.parse import urlsplit

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from server.http.strict_json import json_object

KEY: Final = "web-push"  # the subkey that this vault's application server key is derived from
ENDPOINT_LIMIT: Final = 800  # characters
TEXT_LIMIT: Final = 3_000  # bytes of a message, so that it stays below the 4096 that push services take (RFC 8030 §7.2)
_TOKEN_LIFETIME: Final = 12 * 3600  # seconds; RFC 8292 §2 allows a day
_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256 (SEC 2 §2.4.2)
_POINT: Final = 65  # bytes of an uncompressed point
_RECORD: Final = 4096  # bytes; one record holds the message
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]+={0,2}")


@dataclass(frozen=True, slots=True)
class PushSubscription:
    """Where a browser gets its messages, and the keys to encrypt them with (RFC 8291 §3.1, §3.2).

    `answering` is the hash of the session whose person answers approvals in this browser's notifications; None: no one.
    """

    endpoint: str = field(repr=False)
    public_key: bytes  # uncompressed point, 65 bytes
    auth: bytes = field(repr=False)  # 16 bytes
    answering: bytes | None = field(default=None, repr=False)

    def to_json(self) -> str:
        """What `read_target` reads."""
        keys = {"p256dh": encode(self.public_key), "auth": encode(self.auth)}
        answering = {} if self.answering is None else {"answering": encode(self.answering)}
        return json.dumps({"endpoint": self.endpoint, "keys": keys, **answering}, sort_keys=True)

    def answered_by(self, answering: bytes | None) -> PushSubscription:
        """The same browser, in which another session answers, or none."""
        return replace(self, answering=answering)


def encode(value: bytes) -> str:
    """Base64url without padding (RFC 7515 §2)."""
    return urlsafe_b64encode(value).rstrip(b"=").decode()


def read_target(text: str) -> PushSubscription | None:
    """A subscription as the vault keeps it; None for anything that can't be one."""
    found = read_subscription(text)
    if found is None:
        return None
    return replace(found, answering=_decode(json_object(text.encode()).get("answering")) or None)


def read_subscription(text: str) -> PushSubscription | None:
    """The subscription that a browser made, as JSON of the Push API; None for anything that can't be one."""
    try:
        found = json_object(text.encode())
    except ValueError:
        return None
    endpoint, keys = found.get("endpoint"), found.get("keys")
    if not isinstance(endpoint, str) or len(endpoint) > ENDPOINT_LIMIT or not isinstance(keys, Mapping):
        return None
    members: dict[str, object] = {str(name): value for name, value in keys.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- parsed JSON
    public_key, auth = _decode(members.get("p256dh")), _decode(members.get("auth"))
    if len(auth) != 16 or len(public_key) != _POINT:
        return None
    try:
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public_key)
    except ValueError:
        return None
    return PushSubscription(endpoint, public_key, auth)


def _decode(value: object) -> bytes:
    if not isinstance(value, str) or len(value) > 200 or _BASE64URL.fullmatch(value) is None:
        return b""
    bare = value.rstrip("=")
    try:
        return urlsafe_b64decode(bare + "=" * (-len(bare) % 4))
    except ValueError:
        return b""


def endpoint_hash(endpoint: str) -> str:
    """A value with which a page recognizes its own browser without revealing where its messages go."""
    return encode(sha256(endpoint.encode()).digest())


def application_key(subkey: bytes) -> ec.EllipticCurvePrivateKey:
    """The vault's own key, derived from a subkey of the root secret: the same in every process, and stored nowhere.

    FIPS 186-5 §A.2.1: 384 bits, so that the remainder favors no key.
    """
    wide = HKDF(algorithm=hashes.SHA256(), length=48, salt=b"", info=b"application server key").derive(subkey)
    return ec.derive_private_key(int.from_bytes(wide, "big") % (_ORDER - 1) + 1, ec.SECP256R1())


def point_of(key: ec.EllipticCurvePublicKey) -> bytes:
    """A public key as browsers take and send it."""
    return key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)


def authorization(key: ec.EllipticCurvePrivateKey, endpoint: str, *, contact: str, now: int) -> str:
    """The Authorization header of a message (RFC 8292 §3): a JWT for the endpoint's origin, and the key it is under."""
    parts = urlsplit(endpoint)
    claims = {"aud": f"{parts.scheme}://{parts.netloc}", "exp": now + _TOKEN_LIFETIME, "sub": contact}
    signed = f"{_part({'typ': 'JWT', 'alg': 'ES256'})}.{_part(claims)}"
    r, s = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")  # RFC 7518 §3.4
    return f"vapid t={signed}.{encode(signature)}, k={encode(point_of(key.public_key()))}"


def _part(content: Mapping[str, object]) -> str:
    return encode(json.dumps(content, separators=(",", ":")).encode())


def encrypt(message: bytes, subscription: PushSubscription) -> bytes:
    """The body of a message that only the subscription's browser reads, under keys of its own."""
    return encrypt_with(message, subscription, ec.generate_private_key(ec.SECP256R1()), salt=os.urandom(16))


def encrypt_with(
    message: bytes, subscription: PushSubscription, sender: ec.EllipticCurvePrivateKey, *, salt: bytes
) -> bytes:
    """RFC 8291 §3.4 and RFC 8188 §2: header and one last record. `sender` and `salt` must be fresh."""
    receiver = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), subscription.public_key)
    own = point_of(sender.public_key())
    shared = sender.exchange(ec.ECDH(), receiver)
    secret = _hkdf(shared, subscription.auth, b"WebPush: info\0" + subscription.public_key + own, length=32)
    key = _hkdf(secret, salt, b"Content-Encoding: aes128gcm\0", length=16)
    nonce = _hkdf(secret, salt, b"Content-Encoding: nonce\0", length=12)
    head = salt + _RECORD.to_bytes(4, "big") + len(own).to_bytes(1, "big") + own
    return head + AESGCM(key).encrypt(nonce, message + b"\x02", None)


def _hkdf(secret: bytes, salt: bytes, info: bytes, *, length: int) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=length, salt=salt, info=info).derive(secret)
