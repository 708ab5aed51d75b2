"""Imported APIs in the Admin API; `server.remote.imported_apis` makes the changes."""

from __future__ import annotations

import asyncio
from typing import Literal

from pydantic import Field

from server.api.mcp_servers import ReviewedLineRecord, ReviewedPartRecord
from server.api.operations import AdminCall, ApiOutput, Instant, Strict, instant_of, operation
from server.http.guards import BODY_LIMIT
from server.remote import imported_apis
from server.remote.described_apis import DescribedApi, content_of_description
from server.remote.imported_apis import ImportedToolReview
from vault.mcp.imported_apis import ImportedApi, list_apis

Choice = Literal["accept", "ask", "leave"]


class ImportedApiRecord(ApiOutput):
    """An API whose tools come from its description."""

    name: str
    title: str
    address: str = Field(description="Where calls go")
    audience: str = Field(description="`aud` of the tokens that it gets")
    usable: int = Field(description="Accepted tools")
    left: int = Field(description="Tools that an admin left out")
    is_waiting: bool = Field(description="An import waits for a review")
    waiting: int = Field(description="Tools that the waiting import adds, changes, or takes away")
    problem: str = Field(description="Why it can't be used; empty if it can")
    imported_at: Instant


class ImportedApis(ApiOutput):
    """All imported APIs, by name."""

    items: list[ImportedApiRecord]


class NewImport(Strict):
    """A description to import, or to import again."""

    name: str = Field(max_length=40, description="The API's name in settings and tools")
    kind: Literal["openapi", "graphql"]
    document: str = Field(
        max_length=BODY_LIMIT,
        description="OpenAPI 3 document (JSON or YAML), or GraphQL schema. The whole body may have 4 MiB",
    )
    title: str = Field(default="", max_length=120, description="Name on pages. Default: the document's")
    audience: str = Field(default="", max_length=2000, description="`aud` of the tokens. Default: the API's origin")
    server: str = Field(default="", max_length=2000, description="The API's address. Default: the document's")
    only: list[str] = Field(
        default=[], max_length=100, description="Only operations whose `METHOD /path` contains one of these"
    )


class ImportedToolRecord(ApiOutput):
    """A tool in the description's words, and what was decided about it."""

    name: str
    state: Literal["new", "changed", "accepted", "left"]
    choice: Choice = Field(description="What applies unless you decide otherwise: the earlier decision, or a proposal")
    parts: list[ReviewedPartRecord]


class ImportReview(ApiOutput):
    """The waiting import, or else the current one, and the digest to decide about it with."""

    digest: str
    import_digest: str = Field(description="Names this import in a declaration (`reviewed`)")
    address: str = Field(description="Where calls go; if this changed for a tool, its `parts` have the earlier address")
    audience: str = Field(description="`aud` of the tokens that it gets")
    tools: list[ImportedToolRecord]
    gone: list[str] = Field(description="Accepted tools that it no longer has")


class ImportDecisions(Strict):
    """Decisions about the reviewed tools. The others get the `choice` that the review shows."""

    digest: str = Field(max_length=64, description="`digest` of the review")
    tools: dict[str, Choice] = Field(default={}, max_length=500, description="By name")


class AcceptedImport(ApiOutput):
    """How many tools are offered to agents from now on."""

    accepted: int


class DiscardQuery(Strict):
    """The import to discard."""

    digest: str = Field(max_length=64, description="`digest` of the review")


@operation("GET", "/imported-apis", scope="admin:read")
async def list_imported_apis(call: AdminCall) -> ImportedApis:
    """List the imported APIs."""
    return ImportedApis(items=[await _record(call, one) for one in await list_apis(call.deployment.database)])


@operation(
    "POST",
    "/imported-apis",
    scope="admin:providers",
    status=201,
    refusals=["conflict", "changed_meanwhile"],
    body_limit=BODY_LIMIT,
)
async def import_api(call: AdminCall, body: NewImport) -> ImportedApiRecord:
    """Import a description of an API. None of its tools can be called until you accept them.

    Importing again shows the differences; accepted tools stay on.
    """
    described = DescribedApi(
        body.name, body.kind, body.document, body.title, body.audience, body.server, tuple(body.only)
    )
    await imported_apis.offer(call.actor, body.name, await content_of_description(described))
    return await _record(call, await imported_apis.api_named(call.deployment, body.name))


@operation("GET", "/imported-apis/{provider}/review", scope="admin:read")
async def review_imported_api(call: AdminCall) -> ImportReview:
    """Show the tools in the description's words: what is new, changed, or gone. Untrusted text."""
    api = await _api(call)
    found = await asyncio.to_thread(imported_apis.review_of, api)
    return ImportReview(
        digest=api.digest,
        import_digest=imported_apis.import_digest(api.whole),
        address=next(iter(found.addresses.values()), ""),
        audience=found.audience,
        tools=[_tool_record(one) for one in found.tools],
        gone=list(found.gone),
    )


@operation(
    "POST",
    "/imported-apis/{provider}/decisions",
    scope="admin:providers",
    refusals=["changed_meanwhile", "conflict"],
)
async def decide_imported_tools(call: AdminCall, body: ImportDecisions) -> AcceptedImport:
    """Turn on the tools of the waiting import as reviewed, or change earlier decisions."""
    api = await _api(call)
    return AcceptedImport(accepted=await imported_apis.decide(call.actor, api.name, body.digest, body.tools))


@operation(
    "DELETE",
    "/imported-apis/{provider}/waiting",
    scope="admin:providers",
    status=204,
    refusals=["changed_meanwhile"],
)
async def discard_import(call: AdminCall, query: DiscardQuery) -> None:
    """Discard the waiting import. Tools accepted before stay on."""
    await imported_apis.discard(call.actor, (await _api(call)).name, query.digest)


@operation("DELETE", "/imported-apis/{provider}", scope="admin:providers", status=204, refusals=["conflict"])
async def remove_imported_api(call: AdminCall) -> None:
    """Remove an API to which no account is connected."""
    await imported_apis.remove(call.actor, (await _api(call)).name)


async def _api(call: AdminCall) -> ImportedApi:
    return await imported_apis.api_named(call.deployment, call.param("provider"))


async def _record(call: AdminCall, api: ImportedApi) -> ImportedApiRecord:
    state = await asyncio.to_thread(imported_apis.state_of, call.deployment, api)
    return ImportedApiRecord.model_validate({**state, "imported_at": instant_of(api.offered_at)})


def _tool_record(one: ImportedToolReview) -> ImportedToolRecord:
    parts = [
        ReviewedPartRecord(
            name=part.name, lines=[ReviewedLineRecord(mark=line.mark, text=line.text) for line in part.lines]
        )
        for part in one.parts
    ]
    return ImportedToolRecord.model_validate(
        {"name": one.name, "state": one.state, "choice": one.choice, "parts": parts}
    )


OPERATIONS = (
    list_imported_apis,
    import_api,
    review_imported_api,
    decide_imported_tools,
    discard_import,
    remove_imported_api,
)
