"""References that people enter instead of keys: which ones the operator allows, and reading them for the exchange.

The vault reads them with its own token, so an allowed prefix must not contain secrets that people may not see.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from providers.credentials.references import is_below
from providers.definitions.credential import Credential
from providers.definitions.model import Provider
from providers.oauth.secret_references import SecretUnavailable, held_references, read_references
from server.secret_sources.opened_keys import OpenedKeys, OpenKeys
from server.secret_sources.sources import SecretSources
from vault.refusals import TemporarilyUnavailable

_NAME: Final = re.compile(r"[A-Za-z0-9@_+-][A-Za-z0-9@._+-]*")  # a person's name, if it can be part of a path
_LATER: Final = 5  # seconds until another attempt
logger = logging.getLogger("token_vault.secrets")


class EnteredSecrets:
    """Implements `providers.oauth.secret_references.EnteredReader`, for allowed references only."""

    def __init__(self, sources: SecretSources, allowed: Sequence[str], open_keys: OpenKeys) -> None:
        self._sources = sources
        self._allowed = allowed
        self._opened = OpenedKeys(open_keys, seconds=sources.cache)

    def may_enter(self, reference: str, *, user: str) -> bool:
        """Whether a person with this name may enter the reference."""
        named = user if _NAME.fullmatch(user) else ""
        return any(is_below(reference, one, user=named) for one in self._allowed if named or "{" not in one)

    async def read(self, reference: str, *, is_fresh: bool = False) -> str:
        """The secret. Raises SecretUnavailable, also for references that the settings no longer allow."""
        if not any(is_below(reference, one) for one in self._allowed):
            raise SecretUnavailable(f"{reference} isn't allowed: add its prefix to secrets.entered.")
        return await self._sources.read_lines(reference, is_fresh=is_fresh)

    async def open_keys(self, credential: Credential, values: Mapping[str, str]) -> Mapping[str, str]:
        """The values with private keys that need no passphrase. Raises CredentialRefused or SecretUnavailable."""
        return await self._opened.open(credential, values)


class VaultReferences:
    """Implements `vault.refresh.references.References`."""

    def __init__(self, facts_of: Callable[[str], tuple[Provider | None, EnteredSecrets]]) -> None:
        self._facts_of = facts_of  # the current ones, by the provider's name

    def source_of(self, provider: str, token: str) -> str:
        """The names of the token's sources, such as `bao`; empty for a token that contains its secrets."""
        if "://" not in token:
            return ""
        known, _ = self._facts_of(provider)
        found = {} if known is None else held_references(known, token)
        return " ".join(sorted({one.partition("://")[0] for one in found.values()}))

    async def read(self, provider: str, token: str) -> str:
        """The token with the secrets in place of references. Raises TemporarilyUnavailable."""
        known, secrets = self._facts_of(provider)
        if known is None:
            return token
        try:
            return await read_references(known, token, secrets)
        except SecretUnavailable as error:
            logger.warning("entered secret not read", extra={"provider": provider, "detail": error.description})
            raise TemporarilyUnavailable(
                f"The secret of this {known.title} account is kept elsewhere and can't be read there. Have its person "
                "or an admin check the reference.",
                retry_after=_LATER,
                detail=error.description,
            ) from error
