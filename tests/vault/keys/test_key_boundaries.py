"""Keys that are damaged, missing, forgotten, or of the wrong kind, each beside the nearest one that works."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc.jwk import RSAKey

from tests.conftest import KeySettings, Store
from vault.envelope import seal
from vault.keys import key_ring as key_rings
from vault.keys import masters, signing
from vault.keys.held_keys import FORGET_AFTER, HeldKeys
from vault.keys.inventory import list_keys
from vault.keys.key_ring import CACHE_SECONDS, ConnectionKey, KeyRing
from vault.keys.masters import MasterRow
from vault.keys.signing import LONGEST_TOKEN, PUBLISH_AHEAD, SigningKeys
from vault.keys.sources import _TwoSources, key_source
from vault.keys.sources.local import LocalKey, parse_keys
from vault.keys.sources.private_file import create_private, read_private
from vault.keys.sources.source import MadeKey, StoredKey
from vault.refusals import CiphertextRejected, KeyUnavailable, StorageUnavailable
from vault.storage.database import Database, binary


@dataclass
class OneKeySource:
    """A key source that has one key or none, and may be away."""

    name: str
    key: LocalKey | None = None
    is_away: bool = False

    @property
    def fix(self) -> str:
        return f"ask {self.name}"

    def describe(self) -> str:
        return self.name

    async def open(self, stored: StoredKey) -> LocalKey | None:
        if self.is_away:
            raise KeyUnavailable(f"{self.name} is away")
        return self.key

    async def create(self, known: Collection[str]) -> MadeKey:
        assert self.key is not None
        return MadeKey(self.key, None)


KEY = LocalKey(bytes(range(32)), kind="test")
STORED = StoredKey(KEY.id, None, KEY.check)


async def test_of_two_sources_the_one_that_has_the_key_opens_it() -> None:
    for first, second in (
        (OneKeySource("first", KEY), OneKeySource("second", is_away=True)),
        (OneKeySource("first"), OneKeySource("second", KEY)),
        (OneKeySource("first", is_away=True), OneKeySource("second", KEY)),
    ):
        assert await _TwoSources(first, second).open(STORED) is KEY
    assert await _TwoSources(OneKeySource("first"), OneKeySource("second")).open(STORED) is None
    for first, second, away in (
        (OneKeySource("first", is_away=True), OneKeySource("second"), "first"),
        (OneKeySource("first"), OneKeySource("second", is_away=True), "second"),
        (OneKeySource("first", is_away=True), OneKeySource("second", is_away=True), "first"),
    ):
        with pytest.raises(KeyUnavailable, match=f"{away} is away"):
            await _TwoSources(first, second).open(STORED)


async def test_of_two_sources_the_first_is_named_and_makes_new_keys() -> None:
    both = _TwoSources(OneKeySource("first", KEY), OneKeySource("second"))
    assert (both.describe(), both.fix) == ("first", "ask first or ask second")
    assert (await both.create(())).key is KEY


def test_a_master_key_has_32_bytes() -> None:
    for length in (31, 33):
        with pytest.raises(ValueError, match="32"):
            LocalKey(bytes(length), kind="test")
    assert LocalKey(bytes(32), kind="test").id.startswith("test-")


def test_a_wrapped_key_opens_only_whole_and_with_its_prefix() -> None:
    key = LocalKey(bytes(32), kind="test", prefix=b"prefix")
    wrapped = key.wrap(b"", b"context")
    assert key.unwrap(wrapped, b"context") == b""
    for other in (wrapped[:-1], wrapped[6:], b"xrefix" + wrapped[6:], b"prefix", b"prefix\x02" + wrapped[7:]):
        with pytest.raises(CiphertextRejected):
            key.unwrap(other, b"context")


def test_keys_may_be_separated_by_anything_but_at_least_one_is_there() -> None:
    first, second = "A" * 43 + "=", "/" * 42 + "8="
    assert len(parse_keys(f"\n{first}, {second}\n", where="here", kind="test")) == 2
    with pytest.raises(KeyUnavailable, match="here doesn't contain a key"):
        parse_keys(" \n", where="here", kind="test")


def test_a_private_file_holds_text(tmp_path: Path) -> None:
    path = tmp_path / "key"
    assert read_private(path) is None
    assert create_private(path, "key\n")
    assert read_private(path) == "key\n"
    path.write_bytes(b"\xff")
    with pytest.raises(KeyUnavailable, match="doesn't contain text"):
        read_private(path)


def test_a_private_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    assert create_private(path, "key\n")
    is_root = os.geteuid() == 0
    if is_root:
        os.chown(path, 4242, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 4242)
    with pytest.raises(KeyUnavailable, match="another user owns"):
        read_private(path)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid)
    assert read_private(path) == "key\n"
    if is_root:
        os.chown(path, 0, -1)
        monkeypatch.setattr(os, "geteuid", lambda: 4242)
        assert read_private(path) == "key\n"  # whoever is root reads everything anyway


def test_a_private_file_never_replaces_another_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "key"
    assert create_private(path, "first\n")
    assert not create_private(path, "second\n")
    assert read_private(path) == "first\n"
    assert [one.name for one in path.parent.iterdir()] == ["key"]
    assert [one.stat().st_mode & 0o777 for one in (path.parent, path)] == [0o700, 0o600]
    with pytest.raises(KeyUnavailable, match="can't write"):
        create_private(path / "below", "third\n")


@pytest.mark.parametrize(("length", "is_enough"), [(19, False), (20, True)])
async def test_a_passphrase_has_at_least_20_characters(tmp_path: Path, length: int, *, is_enough: bool) -> None:
    path = tmp_path / "passphrase"
    source = key_source(KeySettings("passphrase", passphrase_file=path), data=tmp_path)
    with pytest.raises(KeyUnavailable, match="is missing: restore it"):
        await source.create(())
    assert create_private(path, "p" * length + "\r\n")
    if is_enough:
        made = await source.create(())
        assert made.wrapped is not None
        assert await source.open(made.record) is not None
        assert await source.open(replace(made.record, wrapped=made.wrapped[:-1])) is None
        assert await source.open(replace(made.record, wrapped=b"\x09" + made.wrapped[1:])) is None
        assert await source.open(replace(made.record, wrapped=None)) is None
    else:
        with pytest.raises(KeyUnavailable, match="at least 20 characters"):
            await source.create(())


def master(state: masters.MasterState, *, retired_at: int | None = None) -> MasterRow:
    return MasterRow(STORED, state, "here", 1, 1, retired_at, 0)


async def test_a_retired_key_is_held_for_a_while_and_then_forgotten() -> None:
    held = HeldKeys(OneKeySource("here", KEY))
    assert await held.learn([master("retired", retired_at=1000)], now=1000) is None
    assert not held.holds(KEY.id)  # it isn't opened anymore
    assert await held.learn([master("previous")], now=1000) is None
    assert (held.holds(KEY.id), held.ids(), held.list_missing()) == (True, (KEY.id,), ())
    retired = master("retired", retired_at=1000)
    await held.learn([retired], now=1000 + FORGET_AFTER - 1)
    assert (held.holds(KEY.id), held.ids()) == (True, ())
    await held.learn([retired], now=1000 + FORGET_AFTER)
    assert not held.holds(KEY.id)
    with pytest.raises(KeyUnavailable, match="doesn't have the master key"):
        held.key(KEY.id)


async def test_a_key_with_another_check_value_is_not_held() -> None:
    held = HeldKeys(OneKeySource("here", KEY))
    other = replace(master("current"), stored=replace(STORED, check=bytes(32)))
    assert await held.learn([other], now=1) is not None
    assert (held.holds(KEY.id), held.list_missing()) == (False, (other,))
    assert await held.learn([replace(other, stored=replace(STORED, check=None))], now=1) is None
    assert held.holds(KEY.id)


def test_a_master_key_in_an_unknown_state_is_refused() -> None:
    row = {"id": "k", "wrapped": None, "check_value": b"c", "described": "", "created_at": 1, "current_at": None}
    row |= {"retired_at": None, "uses": 0}
    assert masters.read_master({**row, "state": "added"}).state == "added"
    with pytest.raises(StorageUnavailable):
        masters.read_master({**row, "state": "odd"})


async def test_a_root_secret_that_was_changed_stops_the_start(store: Store) -> None:
    database = await store.open()
    try:
        await store.open_keys(database)
        (row,) = await database.fetch("select sealed from keys.ring where id = :root", {"root": "root"})
        sealed = row["sealed"]
        assert isinstance(sealed, bytes)
        for content, opens in ((sealed[:-1] + bytes([sealed[-1] ^ 1]), False), (sealed, True)):
            async with database.transaction() as transaction:
                await transaction.execute(
                    "update keys.ring set sealed = :content where id = :root", {"content": content, "root": "root"}
                )
            if opens:
                await store.open_keys(database)
            else:
                with pytest.raises(KeyUnavailable, match="didn't seal the database"):
                    await store.open_keys(database)
    finally:
        await database.close()


async def connect(database: Database, ring: KeyRing, connection_id: str, *, user_id: str = "user") -> ConnectionKey:
    async with database.transaction() as transaction:
        return await ring.create_keys(transaction, user_id=user_id, connection_id=connection_id, now=1)


async def test_without_a_current_master_key_no_key_is_made_and_held_ones_open(
    database: Database, key_ring: KeyRing
) -> None:
    await connect(database, key_ring, "c")
    async with database.transaction() as transaction:
        await transaction.execute("update keys.masters set state = :previous", {"previous": "previous"})
    await key_ring.learn_masters(database)
    with pytest.raises(KeyUnavailable, match="names no master key"):
        key_ring.current_master()
    with pytest.raises(KeyUnavailable, match="names no master key"):
        await connect(database, key_ring, "n", user_id="new")
    await connect(database, key_ring, "other of the same person")
    async with database.transaction() as transaction:
        await transaction.execute("update keys.masters set state = :current", {"current": "current"})
    await key_ring.learn_masters(database)
    assert key_ring.current_master()[0].id == (await masters.list_masters(database))[0].id
    await connect(database, key_ring, "n", user_id="new")


async def test_an_opened_key_is_kept_for_a_time_and_for_so_many_connections(
    database: Database, key_ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(key_rings, "boot_time", lambda: clock[0])
    monkeypatch.setattr(key_rings, "CACHE_LIMIT", 2)

    async def load(connection_id: str) -> ConnectionKey:
        return await key_ring.load_key(database, user_id="user", connection_id=connection_id)

    first = await connect(database, key_ring, "c1")
    clock[0] += CACHE_SECONDS - 1
    assert await load("c1") is first
    clock[0] += 1
    again = await load("c1")
    assert again is not first
    await connect(database, key_ring, "c2")
    assert await load("c1") is again
    await connect(database, key_ring, "c3")
    assert len(key_ring._unwrapped) == 2
    assert await load("c1") is not again  # the oldest one went first
    clock[0] += CACHE_SECONDS
    await load("c2")
    assert len(key_ring._unwrapped) == 1  # those whose time is over went too


async def test_a_value_of_a_connection_names_its_key_by_the_salt(database: Database, key_ring: KeyRing) -> None:
    key = await connect(database, key_ring, "c")
    sealed = key.seal("secret", purpose="purpose", provider="slack", account="alice", generation=1)
    row = await database.fetch_one("select salt from keys.connection_keys")
    assert row is not None
    name = hashlib.sha256(binary(row, "salt")).hexdigest()[:16].encode()
    assert sealed[1 : 2 + 16] == bytes([16]) + name


async def test_a_salted_key_is_the_same_until_it_is_destroyed(database: Database, key_ring: KeyRing) -> None:
    async with database.transaction() as transaction:
        made = await key_ring.create_salted_key(transaction, "name", purpose="purpose", now=1)
    assert await key_ring.salted_key(database, "name", purpose="purpose") == made
    row = await database.fetch_one("select salt from keys.connection_keys")
    assert row is not None
    assert made.id == hashlib.sha256(binary(row, "salt")).hexdigest()[:16]
    assert (await key_ring.salted_key(database, "name", purpose="other")).key != made.key
    async with database.transaction() as transaction:
        await key_ring.destroy_connection_key(transaction, "name")
    with pytest.raises(CiphertextRejected, match="was destroyed"):
        await key_ring.salted_key(database, "name", purpose="purpose")


async def test_signing_keys_are_listed_with_what_they_do_now(database: Database, key_ring: KeyRing) -> None:
    start = database.now()
    first = key_ring.signing.current(start).kid
    second = await key_ring.signing.rotate(database, now=start)
    switched = start + PUBLISH_AHEAD
    ended = switched + LONGEST_TOKEN

    async def states(now: int) -> dict[str, str]:
        return {one.id: one.state for one in (await list_keys(database, now=now)).signing}

    assert await states(switched - 1) == {first: "signing", second: "next"}
    assert await states(switched) == await states(ended - 1) == {first: "verifying", second: "signing"}
    assert await states(ended) == {first: "ended", second: "signing"}
    facts = key_ring.signing.list_published(ended - 1)
    assert [(one.kid, one.retired_at) for one in facts] == [(first, ended), (second, None)]
    assert facts[1].active_at == switched
    assert [one.kid for one in key_ring.signing.list_published(ended)] == [second]


async def test_only_a_private_rsa_key_can_sign(database: Database, key_ring: KeyRing) -> None:
    now, sealing_key = database.now(), key_ring.signing._sealing_key
    public = RSAKey.import_key(signing.generate_key().as_dict(private=False))
    async with database.transaction() as transaction:
        with pytest.raises(ValueError, match="private"):
            await signing.store_key(transaction, public, sealing_key=sealing_key, now=now, active_at=now)
        await signing.store_key(transaction, signing.generate_key(), sealing_key=sealing_key, now=now, active_at=now)
    assert len((await SigningKeys.load(database, sealing_key=sealing_key, now=now)).list_published(now)) == 2
    curve = ec.generate_private_key(ec.SECP256R1())
    plain = curve.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    sealed = seal(plain, key=sealing_key, key_id=signing.PURPOSE, context=signing._context("curve"))
    async with database.transaction() as transaction:
        await transaction.execute(
            "insert into keys.ring (id, purpose, sealed, kek_id, created_at, active_at)"
            " values (:id, :purpose, :sealed, :root, :now, :now)",
            {"id": "curve", "purpose": signing.PURPOSE, "sealed": sealed, "root": "root", "now": now},
        )
    with pytest.raises(KeyUnavailable, match="unexpected signing key"):
        await SigningKeys.load(database, sealing_key=sealing_key, now=now)


def test_a_file_source_says_where_its_key_is(tmp_path: Path) -> None:
    assert str(tmp_path) in key_source(KeySettings(), data=tmp_path).describe()
