"""The OpenAPI 3.1 document of the Admin API, written from the declarations of its operations."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import Final

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from pydantic_core import to_json
from starlette.responses import Response

from providers.outbound.json_values import is_array, is_object
from server.api.endpoint import sufficient_scopes
from server.api.operations import AdminOperation, model_of
from server.api.problems import Problem, title_of
from server.api.table import OPERATIONS, ROOT
from server.deployment import Deployment
from server.errors import KINDS
from server.oauth.rules import ADMIN_SCOPES
from server.oauth.wire import cached_answer
from server.runtime.version import VERSION

_EVERYWHERE: Final = ("invalid_request", "invalid_token", "forbidden", "too_many_requests", "server_error", "not_ready")
_REF: Final = "#/components/schemas/{model}"
SCOPE_TEXTS: Final[Mapping[str, str]] = {
    "admin:read": "See people, agents, providers, settings, and everyone's activity",
    "admin:write": "All changes of people, agents, providers, and keys, and applying a declaration",
    "admin:access": (
        "See and end everyone's connections, permissions, and approvals; add endpoints that get these events. Neither "
        "admin:read nor admin:write includes it"
    ),
    "admin:people": "Add, change, and delete people. It makes admins and sign-in links: as much as an admin's browser",
    "admin:agents": "Register and remove agents and APIs",
    "admin:providers": "Set up and remove providers",
    "admin:keys": "Rotate the signing key",
}
_SAID: Final[Mapping[str, str]] = {
    "invalid_request": "A parameter, header, or the body is wrong; `errors` says where",
    "invalid_token": "The access token is missing or not valid here, or the sign-in is too old for a change",
    "forbidden": "The person isn't an admin, or the token lacks the scope",
    "too_many_requests": "Too many requests; Retry-After has the time to wait",
    "server_error": "The vault failed",
    "not_ready": "The vault can't reach its storage now; Retry-After has the time to wait",
    "not_found": "Nothing has this ID",
    "conflict": "It conflicts with the current state",
    "changed_meanwhile": "It changed since the entity tag in If-Match",
    "unsupported_body": "The body isn't JSON",
    "body_too_large": "The body is too large",
}


def document_answer(deployment: Deployment) -> Response:
    """GET /admin/v1/openapi.json. Written once per process: it takes 50 ms, and anyone may request it."""
    return cached_answer(_document_bytes(deployment.public_url), seconds=300)


@lru_cache(maxsize=1)
def _document_bytes(public_url: str) -> bytes:
    return to_json(openapi_document(public_url))


def openapi_document(public_url: str) -> dict[str, object]:
    """The document for a vault at this address."""
    paths: dict[str, dict[str, object]] = {}
    for group, operations in OPERATIONS:
        for one in operations:
            paths.setdefault(ROOT + one.template, {})[one.method.lower()] = _operation(one, group)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Token Vault Admin API",
            "version": VERSION,
            "description": "What the command line and the administration pages do, over HTTP with JSON.",
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": public_url}],
        "tags": [{"name": group} for group, _ in OPERATIONS],
        "paths": paths,
        "components": {"schemas": _schemas(), "securitySchemes": {"oauth": _oauth(public_url)}},
    }


def every_kind() -> list[str]:
    """The kinds of problems that operations return."""
    named = [kind for _, operations in OPERATIONS for one in operations for kind in one.refusals]
    known = [*_EVERYWHERE, *named, "not_found", "method_not_allowed", "unsupported_body", "body_too_large"]
    signing_in = ["no_token", "key_not_proved", "insufficient_scope", "sign_in_again"]
    return sorted(dict.fromkeys([*known, *signing_in]), key=lambda kind: KINDS[kind].status)


def _oauth(public_url: str) -> dict[str, object]:
    assert set(SCOPE_TEXTS) == ADMIN_SCOPES  # noqa: S101 -- of our own tables
    scopes = dict(SCOPE_TEXTS)
    return {
        "type": "oauth2",
        "description": f"Tokens for the resource {public_url}{ROOT}. The person, or the admin in whose name a service "
        "account acts, must be an admin when the request is made. DPoP (RFC 9449) is supported.",
        "flows": {
            "authorizationCode": {
                "authorizationUrl": f"{public_url}/authorize",
                "tokenUrl": f"{public_url}/token",
                "refreshUrl": f"{public_url}/token",
                "scopes": scopes,
            },
            "clientCredentials": {"tokenUrl": f"{public_url}/token", "scopes": scopes},
        },
    }


def _models() -> list[tuple[type[BaseModel], JsonSchemaMode]]:
    found: dict[tuple[type[BaseModel], JsonSchemaMode], None] = {(Problem, "serialization"): None}
    for _, operations in OPERATIONS:
        for one in operations:
            if one.body is not None:
                found[one.body, "validation"] = None
            if (model := model_of(one.answer)) is not None:
                found[model, "serialization"] = None
    return list(found)


def _schemas() -> dict[str, object]:
    _, document = models_json_schema(_models(), ref_template=_REF)
    schemas: dict[str, object] = document["$defs"]
    return schemas


def _operation(one: AdminOperation, group: str) -> dict[str, object]:
    said = one.description
    if one.changes:
        said = f"{said} Tokens of a signed-in person need a sign-in within the last 30 minutes.".strip()
    content: dict[str, object] = {
        "operationId": one.name,
        "tags": [group],
        "summary": one.summary,
        "security": [{"oauth": [scope]} for scope in sorted(sufficient_scopes(one))],
        "parameters": [*_path_parameters(one), *_query_parameters(one), *_headers(one)],
        "responses": _responses(one),
    }
    if said:
        content["description"] = said
    if one.body is not None:
        schema = {"$ref": _REF.format(model=one.body.__name__)}
        content["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return content


def _path_parameters(one: AdminOperation) -> list[dict[str, object]]:
    return [{"name": name, "in": "path", "required": True, "schema": one.schema_of(name)} for name in one.parameters]


def _query_parameters(one: AdminOperation) -> list[dict[str, object]]:
    if one.query is None:
        return []
    schema = one.query.model_json_schema()
    members: dict[str, dict[str, object]] = schema["properties"]
    required = schema.get("required", [])
    return [
        {
            "name": name,
            "in": "query",
            "required": name in required,
            "description": str(about.get("description", "")),
            "schema": _parameter_schema(about),
        }
        for name, about in members.items()
    ]


def _parameter_schema(about: Mapping[str, object]) -> dict[str, object]:
    """The schema of a query parameter: it can be omitted, but is never null."""
    found = {name: value for name, value in about.items() if name not in {"title", "description", "anyOf"}}
    choices = about.get("anyOf")
    if is_array(choices):
        kinds = [one for one in choices if is_object(one) and one.get("type") != "null"]
        found = {**kinds[0], **{name: value for name, value in found.items() if value is not None}}
    return found


def _headers(one: AdminOperation) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    if one.has_etag and one.changes:
        said = "The entity tag that you read: the change is refused if the resource has changed since"
        schema = {"type": "string", "pattern": r'^("[A-Za-z0-9_-]{1,64}"|\*)$'}
        found.append({"name": "If-Match", "in": "header", "required": False, "description": said, "schema": schema})
    if one.is_repeatable:
        said = "The same request with the same key within a day gets the same answer, with the same secret"
        schema = {"type": "string", "minLength": 16, "maxLength": 255, "pattern": "^[!-~]+$"}
        found.append(
            {"name": "Idempotency-Key", "in": "header", "required": False, "description": said, "schema": schema}
        )
    return found


def _responses(one: AdminOperation) -> dict[str, object]:
    found: dict[str, object] = {str(one.status): _success(one)}
    kinds = [*_EVERYWHERE, *one.refusals]
    if one.parameters:
        kinds.append("not_found")
    if one.body is not None:
        kinds += ["unsupported_body", "body_too_large"]
    schema = {"$ref": _REF.format(model=Problem.__name__)}
    for kind in dict.fromkeys(kinds):
        found[str(KINDS[kind].status)] = {
            "description": _SAID.get(kind, title_of(kind)),
            "content": {"application/problem+json": {"schema": schema}},
        }
    return dict(sorted(found.items()))


def _success(one: AdminOperation) -> dict[str, object]:
    if one.status == HTTPStatus.NO_CONTENT:
        return {"description": "Done"}
    content: dict[str, object] = {}
    for media_type in one.media_types:
        model = model_of(one.answer)
        schema: dict[str, object] = {"type": "string"}
        if model is not None:
            schema = {"$ref": _REF.format(model=model.__name__)}
        content[media_type] = {"schema": schema}
    headers = {"ETag": {"schema": {"type": "string"}}} if one.has_etag else {}
    return {"description": one.summary, "content": content, **({"headers": headers} if headers else {})}
