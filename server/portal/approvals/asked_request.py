"""A client's request (OpenID CIBA Core 1.0) as shown to the person who is asked, in the form of a call.

The client wrote all of it: each value is shown on one line, and invisible characters as code points.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from server.deployment import Deployment
from server.http.page_texts import text
from server.oauth.rules import own_resources
from server.portal import texts
from server.portal.approvals.asked_call import AskedCall, LongText, Piece, Value
from server.portal.texts import visible
from vault import apis
from vault.approvals.approvals import Approval
from vault.approvals.requests import request_of


async def asked_request(deployment: Deployment, approval: Approval) -> AskedCall:
    """The parts of the page: the resource, and each authorization detail as a separate text."""
    request = request_of(approval)
    exact = json.dumps(dict(approval.arguments), ensure_ascii=False, indent=2)
    return AskedCall(
        pieces=(Piece("", Value(request.message)),) if request.message else (),
        people=(),
        texts=tuple(LongText(_line(one.get("type")), _lines(one)) for one in request.details),
        changes=(),
        facts=((text("approval.access_to"), Value(await _resource_name(deployment, request.resource))),),
        exact=visible(exact),
    )


def permissions(approval: Approval) -> list[tuple[str, str]]:
    """Each scope with its description."""
    return [(scope, texts.token_scope(scope)) for scope in sorted(request_of(approval).scopes)]


async def _resource_name(deployment: Deployment, resource: str) -> str:
    if resource in own_resources(deployment.public_url):
        return text("approval.this_vault")
    found = await apis.find_api(deployment.database, resource)
    return resource if found is None else f"{found.name} ({resource})"


def _lines(detail: Mapping[str, object]) -> str:
    return "\n".join(f"{_line(name)}: {_line(value)}" for name, value in detail.items() if name != "type")


def _line(value: object) -> str:
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return " ".join(visible(shown).split())
