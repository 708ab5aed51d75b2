"""FastAPI: a dependency that gives an endpoint its caller's upstream token."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from fastapi import HTTPException, Request

from token_vault_client.refusals import ConnectionNeeded, VaultRefused
from token_vault_client.tokens import UpstreamToken
from token_vault_client.vault import AsyncVault, Vault


class UpstreamTokenOf:
    """`Depends(UpstreamTokenOf(vault, "google", scopes=[...]))`: the caller's bearer token is the subject."""

    def __init__(
        self, vault: AsyncVault | Vault, audience: str, scopes: Iterable[str] = (), *, account: str | None = None
    ) -> None:
        self._vault = vault
        self._audience = audience
        self._scopes = frozenset(scopes)
        self._account = account

    async def __call__(self, request: Request) -> UpstreamToken:
        """The token. Raises HTTPException: 401 without a bearer token, 403 when the person must act first."""
        scheme, _, subject = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not subject:
            raise HTTPException(401, "send a bearer token", headers={"WWW-Authenticate": "Bearer"})
        try:
            return await self._exchange(subject)
        except ConnectionNeeded as needed:
            said = {"error": needed.code, "connect_uri": needed.connect_uri, "description": needed.description}
            raise HTTPException(403, said) from needed
        except VaultRefused as refused:
            if refused.status >= 500 or refused.retry_after is not None:
                raise HTTPException(503, refused.description, headers=_later(refused)) from refused
            ended = refused.code in {"invalid_grant", "invalid_request", "invalid_token"}
            raise HTTPException(401 if ended else 403, {"error": refused.code}) from refused

    async def _exchange(self, subject: str) -> UpstreamToken:
        if isinstance(self._vault, AsyncVault):
            return await self._vault.token(self._audience, self._scopes, subject=subject, account=self._account)
        return await asyncio.to_thread(
            self._vault.token, self._audience, self._scopes, subject=subject, account=self._account
        )


def _later(refused: VaultRefused) -> dict[str, str]:
    return {} if refused.retry_after is None else {"Retry-After": str(refused.retry_after)}
