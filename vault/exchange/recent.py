"""The facts behind an exchange, so that the next identical one can check that none of them changed.

The decision is a function of the client's row, the rows of `vault.refresh.accounts` and the time. One read returns all
of these rows, or all but the client's columns: those are in `Basis.rows`, as the decision found them. This module
stores nothing; a caller that keeps a decision must check the rows before each use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Final

from vault import clients
from vault.classes.immutable import immutable
from vault.records import Client
from vault.refresh import accounts
from vault.refresh.accounts import AccountQuery, HeldAccount, HeldToken
from vault.storage.database import Reader, Row, Value

_CLIENT: Final = """c.id as client_id, c.kind, c.name, c.auth_method, c.redirect_uris, c.grant_types, c.resources,
    c.secret_hash, c.registration_hash, c.metadata, c.created_at as client_created_at, c.last_used_at, c.removed_at"""
_READ: Final = f"select {_CLIENT}, {accounts.COLUMNS}{accounts.SOURCES}"


@immutable
class Basis:
    """The accounts that an exchange found, and the token that it opened, sealed for `purpose`.

    While a read returns the same rows, the decision stays the same, up to `until`. `rows` are those that
    `accounts.look` returned for `parameters`.
    """

    wanted: AccountQuery
    accounts: tuple[HeldAccount, ...]
    held: HeldAccount
    token: HeldToken
    purpose: str
    until: int | None
    parameters: Mapping[str, Value] = field(repr=False)
    rows: Sequence[Row] = field(repr=False)

    @property
    def ends(self) -> tuple[int | None, ...]:
        """When to decide again: a permission or the token ends, or it is time to request the next token."""
        return self.until, self.token.ageing_at


def basis_of(
    wanted: AccountQuery,
    found: tuple[HeldAccount, ...],
    held: HeldAccount,
    *,
    rows: Sequence[Row],
    token: HeldToken,
    purpose: str,
    now: int,
) -> Basis:
    """The basis of a token that is released now; it ends when a permission or the token ends."""
    ends = [one.delegated_until for one in found if one.delegated_until is not None and one.delegated_until > now]
    ends += [one.shared_until for one in found if one.shared_until is not None and one.shared_until > now]
    ends += [one.beyond_until for one in found if one.beyond_until is not None and one.beyond_until > now]
    if token.good_until is not None:
        ends.append(token.good_until)
    parameters = accounts.parameters_of(wanted)
    return Basis(wanted, found, held, token, purpose, min(ends, default=None), parameters, rows)


async def look(reader: Reader, basis: Basis) -> Sequence[Row]:
    """The current rows; none when the grant, its client or its person is gone."""
    return await reader.look_up(_READ, basis.parameters)


def are_of(rows: Sequence[Row], basis: Basis, *, client: Client) -> bool:
    """Whether these rows equal those behind the decision."""
    if not rows:
        return False
    first = rows[0]
    stored = clients.client_of({**first, "id": first["client_id"], "created_at": first["client_created_at"]})
    return stored == client and accounts.accounts_of(rows, basis.wanted) == basis.accounts
