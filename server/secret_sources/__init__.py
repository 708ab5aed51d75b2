"""Secrets that are stored elsewhere and read when needed: 1Password, Bitwarden, OpenBao, files, variables."""

from server.secret_sources.reading import SecretSources
from server.secret_sources.references import env_variable, is_reference, reference_problem

__all__ = ["SecretSources", "env_variable", "is_reference", "reference_problem"]
