"""SCIM 2.0 (RFC 7643, RFC 7644): a company's directory makes, changes, and disables people and groups.

`wire` authenticates callers and writes answers, `resources` has the schemas, and `people` and `groups` have the
operations.
`server.administration.provisioning` makes the changes.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from server.deployment import Deployment

ROOT = "/scim/v2"


def routes(deployment: Deployment) -> list[Route]:
    """Every route of SCIM; what they need is loaded with the first request, because most vaults have no directory."""

    class Late:
        """ASGI: the endpoint of one path."""

        def __init__(self, path: str) -> None:
            self._path = path

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            from server.scim.table import OPERATIONS
            from server.scim.wire import answer

            response: Response = await answer(deployment, Request(scope, receive), OPERATIONS.get(self._path, {}))
            await response(scope, receive, send)

    return [Route(ROOT + path, Late(path)) for path in PATHS]


PATHS = (
    "/ServiceProviderConfig",
    "/ResourceTypes",
    "/ResourceTypes/{name}",
    "/Schemas",
    "/Schemas/{name}",
    "/Users",
    "/Users/.search",
    "/Users/{id}",
    "/Groups",
    "/Groups/.search",
    "/Groups/{id}",
    "/.search",
    "/Bulk",
    "/Me",
    "/{rest:path}",
)
