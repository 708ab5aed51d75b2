"""The signing keys of our own tokens: RS256, RSA 2048, sealed in the key ring, rotated without failing any token.

A new key is published before it signs, and an old one stays published as long as a token signed with it can live (RFC
7517 §5). `server.oauth` mints and verifies tokens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from joserfc.jwk import KeySet, RSAKey

from vault.classes.immutable import immutable
from vault.envelope import Context, open_sealed, seal
from vault.records import DAY, HOUR, TENANT
from vault.refusals import KeyUnavailable
from vault.storage.database import Database, Reader, Row, Transaction, binary, integer, integer_or_none, text

PURPOSE = "signing"
PUBLISH_AHEAD = HOUR  # seconds between publishing a key and signing with it: longer than clients cache our JWKS
LONGEST_TOKEN = DAY  # seconds; no token that we sign lives longer
RELOAD_EVERY = 60  # seconds; limits how often unknown key IDs trigger a read


@immutable
class _SigningKey:
    key: RSAKey
    active_at: int
    retired_at: int | None

    def is_published(self, now: int) -> bool:
        return self.retired_at is None or now < self.retired_at


@immutable
class SigningKeyFacts:
    """One published signing key, without the key material: when it starts to sign, and when it is no longer
    published."""

    kid: str
    active_at: int
    retired_at: int | None


class SigningKeys:
    """The signing keys of one vault as this process knows them."""

    def __init__(self, sealing_key: bytes, rows: Sequence[Row], *, now: int) -> None:
        self._sealing_key = sealing_key
        self._known: dict[str, _SigningKey] = {}  # oldest first, as `_rows` reads them
        self._loaded_at = now
        self._take(rows)

    @classmethod
    async def load(cls, reader: Reader, *, sealing_key: bytes, now: int) -> SigningKeys:
        """Read the ring's signing keys."""
        return cls(sealing_key, await _rows(reader), now=now)

    def current(self, now: int) -> RSAKey:
        """The newest active key; after the clock was set back to before all of them, the oldest."""
        published = [known for known in self._known.values() if known.is_published(now)]
        if not published:
            raise KeyUnavailable("there is no signing key", detail="every signing key of the ring is retired")
        return next((known for known in reversed(published) if known.active_at <= now), published[0]).key

    def verification(self, now: int) -> KeySet:
        """Every key that a live token may be signed with."""
        return KeySet([known.key for known in self._known.values() if known.is_published(now)])

    def public_jwks(self, now: int) -> dict[str, object]:
        """The JWK set to publish (RFC 7517 §5), including a key that will sign soon."""
        return {"keys": [key.as_dict(private=False) for key in self.verification(now)]}

    def list_published(self, now: int) -> tuple[SigningKeyFacts, ...]:
        """The published keys, oldest first."""
        return tuple(
            SigningKeyFacts(kid, one.active_at, one.retired_at)
            for kid, one in self._known.items()
            if one.is_published(now)
        )

    async def rotate(
        self, database: Database, *, now: int, record: Callable[[Transaction, str], Awaitable[None]] | None = None
    ) -> str:
        """Publish a new key now and sign with it from `now + PUBLISH_AHEAD`; returns its key ID.

        `record` runs in the same transaction, so that no key exists without its event.
        """
        key = await asyncio.to_thread(generate_key)
        active_at = now + PUBLISH_AHEAD
        async with database.transaction() as transaction:
            await store_key(transaction, key, sealing_key=self._sealing_key, now=now, active_at=active_at)
            await transaction.execute(
                "update keys.ring set retired_at = :retired_at "
                "where purpose = :purpose and id <> :id and retired_at is null",
                {"retired_at": active_at + LONGEST_TOKEN, "purpose": PURPOSE, "id": _kid(key)},
            )
            await transaction.execute(
                "delete from keys.ring where purpose = :purpose and retired_at <= :now",
                {"purpose": PURPOSE, "now": now},
            )
            rows = await _rows(transaction)
            if record is not None:
                await record(transaction, _kid(key))
        self._loaded_at = now
        self._take(rows)
        return _kid(key)

    async def reload(self, database: Database) -> None:
        """Learn of rotations by other processes; reads at most once a minute however often it is called."""
        now = database.now()
        if now < self._loaded_at + RELOAD_EVERY:
            return
        self._loaded_at = now  # set before waiting, so that concurrent callers read once
        self._take(await _rows(database))

    def _take(self, rows: Sequence[Row]) -> None:
        self._known = {text(row, "id"): self._open_row(row) for row in rows}

    def _open_row(self, row: Row) -> _SigningKey:
        known = self._known.get(text(row, "id"))
        key = known.key if known else _open_key(row, self._sealing_key)
        return _SigningKey(key, integer(row, "active_at"), integer_or_none(row, "retired_at"))


def generate_key() -> RSAKey:
    """A new RSA key; its id is the RFC 7638 thumbprint. Slow: call it off the loop."""
    return _with_kid(rsa.generate_private_key(public_exponent=65537, key_size=2048))


async def store_key(transaction: Transaction, key: RSAKey, *, sealing_key: bytes, now: int, active_at: int) -> None:
    """Add a signing key to the ring, sealed."""
    private = key.private_key
    if private is None:
        raise ValueError("a signing key must be a private key")
    plain = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    sealed = seal(plain, key=sealing_key, key_id=PURPOSE, context=_context(_kid(key)))
    await transaction.execute(
        "insert into keys.ring (id, purpose, sealed, kek_id, created_at, active_at) "
        "values (:id, :purpose, :sealed, :kek_id, :now, :active_at)",
        {
            "id": _kid(key),
            "purpose": PURPOSE,
            "sealed": sealed,
            "kek_id": "root",
            "now": now,
            "active_at": active_at,
        },
    )


async def _rows(reader: Reader) -> Sequence[Row]:
    return await reader.fetch(
        "select id, sealed, active_at, retired_at from keys.ring where purpose = :purpose order by active_at, id",
        {"purpose": PURPOSE},
    )


def _open_key(row: Row, sealing_key: bytes) -> RSAKey:
    plain = open_sealed(binary(row, "sealed"), key=sealing_key, context=_context(text(row, "id")))
    # Opening it authenticated it; checking the numbers again would cost 35 ms at every start.
    private = load_der_private_key(plain, password=None, unsafe_skip_rsa_key_validation=True)
    if not isinstance(private, rsa.RSAPrivateKey):
        raise KeyUnavailable("the key ring holds an unexpected signing key", detail=type(private).__name__)
    return _with_kid(private)


def _with_kid(private: rsa.RSAPrivateKey) -> RSAKey:
    kid = RSAKey.import_key(private).thumbprint()
    return RSAKey.import_key(private, {"kid": kid, "use": "sig", "alg": "RS256"})


def _kid(key: RSAKey) -> str:
    return key.thumbprint()


def _context(kid: str) -> Context:
    return Context(purpose="signing_key", tenant=TENANT, record_id=kid)
