"""Passwords: which are accepted, that every character counts, and that hashing is bounded and off the event loop."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from argon2 import Type, extract_parameters

from vault.keys.passwords import (
    PasswordRefused,
    check_password,
    hash_password,
    needs_rehash,
    verify_password,
)

pytestmark = pytest.mark.usefixtures("costly_passwords")
GOOD = "seven green herons nap"
MEGABYTE = "a9" * 524_288


@pytest.mark.requirement("S-131")
@pytest.mark.parametrize(
    ("refused", "accepted"),
    [
        ("twelve herons!", "twelve herons!!"),  # 14 and 15 characters
        ("é" * 9 + "heron", "é" * 9 + "herons"),  # counted in characters: 23 bytes aren't enough
        ("passwordpassword", "passwordpassword heron"),
        ("xkqz" * 4, "xkqzp" * 3),  # a repeated group of four is one guess
        ("Password-Password", "Password-Pass-Heron"),
        ("Correct Horse Battery Staple", "Correct Horse Battery Heron"),
        ("aaaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaab"),
        ("abcabcabcabcabcabc", "abcabcabcabcabcabd"),
        ("xkqz" * 4 + "xk", "xkqz" * 4 + "xx"),  # the last repetition may be cut
        ("123456789012345", "123456789012346"),
        ("543210987654321", "543210987654322"),
        ("qwertyuiopasdfgh", "qwertyuiopasdfgj"),
        ("zxcvbnm qwertyuiop", "zxcvbnm qwertyuiok"),  # over the end of the walk
        ("1234567890" * 5, "1234567890" * 5 + "2"),
    ],
)
def test_a_short_or_guessable_password_is_refused_and_its_neighbour_is_not(refused: str, accepted: str) -> None:
    check_password(accepted)
    with pytest.raises(PasswordRefused):
        check_password(refused)


@pytest.mark.requirement("S-131")
@pytest.mark.parametrize(
    "password",
    [
        "h e r o n  n a p " * 4,
        "nur kleine buchstaben",
        "1029384756 8271",
        "密码很长很好记住它们的十五个字",
        "?!" * 8,
        GOOD,
    ],
)
def test_length_is_enough_whatever_the_characters(password: str) -> None:
    check_password(password)


@pytest.mark.requirement("S-131")
def test_the_own_name_as_password_is_refused() -> None:
    with pytest.raises(PasswordRefused):
        check_password("alice.example-alice.example", name="Alice Example")
    check_password("alice.example-alice.example", name="Bob")
    with pytest.raises(PasswordRefused):
        check_password("alice.example-alice", name="Alice Example")
    check_password("alice.example-alicf", name="Alice Example")


@pytest.mark.requirement("S-131")
async def test_1024_characters_are_accepted_and_one_more_is_not() -> None:
    longest = ("heron " * 200)[:1024]
    check_password(longest)
    assert await verify_password(await hash_password(longest), longest)
    with pytest.raises(PasswordRefused):
        check_password(longest + "x")


@pytest.mark.requirement("S-131")
async def test_the_first_72_characters_of_an_80_character_password_do_not_sign_in() -> None:
    password = "0123456789" * 7 + "ab" + "the tail"
    assert len(password) == 80
    stored = await hash_password(password)
    assert not await verify_password(stored, password[:72])
    assert await verify_password(stored, password)


async def test_the_same_typing_signs_in_whatever_normal_form_the_keyboard_sends() -> None:
    stored = await hash_password("caf\N{LATIN SMALL LETTER E WITH ACUTE} au lait, bitte")
    assert await verify_password(stored, "cafe\N{COMBINING ACUTE ACCENT} au lait, bitte")
    assert not await verify_password(stored, "cafe au lait, bitte")


@pytest.mark.requirement("S-132")
async def test_hashes_are_argon2id_with_19_mib_and_two_passes() -> None:
    stored = await hash_password(GOOD)
    parameters = extract_parameters(stored)
    assert parameters.type is Type.ID
    assert (parameters.memory_cost, parameters.time_cost, parameters.parallelism) == (19 * 1024, 2, 1)
    assert (parameters.hash_len, parameters.salt_len) == (32, 16)
    assert not needs_rehash(stored)
    assert stored != await hash_password(GOOD)


def test_a_hash_of_weaker_parameters_is_to_be_replaced() -> None:
    assert needs_rehash(
        "$argon2id$v=19$m=8192,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI"
    )


@pytest.mark.requirement("S-132")
async def test_a_megabyte_is_refused_without_the_work_of_a_hash() -> None:
    stored = await hash_password(GOOD)
    started = time.process_time()
    assert await verify_password(stored, GOOD)
    one_hash = time.process_time() - started
    started = time.process_time()
    for _ in range(20):
        assert not await verify_password(stored, MEGABYTE)
        assert not await verify_password(None, MEGABYTE)
        with pytest.raises(PasswordRefused):
            await hash_password(MEGABYTE)
        with pytest.raises(PasswordRefused):
            check_password(MEGABYTE)
    assert time.process_time() - started < one_hash


@pytest.mark.requirement("S-132")
async def test_fifty_sign_ins_at_once_hash_two_at_a_time_and_leave_the_loop_free() -> None:
    stored = await hash_password(GOOD)
    turns = 0
    most = 0
    tries = [asyncio.ensure_future(verify_password(stored, GOOD)) for _ in range(50)]
    while not all(attempt.done() for attempt in tries):
        await asyncio.sleep(0)
        turns += 1
        most = max(most, sum(thread.name.startswith("password") for thread in threading.enumerate()))
    assert all(attempt.result() for attempt in tries)
    assert most == 2
    assert turns > 50  # the loop kept running while they hashed


@pytest.mark.requirement("S-130")
async def test_an_unknown_user_costs_as_much_work_as_a_wrong_password() -> None:
    stored = await hash_password(GOOD)

    async def work(password_hash: str | None) -> float:
        started = time.process_time()
        for _ in range(5):
            assert not await verify_password(password_hash, "some other heron nap")
        return time.process_time() - started

    await work(stored)
    known, unknown = await work(stored), await work(None)
    assert 0.4 < unknown / known < 2.5


async def test_a_damaged_hash_is_a_wrong_password() -> None:
    assert not await verify_password("$argon2id$v=19$nonsense", GOOD)
    assert not await verify_password("", GOOD)
