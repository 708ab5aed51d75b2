"""The key ring: root secret, user keys, connection keys. `FORMATS.md` has a diagram of the layers.

A master key (KEK) wraps the root secret and each user's key; a user's key and a connection's random salt give the
connection's key, which wraps the fresh data key of each sealed value. Destroying a user's key or a connection's salt
destroys what was sealed under it, in old backups of the main database too.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import OrderedDict
from dataclasses import field

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from vault.audit import audit
from vault.classes.immutable import immutable
from vault.envelope import KEY_LENGTH, Context, open_sealed, seal
from vault.keys import masters, signing
from vault.keys.held_keys import ROOT, ROOT_CONTEXT, HeldKeys, open_root, root_row, stored_of
from vault.keys.signing import SigningKeys
from vault.keys.sources import KeySource
from vault.keys.sources.local import LocalKey
from vault.records import TENANT
from vault.refusals import CiphertextRejected, KeyUnavailable
from vault.storage.clock import boot_time
from vault.storage.database import Database, Reader, Transaction, binary, text

CACHE_LIMIT = 4096  # connection keys
CACHE_SECONDS = 300.0


def derive(secret: bytes, *, salt: bytes, info: bytes) -> bytes:
    """32 bytes by HKDF-SHA256 (RFC 5869)."""
    return HKDF(algorithm=SHA256(), length=KEY_LENGTH, salt=salt, info=info).derive(secret)


class ConnectionKey:
    """Seals and opens the secrets of one connection."""

    __slots__ = ("_connection_id", "_key", "_key_id", "_user_id")

    def __init__(self, user_key: bytes, *, salt: bytes, user_id: str, connection_id: str) -> None:
        bound = Context(purpose="connection_key", tenant=TENANT, user_id=user_id, record_id=connection_id).encode()
        self._key = derive(user_key, salt=salt, info=bound)
        self._key_id = hashlib.sha256(salt).hexdigest()[:16]
        self._user_id = user_id
        self._connection_id = connection_id

    def seal(self, plaintext: str, *, purpose: str, provider: str, account: str, generation: int) -> bytes:
        """Seal one secret of this connection for one purpose and generation."""
        context = self._context(purpose, provider=provider, account=account, generation=generation)
        return seal(plaintext.encode(), key=self._key, key_id=self._key_id, context=context)

    def open(self, sealed: bytes, *, purpose: str, provider: str, account: str, generation: int) -> str:
        """Open what `seal` made with the same purpose and generation. Raises CiphertextRejected."""
        context = self._context(purpose, provider=provider, account=account, generation=generation)
        return open_sealed(sealed, key=self._key, context=context).decode()

    def _context(self, purpose: str, *, provider: str, account: str, generation: int) -> Context:
        return Context(
            purpose=purpose,
            tenant=TENANT,
            user_id=self._user_id,
            provider=provider,
            account=account,
            record_id=self._connection_id,
            generation=generation,
        )


@immutable
class SaltedKey:
    """A key of the vault itself that ends with its salt; `id` identifies it in the values that it sealed."""

    id: str
    key: bytes = field(repr=False)


class KeyRing:
    """The keys of one vault. Unwrapped connection keys are cached briefly, by the wrapped bytes that were just read."""

    def __init__(self, held: HeldKeys, root: bytes, signing_keys: SigningKeys) -> None:
        self.signing = signing_keys
        self.held = held
        self.late = frozenset(row.id for row in held.list_missing())  # keys that were missing when this process started
        self._root = root
        self._subkeys: dict[str, bytes] = {}
        self._macs: dict[str, HMAC] = {}
        self._unwrapped: OrderedDict[tuple[bytes, bytes, str, str], tuple[float, ConnectionKey]] = OrderedDict()

    @classmethod
    async def open(cls, database: Database, source: KeySource, *, creates: bool = True) -> KeyRing:
        """Open the ring; the first run creates it. A missing or wrong key raises KeyUnavailable and changes nothing."""
        held = HeldKeys(source)
        row = await root_row(database)
        if row is None and not creates:
            raise KeyUnavailable("there is no vault in this database: correct database.url, or run token-vault init")
        if row is None:
            await _create(database, source)
            row = await root_row(database)
            if row is None:
                raise KeyUnavailable(
                    "couldn't create the key ring", detail="the root key isn't there after it was created"
                )
        rows = await masters.list_masters(database)
        root = await open_root(held, row, rows, now=database.now())
        for one in held.list_missing():
            if one.state == "current" or await masters.wraps_somebody(database, one.id):
                raise held.refusal(one.id)
        if not rows:
            await _list_first(database, held, text(row, "kek_id"))
        try:
            keys = await SigningKeys.load(database, sealing_key=_signing_key(root), now=database.now())
        except CiphertextRejected as error:
            raise KeyUnavailable("the key store is damaged: restore it from a backup", detail=error.detail) from error
        await audit.begin_keyed_head(database, event_key(root))
        return cls(held, root, keys)

    async def learn_masters(self, database: Database) -> KeyUnavailable | None:
        """Load keys that other processes added, and drop those they retired; returns why a key is missing, if any.

        It doesn't read a root secret that was wrapped again, because this process already has it open.
        """
        trouble = await self.held.learn(await masters.list_masters(database), now=database.now())
        missing = self.held.list_missing()
        return (trouble or self.held.refusal(missing[0].id)) if missing else None

    def current_master(self) -> tuple[LocalKey, bytes | None]:
        """The current master key, as far as this process knows, and what opens it. Raises KeyUnavailable."""
        row = next((row for row in self.held.rows if row.state == "current"), None)
        if row is None:
            raise KeyUnavailable("the key store names no master key: restore it from a backup")
        return self.held.key(row.id), row.stored.wrapped

    def rewrap_root(self, key_id: str) -> bytes:
        """The root secret under another master key. Raises KeyUnavailable."""
        return self.held.key(key_id).wrap(self._root, ROOT_CONTEXT)

    def rewrap_user_key(self, wrapped: bytes, *, user_id: str, from_id: str, to_id: str) -> bytes:
        """A person's key under another master key. Raises CiphertextRejected, KeyUnavailable."""
        context = _user_context(user_id)
        return self.held.key(to_id).wrap(self.held.key(from_id).unwrap(wrapped, context), context)

    def subkey(self, purpose: str) -> bytes:
        """32 bytes of the root secret for one purpose; the same in every process of this vault."""
        key = self._subkeys.get(purpose)
        if key is None:
            key = self._subkeys[purpose] = _subkey(self._root, purpose)
        return key

    def mac(self, purpose: str, content: bytes) -> bytes:
        """HMAC-SHA256 of the content under the subkey for this purpose."""
        kept = self._macs.get(purpose)
        if kept is None:
            kept = self._macs[purpose] = HMAC(self.subkey(purpose), SHA256())
        made = kept.copy()
        made.update(content)
        return made.finalize()

    async def create_keys(
        self, transaction: Transaction, *, user_id: str, connection_id: str, now: int
    ) -> ConnectionKey:
        """Create the connection's salt, and the user's key if there is none. Keeps existing ones.

        Uses the master key that is current in this transaction, so that after a rotation nothing is wrapped under the
        former key.
        """
        names = {"tenant": TENANT, "user_id": user_id, "connection_id": connection_id}
        sql = "select wrapped from keys.user_keys where tenant = :tenant and user_id = :user_id"
        if await transaction.fetch_one(sql, names) is None:
            current = await masters.current_id(transaction)
            if current is None:
                raise KeyUnavailable("the key store names no master key: restore it from a backup")
            wrapped = self.held.key(current).wrap(secrets.token_bytes(KEY_LENGTH), _user_context(user_id))
            await transaction.execute(
                "insert into keys.user_keys (tenant, user_id, wrapped, kek_id, created_at) "
                "values (:tenant, :user_id, :wrapped, :kek_id, :now) on conflict (tenant, user_id) do nothing",
                names | {"wrapped": wrapped, "kek_id": current, "now": now},
            )
        await transaction.execute(
            "insert into keys.connection_keys (tenant, connection_id, salt, created_at) "
            "values (:tenant, :connection_id, :salt, :now) on conflict (tenant, connection_id) do nothing",
            names | {"salt": secrets.token_bytes(KEY_LENGTH), "now": now},
        )
        return await self.load_key(transaction, user_id=user_id, connection_id=connection_id)

    async def load_key(self, reader: Reader, *, user_id: str, connection_id: str) -> ConnectionKey:
        """The connection's key. Raises CiphertextRejected when it was destroyed."""
        row = await reader.fetch_one(
            "select u.wrapped, u.kek_id, c.salt from keys.connection_keys c "
            "join keys.user_keys u on u.tenant = c.tenant and u.user_id = :user_id "
            "where c.tenant = :tenant and c.connection_id = :connection_id",
            {"tenant": TENANT, "user_id": user_id, "connection_id": connection_id},
        )
        if row is None:
            raise CiphertextRejected("the key of this connection was destroyed", detail=connection_id)
        return self.connection_key(
            wrapped=binary(row, "wrapped"),
            kek_id=text(row, "kek_id"),
            salt=binary(row, "salt"),
            user_id=user_id,
            connection_id=connection_id,
        )

    def connection_key(
        self, *, wrapped: bytes, kek_id: str, salt: bytes, user_id: str, connection_id: str
    ) -> ConnectionKey:
        """The connection's key from columns read in this call. Raises CiphertextRejected when rows were swapped."""
        name = (wrapped, salt, user_id, connection_id)
        known = self._unwrapped.get(name)
        now = boot_time()
        if known is not None and now < known[0]:
            return known[1]
        try:
            user_key = self.held.key(kek_id).unwrap(wrapped, _user_context(user_id))
        except CiphertextRejected as error:
            raise CiphertextRejected("a user's key doesn't open", detail=f"it is wrapped under {kek_id}") from error
        key = ConnectionKey(user_key, salt=salt, user_id=user_id, connection_id=connection_id)
        self._unwrapped[name] = (now + CACHE_SECONDS, key)
        self._unwrapped.move_to_end(name)
        while self._unwrapped and (
            len(self._unwrapped) > CACHE_LIMIT or next(iter(self._unwrapped.values()))[0] <= now
        ):
            self._unwrapped.popitem(last=False)
        return key

    async def destroy_connection_key(self, transaction: Transaction, connection_id: str) -> None:
        """Make everything sealed for this connection unreadable, in backups of the main database too."""
        await transaction.execute(
            "delete from keys.connection_keys where tenant = :tenant and connection_id = :connection_id",
            {"tenant": TENANT, "connection_id": connection_id},
        )

    async def create_salted_key(self, transaction: Transaction, name: str, *, purpose: str, now: int) -> SaltedKey:
        """A fresh key under the root secret; `destroy_connection_key` with the same name destroys it."""
        salt = secrets.token_bytes(KEY_LENGTH)
        await transaction.execute(
            "insert into keys.connection_keys (tenant, connection_id, salt, created_at) "
            "values (:tenant, :name, :salt, :now)",
            {"tenant": TENANT, "name": name, "salt": salt, "now": now},
        )
        return self._derive_salted(salt, name=name, purpose=purpose)

    async def salted_key(self, reader: Reader, name: str, *, purpose: str) -> SaltedKey:
        """The key with that name. Raises CiphertextRejected when it was destroyed."""
        row = await reader.fetch_one(
            "select salt from keys.connection_keys where tenant = :tenant and connection_id = :name",
            {"tenant": TENANT, "name": name},
        )
        if row is None:
            raise CiphertextRejected("the key of this value was destroyed", detail=name)
        return self._derive_salted(binary(row, "salt"), name=name, purpose=purpose)

    def _derive_salted(self, salt: bytes, *, name: str, purpose: str) -> SaltedKey:
        key = derive(self.subkey(purpose), salt=salt, info=name.encode())
        return SaltedKey(hashlib.sha256(salt).hexdigest()[:16], key)

    async def destroy_user_key(self, transaction: Transaction, user_id: str) -> None:
        """Make everything sealed for this user unreadable."""
        await transaction.execute(
            "delete from keys.user_keys where tenant = :tenant and user_id = :user_id",
            {"tenant": TENANT, "user_id": user_id},
        )


def vault_id(ring: KeyRing) -> str:
    """Identifies the vault of this root; not secret, and the same in every process and copy of the vault."""
    return ring.subkey("vault-id").hex()[:32]


async def _create(database: Database, source: KeySource) -> None:
    """First run. Refuses a vault that has sealed data: its key store was lost, and a new one would hide that."""
    used = await database.fetch_one("select id from connections limit 1") or await database.fetch_one(
        "select user_id from keys.user_keys limit 1"
    )
    if used is not None:
        raise KeyUnavailable("the key store of this database is empty: restore it from a backup")
    root = secrets.token_bytes(KEY_LENGTH)
    made = await source.create(())
    sealed = made.key.wrap(root, ROOT_CONTEXT)
    first = await asyncio.to_thread(signing.generate_key)
    now = database.now()
    async with database.transaction() as transaction:
        row = await transaction.fetch_one(
            "insert into keys.ring (id, purpose, sealed, kek_id, created_at, active_at) "
            "values (:id, :id, :sealed, :kek_id, :now, :now) on conflict (id) do nothing returning id",
            {"id": ROOT, "sealed": sealed, "kek_id": made.key.id, "now": now},
        )
        if row is not None:  # otherwise another process was first, and its root is used
            await masters.add_master(transaction, made.record, state="current", described=source.describe(), now=now)
            await signing.store_key(transaction, first, sealing_key=_signing_key(root), now=now, active_at=now)


async def _list_first(database: Database, held: HeldKeys, key_id: str) -> None:
    """List the master key of a vault from an earlier release, which had only one and didn't list it."""
    now, stored = database.now(), stored_of(held.key(key_id), key_id)
    async with database.transaction() as transaction:
        await masters.add_master(transaction, stored, state="current", described="", now=now)
    await held.learn(await masters.list_masters(database), now=now)


def _subkey(root: bytes, purpose: str) -> bytes:
    return derive(root, salt=b"", info=b"token-vault subkey\x00" + purpose.encode())


def event_key(root: bytes) -> bytes:
    """The key of the activity's head, derived from this root secret."""
    return _subkey(root, "events")


def _signing_key(root: bytes) -> bytes:
    return _subkey(root, "signing-keys")


def _user_context(user_id: str) -> bytes:
    return Context(purpose="user_key", tenant=TENANT, user_id=user_id).encode()
