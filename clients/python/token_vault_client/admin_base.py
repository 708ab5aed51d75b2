"""Base of the generated Admin API client: a service account's token, and one request."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self
from urllib.parse import quote

import httpx2

from token_vault_client.refusals import content_of, refusal_of

_MARGIN = 30  # seconds before its end when a token is no longer used


class AdminBase:
    """A vault's Admin API, called by a service account, or with `token`: a function that returns an access token."""

    def __init__(
        self,
        url: str,
        *,
        client_id: str = "",
        client_secret: str = "",
        token: Callable[[], str] | None = None,
        http: httpx2.Client | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._credentials = httpx2.BasicAuth(client_id, client_secret)
        self._token = token or self._own_token
        self._http = http or httpx2.Client(timeout=60)
        self._held: tuple[str, float] = ("", 0.0)

    def _own_token(self) -> str:
        token, ends_at = self._held
        if time.time() < ends_at - _MARGIN:
            return token
        form = {"grant_type": "client_credentials"}
        answer = self._http.post(f"{self.url}/token", data=form, auth=self._credentials, follow_redirects=False)
        content = content_of(answer)
        if answer.status_code != 200 or not isinstance(content, dict) or "access_token" not in content:
            raise refusal_of(answer.status_code, content, retry_after=answer.headers.get("retry-after"))
        self._held = str(content["access_token"]), time.time() + int(content.get("expires_in", 0))
        return self._held[0]

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: Mapping[str, object] | None = None,
        headers: Mapping[str, str | None] | None = None,
    ) -> Any:
        """The answer's JSON, or None if it has none. Raises VaultRefused with the problem's `code`."""
        sent = {"Authorization": f"Bearer {self._token()}"}
        sent |= {name: value for name, value in (headers or {}).items() if value is not None}
        given = {name: _written(value) for name, value in (query or {}).items() if value is not None}
        answer = self._http.request(
            method, self.url + path, params=given or None, json=body, headers=sent, follow_redirects=False
        )
        if answer.status_code == 401:
            self._held = ("", 0.0)  # it was revoked, so the next call gets another one
        is_json = "json" in answer.headers.get("content-type", "") and "jsonl" not in answer.headers["content-type"]
        content = content_of(answer) if is_json else None
        if not answer.is_success:
            raise refusal_of(answer.status_code, content, retry_after=answer.headers.get("retry-after"))
        return content if is_json else (answer.text or None)

    def walk(self, list_page: Callable[..., Any], **query: object) -> Iterator[Any]:
        """Every item of a list, page by page: `admin.walk(admin.list_people, find="a")`."""
        cursor: str | None = None
        while True:
            page = list_page(**query, cursor=cursor)
            yield from page["items"]
            cursor = page.get("next_cursor")
            if cursor is None:
                return

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def path_part(value: str | int) -> str:
    """The ID as one part of a path. Raises ValueError for an ID that would make it the path of something else."""
    if value in {"", ".", ".."}:
        raise ValueError(f"{value!r} isn't an ID")
    return quote(str(value), safe="")


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
