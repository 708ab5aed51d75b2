"""The environment of a program: the proxy, the authority to trust, placeholders, and no secret of ours.

Each tool has its own variables for this. A bundle replaces a tool's own roots. If other hosts are allowed, it therefore
includes those roots and the certificates that the person's variables name; otherwise it has only the run's authority.
"""

from __future__ import annotations

import configparser
import ssl
from collections.abc import Collection, Container, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_PROXY: Final = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")
_BUNDLE: Final = (  # OpenSSL, Go, Python; curl; requests; git; AWS; pip; cargo; gRPC
    *("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO", "AWS_CA_BUNDLE", "PIP_CERT"),
    *("CARGO_HTTP_CAINFO", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"),
)
_ADDED: Final = ("NODE_EXTRA_CA_CERTS", "DENO_CERT")  # added to the tool's own roots
# Tokens that tools need before they make a call. The vault replaces them with the account's own.
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
_AWS: Final = {  # the key is a placeholder, too; checksums at the end of a body would need chunked bodies
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
}
_AWS_KEYS: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
# Profiles that aren't in our configuration, and variables that send calls elsewhere.
_AWS_OTHER: Final = frozenset(
    {"AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN", "AWS_SHARED_CREDENTIALS_FILE"}
)
_AWS_ENDPOINTS: Final = "AWS_ENDPOINT_URL"  # and AWS_ENDPOINT_URL_S3, ...
NODE_PRELOAD: Final = Path(__file__).parent / "proxy.cjs"


@dataclass(frozen=True, slots=True)
class ProgramPlace:
    """The program's proxy, files for its tools, and a placeholder for tokens.

    `bundle` and `authority` hold the certificates to trust; `bundles` overrides them for single variables. `aws` is a
    configuration file for AWS's tools, and `preload` is a script that Node loads first.
    """

    proxy: str = field(repr=False)  # includes the run's password
    bundle: Path
    authority: Path
    aws: Path
    placeholder: str = field(repr=False)
    bundles: Mapping[str, Path] = field(default_factory=dict[str, Path])
    preload: Path = NODE_PRELOAD


def environment_of(
    inherited: Mapping[str, str], place: ProgramPlace, providers: Collection[str], *, own: Container[str]
) -> dict[str, str]:
    """The program's environment. `providers`: those whose hosts the vault handles; `own`: the vault's variables."""
    kept = {name: value for name, value in inherited.items() if name not in own}
    made = {name: place.proxy for one in _PROXY for name in (one, one.lower())}
    made |= {"NO_PROXY": "", "no_proxy": ""}
    made |= dict.fromkeys(_BUNDLE, str(place.bundle)) | dict.fromkeys(_ADDED, str(place.authority))
    made |= {name: str(file) for name, file in place.bundles.items()}
    made |= {name: place.placeholder for one in sorted(providers) for name in _TOKENS.get(one, ())}
    made |= {"GIT_TERMINAL_PROMPT": "0", "NODE_USE_ENV_PROXY": "1"}
    if "aws" in providers:
        kept = {name: kept[name] for name in kept if name not in _AWS_OTHER and not name.startswith(_AWS_ENDPOINTS)}
        made |= {**_AWS, **dict.fromkeys(_AWS_KEYS, place.placeholder), "AWS_CONFIG_FILE": str(place.aws)}
    options = kept.get("NODE_OPTIONS", "")
    made["NODE_OPTIONS"] = f'{options} --require "{place.preload}"'.strip()
    return kept | made


def aws_configuration(inherited: Mapping[str, str]) -> str:
    """A configuration for AWS's tools: buckets in paths, regional addresses, and the person's own default region."""
    file = inherited.get("AWS_CONFIG_FILE") or str(Path(inherited.get("HOME", "/")) / ".aws/config")
    own = configparser.ConfigParser(interpolation=None)
    with suppress(OSError, configparser.Error, UnicodeDecodeError):
        own.read(file)
    region = own.get("default", "region", fallback="")
    lines = ["[default]", *([f"region = {region}"] if region.isprintable() and region else [])]
    return "\n".join((*lines, "s3 =", "  addressing_style = path", "  us_east_1_regional_endpoint = regional", ""))


def bundle_text(authority: str, *, has_system_roots: bool) -> str:
    """The certificates for programs whose own roots the bundle replaces."""
    if not has_system_roots:
        return authority
    context = ssl.create_default_context()
    roots = [ssl.DER_cert_to_PEM_cert(one) for one in context.get_ca_certs(binary_form=True)]
    return "".join((*roots, authority))


def own_bundles(inherited: Mapping[str, str]) -> dict[str, str]:
    """The person's own certificates, keyed by the variable that names their file or folder."""
    given = {name: _certificates_at(Path(inherited[name])) for name in (*_BUNDLE, *_ADDED) if inherited.get(name)}
    return {name: text for name, text in given.items() if text}


def _certificates_at(place: Path) -> str:
    with suppress(OSError):
        files = sorted(place.iterdir()) if place.is_dir() else [place]
        texts = {one.read_text(encoding="utf-8", errors="replace"): None for one in files if one.is_file()}
        return "\n".join(text for text in texts if "-----BEGIN CERTIFICATE-----" in text)
    return ""
