"""Accounts from Composio: connected accounts as returned by its API v3.

Read 2026-11-27, not run: ComposioHQ/composio@3e989ec (docs/public/openapi.json `GET /api/v3/connected_accounts`,
its page on connected accounts, changelog of 2025-12-10). `state.val` has the tokens, if the project's setting
"Mask Connected Account Secrets" is off. Accounts of an OAuth app that Composio manages belong to that app and can't be
imported. `user_id` is deprecated; the account's ID is missing, so the provider is asked with the access token.
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
    object_of,
    read_records,
    text_of,
)

MANAGED: Final = "it belongs to Composio's own OAuth app: the person must connect it again"
MASKED: Final = 'its tokens are masked: turn off "Mask Connected Account Secrets" in the project and fetch it again'
_MASKED: Final = re.compile(r"REDACTED|.{0,8}\.\.\.")
NAMES: Final[Mapping[str, str]] = {
    "gmail": "google",
    "googlecalendar": "google",
    "googledrive": "google",
    "googledocs": "google",
    "googlesheets": "google",
    "googleslides": "google",
    "googletasks": "google",
    "googlemeet": "google",
    "googlesuper": "google",
    "youtube": "google",
    "github": "github-oauth-app",
    "outlook": "microsoft",
    "one_drive": "microsoft",
    "microsoft_teams": "microsoft",
    "twitter": "x",
    "jira": "atlassian",
    "confluence": "atlassian",
}


def read(file: Path) -> tuple[ImportedAccount, ...]:
    """One account for each connected account. Raises ChangeRefused."""
    return tuple(_account(line, record) for line, record in enumerate(read_records(file, "items"), start=1))


def _account(line: int, record: Mapping[str, object]) -> ImportedAccount:
    state = object_of(record, "state")
    value = object_of(state, "val")
    refresh_token = text_of(value, "refresh_token")
    access_token = text_of(object_of(value, "authed_user"), "access_token") or text_of(value, "access_token")
    is_lasting = not refresh_token and value.get("expires_in") is None
    return ImportedAccount(
        line,
        names_of(text_of(record, "user_id")),
        text_of(object_of(record, "toolkit"), "slug"),
        scopes=object_of(value, "authed_user").get("scope") or value.get("scope"),
        refresh_token=refresh_token,
        access_token=access_token,
        answer=value,
        obstacle=_obstacle(record, text_of(state, "authScheme"), refresh_token or (access_token if is_lasting else "")),
        access_is_lasting=is_lasting,
    )


def _obstacle(record: Mapping[str, object], scheme: str, token: str) -> str:
    if object_of(record, "auth_config").get("is_composio_managed") is True:
        return MANAGED
    if (status := text_of(record, "status")) != "ACTIVE" or record.get("is_disabled") is True:
        return f"it is {'disabled' if status == 'ACTIVE' else status.lower() or 'without a status'} at Composio"
    if scheme != "OAUTH2":
        return f"credentials of the scheme {scheme or 'unknown'} can't be imported"
    if not token:
        return NO_REFRESH_TOKEN
    return MASKED if _MASKED.fullmatch(token) else ""
