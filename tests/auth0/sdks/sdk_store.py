"""The session store of the programs that use Auth0's Python SDKs."""

from __future__ import annotations

from typing import Any

from auth0_server_python.store.abstract import AbstractDataStore


class Store(AbstractDataStore[Any]):
    """Keep sessions in memory."""

    def __init__(self) -> None:
        super().__init__({"secret": "x" * 32})
        self.kept: dict[str, Any] = {}

    async def set(self, identifier: str, state: Any, remove_if_expires: bool = False, options: Any = None) -> None:
        self.kept[identifier] = state

    async def get(self, identifier: str, options: Any = None) -> Any:
        return self.kept.get(identifier)

    async def delete(self, identifier: str, options: Any = None) -> None:
        self.kept.pop(identifier, None)
