"""The reference page of the Admin API, made from the same declarations as its OpenAPI document."""

from __future__ import annotations

from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse, Response

from server.api.document import SCOPE_TEXTS, every_kind
from server.api.problems import title_of
from server.api.table import OPERATIONS, ROOT
from server.deployment import Deployment
from server.errors import KINDS
from server.http.assets import asset_url
from server.http.pages import secure

_TEMPLATES: Final = Environment(
    loader=PackageLoader("server.api", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)
_TEMPLATES.globals["asset"] = asset_url  # pyright: ignore[reportArgumentType] -- typed by its defaults


def reference_page(deployment: Deployment) -> Response:
    """GET /admin/v1: nothing on it is secret."""
    groups = [
        (
            group,
            [
                {
                    "method": one.method,
                    "path": ROOT + one.template,
                    "summary": one.summary,
                    "description": one.description,
                    "scope": one.scope,
                    "query": [] if one.query is None else list(one.query.model_fields),
                    "body": [] if one.body is None else list(one.body.model_fields),
                }
                for one in operations
            ],
        )
        for group, operations in OPERATIONS
    ]
    values: dict[str, object] = {
        "groups": groups,
        "scopes": SCOPE_TEXTS,
        "kinds": [(kind, title_of(kind), KINDS[kind].status) for kind in every_kind()],
        "resource": deployment.url(ROOT),
        "document": f"{ROOT}/openapi.json",
    }
    return secure(HTMLResponse(_TEMPLATES.get_template("reference.html").render(values)))
