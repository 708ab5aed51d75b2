"""What a program finds in its environment: the proxy, the authority to trust, placeholders, and no secret of ours.

Each tool has its own variables for the same. A bundle replaces a tool's own roots, so it has those too where other
hosts are allowed; otherwise it holds the run's authority alone.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from server.settings import PREFIX

_PROXY: Final = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")
_BUNDLE: Final = (  # OpenSSL, Go, Python; curl; requests; git; AWS; pip; cargo; gRPC
    *("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO", "AWS_CA_BUNDLE", "PIP_CERT"),
    *("CARGO_HTTP_CAINFO", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"),
)
_ADDED: Final = ("NODE_EXTRA_CA_CERTS", "DENO_CERT")  # beside the tool's own roots
# Tokens without which tools start no call. What they send is dropped: the vault puts in the account's own.
_TOKENS: Final[Mapping[str, tuple[str, ...]]] = {
    "anthropic": ("ANTHROPIC_API_KEY",),
    "digitalocean": ("DIGITALOCEAN_ACCESS_TOKEN",),
    "github": ("GH_TOKEN", "GITHUB_TOKEN"),
    "github-oauth-app": ("GH_TOKEN", "GITHUB_TOKEN"),
    "gitlab": ("GITLAB_TOKEN",),
    "hugging-face": ("HF_TOKEN",),
    "linear": ("LINEAR_API_KEY",),
    "notion": ("NOTION_TOKEN",),
    "openai": ("OPENAI_API_KEY",),
    "sentry": ("SENTRY_AUTH_TOKEN",),
    "slack": ("SLACK_BOT_TOKEN", "SLACK_TOKEN"),
    "stripe": ("STRIPE_API_KEY",),
}
# What opens the vault's own keys and databases (`vault.keys.sources`, PostgreSQL's library).
_OURS: Final = frozenset({"CREDENTIALS_DIRECTORY", "PGPASSWORD", "PGPASSFILE", "VAULT_TOKEN", "BAO_TOKEN"})
_NODE_PRELOAD: Final = Path(__file__).parent / "proxy.cjs"


@dataclass(frozen=True, slots=True)
class ProgramPlace:
    """Where the program's proxy is, the two files that say whom to trust, and a placeholder for tokens."""

    proxy: str
    bundle: Path
    authority: Path
    placeholder: str


def environment_of(inherited: Mapping[str, str], place: ProgramPlace, providers: Iterable[str]) -> dict[str, str]:
    """The program's environment; `providers` are those whose hosts are ours."""
    kept = {name: value for name, value in inherited.items() if not _is_ours(name)}
    made = {name: place.proxy for one in _PROXY for name in (one, one.lower())}
    made |= {"NO_PROXY": "", "no_proxy": ""}
    made |= dict.fromkeys(_BUNDLE, str(place.bundle)) | dict.fromkeys(_ADDED, str(place.authority))
    made |= {name: place.placeholder for one in sorted(providers) for name in _TOKENS.get(one, ())}
    made |= {"GIT_TERMINAL_PROMPT": "0", "NODE_USE_ENV_PROXY": "1"}
    options = kept.get("NODE_OPTIONS", "")
    made["NODE_OPTIONS"] = f'{options} --require "{_NODE_PRELOAD}"'.strip()
    return kept | made


def _is_ours(name: str) -> bool:
    return name.upper().startswith(PREFIX) or name in _OURS


def bundle_text(authority: str, *, has_system_roots: bool) -> str:
    """The certificates for programs whose own roots the bundle replaces."""
    if not has_system_roots:
        return authority
    context = ssl.create_default_context()
    roots = [ssl.DER_cert_to_PEM_cert(one) for one in context.get_ca_certs(binary_form=True)]
    return "".join((*roots, authority))
