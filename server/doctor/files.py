"""Checks of the disk and the environment, before the vault is opened: opening fixes some of it."""

from __future__ import annotations

import importlib.util
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, SecretStr

from providers.outbound.json_values import is_object
from server.doctor.findings import Finding, note, ok, problem
from server.secret_sources import is_reference
from server.settings import Settings
from vault.keys.sources.private_file import read_private
from vault.refusals import KeyUnavailable

FORWARDED = "FORWARDED_ALLOW_IPS"  # read by uvicorn; server.trusted_proxies replaces it here


def check_files(
    settings: Settings, *, data: Path, config: Path | None, environment: Mapping[str, str]
) -> Iterator[Finding]:
    """Check the packages, data directory, key, secrets, and trusted proxies."""
    yield from check_packages()
    yield _folder(data)
    yield _key(settings, data)
    yield from _secrets(settings, config)
    yield from _proxy(settings, environment)
    yield from _sign_in(settings)


def _sign_in(settings: Settings) -> Iterator[Finding]:
    """Check who can sign in through a provider, if the operator didn't choose or admits everyone."""
    for name, one in settings.sign_in.openid.items():
        setting = f"sign_in.openid.{name}.create_users"
        if one.create_users:
            yield note(
                "sign_in",
                f"everyone with an account at {one.issuer} can use this vault ({setting})",
                fix="unless that provider is your own, set it to false and link users with token-vault users link",
            )
        elif not one.domains and "create_users" not in one.model_fields_set:
            yield note(
                "sign_in",
                f"only linked users can sign in through {one.issuer}: {setting} isn't set",
                fix=f"choose who can sign in with token-vault openid setup {name}, or set it to false to keep this",
            )


def check_packages() -> Iterator[Finding]:
    """Check the packages that make the web server fast; `pip install uvicorn` alone installs neither."""
    missing = [
        name
        for name in ("httptools", "uvloop")
        if importlib.util.find_spec(name) is None and not (name == "uvloop" and sys.platform == "win32")
    ]
    if missing:
        names = " and ".join(missing)
        yield problem(
            "packages",
            f"uvicorn runs without {names}: calls are slower, or serving fails",
            fix=f"pip install {names}",
        )
    else:
        yield ok("packages", "uvicorn has httptools and uvloop")


def _folder(data: Path) -> Finding:
    if not data.is_dir():
        return note(
            "data", f"{data} doesn't exist yet", fix="the first start creates it; if it should exist, correct --data"
        )
    if data.stat().st_mode & 0o077:
        return problem("data", f"other users of this machine can enter {data}", fix=f"chmod 700 {data}")
    return ok("data", str(data))


def _key(settings: Settings, data: Path) -> Finding:
    if settings.keys.source != "file":
        return ok("key", f"from {settings.keys.source}")
    path = (settings.keys.file or data / "master.key").expanduser()
    try:
        found = read_private(path)
    except KeyUnavailable as refusal:
        return problem("key", refusal.description, fix=f"run chmod 600 {path}, and make the vault's user its owner")
    if found is None and (data / "vault.sqlite").exists():
        return problem("key", f"the key file {path} is missing", fix="restore it from its backup, or correct keys.file")
    if found is None:
        return note("key", f"{path} doesn't exist yet", fix="the first start creates it")
    return ok("key", f"only its owner can read {path}")


def _secrets(settings: Settings, config: Path | None) -> Iterator[Finding]:
    """Find files with secrets that other users can read."""
    written = {} if config is None else tomllib.loads(config.read_text(encoding="utf-8"))
    found = list(_walk(settings, written, ""))
    files = [(name, value) for name, value in found if isinstance(value, Path)]
    if config is not None and any(isinstance(value, str) for _, value in found):
        files.append(("the settings file", config))
    for name, file in files:
        path = file.expanduser()
        if path.is_file() and path.stat().st_mode & 0o077:
            sentence = f"{name} {path} contains a secret, and other users can read it"
            yield problem("secrets", sentence, fix=f"run chmod 600 {path}")


def _walk(value: object, written: object, name: str) -> Iterator[tuple[str, Path | str]]:
    """The settings that name a file with a secret, and the secrets that the settings file itself contains.

    `written` is what that file has there; a secret can also come from the environment.
    """
    match value:
        case SecretStr():
            if isinstance(written, str) and _is_secret(written):
                yield name, written
        case Path():
            if name.endswith("_file") and not name.endswith("ca_file"):
                yield name, value
        case _:
            is_section = isinstance(value, BaseModel)
            inner: object = {one: getattr(value, one) for one in type(value).model_fields} if is_section else value
            below: Mapping[str, object] = written if is_object(written) else {}
            for key, content in inner.items() if is_object(inner) else ():
                yield from _walk(content, below.get(key), f"{name}.{key}" if name else key)


def _is_secret(value: str) -> bool:
    """Whether this is the secret itself: neither a reference to one, nor an address without a password."""
    return not is_reference(value) and ("://" not in value or urlsplit(value).password is not None)


def _proxy(settings: Settings, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Check trusted proxies: rate limits count by address, which a header must not forge and a proxy must not hide."""
    trusted = settings.server.trusted_proxies
    if environment.get(FORWARDED, "").strip():
        yield note(
            "proxy",
            f"{FORWARDED} is set, but the vault doesn't read it",
            fix="list the proxies in server.trusted_proxies",
        )
    if trusted:
        yield ok("proxy", f"X-Forwarded-For is trusted from {', '.join(trusted)} only")
    elif not settings.is_loopback:
        yield note(
            "proxy",
            "no proxies are listed, so everyone behind one counts as a single address",
            fix='add the proxy\'s address to server.trusted_proxies, for example ["127.0.0.1"]',
        )
