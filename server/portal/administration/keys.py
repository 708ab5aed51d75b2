"""Keys and their ages, and a new signing key, as in `token-vault keys`. No key is ever shown."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from server.administration import signing_keys
from server.http.page_texts import text
from server.portal.administration.room import ROOT, AdminVisit
from vault.keys.inventory import list_keys

PAGE: Final = f"{ROOT}/keys"


async def show(visit: AdminVisit) -> Response:
    """Master keys with what they wrap, and signing keys with their state."""
    deployment = visit.deployment
    context: dict[str, object] = {
        "keys": await list_keys(deployment.database, now=deployment.now()),
        "source": deployment.settings.keys.source,
        "path": f"{PAGE}/rotate",
    }
    return await visit.page("keys.html", context)


async def rotate(visit: AdminVisit) -> Response:
    """Publish a new signing key. Tokens signed by earlier keys stay valid until they expire."""
    kid = await signing_keys.rotate(visit.actor)
    return await visit.go(PAGE, said=text("admin_keys.rotated", kid=kid))
