"""Variables that no program inherits because they open the vault's own secrets: those of settings and key sources.

`TOKEN_VAULT_*` are the settings themselves. Cloud credentials are removed only if a key source or a copy of checkpoints
uses them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from server.secret_sources import env_variable
from server.settings import PREFIX, Settings

# Secret sources (`op`, `bws`), key sources, and PostgreSQL's library.
_ALWAYS: Final = frozenset(
    {"CREDENTIALS_DIRECTORY", "VAULT_TOKEN", "BAO_TOKEN"}
    | {"PGPASSWORD", "PGPASSFILE", "PGSERVICEFILE", "PGSSLKEY", "PGSSLPASSWORD"}
)
_ALWAYS_BEGIN: Final = (PREFIX, "OP_", "BWS_")
# The variables in which each library looks for credentials, by its documentation: names, and beginnings of names.
_AWS: Final = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN", "AWS_PROFILE"),
    *("AWS_DEFAULT_PROFILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE"),
    *("AWS_ROLE_", "AWS_CONTAINER_", "AWS_BEARER_TOKEN", "AWS_CREDENTIAL_"),
)
_BY_SOURCE: Final = {
    "aws_kms": _AWS,
    "azure_key_vault": ("AZURE_", "IDENTITY_", "MSI_"),
    "google_kms": ("GOOGLE_APPLICATION_CREDENTIALS",),
}
_TELEMETRY: Final = ("OTEL_EXPORTER_OTLP",)


class OwnVariables:
    """The variables of one vault. `name in own` says whether a variable is one of them."""

    def __init__(self, settings: Settings) -> None:
        self._names = _ALWAYS | frozenset(_names_in_references(settings))
        self._beginnings = (*_ALWAYS_BEGIN, *_beginnings_in_use(settings))

    def __contains__(self, name: str) -> bool:
        return name in self._names or name.upper().startswith(self._beginnings)


def _names_in_references(settings: Settings) -> Iterator[str]:
    """The variables that `env://` references in the settings name."""
    for name, one in settings.providers.items():
        if (variable := env_variable(one.secret(name) or "")) is not None:
            yield variable


def _beginnings_in_use(settings: Settings) -> Iterable[str]:
    for place in (settings.keys, settings.keys.also):
        yield from () if place is None else _BY_SOURCE.get(place.source, ())
    if settings.checkpoints.bucket is not None:
        yield from _AWS
    if settings.telemetry.otlp_endpoint is not None:
        yield from _TELEMETRY
