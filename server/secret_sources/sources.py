"""Reads secrets by reference, and caches each for a few seconds. Nothing is stored.

The sources are the operator's own, at addresses in the settings. Secrets and tokens never appear in an error.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

from providers.credentials.references import Reference, parse_reference
from providers.oauth.secret_references import SecretUnavailable
from server.secret_settings import SecretSettings
from server.secret_sources.commands import read_bitwarden, read_with_op

LONGEST: Final = 16_384  # characters of a secret
_BREAKS: Final = str.maketrans("", "", "\t\r\n")
PATIENCE: Final = 10.0  # seconds for one source


class SecretSources:
    """Reads secrets, as `providers.oauth.secret_references` requires. `environment`: this process's own."""

    def __init__(
        self,
        settings: SecretSettings,
        *,
        environment: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._environment = environment
        self._clock = clock
        self._known: dict[str, tuple[str, float]] = {}
        self._reading: dict[str, asyncio.Lock] = {}

    @property
    def cache(self) -> int:
        """Seconds that a secret is cached after it was read."""
        return self._settings.cache

    async def read(self, reference: str, *, is_fresh: bool = False) -> str:
        """The secret; with `is_fresh`, one that is read after this call began. Raises SecretUnavailable."""
        secret = await self.read_lines(reference, is_fresh=is_fresh)
        if not secret.isprintable():
            raise SecretUnavailable(f"{reference} holds no secret: it is not one line.")
        return secret

    async def read_lines(self, reference: str, *, is_fresh: bool = False) -> str:
        """Like `read`, for a secret that may have several lines, such as a private key."""
        asked = self._clock()
        async with self._reading.setdefault(reference, asyncio.Lock()):
            found, at = self._known.get(reference, ("", 0.0))
            is_new = at >= asked if is_fresh else self._clock() < at + self._settings.cache
            if found and is_new:
                return found
            secret = await self._read(parse_reference(reference))
            self._keep(reference, secret)
            return secret

    def _keep(self, reference: str, secret: str) -> None:
        """Cache a secret for the time in the settings."""
        if not self._settings.cache:
            return
        kept = self._known[reference] = secret, self._clock()

        def forget() -> None:
            if self._known.get(reference) is kept:
                del self._known[reference]

        asyncio.get_running_loop().call_later(self._settings.cache, forget)

    async def _read(self, reference: Reference) -> str:
        try:
            async with asyncio.timeout(PATIENCE):
                secret = await self._reader(reference)(reference)
        except TimeoutError as error:
            self._known.pop(reference.text, None)
            raise SecretUnavailable(f"{reference.text} can't be read: no answer within {PATIENCE:.0f} s.") from error
        except SecretUnavailable:
            self._known.pop(reference.text, None)
            raise
        secret = secret.strip()
        if not secret or len(secret) > LONGEST or not secret.translate(_BREAKS).isprintable():
            raise SecretUnavailable(f"{reference.text} holds no secret: it is empty, too long, or not text.")
        return secret

    def _reader(self, reference: Reference) -> Callable[[Reference], Awaitable[str]]:
        settings = self._settings
        match reference.source:
            case "env":
                return self._variable
            case "file":
                return _file
            case "op" if settings.onepassword_url is not None:
                from server.secret_sources.services import read_connect  # imported here: few need an HTTP client

                return lambda one: read_connect(one, settings)
            case "op":
                return lambda one: read_with_op(one, settings, self._environment)
            case "bws":
                return lambda one: read_bitwarden(one, settings, self._environment)
            case _:
                from server.secret_sources.services import read_openbao

                return lambda one: read_openbao(one, settings)

    async def _variable(self, reference: Reference) -> str:
        found = self._environment.get(reference.parts[0])
        if found is None:
            raise SecretUnavailable(f"{reference.text}: there is no such variable here; set it for this process.")
        return found


async def _file(reference: Reference) -> str:
    try:
        return await asyncio.to_thread(Path(reference.parts[0]).read_text, encoding="utf-8")
    except FileNotFoundError as error:
        raise SecretUnavailable(f"{reference.text}: there is no such file; create it, or correct the path.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SecretUnavailable(
            f"{reference.text} can't be read ({type(error).__name__}): make it readable for this user."
        ) from error
