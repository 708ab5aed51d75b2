"""The Admin API: the functions of the command line and the administration pages, over HTTP with JSON.

`operations` defines how operations are declared, `table` lists them, `endpoint` checks callers, and `document` writes
the OpenAPI document from the same declarations.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from server.deployment import Deployment


def routes(deployment: Deployment) -> list[Route]:
    """Every route of the Admin API, most specific path first; none if the settings switch it off."""
    if not deployment.settings.admin.api:
        return []
    # Imported here: only a process that serves pages needs them.
    from server.api.document import document_answer
    from server.api.endpoint import AdminEndpoint, refuse_path
    from server.api.operations import AdminOperation
    from server.api.reference import reference_page
    from server.api.table import OPERATIONS, ROOT

    def show_document(request: Request) -> Response:  # not async: the framework runs it in a thread
        return document_answer(deployment)

    async def show_reference(request: Request) -> Response:
        return reference_page(deployment)

    async def refuse(request: Request) -> Response:
        return refuse_path(deployment)

    by_path: dict[str, list[AdminOperation]] = {}
    for _, operations in OPERATIONS:
        for one in operations:
            by_path.setdefault(one.path, []).append(one)
    return [
        Route(ROOT, show_reference, methods=["GET"]),
        Route(f"{ROOT}/openapi.json", show_document, methods=["GET"]),
        *(Route(ROOT + path, AdminEndpoint(deployment, some)) for path, some in by_path.items()),
        Route(f"{ROOT}/{{rest:path}}", refuse, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
    ]
