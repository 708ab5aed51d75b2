"""Signs JSON Web Tokens with the private key that a person entered, with the claims in the provider file (RFC 7519).
Pure, except for the random `jti`. The key is opened for one signature, and errors contain no part of it.
"""

from __future__ import annotations

import hashlib
import secrets
from base64 import b64encode
from collections.abc import Mapping
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from providers.credentials.entered_values import CredentialRefused, all_values
from providers.credentials.key_files import LARGEST_RSA
from providers.definitions.credential import NAMES, Credential
from providers.definitions.model import Provider
from providers.definitions.signed_token import KEY_SHA256, SCOPES, TOKEN_URL, SignedToken

SMALLEST_RSA: Final = 2048  # bits
SigningKey = RSAPrivateKey | EllipticCurvePrivateKey


class NotNarrowable(Exception):
    """The token can't be limited to these scopes."""


def facts_of(credential: Credential) -> SignedToken:
    """The file's description of its signed token."""
    if credential.signed_token is None:
        raise ValueError("a credential that signs nothing")
    return credential.signed_token


def open_key(credential: Credential, values: Mapping[str, str]) -> SigningKey:
    """The private key among the fields' values, opened by `key_files`. Raises CredentialRefused for one that needs a
    passphrase, or that the algorithm can't sign with.
    """
    facts = facts_of(credential)
    field, _, member = facts.key.partition(".")
    pem = all_values(credential, values).get(member or field, "")
    try:
        key = load_pem_private_key(pem.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CredentialRefused(field, "key") from error
    is_rsa = isinstance(key, RSAPrivateKey) and SMALLEST_RSA <= key.key_size <= LARGEST_RSA
    is_ec = isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1)
    if facts.algorithm == "RS256" and is_rsa and isinstance(key, RSAPrivateKey):
        return key
    if facts.algorithm == "ES256" and is_ec and isinstance(key, EllipticCurvePrivateKey):
        return key
    raise CredentialRefused(field, "key")


def sign(provider: Provider, values: Mapping[str, str], *, scopes: frozenset[str] | None, now: int) -> str:
    """A token for these scopes; None: the file's default. Raises CredentialRefused and NotNarrowable."""
    credential = provider.credential
    if credential is None:
        raise ValueError("a provider with OAuth")
    facts, key = facts_of(credential), open_key(credential, values)
    known = _claim_values(provider, credential, values, key=key, scopes=scopes)
    claims: dict[str, object] = {name: text for name, text in _fill_each(facts.claims, known).items() if text}
    issued = now - facts.backdated
    claims |= {"iat": issued, "exp": issued + facts.lifetime}
    if facts.operations and scopes is not None:
        claims["scope"] = _operations(facts, scopes)
    if facts.sent == "assertion":
        claims["jti"] = secrets.token_urlsafe(16)  # RFC 7523 §3: some endpoints accept each one only once
    header = {"alg": facts.algorithm, "typ": "JWT", **_fill_each(facts.header, known)}
    signer = RSAKey.import_key(key) if isinstance(key, RSAPrivateKey) else ECKey.import_key(key)
    return jwt.encode(header, claims, signer, algorithms=[facts.algorithm])


def acts_for_other(credential: Credential, values: Mapping[str, str]) -> bool:
    """Whether the token is for a person whom an admin named; others then decide for which scopes it's accepted."""
    named = NAMES.findall(facts_of(credential).claims.get("sub", ""))
    return any(values.get(name) and credential.fields[name].by_admin for name in named if name in credential.fields)


def _operations(facts: SignedToken, scopes: frozenset[str]) -> list[str]:
    if not scopes <= facts.operations.keys():
        raise NotNarrowable
    return sorted({one for scope in scopes for one in facts.operations[scope]})


def _claim_values(
    provider: Provider,
    credential: Credential,
    values: Mapping[str, str],
    *,
    key: SigningKey,
    scopes: frozenset[str] | None,
) -> dict[str, str]:
    found = {name: text for name, text in all_values(credential, values).items() if name not in credential.secrets}
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    found[KEY_SHA256] = b64encode(hashlib.sha256(public).digest()).decode()
    found[TOKEN_URL] = provider.hosts.token_url
    asked = (provider.scope.default or provider.all_scopes) if scopes is None else scopes
    found[SCOPES] = provider.scope.separator.join(sorted(asked - provider.own_scopes))
    return found


def _fill_each(texts: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    def fill(text: str) -> str:
        return NAMES.sub(
            lambda found: (
                values.get(found[1].removesuffix(":upper"), "").upper()
                if found[1].endswith(":upper")
                else values.get(found[1], "")
            ),
            text,
        )

    return {name: made for name, text in texts.items() if (made := fill(text))}
