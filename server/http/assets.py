"""The files that pages load: stylesheet, script, icons, and logos, under addresses that change with their content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Final

LIFETIME: Final = 86400  # seconds
_LETTERS: Final = 2  # of a name, for a service without a logo
_TYPES: Final = {
    "css": "text/css",
    "js": "text/javascript",
    "png": "image/png",
    "svg": "image/svg+xml",
    "webmanifest": "application/manifest+json",
}
_NAMES: Final = (
    "portal.css",
    "portal.js",
    "passkeys.js",
    "push.js",
    "push-worker.js",
    "icons.svg",
    "favicon.svg",
    "icon.png",
    "site.webmanifest",
)
_FOLDER: Final = resources.files("server.portal").joinpath("static")


@dataclass(frozen=True, slots=True)
class Asset:
    """One file; `url` is its address with the version."""

    content: bytes
    media_type: str
    url: str


def _asset(path: str, content: bytes) -> Asset:
    version = hashlib.sha256(content).hexdigest()[:12]
    return Asset(content, _TYPES[path.rpartition(".")[2]], f"/static/{path}?v={version}")


def _read() -> Mapping[str, Asset]:
    found = {name: _asset(name, _FOLDER.joinpath(name).read_bytes()) for name in _NAMES}
    logos = json.loads(_FOLDER.joinpath("logos.json").read_text("utf-8"))["logos"]
    for name, logo in logos.items():
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" fill="#{logo["hex"]}">'
        svg += f'<path d="{logo["path"]}"/></svg>'
        found[f"logos/{name}.svg"] = _asset(f"logos/{name}.svg", svg.encode())
    return found


ASSETS: Final = _read()


def asset_url(path: str) -> str:
    """The address of a file. Raises KeyError for a missing one."""
    return ASSETS[path].url


def logo_url(provider: str) -> str:
    """The address of a provider's logo; empty if there is none."""
    found = ASSETS.get(f"logos/{provider}.svg")
    return "" if found is None else found.url


def initials(name: str) -> str:
    """One or two letters that stand for a name without a picture."""
    words = [word for word in name.replace("-", " ").split() if word[:1].isalnum()]
    return "".join(word[0] for word in words[:_LETTERS]).upper() or "?"


def slug(key: str) -> str:
    """A key as part of an element's id."""
    return "".join(letter if letter.isalnum() else "-" for letter in key)
