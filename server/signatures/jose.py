"""Strict reading and writing of signed JWTs: compact form, one algorithm chosen by us, no key from the token itself.

Callers decide which claims a token needs: access tokens, client assertions, DPoP proofs.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode
from collections.abc import Collection, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from server.http.strict_json import json_object
from vault.spans import KEY_USES

SIGNING_ALGORITHM: Final = "RS256"  # every client library can verify it
CLOCK_SKEW: Final = 30  # seconds that the clock of whoever signed may be ahead of ours, or behind
# For foreign tokens (client assertions, DPoP proofs). Never `none`, never HMAC (RFC 8725 §3.1).
FOREIGN_ALGORITHMS: Final = ("ES256", "RS256", "PS256")
# For tokens of issuers, which choose their own. `Ed25519` is RFC 9864's name for `EdDSA` with this curve.
ISSUER_ALGORITHMS: Final = (*FOREIGN_ALGORITHMS, "ES384", "EdDSA", "Ed25519")
# Header members that a signed token may have. The last two name a certificate; we ignore them.
HEADER_MEMBERS: Final = ("alg", "typ", "kid", "x5t", "x5t#S256")
_RSA: Final = ("RSA", None)
_KEY_TYPE: Final[Mapping[str, tuple[str, str | None]]] = {  # `kty` and `crv` (RFC 7518 §3.1, RFC 8037 §3.1)
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "RS256": _RSA,
    "PS256": _RSA,
    "EdDSA": ("OKP", "Ed25519"),
    "Ed25519": ("OKP", "Ed25519"),
}
_MEMBERS: Final = {"EC": ("x", "y"), "RSA": ("n", "e"), "OKP": ("x",)}
_LONGEST_ID: Final = 256  # characters
_LIMIT: Final = 16_384  # characters of a whole token: an ID token may list many groups
_LAST: Final = {1: frozenset("AEIMQUYcgkosw048"), 2: frozenset("AQgw")}  # of a segment that lacks this many characters
_NAMES: Final = {"EdDSA": "Ed25519"}  # the same algorithm, because only this curve is allowed
_VERIFIERS: Final = {
    name: JWSRegistry(algorithms=[_NAMES.get(name, name)]).get_alg(_NAMES.get(name, name)) for name in ISSUER_ALGORITHMS
}

_LONGEST: Final = (4096, _LIMIT, 1024)  # characters of header, payload, signature
_ALPHABET: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"  # RFC 4648 §5

PublicKey = RSAKey | ECKey | OKPKey


class TokenMalformed(Exception):
    """Not an acceptable token: wrong format, wrong algorithm, unknown key, or bad signature. The text is for the
    log."""


def _bytes(segment: str) -> bytes:
    """RFC 4648 §3.5: each byte string has one encoding; otherwise an altered token could still be accepted."""
    spare = -len(segment) % 4
    if spare == 3 or (spare and segment[-1] not in _LAST[spare]):
        raise TokenMalformed("a part of the token isn't canonical base64url")
    return urlsafe_b64decode(segment + "=" * spare)


def _decode(segment: str) -> dict[str, object]:
    try:
        return json_object(_bytes(segment))
    except ValueError as error:
        raise TokenMalformed("a part of the token isn't a JSON object") from error


@lru_cache(maxsize=64)
def _header(segment: str) -> Mapping[str, object]:
    """Parse and cache the header, since most tokens have the same one."""
    return MappingProxyType(_decode(segment))


def _segments(token: str) -> tuple[str, str, str]:
    found = token.split(".", 3) if len(token) <= _LIMIT else []
    fits = len(found) == 3 and all(0 < len(one) <= most for one, most in zip(found, _LONGEST, strict=True))
    if not fits or "".join(found).encode("utf-8", "replace").translate(None, _ALPHABET):
        raise TokenMalformed("the token isn't three base64url parts, or a part is too long")
    return found[0], found[1], found[2]


def unverified_header(token: str) -> Mapping[str, object]:
    """The header, only to choose a key by: nothing in it is trusted."""
    return _header(_segments(token)[0])


def unverified_claims(token: str) -> dict[str, object]:
    """The unverified claims, only to find out which issuer's keys verify them."""
    return _decode(_segments(token)[1])


def check_header(
    header: Mapping[str, object], *, algorithms: Collection[str], allowed: Collection[str], typ: str | None = None
) -> str:
    """The algorithm. Any member beyond `allowed` is refused: `crit`, `b64`, `jku`, `x5u`, `x5c`, `zip`, ..."""
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in algorithms:
        raise TokenMalformed("the alg of the token isn't allowed")
    if not header.keys() <= set(allowed):
        raise TokenMalformed("the token's header has a member that isn't allowed")
    if typ is not None and header.get("typ") != typ:
        raise TokenMalformed(f"the token's typ isn't {typ}")
    if not isinstance(header.get("kid", ""), str):
        raise TokenMalformed("kid isn't a string")
    return algorithm


def verified_claims(token: str, key: PublicKey, *, algorithm: str) -> dict[str, object]:
    """The claims of a token with a valid signature under exactly this key and algorithm.

    Its header has passed `check_header`, which chose the algorithm.
    """
    header, payload, signature = _segments(token)
    try:
        verifier = _VERIFIERS[algorithm]
        verifier.check_key(key)
        if not verifier.verify(f"{header}.{payload}".encode("ascii"), _bytes(signature), key):
            raise TokenMalformed("the signature is wrong")
        return json_object(_bytes(payload))
    except (JoseError, ValueError, TypeError) as error:
        raise TokenMalformed(f"the signature or payload can't be read: {type(error).__name__}") from error


def key_of(keys: KeySet, kid: str) -> RSAKey | None:
    """One of our own public keys by its id: a plain look-up, whatever the id looks like (RFC 8725 §3.10)."""
    return next((key for key in keys.keys if key.kid == kid and isinstance(key, RSAKey)), None)


def public_key(jwk: object, *, algorithm: str) -> PublicKey:
    """A public key from foreign JWK members; sizes bounded, private members refused, nothing fetched."""
    if not isinstance(jwk, dict):
        raise TokenMalformed("jwk isn't a JSON object")
    members: dict[str, object] = {str(name): value for name, value in jwk.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- parsed JSON
    if members.keys() & {"d", "p", "q", "dp", "dq", "qi", "oth", "k"}:
        raise TokenMalformed("jwk contains a private or symmetric key")
    kind, curve = _KEY_TYPE[algorithm]
    is_for_it = members.get("alg", algorithm) == algorithm and members.get("use", "sig") == "sig"
    if members.get("kty") != kind or members.get("crv") != curve or not is_for_it:
        raise TokenMalformed("jwk isn't a key for this algorithm")
    names = _MEMBERS[kind]
    texts: dict[str, str | list[str]] = {}
    for name in names:
        value = members.get(name)
        if isinstance(value, str) and 1 <= len(value) <= 700:
            texts[name] = value
    if len(texts) != len(names):
        raise TokenMalformed("a member of jwk is missing or too long")
    try:
        if curve is None:
            if len(texts["n"]) < 341 or len(texts["e"]) > 6:  # 2048 bits; an exponent of at most 32 bits
                raise TokenMalformed("the RSA key has less than 2048 bits, or its exponent is too large")
            return RSAKey.import_key({"kty": kind, **texts})
        found: dict[str, str | list[str]] = {"kty": kind, "crv": curve, **texts}
        return ECKey.import_key(found) if kind == "EC" else OKPKey.import_key(found)
    except (JoseError, ValueError, TypeError) as error:
        raise TokenMalformed("jwk isn't a valid public key") from error


def sign(claims: Mapping[str, object], key: RSAKey, *, typ: str) -> str:
    """A signed JWT of ours."""
    KEY_USES[key.kid or "", "sign"] += 1
    header = {"alg": SIGNING_ALGORITHM, "kid": key.kid, "typ": typ}
    return jwt.encode(header, dict(claims), key, algorithms=[SIGNING_ALGORITHM])


def token_id(claims: Mapping[str, object]) -> str | None:
    """`jti`, which a token that works once needs; None when absent or not of 1 to 256 characters."""
    value = claims.get("jti")
    return value if isinstance(value, str) and 1 <= len(value) <= _LONGEST_ID else None


def integer_claim(claims: Mapping[str, object], name: str) -> int | None:
    """A NumericDate; None when absent or not a sane number. Fractions are cut."""
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 <= value < 2**53 else None


def starts_at(claims: Mapping[str, object], earliest: int) -> int | None:
    """The latest of `earliest`, `iat`, and `nbf`, either of which may be absent; None if one isn't a sane number."""
    for name in ("iat", "nbf"):
        if name in claims:
            named = integer_claim(claims, name)
            if named is None:
                return None
            earliest = max(earliest, named)
    return earliest
