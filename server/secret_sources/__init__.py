"""Secrets that are kept elsewhere, read when they are used: 1Password, Bitwarden, OpenBao, files, variables."""

from server.secret_sources.reading import SecretSources
from server.secret_sources.references import is_reference, reference_problem

__all__ = ["SecretSources", "is_reference", "reference_problem"]
