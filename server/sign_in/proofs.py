"""What a person proved when they signed in, checked again in the transaction that stores what follows from it.

Checking a password takes a while, and a passkey or an identity provider takes longer. If the password was changed or
the passkey removed in the meantime, no session may begin: the change ended only the sessions that it saw.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from vault import users
from vault.records import User
from vault.sign_in import passkeys
from vault.sign_in.passkeys import Passkey
from vault.storage.database import Transaction

CHANGED: Final = "Your account changed while you were signing in. Sign in again."
Proof = Callable[[Transaction, User], Awaitable[bool]]  # given the person as they are now


def password_of(before: User) -> Proof:
    """The password that the person had, or that they had none."""

    async def is_same(_: Transaction, now_is: User) -> bool:
        return now_is.password_hash == before.password_hash

    return is_same


def passkey(used: Passkey) -> Proof:
    """A passkey, unless it was removed."""

    async def is_there(transaction: Transaction, now_is: User) -> bool:
        return any(one.id == used.id for one in await passkeys.list_passkeys(transaction, now_is.id))

    return is_there


def identity(issuer: str, subject: str) -> Proof:
    """An identity at a sign-in provider, unless it was unlinked, or belongs to someone else now."""

    async def is_linked(transaction: Transaction, now_is: User) -> bool:
        found = await users.find_by_identity(transaction, issuer=issuer, subject=subject)
        return found is not None and found.id == now_is.id

    return is_linked


async def hold_person(transaction: Transaction, user: User, proof: Proof) -> bool:
    """Lock the person until the transaction ends; False if they are gone or disabled, or the proof no longer holds."""
    await users.hold_user(transaction, user.id)
    now_is = await users.get_user(transaction, user.id)
    return now_is is not None and now_is.disabled_at is None and await proof(transaction, now_is)
