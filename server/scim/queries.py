"""Lists and searches (RFC 7644 §3.4.2, §3.4.3): a page by its number, an equality by an index.

Any other filter looks at up to `LOOKED_AT` resources; where there are more, it is refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar

from scim2_models import Context, ListResponse, Resource, ScimFilter, SearchRequest, TooManyException
from scim2_models.path import CompareOperator, Comparison
from starlette.responses import Response

from server.scim.resources import MOST, POLICY
from server.scim.wire import ScimCall, document_answer
from vault.storage.database import Reader

LOOKED_AT: Final = 2000
PAGE: Final = 100  # if the directory does not say how many it wants
_FARTHEST: Final = 2**31  # an index that every database accepts, beyond all rows
Item = TypeVar("Item", bound=Resource[Any])
Stored = TypeVar("Stored")


class ResourceList(Generic[Item, Stored]):
    """What can be asked about all resources of one kind; `resource` makes one of its stored record.

    `page(reader, offset=, limit=)` and `count` read all of them; `find` has the reader of the one whose attribute has a
    value, by the name of the attribute in lower case; several may share an `externalId`.
    """

    def __init__(
        self,
        model: type[Item],
        resource: Callable[[ScimCall, Stored], Awaitable[Item]],
        *,
        count: Callable[[Reader], Awaitable[int]],
        page: Callable[..., Awaitable[Sequence[Stored]]],
        find: Mapping[str, Callable[[Reader, str], Awaitable[Stored | None]]],
        with_external_id: Callable[[Reader, str], Awaitable[Sequence[Stored]]],
    ) -> None:
        self._model = model
        self._resource = resource
        self._count = count
        self._read_page = page
        self._find = find
        self._with_external_id = with_external_id

    async def answer_query(self, call: ScimCall) -> Response:
        """`GET` on all resources."""
        return await self._answer(call, call.query())

    async def answer_search(self, call: ScimCall) -> Response:
        """`POST` to `.search`."""
        return await self._answer(call, await call.body())

    async def _answer(self, call: ScimCall, asked: Mapping[str, object]) -> Response:
        search: SearchRequest[Item] = SearchRequest[self._model].model_validate(
            dict(asked), scim_ctx=Context.SEARCH_REQUEST, scim_policy=POLICY
        )
        first = min(search.start_index or 1, _FARTHEST)
        limit = PAGE if search.count is None else min(search.count, MOST)
        if search.filter is None:
            total = await self._count(call.deployment.database)
            found = await self._page(call, first - 1, limit) if limit else ()
        else:
            matching = await self._find_matching(call, search.filter)
            total, found = len(matching), matching[first - 1 : first - 1 + limit]
        content = ListResponse[self._model](
            total_results=total, start_index=first, items_per_page=len(found), resources=list(found)
        )
        return document_answer(
            content.model_dump_json(scim_ctx=Context.RESOURCE_QUERY_RESPONSE, response_parameters=search)
        )

    async def _find_matching(self, call: ScimCall, wanted: ScimFilter[Item]) -> Sequence[Item]:
        match wanted.ast:
            case Comparison(attr_path=path, op=CompareOperator.eq, value=str() as value) if path.sub_attr is None:
                name = path.attr.lower()
                if name == "externalid" or name in self._find:
                    return await self._find_equal(call, name, value) if _is_storable(value) else []
            case _:
                pass
        if await self._count(call.deployment.database) > LOOKED_AT:
            raise TooManyException(detail="Filter by an equality of userName, displayName, externalId or id.")
        looked: list[Item] = []
        while some := await self._page(call, len(looked), MOST):
            looked += some
        return [one for one in looked if wanted.match(one)]

    async def _find_equal(self, call: ScimCall, name: str, value: str) -> Sequence[Item]:
        reader = call.deployment.database
        if name == "externalid":
            stored = await self._with_external_id(reader, value)
        else:
            found = await self._find[name](reader, value)
            stored = () if found is None else (found,)
        return [await self._resource(call, one) for one in stored]

    async def _page(self, call: ScimCall, offset: int, limit: int) -> Sequence[Item]:
        stored = await self._read_page(call.deployment.database, offset=offset, limit=limit)
        return [await self._resource(call, one) for one in stored]


def _is_storable(value: str) -> bool:
    """Whether a database takes this text: no NUL, and no half of a surrogate pair."""
    return "\0" not in value and value.encode(errors="ignore").decode() == value
