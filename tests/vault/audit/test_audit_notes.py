"""The texts of the transparency log: what each parser takes, and the nearest text that it refuses."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vault.audit.notes import (
    COSIGNATURE,
    Note,
    NoteRefused,
    Signature,
    TreeHead,
    Verifier,
    cosigned_at,
    sign,
    write_proof,
)

ROOT = b64encode(bytes(range(32))).decode()


@pytest.mark.parametrize("size", ["0", "7", "9" * 18])
def test_a_checkpoint_names_its_log_its_size_and_its_root(size: str) -> None:
    text = f"log.example/one\n{size}\n{ROOT}\n"
    found = TreeHead.parse(text)
    assert (found.origin, found.size, found.root) == ("log.example/one", int(size), bytes(range(32)))
    assert str(found) == text
    assert TreeHead.parse(f"{text}an extension\n") == found


@pytest.mark.parametrize(
    "text",
    [
        f"log.example/one\n7\n{ROOT}",
        f"\n7\n{ROOT}\n",
        f"log.example/one\n\n{ROOT}\n",
        f"log.example/one\n-7\n{ROOT}\n",
        f"log.example/one\n٧\n{ROOT}\n",
        f"log.example/one\n²\n{ROOT}\n",
        f"log.example/one\n07\n{ROOT}\n",
        f"log.example/one\n{'9' * 19}\n{ROOT}\n",
        f"log.example/one\n7\n{b64encode(bytes(31)).decode()}\n",
        f"log.example/one\n7\n{b64encode(bytes(33)).decode()}\n",
        "log.example/one\n7\nnot base64\n",
    ],
)
def test_what_isnt_a_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(NoteRefused):
        TreeHead.parse(text)


def test_a_signature_has_at_least_a_byte_after_the_id_of_its_key() -> None:
    assert Signature.parse(f"— name {b64encode(b'1234s').decode()}") == Signature("name", b"1234", b"s")
    for line in (
        f"— name {b64encode(b'1234').decode()}",
        f"— na+me {b64encode(b'1234s').decode()}",
        f"name {b64encode(b'1234s').decode()}",
        "— name MTIz!NHM=",
        "— name MTIzNHMé",
        "— name MTIzNHM",
        "—  MTIzNHM=",
        "— na\u00a0me MTIzNHM=",
    ):
        with pytest.raises(NoteRefused):
            Signature.parse(line)


def test_a_note_is_readable_text_up_to_a_limit() -> None:
    end = "\n\n— name AAAAAAAA\n"
    longest = "two words".ljust(65_536 - len(end), "x")
    assert Note.parse(longest + end).text == f"{longest}\n"
    with pytest.raises(NoteRefused):
        Note.parse(f"x{longest}{end}")


@pytest.mark.parametrize(("key", "kind"), [(bytes(31), 1), (bytes(33), 1), (bytes(32), 2), (b"", 1)])
def test_a_verifier_has_an_ed25519_key(key: bytes, kind: int) -> None:
    with pytest.raises(NoteRefused):
        Verifier.parse(str(Verifier("witness", key, kind)))
    for name in ("", "wit ness", "wit\u00a0ness"):
        with pytest.raises(NoteRefused):
            Verifier.parse(str(Verifier(name, bytes(32))))
    witness = Verifier("witness", bytes(32), COSIGNATURE)
    assert Verifier.parse(str(witness)) == witness


def test_a_verifier_key_of_gos_module_is_read() -> None:
    """The example in the documentation of golang.org/x/mod/sumdb/note."""
    key = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    assert str(Verifier.parse(key)) == key


TEXT, END = "two words\n", "\n— name AAAAAAAA\n"


def test_a_note_has_a_text_a_gap_and_whole_lines() -> None:
    assert Note.parse(TEXT + END) == Note(TEXT, (Signature("name", bytes(4), bytes(2)),))
    assert len(Note.parse(f"{TEXT}\nmore\n{END}— other AAAAAAAA\n").signatures) == 2
    for wrong in (END, f"\n{END}", TEXT + END[1:], (TEXT + END)[:-1], f"{TEXT}\x00{END}", f"{TEXT}\t{END}"):
        with pytest.raises(NoteRefused):
            Note.parse(wrong)


def test_a_note_is_signed_by_the_known_keys_whose_signatures_hold() -> None:
    key, witness = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    log = Verifier("log", key.public_key().public_bytes_raw())
    mine = sign(TEXT, name="log", key=key)
    cosigner = Verifier("witness", witness.public_key().public_bytes_raw(), COSIGNATURE)
    at = (1_800_000_000).to_bytes(8, "big")
    message = f"cosignature/v1\ntime 1800000000\n{TEXT}".encode()
    theirs = Signature("witness", cosigner.id, at + witness.sign(message))
    note = Note(TEXT, (mine, theirs))
    assert Note.parse(str(note)) == note
    assert note.signed_by([cosigner, log]) == (log, cosigner)
    assert note.signed_by([cosigner]) == (cosigner,)
    assert note.signed_by([Verifier("log", cosigner.public)]) == ()
    assert cosigned_at(theirs) == 1_800_000_000
    later = replace(theirs, value=(1_800_000_001).to_bytes(8, "big") + theirs.value[8:])
    for wrong in (Note("another\n", (mine,)), Note(TEXT, (later,)), Note("another\n", (theirs,))):
        with pytest.raises(NoteRefused, match="is wrong"):
            wrong.signed_by([log, cosigner])


def test_a_proof_holds_the_leaf_its_path_and_the_checkpoint() -> None:
    note = Note.parse(TEXT + END)
    proof = write_proof(index=3, path=[b"one", b"two"], note=note, extra=b"leaf")
    assert proof == f"c2sp.org/tlog-proof@v1\nextra bGVhZg==\nindex 3\nb25l\ndHdv\n\n{TEXT}{END}"


def test_verifier_keys_are_read_as_they_are_written() -> None:
    verifier = Verifier("log.example/one", bytes(range(32)))
    assert Verifier.parse(str(verifier)) == verifier
    for wrong in ("", "log.example/one", str(verifier).replace("one", "two"), f"{verifier}AAAA"):
        with pytest.raises(NoteRefused):
            Verifier.parse(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "text\n",
        "text\n\n— name AAAA\n",
        "text\n\n- name AAAAAAAA\n",
        "t\x07\n\n— name AAAAAAAA\n",
        "t\n\n— n AAAAAAAA",
    ],
)
def test_what_isnt_a_signed_note_is_refused(wrong: str) -> None:
    with pytest.raises(NoteRefused):
        Note.parse(wrong)
    assert Note.parse("text\n\n— name AAAAAAAA\n").text == "text\n"
