"""POST /par (RFC 9126): an authorization request that an authenticated client pushes directly, not through the browser.

`authorize` has the checks; `pushed_requests` keeps what passed.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from server.deployment import Deployment
from server.http.addresses import address_of
from server.http.answers import json_answer
from server.oauth import authorize, dpop, pushed_requests
from server.oauth.clients import authentication
from server.oauth.clients.authentication import check_rows
from server.oauth.parameters import Parameters
from server.oauth.rules import OAuthError
from server.oauth.wire import read_form
from vault.records import Client


async def push(deployment: Deployment, request: Request) -> Response:
    """For a client: RFC 9126, RFC 9449 §10.1. The `request_uri` is valid for one minute and one use."""
    form = await read_form(request)
    client = await authentication.authenticate(deployment, request, form)
    if form.get("request_uri") is not None:  # §2.1
        raise OAuthError("invalid_request", "request_uri can't be pushed")
    thumbprint = await _proved_key(deployment, request, client)
    values = {name: form.values[name] for name in pushed_requests.KNOWN if name in form.values}
    values["client_id"] = client.id
    if thumbprint is not None and values.setdefault("dpop_jkt", thumbprint) != thumbprint:  # RFC 9449 §10.1
        raise OAuthError("invalid_dpop_proof", "dpop_jkt doesn't match the key of the proof")
    await authorize.check_request(deployment, Parameters(values, form.repeated), client=client)
    if sum(map(len, values.values())) > pushed_requests.LIMIT:
        raise OAuthError("invalid_request", f"the request is longer than {pushed_requests.LIMIT} characters")
    if not client.is_vouched_for and not await authorize.may_wait(deployment, address_of(request)):
        raise OAuthError(
            "too_many_requests",
            "too many agents are waiting for a sign-in from this address: try again later",
            headers={"Retry-After": str(authorize.REQUEST_LIFETIME)},
        )
    request_uri = await pushed_requests.keep(deployment, client, values)
    return json_answer({"request_uri": request_uri, "expires_in": pushed_requests.LIFETIME}, status=201)


async def _proved_key(deployment: Deployment, request: Request, client: Client) -> str | None:
    sent = dpop.read_proof(request.headers)
    if sent is None:
        return None
    now = deployment.now()
    proof = dpop.check_proof(sent, method="POST", url=deployment.url(dpop.sent_path(request.scope)), now=now)
    check_rows(deployment, client, address=address_of(request))
    await dpop.spend(deployment, proof, now=now)
    return proof.thumbprint
