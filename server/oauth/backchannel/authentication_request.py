"""The authentication request endpoint (OpenID CIBA Core 1.0 §7): checks, limits, and the question to the person."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from server.connecting.approvals import event_of
from server.deployment import Deployment
from server.http.addresses import address_of
from server.http.answers import json_answer, too_often
from server.oauth.backchannel import signed_requests
from server.oauth.backchannel.ciba_grant import INTERVAL
from server.oauth.backchannel.clients import check_may_ask, is_pushed_to, needs_user_code
from server.oauth.backchannel.hints import hinted_person
from server.oauth.backchannel.parameters import details_of, expiry_of, message_of, ping_token_of
from server.oauth.clients import authentication
from server.oauth.parameters import Parameters
from server.oauth.resources import api_scopes, known_resource, named_resource, ordinary_scopes
from server.oauth.rules import OAuthError, admin_resource, choose_scopes
from server.oauth.wire import read_form
from server.policy.schema import OWN_PROVIDER, REQUEST
from vault import limits
from vault.approvals import requests, user_codes
from vault.approvals.requests import BackchannelRequest
from vault.audit import audit
from vault.records import HOUR, Client, Event, User, parse_scope
from vault.refresh.policy_checks import PolicyOutcome, PolicyQuestion
from vault.refusals import PolicyRefused, ScopeRefused
from vault.spans import CALLER_ADDRESS

PER_CLIENT: Final = 600  # per minute, for all people together; unknown hints count, too
PER_PERSON_AND_CLIENT: Final = 5  # in a minute
PER_PERSON: Final = 20  # in ten minutes, by all clients together
WRONG_CODES: Final = 10  # of one client for one person, in an hour
MOST_DENIED: Final = 3  # per hour: people who are asked repeatedly approve just to be left alone
_MINUTE: Final = 60


async def ask(deployment: Deployment, request: Request) -> Response:
    """A client with a secret or key, added with `--ciba`: OpenID CIBA Core 1.0 §7.1 and §7.3 (poll, ping, and push),
    RFC 9396.
    """
    form = await read_form(request)
    client = await authentication.authenticate(deployment, request, form)
    check_may_ask(client)
    # RFC 9449: there is no request that could prove a key
    if is_pushed_to(client) and deployment.settings.tokens.require_dpop:
        raise OAuthError(
            "unauthorized_client",
            "this vault requires DPoP, but pushed tokens can't be bound to a key: use poll or ping",
        )
    await _count(deployment, f"ciba:{client.id}", limit=PER_CLIENT, window=_MINUTE)
    form = await signed_requests.parameters_of(deployment, form, client=client, address=address_of(request))
    wanted = await _read_request(deployment, form, client)
    lifetime, ping_token = expiry_of(form), ping_token_of(form, client)
    person = await hinted_person(deployment, form, client=client)
    await _check_user_code(deployment, form, client=client, person=person)  # first: the next is shared by all clients
    await _check_patience(deployment, client, person, resource=wanted.resource)
    now = deployment.now()
    await _check_policy(deployment, client, person, wanted, now=now)
    try:
        async with deployment.transaction() as transaction:
            approval, auth_req_id = await requests.ask(
                transaction,
                deployment.keys,
                request=wanted,
                user_id=person.id,
                client_id=client.id,
                lifetime=lifetime,
                ping_token=ping_token,
                is_pushed=is_pushed_to(client),
                now=now,
            )
            await audit.append(transaction, event_of(approval, "approval.requested"), now=now)
    except ScopeRefused as refusal:
        raise OAuthError("invalid_authorization_details", refusal.description) from refusal
    answer: dict[str, object] = {"auth_req_id": auth_req_id, "expires_in": lifetime}
    if not is_pushed_to(client):  # §7.3
        answer["interval"] = INTERVAL
    return json_answer(answer)


async def _read_request(deployment: Deployment, form: Parameters, client: Client) -> BackchannelRequest:
    """The checks that need no one, in order."""
    asked = parse_scope(form.get("scope") or "")
    if "openid" not in asked:
        raise OAuthError("invalid_scope", "scope must include openid")
    named = named_resource(deployment, form, client=client)
    resource = await known_resource(deployment, named, client=client)
    if resource == admin_resource(deployment.public_url):
        raise OAuthError("invalid_target", "a person can't give access to the Admin API this way")
    known = await api_scopes(deployment, resource)
    scopes = choose_scopes(asked, client=client, api_scopes=known, ordinary=ordinary_scopes(deployment, resource))
    return BackchannelRequest(scopes, resource, message_of(form), details_of(form, client))


async def _check_patience(deployment: Deployment, client: Client, person: User, *, resource: str) -> None:
    """Limit questions, since a person who is asked too often approves without reading. Raises OAuthError."""
    try:
        await _count(deployment, f"ciba:{person.id}:{client.id}", limit=PER_PERSON_AND_CLIENT, window=_MINUTE)
        await _count(deployment, f"ciba:person:{person.id}", limit=PER_PERSON, window=10 * _MINUTE)
        denied = await requests.count_refused(
            deployment.database, user_id=person.id, client_id=client.id, since=deployment.now() - HOUR
        )
        if denied >= MOST_DENIED:
            raise _too_often(deployment, f"the person denied {denied} requests of this client", MOST_DENIED, HOUR)
    except OAuthError:
        details = {"code": "rate_limited", "resource": resource}
        deployment.activity.note_refusal(
            Event("approval.refused", outcome="refused", user_id=person.id, client_id=client.id, details=details)
        )
        raise


async def _check_policy(
    deployment: Deployment, client: Client, person: User, wanted: BackchannelRequest, *, now: int
) -> None:
    """Check the operator's own policy, which may forbid asking at all. Raises OAuthError and TemporarilyUnavailable."""
    if deployment.policy is None:
        return
    question = PolicyQuestion(
        person.id,
        client.id,
        (),
        provider=OWN_PROVIDER,
        connection_id=wanted.resource,
        account=wanted.resource,
        scopes=wanted.scopes,
        purpose=REQUEST,
        label=wanted.resource,
        address=CALLER_ADDRESS.get(),
    )
    verdict = await deployment.policy(question, deployment.database, now=now)
    if verdict.outcome is not PolicyOutcome.FORBID:
        return
    details = {"code": PolicyRefused.code, "resource": wanted.resource, "rule": verdict.rule, "policy": verdict.digest}
    deployment.activity.note_refusal(
        Event("approval.refused", outcome="refused", user_id=person.id, client_id=client.id, details=details)
    )
    raise OAuthError("access_denied", f"this vault's policy forbids this request. {verdict.words}".strip())


async def _check_user_code(deployment: Deployment, form: Parameters, *, client: Client, person: User) -> None:
    """Check the person's code, if the client must send it; only wrong codes are counted. Raises OAuthError."""
    code = form.get("user_code")
    if not needs_user_code(client):
        return
    if code is None:
        raise OAuthError("missing_user_code", "send user_code, which the person has set on the Approvals page")
    bucket, now = f"ciba:code:{person.id}:{client.id}", deployment.now()
    await _count(
        deployment, bucket, limit=WRONG_CODES, window=HOUR, now=now
    )  # counted first, so that simultaneous requests can't bypass it
    if len(code) > user_codes.LONGEST or not await user_codes.is_right(deployment.database, person.id, code):
        raise OAuthError("invalid_user_code", "this isn't the person's code, or they have set none")
    async with deployment.transaction() as transaction:  # returned to the window that it was counted in
        await limits.spend(transaction, bucket, limit=WRONG_CODES, window=HOUR, now=now, cost=-1)


async def _count(deployment: Deployment, bucket: str, *, limit: int, window: int, now: int | None = None) -> None:
    now = deployment.now() if now is None else now
    async with deployment.transaction() as transaction:
        if await limits.spend(transaction, bucket, limit=limit, window=window, now=now):
            return
    raise _too_often(deployment, "this client asks too often", limit, window)


def _too_often(deployment: Deployment, why: str, limit: int, window: int) -> OAuthError:
    headers = too_often(window, limit=limit, now=deployment.now())
    return OAuthError("too_many_requests", f"{why}: try again later", headers=headers)
