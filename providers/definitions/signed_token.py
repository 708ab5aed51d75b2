"""The part of a provider file about a JSON Web Token that the vault signs with a private key that a person entered.

`providers.credentials.signing` signs; `providers.oauth.signed_tokens` gets access tokens with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from providers.definitions.method_overrides import FilePart, ScopeName

ClaimText = Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]*$", max_length=200)]
ClaimName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_./:-]{1,120}$")]
ValueName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)?$")]
# What claims may use besides the fields: our scopes' names, the token endpoint, and the key's SHA-256 (base64).
SCOPES, TOKEN_URL, KEY_SHA256 = "scopes", "token_url", "key_sha256"
COMPUTED = frozenset({SCOPES, TOKEN_URL, KEY_SHA256})


class SignedToken(FilePart):
    """A JSON Web Token (RFC 7519) that the vault signs with the private key that was entered.

    `key`: the field with the private key (PEM), or `field.member` of a JSON key file; `passphrase`: the field that
    opens it. `header` and `claims`: texts with `{fields}`, where `{name:upper}` is in capitals, `{scopes}` is what the
    token may do, `{token_url}` the token endpoint, and `{key_sha256}` identifies the public key; empty ones are left
    out. `iat` and `exp` are added: issued `backdated` seconds ago, expiring `lifetime` seconds later. `sent`:
    `assertion` gets an access token by RFC 7523 §2.1 at `hosts.token_url`; `bearer` also gets one there, by a POST with
    the token in `Authorization` and `permissions` as JSON; `itself` is the access token. `operations`: the entries of
    each scope in the claim `scope`, a list; a token for a scope without any can't be narrowed.
    """

    algorithm: Literal["RS256", "ES256"] = "RS256"
    key: ValueName
    passphrase: ValueName | None = None
    header: Mapping[ClaimName, ClaimText] = Field(default_factory=dict[str, str])
    claims: Mapping[ClaimName, ClaimText] = Field(default_factory=dict[str, str])
    lifetime: int = Field(default=3600, ge=60, le=3600)
    backdated: int = Field(default=0, ge=0, le=60)
    sent: Literal["assertion", "bearer", "itself"] = "assertion"
    operations: Mapping[ScopeName, tuple[ClaimText, ...]] = Field(default_factory=dict[str, tuple[str, ...]])

    @property
    def templates(self) -> Iterator[tuple[str, str]]:
        """Each text with its place in the file."""
        for name, text in self.header.items():
            yield f"header.{name}", text
        for name, text in self.claims.items():
            yield f"claims.{name}", text
