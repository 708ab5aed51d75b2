"""The key ring, key sources and signing keys: layers, refusals, destruction, rotation."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError
from joserfc.jwk import RSAKey

from tests.conftest import KeySettings, Store
from vault.keys.inventory import list_keys
from vault.keys.key_ring import ConnectionKey, KeyRing
from vault.keys.signing import LONGEST_TOKEN, PUBLISH_AHEAD, SigningKeys, generate_key
from vault.keys.sources import KeySource, key_source
from vault.refusals import CiphertextRejected, KeyUnavailable, StorageUnavailable
from vault.spans import KEY_USES
from vault.storage.database import Database, Transaction, binary

SECRET = "xoxp-canary-of-the-key-tests"
PASSPHRASE = "a passphrase that only tests use"
NAMES = {"purpose": "refresh_token", "provider": "slack", "account": "T1/U1", "generation": 1}


async def connect(
    database: Database, ring: KeyRing, *, user_id: str = "user", connection_id: str = "c"
) -> ConnectionKey:
    async with database.transaction() as transaction:
        return await ring.create_keys(transaction, user_id=user_id, connection_id=connection_id, now=1)


async def test_a_secret_opens_again_after_a_restart(store: Store) -> None:
    database = await store.open()
    ring = await store.open_keys(database)
    sealed = (await connect(database, ring)).seal(SECRET, **NAMES)
    await database.close()
    database = await store.open()
    try:
        again = await store.open_keys(database)
        assert again.subkey("tickets") == ring.subkey("tickets")
        key = await again.load_key(database, user_id="user", connection_id="c")
        assert key.open(sealed, **NAMES) == SECRET
    finally:
        await database.close()


async def test_making_keys_again_keeps_what_exists(database: Database, key_ring: KeyRing) -> None:
    sealed = (await connect(database, key_ring)).seal(SECRET, **NAMES)
    again = await connect(database, key_ring)
    assert again.open(sealed, **NAMES) == SECRET
    other = await connect(database, key_ring, connection_id="other")
    with pytest.raises(CiphertextRejected):
        other.open(sealed, **NAMES)


@pytest.mark.requirement("V-01")
async def test_a_secret_opens_for_its_own_user_connection_and_generation_only(
    database: Database, key_ring: KeyRing
) -> None:
    mine = await connect(database, key_ring)
    sealed = mine.seal(SECRET, **NAMES)
    for changed in (
        {"purpose": "access_token"},
        {"provider": "google"},
        {"account": "T1/U2"},
        {"generation": 2},
        {"generation": 0},
    ):
        with pytest.raises(CiphertextRejected):
            mine.open(sealed, **(NAMES | changed))
    for other in (
        await connect(database, key_ring, connection_id="of the same user"),
        await connect(database, key_ring, user_id="another user", connection_id="theirs"),
    ):
        with pytest.raises(CiphertextRejected):
            other.open(sealed, **NAMES)
    assert mine.open(sealed, **NAMES) == SECRET


@pytest.mark.requirement("V-01")
async def test_key_rows_that_were_swapped_do_not_open(database: Database, key_ring: KeyRing) -> None:
    await connect(database, key_ring, user_id="alice", connection_id="a")
    await connect(database, key_ring, user_id="mallory", connection_id="m")
    async with database.transaction() as transaction:
        row = await transaction.fetch_one("select wrapped from keys.user_keys where user_id = :u", {"u": "alice"})
        assert row is not None
        await transaction.execute(
            "update keys.user_keys set wrapped = :wrapped where user_id = :u",
            {"u": "mallory", "wrapped": binary(row, "wrapped")},
        )
    with pytest.raises(CiphertextRejected):
        await key_ring.load_key(database, user_id="mallory", connection_id="m")
    await key_ring.load_key(database, user_id="alice", connection_id="a")


@pytest.mark.requirement("V-05")
async def test_an_opened_key_is_kept_for_five_minutes_among_4096(
    database: Database, key_ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("vault.keys.key_ring.boot_time", lambda: now[0])
    await connect(database, key_ring)
    row = await database.fetch_one("select wrapped, kek_id from keys.user_keys")
    assert row is not None
    wrapped, kek_id = binary(row, "wrapped"), str(row["kek_id"])

    def unwraps(*salts: int) -> int:
        """How many master key uses it takes to have these keys."""
        before = KEY_USES[kek_id, "unwrap"]
        for salt in salts:
            key_ring.connection_key(
                wrapped=wrapped, kek_id=kek_id, salt=salt.to_bytes(32, "big"), user_id="user", connection_id="c"
            )
        return KEY_USES[kek_id, "unwrap"] - before

    assert unwraps(1, 1) == 1
    for passed, count in ((299, 0), (1, 1)):
        now[0] += passed
        assert unwraps(1) == count
    assert unwraps(*range(1, 4097)) == 4095
    assert unwraps(1) == 0
    assert unwraps(5000, 1) == 2  # the oldest made room


async def test_a_destroyed_key_takes_its_connection_with_it_and_no_other(database: Database, key_ring: KeyRing) -> None:
    await connect(database, key_ring)
    await connect(database, key_ring, connection_id="kept")
    async with database.transaction() as transaction:
        await key_ring.destroy_connection_key(transaction, "c")
    with pytest.raises(CiphertextRejected):
        await key_ring.load_key(database, user_id="user", connection_id="c")
    await key_ring.load_key(database, user_id="user", connection_id="kept")
    async with database.transaction() as transaction:
        await key_ring.destroy_user_key(transaction, "user")
    with pytest.raises(CiphertextRejected):
        await key_ring.load_key(database, user_id="user", connection_id="kept")


@pytest.mark.requirement("V-05")
async def test_a_connection_made_again_does_not_open_what_was_sealed_before(
    database: Database, key_ring: KeyRing
) -> None:
    sealed = (await connect(database, key_ring)).seal(SECRET, **NAMES)
    async with database.transaction() as transaction:
        await key_ring.destroy_connection_key(transaction, "c")
    again = await connect(database, key_ring)
    with pytest.raises(CiphertextRejected):
        again.open(sealed, **NAMES)


@pytest.mark.requirement("V-05")
async def test_the_key_files_hold_no_copy_of_a_destroyed_salt(sqlite_store: Store) -> None:
    database = await sqlite_store.open()
    ring = await sqlite_store.open_keys(database)
    await connect(database, ring)
    row = await database.fetch_one("select salt from keys.connection_keys where connection_id = :c", {"c": "c"})
    assert row is not None
    salt = binary(row, "salt")
    assert any(salt in path.read_bytes() for path in sqlite_store.data.iterdir())
    async with database.transaction() as transaction:
        await ring.destroy_connection_key(transaction, "c")
    await database.close()  # the last process to close writes a checkpoint and removes the log
    assert not any(salt in path.read_bytes() for path in sqlite_store.data.iterdir())


def test_secrets_do_not_show_in_texts(tmp_path: Path) -> None:
    key = ConnectionKey(b"k" * 32, salt=b"s" * 32, user_id="u", connection_id="c")
    source = key_source(KeySettings("passphrase"), data=tmp_path, environment={"TOKEN_VAULT_PASSPHRASE": PASSPHRASE})
    for shown in (repr(key), str(key), repr(source), str(source)):
        assert "kkkk" not in shown
        assert PASSPHRASE not in shown


async def test_subkeys_differ_by_purpose(key_ring: KeyRing) -> None:
    keys = {key_ring.subkey("tickets"), key_ring.subkey("csrf")}
    assert len(keys) == 2
    assert {len(key) for key in keys} == {32}
    assert key_ring.subkey("csrf") in keys


async def _snapshot(store: Store) -> object:
    """Everything at rest: the digests of the files, or the key ring's rows."""
    if store.is_sqlite:
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(store.data.iterdir())}
    database = await store.open()
    try:
        tables = ("keys.ring", "keys.user_keys", "keys.connection_keys", "events", "schema_versions")
        return [list(await database.fetch(f"select * from {table}")) for table in tables]
    finally:
        await database.close()


@pytest.mark.requirement("V-04")
@pytest.mark.parametrize("fault", ["missing", "another", "not a key", "empty"])
async def test_a_missing_or_wrong_key_refuses_and_changes_nothing(store: Store, fault: str) -> None:
    key_file = store.data / "master.key"
    right = key_file.read_bytes()
    database = await store.open()
    sealed = (await connect(database, await store.open_keys(database))).seal(SECRET, **NAMES)
    await database.close()
    key_file.unlink()
    if fault != "missing":
        wrong = {"another": base64.b64encode(b"w" * 32) + b"\n", "not a key": b"hello\n", "empty": b""}[fault]
        key_file.write_bytes(wrong)
        key_file.chmod(0o600)
    before = await _snapshot(store)
    database = await store.open()
    try:
        with pytest.raises(KeyUnavailable, match=r"master\.key") as refused:
            await store.open_keys(database)
        assert "\n" not in str(refused.value)
    finally:
        await database.close()
    assert await _snapshot(store) == before
    assert key_file.exists() == (fault != "missing")

    key_file.write_bytes(right)
    key_file.chmod(0o600)
    database = await store.open()
    try:
        ring = await store.open_keys(database)
        assert (await ring.load_key(database, user_id="user", connection_id="c")).open(sealed, **NAMES) == SECRET
    finally:
        await database.close()


@pytest.mark.requirement("V-04")
async def test_a_lost_key_ring_is_not_replaced_by_a_new_one(store: Store) -> None:
    database = await store.open()
    try:
        await connect(database, await store.open_keys(database))
        async with database.transaction() as transaction:
            ring = await transaction.fetch("select * from keys.ring")
            await transaction.execute("delete from keys.ring")
        with pytest.raises(KeyUnavailable, match="restore"):
            await store.open_keys(database)
        assert await database.fetch("select id from keys.ring") == []
        async with database.transaction() as transaction:
            await transaction.execute_many(
                "insert into keys.ring (id, purpose, sealed, kek_id, created_at, active_at, retired_at) "
                "values (:id, :purpose, :sealed, :kek_id, :created_at, :active_at, :retired_at)",
                ring,
            )
        await store.open_keys(database)
    finally:
        await database.close()


@pytest.mark.requirement("V-06")
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
async def test_a_key_file_that_others_can_read_is_refused(sqlite_store: Store, mode: int) -> None:
    database = await sqlite_store.open()
    key_file = sqlite_store.data / "master.key"
    try:
        key_file.chmod(mode)
        with pytest.raises(KeyUnavailable, match="chmod 600"):
            await sqlite_store.open_keys(database)
        key_file.chmod(0o600)
        await sqlite_store.open_keys(database)
    finally:
        await database.close()


@pytest.mark.requirement("V-06")
async def test_a_key_file_behind_a_symbolic_link_is_refused(sqlite_store: Store, tmp_path: Path) -> None:
    database = await sqlite_store.open()
    key_file = sqlite_store.data / "master.key"
    elsewhere = tmp_path / "elsewhere.key"
    try:
        key_file.rename(elsewhere)
        key_file.symlink_to(elsewhere)
        with pytest.raises(KeyUnavailable, match="symbolic link"):
            await sqlite_store.open_keys(database)
        settings = KeySettings(file=elsewhere)
        await KeyRing.open(database, key_source(settings, data=sqlite_store.data))
    finally:
        await database.close()


@pytest.mark.requirement("V-06")
async def test_something_else_in_the_place_of_the_key_file_is_refused(empty_sqlite_store: Store) -> None:
    database = await empty_sqlite_store.open()
    key_file = empty_sqlite_store.data / "master.key"
    try:
        os.mkfifo(key_file, 0o600)
        with pytest.raises(KeyUnavailable, match="isn't a regular file"):
            await empty_sqlite_store.open_keys(database)
        key_file.unlink()
        key_file.symlink_to(empty_sqlite_store.data / "nowhere")  # the key must not be created where the link points
        with pytest.raises(KeyUnavailable):
            await empty_sqlite_store.open_keys(database)
        assert not (empty_sqlite_store.data / "nowhere").exists()
        key_file.unlink()
        await empty_sqlite_store.open_keys(database)
        assert key_file.stat().st_mode & 0o777 == 0o600
    finally:
        await database.close()


def _sources(data: Path, environment: dict[str, str]) -> dict[str, KeySource]:
    passphrase_file = data / "passphrase"
    passphrase_file.write_text(PASSPHRASE + "\n")
    passphrase_file.chmod(0o600)
    return {
        "file": key_source(KeySettings("file", file=data / "keys" / "own.key"), data=data),
        "environment": key_source(KeySettings("environment"), data=data, environment=environment),
        "passphrase": key_source(KeySettings("passphrase"), data=data, environment=environment),
        "passphrase file": key_source(KeySettings("passphrase", passphrase_file=passphrase_file), data=data),
    }


ENVIRONMENT = {
    "TOKEN_VAULT_KEY": base64.b64encode(bytes(range(32))).decode(),
    "TOKEN_VAULT_PASSPHRASE": PASSPHRASE,
}


@pytest.mark.parametrize("kind", ["file", "environment", "passphrase", "passphrase file"])
async def test_every_key_source_opens_the_key_it_made_and_no_other(tmp_path: Path, kind: str) -> None:
    first, second = (_sources(tmp_path, ENVIRONMENT)[kind] for _ in range(2))
    made = await first.create(())
    opened = await second.open(made.record)
    assert opened is not None
    assert (opened.id, opened.check) == (made.key.id, made.key.check)
    wrapped = made.key.wrap(b"k" * 32, b"context")
    assert opened.unwrap(wrapped, b"context") == b"k" * 32
    for broken, context in ((wrapped, b"another"), (wrapped[:-1], b"context"), (b"", b"context"), (b"\x09" * 80, b"")):
        with pytest.raises(CiphertextRejected):
            opened.unwrap(broken, context)
    assert await second.open(replace(made.record, id=f"{kind}-0123456789abcdef")) is None


@pytest.mark.parametrize("kind", ["environment", "passphrase"])
async def test_a_vault_runs_on_a_key_that_is_not_in_a_file(empty_store: Store, kind: str) -> None:
    database = await empty_store.open()
    try:
        for _ in range(2):  # opening an existing vault (`creates=False`) never makes one
            with pytest.raises(KeyUnavailable, match="no vault in this database"):
                await KeyRing.open(database, _sources(empty_store.data, ENVIRONMENT)[kind], creates=False)
        ring = await KeyRing.open(database, _sources(empty_store.data, ENVIRONMENT)[kind])
        sealed = (await connect(database, ring)).seal(SECRET, **NAMES)
        again = await KeyRing.open(database, _sources(empty_store.data, ENVIRONMENT)[kind])
        assert (await again.load_key(database, user_id="user", connection_id="c")).open(sealed, **NAMES) == SECRET
        wrong = {
            "TOKEN_VAULT_KEY": base64.b64encode(bytes(32)).decode(),
            "TOKEN_VAULT_PASSPHRASE": "another passphrase of the tests",
        }
        with pytest.raises(KeyUnavailable):
            await KeyRing.open(database, _sources(empty_store.data, wrong)[kind])
        assert not (empty_store.data / "master.key").exists()
    finally:
        await database.close()


@pytest.mark.parametrize(
    ("kind", "environment", "words"),
    [
        ("environment", {}, "TOKEN_VAULT_KEY"),
        ("environment", {"TOKEN_VAULT_KEY": "not base64!"}, "base64"),
        ("environment", {"TOKEN_VAULT_KEY": base64.b64encode(b"short").decode()}, "32"),
        ("passphrase", {}, "TOKEN_VAULT_PASSPHRASE"),
        ("passphrase", {"TOKEN_VAULT_PASSPHRASE": "too short"}, "20"),
    ],
)
async def test_a_key_that_is_not_usable_is_refused_with_the_fix(
    tmp_path: Path, kind: str, environment: dict[str, str], words: str
) -> None:
    source = _sources(tmp_path, environment)[kind]
    with pytest.raises(KeyUnavailable, match=words) as refused:
        await source.create(())
    assert not any(value in str(refused.value) for value in environment.values())
    await _sources(tmp_path, ENVIRONMENT)[kind].create(())


def test_an_unknown_key_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyUnavailable, match="passphrase"):
        key_source(KeySettings("magic"), data=tmp_path)


async def test_two_first_runs_agree_on_one_key_file(tmp_path: Path) -> None:
    sources = [key_source(KeySettings(), data=tmp_path / "new") for _ in range(5)]
    made = await asyncio.gather(*(source.create(()) for source in sources))
    assert len({one.key.id for one in made}) == 1
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["master.key"]


async def test_main_database_and_key_file_open_nothing_without_the_key_store(
    sqlite_store: Store, prepared_data: Path
) -> None:
    database = await sqlite_store.open()
    await connect(database, await sqlite_store.open_keys(database))
    await database.close()
    shutil.copy2(prepared_data / "keys.sqlite", sqlite_store.data)  # as it was before the connection was made
    database = await sqlite_store.open()
    try:
        ring = await sqlite_store.open_keys(database)
        with pytest.raises(CiphertextRejected):
            await ring.load_key(database, user_id="user", connection_id="c")
    finally:
        await database.close()


def _sign_token(key: RSAKey) -> str:
    return jwt.encode({"alg": "RS256", "kid": key.kid or ""}, {"sub": "user"}, key)


@pytest.mark.requirement("S-011")
async def test_a_new_signing_key_is_published_before_it_signs_and_the_old_one_stays(
    database: Database, key_ring: KeyRing
) -> None:
    signing = key_ring.signing
    now = database.now()
    old = signing.current(now)
    before = _sign_token(old)
    new_kid = await signing.rotate(database, now=now)
    assert signing.current(now).kid == signing.current(now + PUBLISH_AHEAD - 1).kid == old.kid
    assert {key["kid"] for key in signing.public_jwks(now)["keys"]} == {old.kid, new_kid}

    switched = now + PUBLISH_AHEAD
    assert signing.current(switched).kid == new_kid
    after = _sign_token(signing.current(switched))
    last = switched + LONGEST_TOKEN - 1
    for token in (before, after):
        assert jwt.decode(token, signing.verification(last), algorithms=["RS256"]).claims["sub"] == "user"
    with pytest.raises(InvalidKeyIdError):
        jwt.decode(before, signing.verification(last + 1), algorithms=["RS256"])
    assert jwt.decode(after, signing.verification(last + 1), algorithms=["RS256"]).claims["sub"] == "user"


@pytest.mark.requirement("S-011")
async def test_another_process_learns_of_a_rotation_at_most_once_a_minute(store: Store) -> None:
    database, other_database = await store.open(), await store.open()
    try:
        ring, other = await store.open_keys(database), await store.open_keys(other_database)
        new_kid = await ring.signing.rotate(database, now=database.now())

        def knows() -> bool:
            return new_kid in {key.kid for key in other.signing.verification(other_database.now())}

        for _ in range(1000):
            await other.signing.reload(other_database)
        assert not knows()
        other_database.clock_offset += 59
        await other.signing.reload(other_database)
        assert not knows()
        other_database.clock_offset += 1
        await other.signing.reload(other_database)
        assert knows()
        third = await ring.signing.rotate(database, now=database.now())
        await other.signing.reload(other_database)
        assert third not in {key.kid for key in other.signing.verification(other_database.now())}
    finally:
        await database.close()
        await other_database.close()


async def test_a_signing_key_whose_event_cannot_be_written_is_not_there(database: Database, key_ring: KeyRing) -> None:
    async def fail(transaction: Transaction, kid: str) -> None:
        raise StorageUnavailable("no", detail="on purpose")

    before = await database.fetch("select id from keys.ring")
    with pytest.raises(StorageUnavailable):
        await key_ring.signing.rotate(database, now=database.now(), record=fail)
    assert await database.fetch("select id from keys.ring") == before
    await key_ring.signing.rotate(database, now=database.now())
    assert len(await database.fetch("select id from keys.ring")) == len(before) + 1


async def test_signing_keys_survive_a_restart_and_retired_ones_are_removed(
    database: Database, key_ring: KeyRing
) -> None:
    now = database.now()
    first = key_ring.signing.current(now).kid
    second = await key_ring.signing.rotate(database, now=now)
    later = now + PUBLISH_AHEAD + LONGEST_TOKEN
    third = await key_ring.signing.rotate(database, now=later)
    rows = await database.fetch("select id from keys.ring where purpose = :p", {"p": "signing"})
    assert {row["id"] for row in rows} == {second, third}
    assert first not in {second, third}
    loaded = await SigningKeys.load(database, sealing_key=key_ring.signing._sealing_key, now=later)
    assert loaded.current(later).kid == second
    assert loaded.public_jwks(later) == key_ring.signing.public_jwks(later)


def test_a_signing_key_is_rsa_of_2048_bits() -> None:
    modulus = generate_key().as_dict(private=False)["n"]
    assert int.from_bytes(base64.urlsafe_b64decode(f"{modulus}==")).bit_length() == 2048


async def test_published_keys_hold_no_private_part(database: Database, key_ring: KeyRing) -> None:
    (published,) = key_ring.signing.public_jwks(database.now())["keys"]
    assert published.keys() == {"kty", "n", "e", "kid", "use", "alg"}
    assert (published["use"], published["alg"]) == ("sig", "RS256")
    assert RSAKey.import_key(published).thumbprint() == published["kid"]


async def test_after_the_clock_was_set_back_the_oldest_key_signs(database: Database, key_ring: KeyRing) -> None:
    now = database.now()
    first = key_ring.signing.current(now).kid
    second = await key_ring.signing.rotate(database, now=now)
    for moment, kid in ((now - 86400, first), (now, first), (now + PUBLISH_AHEAD, second)):
        assert key_ring.signing.current(moment).kid == kid
        states = {one.id: one.state for one in (await list_keys(database, now=moment)).signing}
        assert states == {
            first: "signing" if kid == first else "verifying",
            second: "next" if kid == first else "signing",
        }
    token = _sign_token(key_ring.signing.current(now - 86400))
    assert jwt.decode(token, key_ring.signing.verification(now - 86400), algorithms=["RS256"]).claims["sub"] == "user"


async def test_without_a_signing_key_nothing_is_signed(database: Database, key_ring: KeyRing) -> None:
    empty = SigningKeys(key_ring.signing._sealing_key, (), now=database.now())
    with pytest.raises(KeyUnavailable):
        empty.current(database.now())
    assert key_ring.signing.current(database.now())


async def test_a_signing_key_moved_to_another_row_stops_the_start(store: Store) -> None:
    database = await store.open()
    try:
        await store.open_keys(database)
        async with database.transaction() as transaction:
            await transaction.execute("update keys.ring set id = :new where purpose = :p", {"new": "x", "p": "signing"})
        with pytest.raises(KeyUnavailable, match="restore"):
            await store.open_keys(database)
    finally:
        await database.close()
