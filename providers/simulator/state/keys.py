"""The keys of the simulated mail service, the client credentials, and who signs tokens, by account."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field


@dataclass
class Signer:
    """Whose signatures a public key verifies, and what its tokens may do. `issuer`: their `iss`."""

    account: str
    issuer: str
    public: str  # PEM
    may_impersonate: frozenset[str] = frozenset()  # scopes for the accounts of others
    installation: str = "1"
    permissions: dict[str, str] = field(default_factory=lambda: {"mail": "write"})


@dataclass
class Keys:
    """Existing credentials: key -> account; client ID -> secret and account; and the tokens issued for them."""

    accounts: dict[str, str] = field(default_factory=dict[str, str], repr=False)
    clients: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]], repr=False)
    tokens: dict[str, str] = field(default_factory=dict[str, str], repr=False)
    signers: dict[str, Signer] = field(default_factory=dict[str, Signer])  # key id -> who it is
    scopes: dict[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]], repr=False)  # of a token
    used: set[str] = field(default_factory=set[str])  # assertions
    passwords: dict[str, str] = field(default_factory=dict[str, str], repr=False)  # by account
    # token -> account, and the refresh token that renews it
    sessions: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]], repr=False)

    def make(self, account: str) -> str:
        """A key for this account."""
        key = f"mr_live_{secrets.token_hex(16)}"
        self.accounts[key] = account
        return key

    def delete(self, key: str) -> None:
        """Delete the key: nothing accepts it from now on."""
        self.accounts.pop(key, None)
