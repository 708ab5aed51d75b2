"""Notice that the public URL has changed since the last start, and print where else to update it.

A file in the data directory keeps the last URL. `server.connecting.provider_authorization` defines redirect URIs.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from server.deployment import Deployment

FILE: Final = "public_url"
logger = logging.getLogger("token_vault.moved")


def notice_move(deployment: Deployment) -> str | None:
    """One line if the public URL has changed since the last start and an external service knows the old one."""
    path = deployment.data / FILE
    before, now = _read(path), deployment.public_url
    if before == now:
        return None
    try:
        path.write_text(now + "\n", encoding="utf-8")
        path.chmod(0o600)
    except OSError as error:  # then it is reported at every start
        logger.warning("the public URL cannot be remembered", extra={"cause": str(error)})
    places = [
        f"{provider.title} to {deployment.url(f'/connect/callback/{provider.name}')}"
        for provider in deployment.catalog
        if provider.audience is None
        and provider.credential is None
        and deployment.vault.upstreams[provider.name].is_configured
    ]
    places += [
        f"{peer.title} to {deployment.url(f'/sign-in/openid/{name}/callback')}"
        for name, peer in deployment.settings.sign_in.openid.items()
    ]
    if before is None or not places:
        return None
    return f"The public URL changed from {before} to {now}. Update the redirect URL at {', at '.join(places)}."


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
