"""Privileged workers on Auth0's interface: a signed request for a person, valid once, for a minute, with a reason."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import httpx2
import pytest
from joserfc.jwk import ECKey

from tests.auth0.application import FEDERATED
from tests.support.rooms.exchange_room import JWT, Caller, ExchangeRoom, exchange_room, refusal_code
from vault import grants
from vault.records import User

KEY = ECKey.generate_key("P-256", parameters={"kid": "worker"})
HERE = ["127.0.0.1", "::1"]
WORKER_TOKEN = "http://auth0.com/oauth/token-type/token-vault-access-token"
TYP = "token-vault-req+jwt"


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[ExchangeRoom]:
    data = tmp_path_factory.mktemp("auth0-workers") / "data"
    async with exchange_room(data, auth0={"enabled": True}, server={"issuer_slash": True}) as opened:
        yield opened


async def worker(place: ExchangeRoom, **changes: object) -> tuple[Caller, User]:
    """A worker that may use Slack, and a person who lets it use their account."""
    rules = {"addresses": HERE, "connections": ["slack"], "scopes": ["chat:write", "channels:read"], **changes}
    caller = await place.caller(
        grant_types=("urn:ietf:params:oauth:grant-type:token-exchange",),
        jwks={"keys": [KEY.as_dict(private=False)]},
        worker=rules,
        auth0=True,
        release={"slack": "full"},
    )
    agent = await place.agent(caller, f"person-{caller.client.id}")
    await place.slack(agent)
    async with place.deployment.transaction() as transaction:
        await grants.revoke_grant(transaction, agent.principal.grant_id, reason="test", now=place.now())
    return caller, await place.user(f"person-{caller.client.id}")


def worker_token(place: ExchangeRoom, caller: Caller, user: User, *, typ: str = TYP, **claims: object) -> str:
    """Send the request as Auth0's documentation writes it."""
    auth0 = {"aud": f"{place.url}/", "reason": None, "audit_context": "nightly report", "exp": None}
    return place.worker_token(caller, user, key=KEY, header={"typ": typ}, **(auth0 | claims))


async def ask(place: ExchangeRoom, caller: Caller, token: str, **more: str) -> httpx2.Response:
    body = {"grant_type": FEDERATED, **caller.credentials, "subject_token": token, "subject_token_type": JWT}
    return await place.http.post("/oauth/token", json={**body, "connection": "sign-in-with-slack", **more})


async def test_a_signed_request_works_once_and_its_reason_is_in_the_activity(place: ExchangeRoom) -> None:
    caller, user = await worker(place)
    token = worker_token(place, caller, user)
    answer = await ask(place, caller, token)
    assert answer.status_code == 200, answer.text
    assert answer.json()["issued_token_type"] == WORKER_TOKEN
    (event,) = [one for one in await place.events("token.released") if one.client_id == caller.client.id]
    assert (event.user_id, event.details["reason"]) == (user.id, "nightly report")
    assert refusal_code(await ask(place, caller, token)) == "invalid_request"


@pytest.mark.parametrize(
    "changes",
    [
        {"audit_context": None},
        {"iat": -120},
        {"typ": "at+jwt"},
        {"aud": "https://other.example/"},
        {"iss": "somebody-else"},
        {"sub": "nobody"},
    ],
)
async def test_each_fault_is_refused_and_the_honest_request_is_not(
    place: ExchangeRoom, changes: dict[str, object]
) -> None:
    caller, user = await worker(place)
    sent = {**changes, "iat": place.now() - 120} if "iat" in changes else changes
    assert refusal_code(await ask(place, caller, worker_token(place, caller, user, **sent))) == "invalid_request"  # pyright: ignore[reportArgumentType]
    assert (await ask(place, caller, worker_token(place, caller, user))).status_code == 200


async def test_a_connection_or_an_address_outside_the_lists_is_refused(place: ExchangeRoom) -> None:
    caller, user = await worker(place)
    other = await ask(place, caller, worker_token(place, caller, user), connection="google-oauth2")
    assert refusal_code(other) in {"invalid_target", "invalid_scope"}
    (event,) = [one for one in await place.events("worker.refused") if one.client_id == caller.client.id]
    assert (event.outcome, event.details["provider"]) == ("refused", "google")
    elsewhere, somebody = await worker(place, addresses=["203.0.113.0/24"])
    assert refusal_code(await ask(place, elsewhere, worker_token(place, elsewhere, somebody))) == "access_denied"
    assert [one.outcome for one in await place.events("worker.refused") if one.client_id == elsewhere.client.id]
