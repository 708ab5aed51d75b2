"""Proof of possession (RFC 9449): check the proof that comes with a token request or a protected call.

Other modules keep the binding: in access tokens as `cnf`, in refresh tokens of public clients as the key's thumbprint.
"""

from __future__ import annotations

import hashlib
import re
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from typing import Final

from starlette.datastructures import Headers
from starlette.types import Scope

from server.deployment import Deployment
from server.oauth.rules import OAuthError
from server.signatures import jose
from vault import replay

PROOF_LIFETIME: Final = 300  # seconds; §11.1: a short window
_PORTS: Final = {"https": "443", "http": "80"}
_URL: Final = re.compile(
    r"(https?)://([a-z0-9._\-]+|\[[0-9a-f:.]+\])(?::([1-9][0-9]{0,4}))?(/[!\"$->@-~]*)?(?:[?#][!-~]*)?",
    re.ASCII | re.IGNORECASE,
)
_NEEDLESS_ESCAPE: Final = re.compile(
    r"%(?![0-9A-Fa-f]{2})|%(?:2[DdEe]|3[0-9]|4[1-9A-Fa-f]|5[0-9AaFf]|6[1-9A-Fa-f]|7[0-9AaEe])"
)


@dataclass(frozen=True, slots=True)
class Proof:
    """A proof for one request; valid once (`spend`)."""

    thumbprint: str
    token_id: str
    issued_at: int


def _refusal(detail: str) -> OAuthError:
    return OAuthError("invalid_dpop_proof", "the DPoP proof is missing or doesn't match this request", detail=detail)


def read_proof(headers: Headers) -> str | None:
    """The DPoP header; more than one is refused (§4.3 step 1)."""
    match headers.getlist("dpop"):
        case []:
            return None
        case [proof]:
            return proof
        case _:
            raise _refusal("the request has several DPoP headers")


def check_proof(proof: str, *, method: str, url: str, now: int, access_token: str | None = None) -> Proof:
    """Check a proof (§4.3). Pure; `spend` handles replay. Raises OAuthError("invalid_dpop_proof")."""
    try:
        header = jose.unverified_header(proof)
        algorithm = jose.check_header(
            header, algorithms=jose.FOREIGN_ALGORITHMS, allowed=("alg", "typ", "jwk", "kid"), typ="dpop+jwt"
        )
        key = jose.public_key(header.get("jwk"), algorithm=algorithm)
        claims = jose.verified_claims(proof, key, algorithm=algorithm)
    except jose.TokenMalformed as error:
        raise _refusal(str(error)) from error
    token_id, issued_at, htu = jose.token_id(claims), jose.integer_claim(claims, "iat"), claims.get("htu")
    if token_id is None or issued_at is None:
        raise _refusal("the proof has no jti or no iat")
    if not now - PROOF_LIFETIME <= issued_at <= now + jose.CLOCK_SKEW:
        raise _refusal("iat is too old, or in the future")
    named = _bare(htu) if isinstance(htu, str) else None
    if claims.get("htm") != method or named is None or named != _bare(url):
        raise _refusal("htm or htu doesn't match this request")
    if access_token is not None and claims.get("ath") != token_hash(access_token):
        raise _refusal("ath doesn't match the access token")
    return Proof(thumbprint=key.thumbprint(), token_id=token_id, issued_at=issued_at)


def token_hash(access_token: str) -> str:
    """`ath` (§4.2)."""
    return urlsafe_b64encode(hashlib.sha256(access_token.encode()).digest()).rstrip(b"=").decode()


def sent_path(scope: Scope) -> str:
    """The path of a request exactly as it was sent, still escaped, which `htu` must contain."""
    return bytes(scope["raw_path"]).decode("latin-1")


def _bare(url: str) -> str | None:
    """§4.3 step 9: compared without query and fragment, after normalizing scheme, host and port.

    None for unusual forms: user information, blanks, bytes other than visible ASCII, escaped letters and digits (RFC
    3986 §6.2.2.2). With lenient parsing, one proof could match several addresses.
    """
    found = _URL.fullmatch(url)
    if found is None or _NEEDLESS_ESCAPE.search(url):
        return None
    scheme, host, port, path = found[1].lower(), found[2].lower(), found[3], found[4]
    return f"{scheme}://{host}:{port or _PORTS[scheme]}{path or '/'}"


async def spend(deployment: Deployment, proof: Proof, *, now: int) -> None:
    """Use up the proof (§11.1). Raises OAuthError if it was already used."""
    async with deployment.database.transaction() as transaction:
        is_first = await replay.first_use(
            transaction,
            "dpop",
            f"{proof.thumbprint}:{proof.token_id}",
            expires_at=proof.issued_at + PROOF_LIFETIME + jose.CLOCK_SKEW,
            made_at=proof.issued_at - jose.CLOCK_SKEW,
            now=now,
        )
    if not is_first:
        raise _refusal("the proof was already used")
