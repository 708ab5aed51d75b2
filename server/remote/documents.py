"""The vault's client ID metadata documents, which identify it to the authorization servers of other MCP servers."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from providers.remote.authorization import client_metadata
from server.connecting.provider_authorization import callback_url
from server.deployment import Deployment
from server.errors import status_of
from server.remote.servers import document_url


def routes(deployment: Deployment) -> list[BaseRoute]:
    """Serves one document for each MCP server whose authorization server identifies the vault by it."""

    async def show(request: Request) -> Response:
        """The vault's client ID metadata document for an MCP server. Anyone can read it."""
        name = str(request.path_params["provider"])
        address = document_url(deployment, name)
        found = deployment.catalog.get(name) if name in deployment.catalog.remote else None
        if found is None or found.registration.client_id != address:
            return JSONResponse({"error": "not_found"}, status_code=status_of("not_found"))
        about = client_metadata(callback_url(deployment, name), auth="none", scopes=())
        content = {"client_id": address, **about, "client_uri": deployment.public_url}
        return JSONResponse(content, headers={"Cache-Control": "public, max-age=3600"})

    return [Route("/connect/client/{provider}", show, methods=["GET"])]
