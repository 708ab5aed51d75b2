"""The tokens of live accounts for an export, opened one by one so that another program can take them over.

The account stays unchanged. While its vault runs, a refresh may replace the tokens that were read.
"""

from __future__ import annotations

from dataclasses import field

from vault.classes.immutable import immutable
from vault.connections import open_access_token, open_refresh_token
from vault.keys.key_ring import KeyRing
from vault.records import TENANT, Connection
from vault.refusals import CiphertextRejected
from vault.storage.database import Reader


@immutable
class HeldTokens:
    """The tokens in an account's row; `access_token` only where there is no refresh token."""

    refresh_token: str | None = field(repr=False)
    access_token: str | None = field(repr=False)


_SEALED = """
    select generation, access_generation, refresh_sealed, access_sealed from connections
    where tenant = :tenant and user_id = :user_id and id = :id and ended_at is null
"""


async def open_tokens(reader: Reader, ring: KeyRing, connection: Connection) -> HeldTokens | None:
    """The tokens of a live account; None when it has ended or its tokens can't be opened."""
    named = {"tenant": TENANT, "user_id": connection.user_id, "id": connection.id}
    row = await reader.fetch_one(_SEALED, named)
    if row is None:
        return None
    try:
        key = await ring.load_key(reader, user_id=connection.user_id, connection_id=connection.id)
        refresh_token = open_refresh_token(key, row, connection)
        if refresh_token is not None:
            return HeldTokens(refresh_token, None)
        return HeldTokens(None, open_access_token(key, row, connection))
    except CiphertextRejected:
        return None
