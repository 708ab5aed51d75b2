"""The sealed format: opening undoes sealing, nothing altered or moved opens, frozen vectors stay readable."""

from __future__ import annotations

import io
import json
import os
import secrets
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vault.envelope import Context, open_sealed, seal
from vault.keys.key_ring import ConnectionKey, derive
from vault.keys.sealed_file import BackupRefused, SealedWriter, read_content, read_header
from vault.keys.sources.local import LocalKey
from vault.keys.sources.passphrase import PassphraseKeySource
from vault.keys.sources.source import StoredKey
from vault.refusals import CiphertextRejected
from vault.spans import KEY_USES

VECTORS = json.loads(Path(__file__).parents[2].joinpath("vectors", "envelope_v1.json").read_text(encoding="utf-8"))
KEY = bytes(range(32))

texts = st.text(st.characters(codec="utf-8"), max_size=40)
contexts = st.builds(
    Context,
    purpose=texts,
    tenant=texts,
    user_id=texts,
    provider=texts,
    account=texts,
    record_id=texts,
    generation=st.integers(0, 2**63),
)
CONTEXT = Context("refresh_token", "default", "user", "slack", "account", "connection", 3)


@given(plaintext=st.binary(max_size=300), key=st.binary(min_size=32, max_size=32), context=contexts)
def test_opening_undoes_sealing(plaintext: bytes, key: bytes, context: Context) -> None:
    sealed = seal(plaintext, key=key, key_id="a-key", context=context)
    assert open_sealed(sealed, key=key, context=context) == plaintext
    assert sealed[2 : 2 + sealed[1]] == b"a-key"
    if len(plaintext) > 8:
        assert plaintext not in sealed


def test_a_value_that_was_cut_anywhere_is_refused() -> None:
    for plaintext in (b"", b"a token"):
        sealed = seal(plaintext, key=KEY, key_id="k1", context=CONTEXT)
        for length in range(len(sealed)):
            with pytest.raises(CiphertextRejected):
                open_sealed(sealed[:length], key=KEY, context=CONTEXT)
        assert open_sealed(sealed, key=KEY, context=CONTEXT) == plaintext


@pytest.mark.requirement("V-01")
def test_a_value_with_any_bit_flipped_is_refused() -> None:
    sealed = seal(b"a token", key=KEY, key_id="k1", context=CONTEXT)
    for position in range(8 * len(sealed)):
        flipped = bytearray(sealed)
        flipped[position // 8] ^= 1 << (position % 8)
        with pytest.raises(CiphertextRejected):
            open_sealed(bytes(flipped), key=KEY, context=CONTEXT)
    assert open_sealed(sealed, key=KEY, context=CONTEXT) == b"a token"


@pytest.mark.requirement("V-01")
@given(written=contexts, read=contexts)
def test_a_value_opens_in_its_own_context_only(written: Context, read: Context) -> None:
    sealed = seal(b"a token", key=KEY, key_id="k", context=written)
    if read == written:
        assert open_sealed(sealed, key=KEY, context=read) == b"a token"
    else:
        with pytest.raises(CiphertextRejected):
            open_sealed(sealed, key=KEY, context=read)


@pytest.mark.requirement("V-01")
@pytest.mark.parametrize("changed", [field.name for field in fields(Context)])
def test_every_field_of_the_context_counts(changed: str) -> None:
    sealed = seal(b"a token", key=KEY, key_id="k", context=CONTEXT)
    other = replace(CONTEXT, **{changed: 4 if changed == "generation" else "another"})
    with pytest.raises(CiphertextRejected):
        open_sealed(sealed, key=KEY, context=other)
    assert open_sealed(sealed, key=KEY, context=CONTEXT) == b"a token"


@given(first=contexts, second=contexts)
def test_two_contexts_never_encode_alike(first: Context, second: Context) -> None:
    assert (first.encode() == second.encode()) == (first == second)


def test_parts_of_two_values_do_not_combine() -> None:
    one, two = (seal(text, key=KEY, key_id="k", context=CONTEXT) for text in (b"first", b"other"))
    wrap_ends = 3 + 12 + 48
    with pytest.raises(CiphertextRejected):
        open_sealed(one[:wrap_ends] + two[wrap_ends:], key=KEY, context=CONTEXT)


def test_each_use_of_a_key_is_counted_once() -> None:
    context = Context("counted", "default")
    sealed = seal(b"secret", key=bytes(32), key_id="key", context=context)
    for _ in range(2):
        open_sealed(sealed, key=bytes(32), context=context)
    local = LocalKey(bytes(32), kind="counted")
    wrapped = local.wrap(bytes(32), b"context")
    for _ in range(2):
        local.unwrap(wrapped, b"context")
    assert [KEY_USES["counted", use] for use in ("seal", "open")] == [1, 2]
    assert [KEY_USES[local.id, use] for use in ("wrap", "unwrap")] == [1, 2]


def test_another_key_is_refused() -> None:
    sealed = seal(b"a token", key=KEY, key_id="k", context=CONTEXT)
    with pytest.raises(CiphertextRejected):
        open_sealed(sealed, key=bytes(32), context=CONTEXT)


@given(junk=st.binary(max_size=200))
def test_junk_is_refused(junk: bytes) -> None:
    with pytest.raises(CiphertextRejected):
        open_sealed(junk, key=KEY, context=CONTEXT)


@pytest.mark.parametrize("key_id", ["", "x" * 256])
def test_a_key_id_has_1_to_255_bytes(key_id: str) -> None:
    with pytest.raises(ValueError, match="key ID must have"):
        seal(b"", key=KEY, key_id=key_id, context=CONTEXT)
    seal(b"", key=KEY, key_id="x" * 255, context=CONTEXT)


@pytest.mark.requirement("V-02")
def test_no_nonce_and_no_wrapped_key_repeats() -> None:
    count = 20_000  # enough to find a counter, a clock or a fixed seed
    seen = [seal(b"", key=KEY, key_id="k", context=CONTEXT) for _ in range(count)]
    assert len({sealed[3:15] for sealed in seen}) == count  # nonce of the wrap
    assert len({sealed[15:63] for sealed in seen}) == count  # the wrapped data key
    assert len({sealed[63:75] for sealed in seen}) == count  # nonce of the payload


def parts(sealed: bytes) -> tuple[bytes, bytes, bytes]:
    """The nonce of the wrap, the wrapped data key, and the nonce of the payload, for a key ID of one byte."""
    return sealed[3:15], sealed[15:63], sealed[63:75]


@pytest.mark.requirement("V-02")
def test_two_copies_of_a_machine_image_repeat_no_nonce(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both draw the same random bytes: if what they seal differs in any way, so do the nonces and the data key."""
    monkeypatch.setattr(secrets, "token_bytes", bytes)
    variants = [
        seal(text, key=key, key_id="k", context=replace(CONTEXT, generation=generation))
        for text in (b"", b"a", b"b")
        for key in (KEY, bytes(32))
        for generation in (1, 2)
    ]
    for pieces in zip(*map(parts, variants), strict=True):
        assert len(set(pieces)) == len(variants)
    assert variants[0] == seal(b"", key=KEY, key_id="k", context=replace(CONTEXT, generation=1))
    local = LocalKey(KEY, kind="file")
    wraps = [local.wrap(key, context) for key in (KEY, bytes(32)) for context in (b"a", b"b")]
    assert len({wrapped[1:13] for wrapped in wraps}) == len(wraps)


@pytest.mark.requirement("V-02")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_repeats_no_nonce() -> None:
    count, reading, writing = 50, *os.pipe()
    child = os.fork()
    made = b"".join(b"".join(parts(seal(b"", key=KEY, key_id="k", context=CONTEXT))) for _ in range(count))
    made += b"".join(LocalKey(KEY, kind="file").wrap(KEY, b"")[1:13] for _ in range(count))
    if child == 0:
        os.write(writing, made)
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reading, len(made))
    assert len(theirs) == len(made)
    os.close(reading)
    os.close(writing)
    pieces = [both[start : start + 12] for both in (made, theirs) for start in range(0, len(made), 12)]
    assert len(set(pieces)) == len(pieces)


@pytest.mark.parametrize("vector", VECTORS["envelope"], ids=lambda vector: vector["name"])
def test_frozen_values_stay_readable(vector: dict[str, object]) -> None:
    sealed, key = bytes.fromhex(str(vector["sealed"])), bytes.fromhex(str(vector["key"]))
    context = Context(**vector["context"])
    assert open_sealed(sealed, key=key, context=context) == bytes.fromhex(str(vector["plaintext"]))
    assert sealed[2 : 2 + sealed[1]].decode() == vector["key_id"]


def test_a_frozen_wrapped_key_stays_readable() -> None:
    vector = VECTORS["local_key"]
    key = LocalKey(bytes.fromhex(vector["key"]), kind="file")
    assert key.id == vector["id"]
    wrapped, context = bytes.fromhex(vector["wrapped"]), bytes.fromhex(vector["context"])
    assert key.unwrap(wrapped, context) == bytes.fromhex(vector["unwrapped"])
    shortest = 1 + 12 + 16  # version, nonce, tag
    for broken, detail in (
        *((part, "its format is unknown") for part in (b"\x07" + wrapped[1:], b"", wrapped[: shortest - 1])),
        *((part, "the key or the context is another one") for part in (wrapped[:shortest], wrapped[:-1])),
    ):
        with pytest.raises(CiphertextRejected) as rejected:
            key.unwrap(broken, context)
        assert rejected.value.detail == detail
    with pytest.raises(CiphertextRejected):
        key.unwrap(wrapped, b"another context")


async def test_a_key_frozen_under_a_passphrase_stays_readable() -> None:
    vector = VECTORS["passphrase"]
    source = PassphraseKeySource({"TOKEN_VAULT_PASSPHRASE": vector["passphrase"]}, file=None)
    wrapped, context = bytes.fromhex(vector["wrapped"]), bytes.fromhex(vector["context"])
    key = await source.open(StoredKey(vector["id"], wrapped))
    assert key is not None
    assert key.unwrap(wrapped, context) == bytes.fromhex(vector["unwrapped"])
    assert key.id == vector["id"]


def test_a_frozen_secret_of_a_connection_stays_readable() -> None:
    vector = VECTORS["connection_key"]
    key = ConnectionKey(
        bytes.fromhex(vector["user_key"]),
        salt=bytes.fromhex(vector["salt"]),
        user_id=vector["user_id"],
        connection_id=vector["connection_id"],
    )
    named = {name: vector[name] for name in ("purpose", "provider", "account", "generation")}
    assert key.open(bytes.fromhex(vector["sealed"]), **named) == vector["plaintext"]


def test_a_frozen_sealed_file_stays_readable() -> None:
    vector = VECTORS["sealed_file"]
    whole = bytes.fromhex(vector["file"])
    file = io.BytesIO(whole)
    header = read_header(file)
    assert header.decode() == vector["header"]
    content = b"".join(read_content(file, key=bytes.fromhex(vector["key"]), header=header))
    assert content == bytes.fromhex(vector["content"])
    again = io.BytesIO()
    writer = SealedWriter(again, key=bytes.fromhex(vector["key"]), header=header)
    writer.write(content)
    writer.finish()
    assert again.getvalue() == whole


def test_a_sealed_file_has_chunks_of_256_kib_and_a_header_of_64_kib_at_most() -> None:
    largest = b"h" * 65536
    file = io.BytesIO()
    writer = SealedWriter(file, key=KEY, header=largest)
    writer.write(bytes(262_144 + 1))
    writer.finish()
    file.seek(0)
    assert read_header(file) == largest
    assert int.from_bytes(file.read(4), "big") == 262_144 + 16
    file.seek(-4, io.SEEK_CUR)
    assert [len(one) for one in read_content(file, key=KEY, header=largest)] == [262_144, 1]
    longer = io.BytesIO()
    SealedWriter(longer, key=KEY, header=largest + b"h").finish()
    longer.seek(0)
    with pytest.raises(BackupRefused):
        read_header(longer)


def test_what_is_derived_from_a_frozen_key_stays_the_same() -> None:
    vector = VECTORS["master_key"]
    key = LocalKey(bytes.fromhex(vector["key"]), kind="file")
    assert (key.fingerprint, key.check.hex()) == (vector["fingerprint"], vector["check"])
    subkeys = {name: value for name, value in VECTORS["subkeys"].items() if name != "root"}
    root = bytes.fromhex(VECTORS["subkeys"]["root"])
    info = b"token-vault subkey\x00"
    assert {name: derive(root, salt=b"", info=info + name.encode()).hex() for name in subkeys} == subkeys
