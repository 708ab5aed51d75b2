"""A software authenticator: one device whose passkeys come from Yubico's `fido2`, not from our own library."""

from __future__ import annotations

import json
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from fido2.cose import ES256
from fido2.webauthn import Aaguid, AttestationObject, AttestedCredentialData, AuthenticatorData, CollectedClientData

FLAG = AuthenticatorData.FLAG
ALL = FLAG.UP | FLAG.UV


def encode(content: bytes) -> str:
    return urlsafe_b64encode(content).rstrip(b"=").decode()


@dataclass
class Credential:
    """One passkey; `count` is its signature counter."""

    key: ec.EllipticCurvePrivateKey
    user: str  # base64url
    id: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    count: int = 0


@dataclass
class Authenticator:
    """A device in the hands of its person. `origin` is what its browser writes into the client data."""

    origin: str
    credentials: list[Credential] = field(default_factory=list[Credential])

    def _client_data(self, kind: str, challenge: str, *, cross_origin: bool = False) -> CollectedClientData:
        return CollectedClientData.create(kind, challenge, self.origin, cross_origin=cross_origin)

    def create(self, options: str, *, flags: FLAG = ALL) -> str:
        """What `navigator.credentials.create` gives the page, as the page posts it."""
        asked = json.loads(options)
        assert asked["authenticatorSelection"]["userVerification"] == "required"
        assert asked["authenticatorSelection"]["residentKey"] == "required"
        made = Credential(ec.generate_private_key(ec.SECP256R1()), asked["user"]["id"])
        self.credentials.append(made)
        public = ES256.from_cryptography_key(made.key.public_key())
        attested = AttestedCredentialData.create(Aaguid.NONE, made.id, public)
        data = AuthenticatorData.create(_hash(asked["rp"]["id"]), flags | FLAG.AT, made.count, attested)
        response = {
            "clientDataJSON": encode(self._client_data("webauthn.create", asked["challenge"])),
            "attestationObject": encode(AttestationObject.create("none", data, {})),
        }
        return json.dumps({"id": encode(made.id), "type": "public-key", "response": response})

    def get(
        self,
        options: str,
        *,
        flags: FLAG = ALL,
        rp_id: str = "",
        counts: bool = False,
        cross_origin: bool = False,
        which: int = -1,
    ) -> str:
        """What `navigator.credentials.get` gives the page. `counts`: this device has a counter."""
        asked = json.loads(options)
        used = self.credentials[which]
        used.count += 1 if counts else 0
        data = AuthenticatorData.create(_hash(rp_id or asked["rpId"]), flags, used.count)
        client_data = self._client_data("webauthn.get", asked["challenge"], cross_origin=cross_origin)
        response = {
            "clientDataJSON": encode(client_data),
            "authenticatorData": encode(data),
            "signature": encode(used.key.sign(data + client_data.hash, ec.ECDSA(SHA256()))),
            "userHandle": used.user,
        }
        return json.dumps({"id": encode(used.id), "type": "public-key", "response": response})


def _hash(domain: str) -> bytes:
    import hashlib

    return hashlib.sha256(domain.encode()).digest()


def decode(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
