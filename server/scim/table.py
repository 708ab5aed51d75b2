"""What can be asked at each path of SCIM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from scim2_models import (
    Context,
    ListResponse,
    NotFoundException,
    NotImplementedException,
    Resource,
    ResourceType,
    Schema,
)
from starlette.responses import Response

from server.scim import groups, people, resources
from server.scim.wire import Operation, ScimCall, document_answer, resource_answer


async def _show_service(call: ScimCall) -> Response:
    return resource_answer(call, resources.service(call.deployment), Context.RESOURCE_QUERY_RESPONSE)


async def _list_types(call: ScimCall) -> Response:
    found = resources.types(call.deployment)
    content = ListResponse[ResourceType](total_results=len(found), resources=list(found))
    return document_answer(content.model_dump_json(scim_ctx=Context.RESOURCE_QUERY_RESPONSE))


async def _show_type(call: ScimCall) -> Response:
    return _one(call, resources.types(call.deployment))


async def _list_schemas(call: ScimCall) -> Response:
    found = resources.schemas(call.deployment)
    content = ListResponse[Schema](total_results=len(found), resources=list(found))
    return document_answer(content.model_dump_json(scim_ctx=Context.RESOURCE_QUERY_RESPONSE))


async def _show_schema(call: ScimCall) -> Response:
    return _one(call, resources.schemas(call.deployment))


async def _refuse(call: ScimCall) -> Response:
    raise NotImplementedException(detail="This vault doesn't offer that: see /ServiceProviderConfig.")


def _one(call: ScimCall, found: Sequence[Resource[Any]]) -> Response:
    wanted = next((one for one in found if str(one.id) == call.param("name")), None)
    if wanted is None:
        raise NotFoundException
    return resource_answer(call, wanted, Context.RESOURCE_QUERY_RESPONSE)


OPERATIONS: Final[Mapping[str, Mapping[str, Operation]]] = {
    "/ServiceProviderConfig": {"GET": _show_service},
    "/ResourceTypes": {"GET": _list_types},
    "/ResourceTypes/{name}": {"GET": _show_type},
    "/Schemas": {"GET": _list_schemas},
    "/Schemas/{name}": {"GET": _show_schema},
    "/Users": {"GET": people.LISTING.answer_query, "POST": people.add},
    "/Users/.search": {"POST": people.LISTING.answer_search},
    "/Users/{id}": {"GET": people.show, "PUT": people.replace, "PATCH": people.patch, "DELETE": people.remove},
    "/Groups": {"GET": groups.LISTING.answer_query, "POST": groups.add},
    "/Groups/.search": {"POST": groups.LISTING.answer_search},
    "/.search": {"POST": _refuse},
    "/Bulk": {"POST": _refuse},
    "/Me": dict.fromkeys(("GET", "PUT", "PATCH", "DELETE"), _refuse),
    "/Groups/{id}": {"GET": groups.show, "PUT": groups.replace, "PATCH": groups.patch, "DELETE": groups.remove},
}
