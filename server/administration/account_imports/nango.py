"""Accounts from Nango: connections as returned by its API one by one, with their credentials.

Read 2026-11-27, not run: NangoHQ/nango@2f4c0af (docs/spec.yaml `ConnectionFull`, packages/types/lib/auth/api.ts,
getConnection.ts, formatters/connection.ts). `GET /connections/{id}?provider_config_key=...&refresh_token=true` needs a
key with `environment:connections:read_credentials`; it refreshes first if necessary, so the access token is valid. `GET
/connections` has no credentials. The account's ID is missing, so the provider is asked with the access token.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from server.administration.account_imports.accounts import (
    ImportedAccount,
    names_of,
    object_of,
    read_records,
    text_of,
)

ASK: Final = "no credentials: fetch the connection with refresh_token=true and a key that can read credentials"
REDACTED: Final = "Nango redacted the tokens: use the API with a key that can read credentials"
# Nango's templates that use the OAuth apps of our providers.
NAMES: Final[Mapping[str, str]] = {
    "github": "github-oauth-app",
    "github-app-oauth": "github",
    "twitter-v2": "x",
    "microsoft-teams": "microsoft",
    "microsoft-excel": "microsoft",
    "microsoft-word": "microsoft",
    "microsoft-powerpoint": "microsoft",
    "microsoft-planner": "microsoft",
    "microsoft-people": "microsoft",
    "outlook": "microsoft",
    "one-drive": "microsoft",
    "jira": "atlassian",
    "confluence": "atlassian",
    "google-mail": "google",
    "google-calendar": "google",
    "google-drive": "google",
    "google-docs": "google",
    "google-sheet": "google",
    "google-slides": "google",
    "google-contacts": "google",
    "google-tasks": "google",
    "google-forms": "google",
    "youtube": "google",
}


def read(file: Path) -> tuple[ImportedAccount, ...]:
    """One account for each connection. Raises ChangeRefused."""
    records = read_records(file, "connections", "data")
    return tuple(_account(line, record) for line, record in enumerate(records, start=1))


def _account(line: int, record: Mapping[str, object]) -> ImportedAccount:
    tags, end_user = object_of(record, "tags"), object_of(record, "end_user")
    credentials = object_of(record, "credentials")
    raw = object_of(credentials, "raw")
    refresh_token, access_token = text_of(credentials, "refresh_token"), text_of(credentials, "access_token")
    is_lasting = not refresh_token and not credentials.get("expires_at")
    return ImportedAccount(
        line,
        names_of(
            text_of(end_user, "email"),
            text_of(tags, "end_user_email"),
            text_of(end_user, "id"),
            text_of(tags, "end_user_id"),
            text_of(record, "connection_id"),
        ),
        text_of(record, "provider"),
        scopes=raw.get("scope"),
        refresh_token=refresh_token,
        access_token=access_token,
        answer=raw,
        client_id=text_of(object_of(credentials, "config_override"), "client_id"),
        obstacle=_obstacle(credentials, refresh_token or (access_token if is_lasting else "")),
        access_is_lasting=is_lasting,
    )


def _obstacle(credentials: Mapping[str, object], token: str) -> str:
    kind = text_of(credentials, "type")
    if not kind:
        return ASK
    if kind not in {"OAUTH2", "MCP_OAUTH2"}:
        return f"credentials of the type {kind} can't be imported"
    if token == "REDACTED":
        return REDACTED
    return "" if token else ASK
