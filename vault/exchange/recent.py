"""What an exchange was decided from, so that the next one like it can see that nothing of it has changed.

The decision is a function of the client's row, the rows of `vault.refresh.accounts` and the time. One read brings all
of these rows. Nothing is kept here; whoever keeps a decision looks at them again before each use of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from vault import clients
from vault.records import Client
from vault.refresh import accounts, rotation
from vault.refresh.accounts import HeldAccount, HeldToken, Wanted
from vault.refresh.concurrency import TokenWish, Vault
from vault.storage.database import Reader, Row, Value

_CLIENT: Final = """c.id as client_id, c.kind, c.name, c.auth_method, c.redirect_uris, c.grant_types, c.resources,
    c.secret_hash, c.registration_hash, c.metadata, c.created_at as client_created_at, c.last_used_at, c.removed_at"""
_READ: Final = f"select {_CLIENT}, {accounts.COLUMNS}{accounts.SOURCES}"


@dataclass(frozen=True, slots=True)
class Basis:
    """The accounts that an exchange found, and the token that it opened.

    While the same are found again the same is decided, up to `until`. `wish` asks for the token that comes after it.
    """

    wanted: Wanted
    accounts: tuple[HeldAccount, ...]
    held: HeldAccount
    token: HeldToken
    wish: TokenWish
    until: int | None
    parameters: Mapping[str, Value] = field(repr=False)

    def keep_fresh(self, vault: Vault, *, now: int) -> None:
        """See to it that the token in use is replaced before it dies."""
        rotation.keep_fresh(vault, self.held, self.token, wish=self.wish, now=now)


def basis_of(
    wanted: Wanted, found: tuple[HeldAccount, ...], held: HeldAccount, *, token: HeldToken, wish: TokenWish, now: int
) -> Basis:
    """The basis of a token that is handed out now; it ends where a permission or the token does."""
    ends = [one.delegated_until for one in found if one.delegated_until is not None and one.delegated_until > now]
    if token.good_until is not None:
        ends.append(token.good_until)
    parameters = accounts.parameters_of(wanted)
    return Basis(wanted, found, held, token, wish, min(ends, default=None), parameters)


async def look(reader: Reader, basis: Basis) -> Sequence[Row]:
    """The rows as they are now: none where the grant, its client or its person is gone."""
    return await reader.look_up(_READ, basis.parameters)


def are_of(rows: Sequence[Row], basis: Basis, *, client: Client) -> bool:
    """Whether these rows say exactly what was decided from."""
    if not rows:
        return False
    first = rows[0]
    stored = clients.client_of({**first, "id": first["client_id"], "created_at": first["client_created_at"]})
    return stored == client and accounts.accounts_of(rows, basis.wanted) == basis.accounts
