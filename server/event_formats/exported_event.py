"""An event with the data that makes it readable and verifiable elsewhere."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass

from vault.audit.merkle import leaf_hash
from vault.records import Event


@dataclass(frozen=True, slots=True)
class ExportedEvent:
    """`leaf` is the data of its leaf, with the salt; `names` are those of users and agents by ID; `host` exports it."""

    event: Event
    leaf: bytes
    names: Mapping[str, str]
    host: str

    @property
    def hash(self) -> str:
        """The hash of its leaf, base64."""
        return b64encode(leaf_hash(self.leaf)).decode()

    @property
    def user(self) -> str | None:
        """The person's name, or their id once the name is gone."""
        return self.names.get(self.event.user_id or "", self.event.user_id)

    @property
    def agent(self) -> str | None:
        """The agent's name, or its id once the name is gone."""
        return self.names.get(self.event.client_id or "", self.event.client_id)
