"""Accounts from Better Auth: rows of its `account` table, with the e-mail address of their user.

Read 2026-11-27, not run: better-auth/better-auth@451aa4b, 1.7.1 (packages/core/src/db/schema/account.ts,
packages/better-auth/src/oauth2/utils.ts and crypto/index.ts). `scope` is separated by commas. With
`account.encryptOAuthTokens` a token is XChaCha20-Poly1305 as hex digits, from 1.5 after `$ba$VERSION$`; such rows are
reported and left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from server.administration.account_imports.accounts import (
    NO_REFRESH_TOKEN,
    ImportedAccount,
    names_of,
    read_records,
    text_of,
    verified_email,
)

ENCRYPTED: Final = "its tokens are encrypted: decrypt them with symmetricDecrypt of better-auth/crypto first"
NAMES: Final[Mapping[str, str]] = {"github": "github-oauth-app", "twitter": "x", "huggingface": "hugging-face"}
_HEX: Final = re.compile(r"(?:[0-9a-fA-F]{2}){40,}")  # at least the nonce and the tag


def read(file: Path) -> tuple[ImportedAccount, ...]:
    """One account for each row that isn't a password. Column names can be in camel or snake case. Raises
    ChangeRefused."""
    rows = enumerate(read_records(file, "account", "accounts"), start=1)
    return tuple(_account(line, row) for line, row in rows if text_of(row, "providerId", "provider_id") != "credential")


def _account(line: int, row: Mapping[str, object]) -> ImportedAccount:
    refresh_token = text_of(row, "refreshToken", "refresh_token")
    access_token = text_of(row, "accessToken", "access_token")
    ends = text_of(row, "accessTokenExpiresAt", "access_token_expires_at")
    is_lasting = not refresh_token and not ends
    token = refresh_token or (access_token if is_lasting else "")
    return ImportedAccount(
        line,
        names_of(verified_email(row), text_of(row, "userId", "user_id")),
        text_of(row, "providerId", "provider_id"),
        account=text_of(row, "accountId", "account_id"),
        scopes=text_of(row, "scope").replace(",", " ") or None,
        refresh_token=refresh_token,
        access_token=access_token,
        obstacle=NO_REFRESH_TOKEN if not token else ENCRYPTED if _is_encrypted(token) else "",
        access_is_lasting=is_lasting,
    )


def _is_encrypted(token: str) -> bool:
    return token.startswith("$ba$") or _HEX.fullmatch(token) is not None
