"""Accounts from Auth0: users of its Management API with the identities that they signed in with.

Read 2026-11-27, not run: `UserIdentitySchema` and `ConnectedAccount` of the Management API (node-auth0 7.2.0), and its
pages on identity provider tokens. `GET /api/v2/users` gives `identities[].refresh_token` with the scope
`read:user_idp_tokens`, for connections whose provider gives one. Token Vault's own tokens, of `GET
/api/v2/users/{id}/connected-accounts` and of the older token sets, are never exported: these accounts are reported, and
their people must connect again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from server.administration.account_imports.accounts import (
    NO_REFRESH_TOKEN,
    ImportedAccount,
    names_of,
    object_of,
    objects_of,
    read_records,
    text_of,
    verified_email,
)

_OWN: Final = frozenset({"auth0", "email", "sms"})  # sign-in at Auth0 itself, not an account at a provider
KEPT: Final = "Auth0 doesn't export tokens of connected accounts: the person must connect it again"
ASK: Final = "no refresh token: request users with the scope read:user_idp_tokens, or have the person connect it again"


def read(file: Path) -> tuple[ImportedAccount, ...]:
    """One account for each identity, and for each connected account that the file adds to a user.

    Raises ChangeRefused.
    """
    return tuple(_accounts(read_records(file, "users")))


def _accounts(users: Sequence[Mapping[str, object]]) -> Iterator[ImportedAccount]:
    line = 0
    for user in users:
        people = names_of(verified_email(user), text_of(user, "user_id"))
        for identity in objects_of(user, "identities"):
            if text_of(identity, "provider") not in _OWN:
                line += 1
                yield _identity(line, people, identity)
        for account in objects_of(user, "connected_accounts"):
            line += 1
            yield ImportedAccount(line, people, text_of(account, "connection"), obstacle=KEPT)


def _identity(line: int, people: tuple[str, ...], identity: Mapping[str, object]) -> ImportedAccount:
    refresh_token = text_of(identity, "refresh_token")
    return ImportedAccount(
        line,
        people,
        text_of(identity, "connection", "provider"),
        account=text_of(identity, "user_id"),
        label=text_of(object_of(identity, "profileData"), "email", "name"),
        refresh_token=refresh_token,
        access_token=text_of(identity, "access_token"),
        obstacle="" if refresh_token else ASK if "access_token" not in identity else NO_REFRESH_TOKEN,
    )
