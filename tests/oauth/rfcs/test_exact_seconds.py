"""At which second what a client signs begins to count and stops to count, with a clock that stands still."""

from __future__ import annotations

import secrets
from dataclasses import replace

import pytest
from joserfc.jwk import ECKey

from server.oauth.authorization_request import AuthorizationRequest, with_sign_in_rule
from server.oauth.clients.authentication import find_client
from server.oauth.clients.metadata_documents import MAX_FRESH
from server.oauth.clients.rules import CHANGED_AT, trusts_consent
from server.oauth.tokens import MAX_LIFETIME, TokenRefused, check_live, verify
from server.settings import Settings
from tests.support.doubles.stopped_clock import stopped_clock
from tests.support.rooms.oauth_world import REDIRECT, WEB, World, claims_of, error_of, header_of, sign_jwt
from vault import clients, replay
from vault.records import Client, ClientKind, Session

pytest_plugins = ["tests.support.rooms.oauth_fixtures"]

KEY = ECKey.generate_key("P-256", parameters={"kid": "one"})
TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@pytest.mark.parametrize(
    ("iat", "exp", "status"),
    [
        (-60, 1, 200),
        (-60, 0, 401),
        (0, MAX_LIFETIME, 200),
        (0, MAX_LIFETIME + 1, 401),
        (20, 21, 200),
        (20, 20, 401),  # it would never be valid
        (30, 60, 200),
        (31, 60, 401),
    ],
)
async def test_an_access_token_counts_from_its_iat_to_its_exp(world: World, iat: int, exp: int, status: int) -> None:
    token = (await world.tokens())["access_token"]
    key = world.vault.deployment.keys.signing.current(world.now())
    with stopped_clock(world.vault.deployment.database) as now:
        made = sign_jwt(header_of(token), claims_of(token) | {"iat": now + iat, "exp": now + exp}, key)
        assert await world.probe(made) == status


async def test_a_request_that_takes_long_ends_with_its_token(world: World) -> None:
    deployment = world.vault.deployment
    token = (await world.tokens())["access_token"]
    principal = await verify(deployment, token)
    assert principal.expires_at == claims_of(token)["exp"]
    with stopped_clock(deployment.database, at=principal.expires_at - 1):
        await check_live(deployment, principal)
    with stopped_clock(deployment.database, at=principal.expires_at), pytest.raises(TokenRefused):
        await check_live(deployment, principal)


@pytest.mark.parametrize(
    ("claims", "counts"),
    [
        ({"exp": -29}, True),
        ({"exp": -30}, False),
        ({"exp": 3630}, True),
        ({"exp": 3631}, False),
        ({"iat": 30}, True),
        ({"iat": 31}, False),
        ({"nbf": 30}, True),
        ({"nbf": 31}, False),
        ({"nbf": 31, "iat": 0}, False),
        ({"nbf": 0, "iat": 31}, False),
    ],
    ids=str,
)
async def test_an_assertion_of_a_client_counts_for_an_hour(
    world: World, claims: dict[str, int], *, counts: bool
) -> None:
    jwks = {"keys": [KEY.as_dict(private=False)]}
    client_id = await world.public_client(token_endpoint_auth_method="private_key_jwt", jwks=jwks)
    with stopped_clock(world.vault.deployment.database) as now:
        times = {name: now + value for name, value in ({"exp": 60} | claims).items()}
        answer = await world.http.post("/revoke", data=assertion(world, client_id, **times))
    assert (answer.status_code, counts or error_of(answer)) == ((200, True) if counts else (401, "invalid_client"))


def assertion(world: World, client_id: str, **times: int) -> dict[str, str]:
    claims = {"iss": client_id, "sub": client_id, "aud": world.url, "jti": secrets.token_hex(8), **times}
    sent = sign_jwt({"alg": "ES256", "kid": KEY.kid}, claims, KEY)
    return {"client_assertion": sent, "client_assertion_type": TYPE, "token": "x"}


async def test_an_assertion_of_a_client_is_refused_again_until_its_last_second(world: World) -> None:
    jwks = {"keys": [KEY.as_dict(private=False)]}
    client_id = await world.public_client(token_endpoint_auth_method="private_key_jwt", jwks=jwks)
    database = world.vault.deployment.database
    with stopped_clock(database) as now:
        once, other = (assertion(world, client_id, exp=now + 60) for _ in range(2))
        assert (await world.http.post("/revoke", data=once)).status_code == 200
    with stopped_clock(database, at=now + 60 + 29):
        assert error_of(await world.http.post("/revoke", data=once)) == "invalid_client"
        assert (await world.http.post("/revoke", data=other)).status_code == 200


@pytest.mark.parametrize(("seconds", "counts"), [(-300, True), (-301, False), (30, True), (31, False)])
async def test_a_proof_of_a_key_counts_for_five_minutes(world: World, seconds: int, *, counts: bool) -> None:
    code = await world.code()
    with stopped_clock(world.vault.deployment.database) as now:
        answer = await world.token(code.form(), headers=proof(world, now + seconds))
    assert (counts or error_of(answer), answer.status_code) == ((True, 200) if counts else ("invalid_dpop_proof", 400))


def proof(world: World, iat: int) -> dict[str, str]:
    body = {"jti": secrets.token_hex(8), "htm": "POST", "htu": f"{world.url}/token", "iat": iat}
    return {"DPoP": sign_jwt({"typ": "dpop+jwt", "alg": "ES256", "jwk": KEY.as_dict(private=False)}, body, KEY)}


async def test_a_proof_of_a_key_is_refused_again_until_its_last_second(world: World) -> None:
    code, database = await world.code(), world.vault.deployment.database
    with stopped_clock(database) as now:
        once = proof(world, now)
        assert (await world.token(code.form(), headers=once)).status_code == 200
    with stopped_clock(database, at=now + 300):
        code = await world.code()
        assert error_of(await world.token(code.form(), headers=once)) == "invalid_dpop_proof"
        assert (await world.token(code.form(), headers=proof(world, now))).status_code == 200


@pytest.mark.parametrize(("seconds", "counts"), [(30, False), (31, True)])
async def test_after_a_restore_a_proof_counts_if_it_was_surely_made_later(
    world: World, seconds: int, *, counts: bool
) -> None:
    """The clock of who made it may be 30 seconds ahead."""
    code, database = await world.code(), world.vault.deployment.database
    with stopped_clock(database) as now:
        async with database.transaction() as transaction:
            await replay.note_restore(transaction, now=now - 60)
        try:
            answer = await world.token(code.form(), headers=proof(world, now - 60 + seconds))
        finally:
            async with database.transaction() as transaction:
                await transaction.execute("delete from seen where purpose = 'restored'", {})
    assert (counts or error_of(answer), answer.status_code) == ((True, 200) if counts else ("invalid_dpop_proof", 400))


NOW = 1_000_000
SIGNED_IN: list[tuple[int | None, str, int, bool]] = [  # max_age, prompt, and when the person signed in
    (60, "", -60, True),
    (60, "", -61, False),
    (None, "", -1_000_000, True),
    (None, "login", 0, False),
    (0, "", 0, False),
]


def session_at(second: int, token_hash: bytes = b"a") -> Session:
    return Session(token_hash, "alice", second, second, second + 100)


@pytest.mark.parametrize(("max_age", "prompt", "signed_in", "counts"), SIGNED_IN)
def test_a_sign_in_of_exactly_max_age_is_recent_enough(
    max_age: int | None, prompt: str, signed_in: int, *, counts: bool
) -> None:
    asked = AuthorizationRequest("client", REDIRECT, "A" * 43, frozenset(), "https://vault.example/mcp")
    session = session_at(NOW + signed_in)
    wanted = with_sign_in_rule(asked, session, prompt=frozenset({prompt}), max_age=max_age, now=NOW)
    assert wanted.accepts(session) is counts
    assert wanted.accepts(session_at(NOW, b"b")), "a new sign-in always counts"
    assert wanted.accepts(session_at(NOW - 1, b"b")) is counts
    nobody = with_sign_in_rule(asked, None, prompt=frozenset({prompt}), max_age=max_age, now=NOW)
    assert nobody.accepts(session_at(NOW, b"b"))
    assert nobody.accepts(session_at(NOW - 1, b"b")) is (max_age is None and not prompt)


@pytest.mark.parametrize(("changed_at", "counts"), [(99, True), (100, False), (101, False), (None, True)])
def test_consent_counts_only_if_it_is_later_than_the_last_change(changed_at: int | None, *, counts: bool) -> None:
    metadata: dict[str, object] = {} if changed_at is None else {CHANGED_AT: changed_at}
    client = Client("c", ClientKind.DYNAMIC, "C", "none", (REDIRECT,), 0, metadata=metadata)
    assert trusts_consent(client, REDIRECT, given_at=100) is counts


@pytest.mark.parametrize(
    ("kind", "auth_method", "uri", "counts"),
    [
        (ClientKind.METADATA, "none", REDIRECT, False),
        (ClientKind.MANUAL, "none", REDIRECT, False),
        (ClientKind.MANUAL, "client_secret_post", REDIRECT, True),
        (ClientKind.MANUAL, "none", WEB, True),
        (ClientKind.DYNAMIC, "none", REDIRECT, True),
    ],
)
def test_consent_counts_only_for_who_alone_gets_the_answer(
    kind: ClientKind, auth_method: str, uri: str, *, counts: bool
) -> None:
    assert trusts_consent(Client("c", kind, "C", auth_method, (uri,), 0), uri, given_at=100) is counts


DOCUMENT = "https://agent.example/client.json"


@pytest.mark.parametrize(
    ("must_be_fresh", "fetched", "fresh_until", "is_known"),
    [
        (True, 0, 1, True),
        (True, 0, 0, False),  # it would have to be fetched, which the settings forbid
        (False, -MAX_FRESH, 0, True),
        (False, -MAX_FRESH - 1, 0, False),
    ],
)
async def test_a_document_is_fresh_for_its_time_and_usable_for_a_day(
    world: World, fetched: int, fresh_until: int, *, must_be_fresh: bool, is_known: bool
) -> None:
    closed = Settings.model_validate({"registration": {"mode": "closed"}})
    deployment = replace(world.vault.deployment, settings=closed)
    with stopped_clock(deployment.database) as now:
        metadata: dict[str, object] = {"fetched_at": now + fetched, "fresh_until": now + fresh_until}
        client = Client(DOCUMENT, ClientKind.METADATA, "C", "none", (WEB,), now, metadata=metadata)
        async with deployment.transaction() as transaction:
            await clients.save_client(transaction, client)
        found = await find_client(deployment, DOCUMENT, address="127.0.0.1", must_be_fresh=must_be_fresh)
    assert (found is not None) is is_known
