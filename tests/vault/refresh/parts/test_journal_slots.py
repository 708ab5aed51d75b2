"""The bytes of the answer journal: answers of every size, what a torn or foreign one reads as, and the index."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from vault.refresh.journal_slots import (
    LONGEST,
    SLOT,
    Index,
    JournalEntry,
    JournalPlace,
    decode,
    encode,
    read,
    slots_for,
    slots_for_answer,
    wipe_remains,
)
from vault.refusals import StorageUnavailable

HEAD = 4 + 4 + 16 + 32
FIRST, NEXT = SLOT - HEAD, SLOT - 4  # bytes of body in the first slot, and in each further one
ENTRY = JournalEntry("c", 3, "owner", 2, 1000, b"s" * 30)


def with_body(size: int) -> JournalEntry:
    """An answer whose body has this many bytes."""
    around = len(encode(replace(ENTRY, sealed=b""))) - HEAD
    sealed, rest = divmod(size - around, 4)
    return replace(ENTRY, sealed=b"s" * 3 * sealed, owner=ENTRY.owner + "o" * rest)


@pytest.mark.parametrize(
    ("body", "slots"),
    [(FIRST, 1), (FIRST + 1, 2), (FIRST + NEXT, 2), (FIRST + NEXT + 1, 3), (FIRST + (LONGEST - 1) * NEXT, LONGEST)],
)
def test_an_answer_takes_as_many_slots_as_it_needs(body: int, slots: int) -> None:
    entry = with_body(body)
    record = encode(entry)
    assert slots_for(body) == slots
    assert (slots - 1) * SLOT < len(record) <= slots * SLOT
    assert decode(record) == decode(record.ljust(slots * SLOT, b"\x00")) == entry
    assert decode(record[:-1]) is None
    if slots > 1:
        assert decode(record[: SLOT + 3]) is None
        assert decode(record[:SLOT] + b"TVJ-" + record[SLOT + 4 :]) is None


def test_an_answer_that_is_too_large_is_refused() -> None:
    with pytest.raises(StorageUnavailable):
        encode(with_body(FIRST + (LONGEST - 1) * NEXT + 1))


def test_space_for_an_answer_is_enough_whatever_its_tokens() -> None:
    for tokens in range(0, 60_000, 150):
        sealed = replace(ENTRY, connection_id="c" * 40, owner="o" * 60, sealed=b"s" * (tokens + 200))
        needed = slots_for(len(encode(sealed)))
        assert needed <= slots_for_answer(tokens) <= needed + 1
    assert slots_for_answer(10**7) == LONGEST


def record_of(body: bytes, *, magic: bytes = b"TVJ1", name: str = "c", length: int | None = None) -> bytes:
    tag = sha256(name.encode()).digest()[:16]
    head = struct.pack(">4sI16s32s", magic, len(body) if length is None else length, tag, sha256(body).digest())
    return head + body


BODY = encode(ENTRY)[HEAD:]


def test_only_a_whole_answer_of_its_own_connection_is_read() -> None:
    assert decode(record_of(BODY)) == ENTRY
    for record in (
        b"",
        record_of(BODY)[: HEAD - 1],
        record_of(BODY, magic=b"TVJ2"),
        record_of(BODY, magic=b"TVJ3"),
        record_of(BODY, name="another"),
        record_of(BODY, length=len(BODY) - 1),
        record_of(BODY, length=LONGEST * SLOT, magic=b"TVJ2"),
        record_of(BODY[:-1]),
        record_of(b"[]"),
        record_of(b'"c"'),
        record_of(b"{}"),
        record_of(BODY.replace(b'"c"', b"3")),
        record_of(BODY.replace(b'"sealed":"', b'"sealed":"x')),
    ):
        assert decode(record) is None


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "journal", os.O_RDWR | os.O_CREAT)
    os.ftruncate(descriptor, 8 * SLOT)
    yield descriptor
    os.close(descriptor)


def put(file: int, slot: int, entry: JournalEntry) -> JournalPlace:
    record = encode(entry)
    os.pwrite(file, record, slot * SLOT)
    return JournalPlace(slot, -(-len(record) // SLOT), entry.generation, entry.fence, entry.at)


def test_the_index_finds_each_answer_and_the_free_slots(file: int) -> None:
    long = replace(with_body(FIRST + 1), connection_id="d")
    named = replace(ENTRY, connection_id='a "name"')  # which is escaped in JSON
    places = {"c": put(file, 1, ENTRY), "d": put(file, 3, long), 'a "name"': put(file, 7, named)}
    os.pwrite(file, record_of(b"{}"), 6 * SLOT)
    other = BODY.replace(b'"c"', b'"e"')  # with a length that this magic, or no answer, has
    os.pwrite(file, record_of(other, magic=b"TVJ2", name="e"), 0)
    os.pwrite(file, record_of(other, magic=b"TVJ2", length=LONGEST * SLOT, name="e"), 2 * SLOT)
    os.pwrite(file, record_of(other, length=2**24 + len(other), name="e"), 5 * SLOT)
    index = Index.of(file)
    assert set(index) == set(places)
    assert {name: index.get(name) for name in places} == places
    assert index.get("unknown") is None
    assert [read(file, one) for one in places.values()] == [ENTRY, long, named]
    assert index.free() == [0, 2, 5, 6]
    assert (len(index), index.count) == (3, 8)
    index.drop("d")
    index.touch("c", at=2000)
    assert index.get("c") == places["c"]._replace(at=2000)
    assert index.free() == [0, 2, 3, 4, 5, 6]
    index.count = 9
    assert (index.get("c"), index.free()) == (places["c"]._replace(at=2000), [0, 2, 3, 4, 5, 6, 8])


def test_the_index_finds_an_answer_of_the_most_slots(file: int) -> None:
    os.ftruncate(file, (LONGEST + 2) * SLOT)
    place = put(file, 1, with_body(FIRST + (LONGEST - 1) * NEXT))
    index = Index.of(file)
    assert (place.slots, index.get("c"), index.free()) == (LONGEST, place, [0, LONGEST + 1])


@pytest.mark.parametrize("newer_first", [True, False])
@pytest.mark.parametrize("is_whole", [True, False])
def test_of_two_answers_the_newer_counts_if_it_is_whole(file: int, *, newer_first: bool, is_whole: bool) -> None:
    slots = (1, 4) if newer_first else (4, 1)
    newer, older = put(file, slots[0], replace(ENTRY, generation=4)), put(file, slots[1], replace(ENTRY, fence=9))
    if not is_whole:
        os.pwrite(file, b"x", slots[0] * SLOT + HEAD + len(BODY) - 3)
    assert Index.of(file).get("c") == (newer if is_whole else older)


def test_a_file_that_ends_within_a_head_is_read_up_to_there(file: int) -> None:
    put(file, 1, ENTRY)
    os.ftruncate(file, SLOT + HEAD - 1)
    assert len(Index.of(file)) == 0
    os.ftruncate(file, SLOT)
    assert Index.of(file).count == 1


def test_remains_of_named_connections_are_wiped_in_free_slots_only(file: int) -> None:
    long = with_body(FIRST + NEXT + 1)
    put(file, 0, long)
    put(file, 3, replace(ENTRY, connection_id="other"))
    put(file, 4, ENTRY)
    put(file, 5, ENTRY)
    os.pwrite(file, b"\x00\x00\x00\x00", 0)  # the rest of an answer that was written elsewhere
    before = [os.pread(file, SLOT, slot * SLOT) for slot in range(8)]
    wipe_remains(file, [0, 2, 3, 4], ["c", "d"])
    after = [os.pread(file, SLOT, slot * SLOT) for slot in range(8)]
    assert [was != now for was, now in zip(before, after, strict=True)] == [
        True,
        False,
        True,
        False,
        True,
        False,
        False,
        False,
    ]
    assert after[0] == after[2] == after[4] == bytes(SLOT)
