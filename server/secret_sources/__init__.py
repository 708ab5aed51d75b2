"""Secrets that are stored elsewhere and read when needed: 1Password, Bitwarden, OpenBao, files, variables."""

from providers.credentials.references import env_variable, is_reference, reference_problem
from server.secret_sources.entered_references import EnteredSecrets, VaultReferences
from server.secret_sources.sources import SecretSources

__all__ = ["EnteredSecrets", "SecretSources", "VaultReferences", "env_variable", "is_reference", "reference_problem"]
