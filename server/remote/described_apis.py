"""Import an API from a submitted description, as `token-vault tools import` does from a file or an address."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from server.administration.actor import ChangeRefused

Kind = Literal["openapi", "graphql"]


@dataclass(frozen=True, slots=True)
class DescribedApi:
    """An API and its description: an OpenAPI document, or a GraphQL schema. `only`: parts of `METHOD /path`."""

    name: str
    kind: Kind
    document: str = field(repr=False)
    title: str = ""
    audience: str = ""
    server: str = ""
    only: Sequence[str] = ()


async def content_of_description(api: DescribedApi) -> str:
    """The import in the form in which the vault stores it. Raises ChangeRefused."""
    return await asyncio.to_thread(_content_of, api)


def _content_of(api: DescribedApi) -> str:
    from providers.tools.graphql_import import import_schema  # imported here: few need its parsers
    from providers.tools.graphql_schema import parse_schema
    from providers.tools.imported_api import content_of, is_api_name
    from providers.tools.openapi_document import DocumentRefused, parse
    from providers.tools.openapi_import import import_document

    if not is_api_name(api.name):
        raise ChangeRefused(
            "import_refused",
            f"{api.name!r} isn't a valid name; use up to 40 lower-case letters, digits, and single hyphens",
            field="name",
        )
    only = re.compile("|".join(map(re.escape, api.only)), re.IGNORECASE) if api.only else None
    content = api.document.encode()
    try:
        if api.kind == "graphql":
            made = import_schema(
                parse_schema(content),
                name=api.name,
                title=api.title,
                audience=api.audience,
                server=api.server,
                only=only,
            )
        else:
            made = import_document(
                parse(content), name=api.name, title=api.title, audience=api.audience, server=api.server, only=only
            )
    except DocumentRefused as refused:
        description = f"The description of {api.name} {str(refused).replace('with --', 'as ')}"
        raise ChangeRefused("import_refused", description, field="document") from refused
    return content_of(made)
