"""Frozen bytes of the activity, its tree, its checkpoints, and the answer journal: old data stays readable."""

from __future__ import annotations

import hashlib
import hmac
import json

import pytest

from tests.support.processes import ROOT
from vault.audit.merkle import leaf_hash, node_hash, root_of_inclusion
from vault.audit.notes import Note, NoteRefused, Signature, TreeHead, Verifier, cosigned_at, write_proof
from vault.audit.tree import leaf_data
from vault.refresh.journal_slots import JournalEntry, decode, encode
from vault.storage.event_chain import START, ChainEntry, begin, digest, fold, mac_and_tag, tail

VECTORS = json.loads(ROOT.joinpath("tests", "vectors", "activity_v1.json").read_text(encoding="utf-8"))
KEY = bytes.fromhex(VECTORS["key"])


def test_the_chain_and_its_keyed_head_are_made_as_before() -> None:
    previous, sequence = START, 0
    keyed = begin(KEY, height=0, sequence=0, hash=START)
    assert keyed.hex() == VECTORS["first"]
    for height, batch in enumerate(VECTORS["batches"], start=1):
        at = batch["at"]
        tails = [tail(ChainEntry(**event), at=at) for event in batch["events"]]
        mac, tag = mac_and_tag(KEY, tails=tails)
        keyed = fold(keyed, previous=previous, mac=mac)
        previous = digest(previous, height=height, sequence=sequence, at=at, tails=tails)
        assert (previous.hex(), keyed.hex()) == (batch["hash"], batch["keyed"])
        assert tag.hex() == batch["tag"]
        for number, (rest, data) in enumerate(zip(tails, batch["leaf_data"], strict=True), start=sequence + 1):
            assert leaf_data(KEY, sequence=number, tail=rest).hex() == data
            salt = hmac.digest(KEY, b"token-vault events salt 1\x00" + number.to_bytes(8, "big"), "sha256")[:16]
            row = json.loads(bytes.fromhex(data)[16:])
            assert (bytes.fromhex(data)[:16], row[1:3]) == (salt, [number, at])
        assert [leaf_hash(bytes.fromhex(one)).hex() for one in batch["leaf_data"]] == batch["leaves"]
        sequence += len(tails)


def test_checkpoints_cosignatures_and_proofs_are_read_as_before() -> None:
    one, two, three = (bytes.fromhex(leaf) for batch in VECTORS["batches"] for leaf in batch["leaves"])
    root = node_hash(node_hash(one, two), three)
    assert root.hex() == VECTORS["root"]
    note = Note.parse(VECTORS["note"])
    assert str(note) == VECTORS["note"]
    assert TreeHead.parse(note.text) == TreeHead("vault.example/activity/0a1b2c3d", 3, root)
    log, witness = Verifier.parse(VECTORS["log"]), Verifier.parse(VECTORS["witness"])
    assert note.signed_by([log, witness]) == (log, witness)
    assert cosigned_at(note.signatures[1]) == VECTORS["cosigned_at"]
    data = bytes.fromhex(VECTORS["batches"][1]["leaf_data"][0])
    assert write_proof(index=1, path=[one, three], note=note, extra=data) == VECTORS["proof"]
    assert root_of_inclusion(two, 1, 3, [one, three]) == root


def test_a_cosignature_of_another_time_doesnt_hold() -> None:
    note, witness = Note.parse(VECTORS["note"]), Verifier.parse(VECTORS["witness"])
    made = note.signatures[1]
    later = Signature(made.name, made.key_id, (VECTORS["cosigned_at"] + 1).to_bytes(8, "big") + made.value[8:])
    with pytest.raises(NoteRefused):
        Note(note.text, (note.signatures[0], later)).signed_by([witness])
    assert note.signed_by([witness]) == (witness,)


@pytest.mark.parametrize("vector", VECTORS["journal"], ids=lambda vector: vector["name"])
def test_answers_in_the_journal_are_written_and_read_as_before(vector: dict[str, object]) -> None:
    size = int(str(vector["sealed_length"]))
    sealed = bytes(range(20)) if size == 20 else b"frozen " * 1000
    assert hashlib.sha256(sealed).hexdigest() == vector["sealed_sha256"]
    names = {name: vector[name] for name in ("connection_id", "generation", "owner", "fence", "at")}
    entry = JournalEntry(**names, sealed=sealed)  # pyright: ignore
    record = encode(entry)
    assert hashlib.sha256(record).hexdigest() == vector["record_sha256"]
    if vector["record"] is not None:
        assert record.hex() == vector["record"]
    assert decode(record) == entry
    assert decode(record[:-1]) is None
