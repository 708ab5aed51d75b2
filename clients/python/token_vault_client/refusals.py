"""A vault's refusals, as exceptions."""

from __future__ import annotations

from collections.abc import Mapping

import httpx2


class VaultRefused(Exception):
    """The vault refused. `code` is stable; `description` says what to do; `members` has the rest of the answer."""

    def __init__(
        self,
        code: str,
        description: str,
        *,
        status: int,
        members: Mapping[str, object] | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(f"{code}: {description}")
        self.code = code
        self.description = description
        self.status = status
        self.members = dict(members or {})
        self.retry_after = retry_after

    @property
    def missing_scope(self) -> str | None:
        """Scopes that aren't available, if that is the reason."""
        value = self.members.get("missing_scope")
        return value if isinstance(value, str) else None


class ConnectionNeeded(VaultRefused):
    """The person must connect an account, or allow this program to use it, at `connect_uri`."""

    @property
    def connect_uri(self) -> str:
        """The address where the person does that: show it to them."""
        return str(self.members.get("connect_uri", ""))


def content_of(answer: httpx2.Response) -> object:
    """The JSON in an answer; None if it has none, as from a proxy that can't reach the vault."""
    if "json" not in answer.headers.get("content-type", ""):
        return None
    try:
        return answer.json()
    except ValueError:
        return None


def refusal_of(status: int, content: object, *, retry_after: str | None) -> VaultRefused:
    """The exception for an OAuth error (RFC 6749 §5.2) or a problem document (RFC 9457)."""
    members: dict[str, object] = dict(content) if isinstance(content, dict) else {}
    code = str(members.get("error") or members.get("code") or "server_error")
    description = str(members.get("error_description") or members.get("detail") or f"the vault answered {status}")
    kind = ConnectionNeeded if members.get("connect_uri") else VaultRefused
    wait = int(retry_after) if retry_after is not None and retry_after.isdigit() else None
    return kind(code, description, status=status, members=members, retry_after=wait)
