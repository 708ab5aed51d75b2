"""Tokens of people's own accounts from a Token Vault: `vault.token("google", scopes=[...])`."""

from token_vault_client.refusals import ConnectionNeeded, VaultRefused
from token_vault_client.tokens import UpstreamToken
from token_vault_client.vault import AsyncVault, Vault, acting_for

__all__ = ["AsyncVault", "ConnectionNeeded", "UpstreamToken", "Vault", "VaultRefused", "acting_for"]
