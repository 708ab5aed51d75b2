"""Passwords of local accounts: which are accepted, and argon2id off the event loop.

NIST SP 800-63B-4 §3.1.1: length counts, composition does not; the whole password is compared, never a part of it.
`vault.users` stores the hash; the server signs in and throttles.
"""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

from vault.refusals import VaultError

MIN_LENGTH = 15  # the only factor, NIST SP 800-63B-4 §3.1.1.2
MAX_LENGTH = 1024
PARALLEL = 2

_P = ParamSpec("_P")
_T = TypeVar("_T")

_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1, hash_len=32, salt_len=16, type=Type.ID)
# The pool is the limit: however many people sign in at once, two hashes (38 MiB) run; the rest queue and can be
# cancelled.
_POOL = ThreadPoolExecutor(max_workers=PARALLEL, thread_name_prefix="password")

# Long enough to pass the length rule, but among the first guesses. Case and punctuation are ignored.
_BLOCKED = frozenset(
    {
        "correcthorsebatterystaple",
        "iloveyouiloveyou",
        "letmeinletmein",
        "passwordpassword",
        "mynameispassword",
        "thisismypassword",
        "thisisapassword",
        "passwordpassword1",
        "passwordpassword123",
        "password123456789",
        "qwertyuiopasdfgh",
        "qwertyuiopasdfghjklzxcvbnm",
        "tokenvaulttokenvault",
        "tokenvaultpassword",
        "changemechangeme",
        "administratoradministrator",
        "thequickbrownfox",
        "thequickbrownfoxjumpsoverthelazydog",
        "maythe4thbewithyou",
        "maytheforcebewithyou",
    }
)
_WALKS = (
    "0123456789",
    "abcdefghijklmnopqrstuvwxyz",
    "qwertyuiopasdfghjklzxcvbnm",
    "1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik9ol0p",
    "q1w2e3r4t5y6u7i8o9p0",
    "1q2w3e4r5t6y7u8i9o0p",
)
_LONGEST_UNIT = 4  # "abcdabcdabcdabcd" is one guess


class PasswordRefused(VaultError):
    """The password is too short, too long or among the first guesses."""

    code = "password_refused"


def check_password(password: str, *, name: str = "") -> None:
    """Raises PasswordRefused for an unacceptable new password. `name` is the account's own name."""
    if len(password) > MAX_LENGTH:
        raise PasswordRefused(f"the password is longer than {MAX_LENGTH} characters")
    if len(password) < MIN_LENGTH:
        raise PasswordRefused(f"the password needs at least {MIN_LENGTH} characters; several random words work well")
    if _is_first_guess(password, name=name):
        raise PasswordRefused("this password is too easy to guess; choose another")


async def hash_password(password: str) -> str:
    """The argon2id hash of an accepted password, from a bounded thread pool. Raises PasswordRefused if too long."""
    if len(password) > MAX_LENGTH:
        raise PasswordRefused(f"the password is longer than {MAX_LENGTH} characters")
    return await _off_loop(_HASHER.hash, _prepare(password))


async def verify_password(password_hash: str | None, password: str) -> bool:
    """Whether the password is the account's. None (no such account) takes the same work, so timing reveals nothing."""
    if len(password) > MAX_LENGTH:
        return False
    return await _off_loop(_verify, password_hash, _prepare(password))


def needs_rehash(password_hash: str) -> bool:
    """Whether the hash uses parameters other than the current ones; sign-in then stores a new one."""
    return _HASHER.check_needs_rehash(password_hash)


def _verify(password_hash: str | None, prepared: bytes) -> bool:
    if password_hash is None:
        _HASHER.hash(prepared)
        return False
    try:
        return _HASHER.verify(password_hash, prepared)
    except (VerificationError, InvalidHashError):
        return False


def _prepare(password: str) -> bytes:
    """NIST SP 800-63B-4 §3.1.1.2: one normal form, so that the same typing works on every keyboard."""
    return unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass")


def _is_first_guess(password: str, *, name: str) -> bool:
    guess = _comparable(password)
    if guess in _BLOCKED or any(_follows(one, walk) for walk in _WALKS for one in (guess, guess[::-1]) if guess):
        return True
    if any(_repeats(guess, guess[:length]) for length in range(1, _LONGEST_UNIT + 1)):
        return True
    own = _comparable(name)
    return bool(own) and _repeats(guess, own)


def _follows(text: str, walk: str) -> bool:
    """Whether the text follows this walk, wrapping around at its end."""
    return text in walk * (len(text) // len(walk) + 2)


def _repeats(text: str, unit: str) -> bool:
    """Whether text repeats the unit, with the last repetition possibly cut."""
    return bool(unit) and (unit * (len(text) // len(unit) + 1)).startswith(text)


def _comparable(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if c.isalnum())


async def _off_loop(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    return await asyncio.get_running_loop().run_in_executor(_POOL, lambda: function(*args, **kwargs))
