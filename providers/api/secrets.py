"""What to mask in a provider's answers: each secret in the token or credential that a call sent."""

from __future__ import annotations

from providers.api.masking import needles
from providers.credentials.entered_values import secrets_of
from providers.credentials.placement import composed_secrets
from providers.definitions.model import Provider


def masks_of(provider: Provider, token: str, entered: str = "") -> tuple[bytes, ...]:
    """The patterns that find secrets, which must not be shown; see `providers.api.masking`. `entered`: see
    `secrets_of`."""
    secrets = (*secrets_of(provider, token, entered), *composed_secrets(provider, token))
    if len(secrets) == 1:
        return needles(secrets[0])
    found = {needle for secret in secrets for needle in needles(secret)}
    return tuple(sorted(found, key=len, reverse=True))
