"""RFC 7523: clients that authenticate with their own key."""

from __future__ import annotations

import secrets
from pathlib import Path

import httpx2
import pytest
from joserfc.jwk import ECKey, RSAKey

from tests.support.rooms.oauth_world import Code, World, b64, error_of, sign_jwt, vault_with
from vault import replay

pytest_plugins = ["tests.support.rooms.oauth_fixtures"]

KEY = RSAKey.generate_key(2048, parameters={"kid": "first"})
CURVE = ECKey.generate_key("P-256", parameters={"kid": "second"})
TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


async def client(world: World) -> str:
    jwks = {"keys": [KEY.as_dict(private=False), CURVE.as_dict(private=False)]}
    return await world.public_client(token_endpoint_auth_method="private_key_jwt", jwks=jwks)


def assertion(
    world: World,
    client_id: str,
    *,
    key: RSAKey | ECKey = KEY,
    header: dict[str, object] | None = None,
    **claims: object,
) -> str:
    """An assertion of the client; claims set to None are left out."""
    head: dict[str, object] = {"alg": "RS256" if isinstance(key, RSAKey) else "ES256", "kid": key.kid, "typ": "JWT"}
    body: dict[str, object] = {
        "iss": client_id,
        "sub": client_id,
        "aud": world.url,
        "exp": world.now() + 60,
        "iat": world.now(),
        "jti": secrets.token_urlsafe(12),
    }
    body = {name: value for name, value in (body | claims).items() if value is not None}
    head = {name: value for name, value in (head | (header or {})).items() if value is not None}
    return sign_jwt(head, body, key)


async def redeem(world: World, code: Code, sent: str, **changes: str | None) -> httpx2.Response:
    return await world.token(
        code.form(client_assertion=sent, client_assertion_type=TYPE)
        | {name: value for name, value in changes.items() if value is not None}
    )


@pytest.mark.parametrize("key", [KEY, CURVE], ids=["RS256", "ES256"])
@pytest.mark.parametrize("audience", ["{}", "{}/token", ["{}"], ["{}", "{}/token"]], ids=str)
async def test_a_client_proves_itself_with_its_key(
    world: World, key: RSAKey | ECKey, audience: str | list[str]
) -> None:
    client_id = await client(world)
    named = audience.format(world.url) if isinstance(audience, str) else [one.format(world.url) for one in audience]
    code = await world.code(client_id)
    answer = await redeem(world, code, assertion(world, client_id, key=key, aud=named))
    assert answer.status_code == 200, answer.text


async def test_the_assertion_alone_names_the_client_and_a_key_without_name_is_tried(world: World) -> None:
    client_id = await client(world)
    code = await world.code(client_id)
    form = code.form(client_id=None, client_assertion_type=TYPE)
    form["client_assertion"] = assertion(world, client_id, header={"kid": None, "alg": "PS256"})
    assert (await world.token(form)).status_code == 200


@pytest.mark.requirement("S-074")
async def test_assertions_of_others_for_others_or_too_old_are_refused(world: World) -> None:
    client_id, other = await client(world), await client(world)
    code = await world.code(client_id)
    now = world.now()

    def make(**changes: object) -> str:
        return assertion(world, client_id, **changes)  # pyright: ignore[reportArgumentType]

    for sent in (
        make(iss=other),
        make(aud="https://evil.example"),
        make(aud=[world.url, "https://evil.example"]),
        make(aud=f"{world.url}/oauth/token"),  # only with the interface for Auth0's clients
        make(aud=[]),
        make(aud=None),
        make(exp=now - 30),
        make(exp=None),
        make(exp=now + 3631),
        make(nbf=now + 31),
        make(nbf="tomorrow"),
        make(nbf=2**53),  # as some libraries count nanoseconds
        make(iat=now + 31),
        make(iat="today"),
        make(jti=None),
        make(jti=""),
        make(sub=""),
        make(sub="a\0"),
        make(sub=5),
        make(key=RSAKey.generate_key(2048, parameters={"kid": "first"})),
        make(header={"kid": "third"}),
        make(header={"alg": "none"}),
        make(header={"jku": "https://evil.example"}),
        make(header={"jwk": CURVE.as_dict(private=False)}),
        make(header={"crit": ["exp"]}),
        make() + "x",
        f"{b64({'alg': 'none'})}.{b64({'sub': client_id, 'iss': client_id, 'aud': world.url})}.",
        f"{b64({'alg': 'HS256'})}.{b64({'sub': client_id})}.AAAA",
        "garbage",
    ):
        answer = await redeem(world, code, sent, client_id=client_id)
        assert (error_of(answer), answer.status_code) == ("invalid_client", 401), sent
    two = await redeem(world, code, make(sub="nobody", iss="nobody"), client_id=client_id)
    assert (error_of(two), two.status_code) == ("invalid_request", 400)
    assert error_of(await world.token(code.form())) == "invalid_client"
    assert error_of(await world.token(code.form(client_secret="x"))) == "invalid_client"
    wrong_type = code.form(client_assertion=make(), client_assertion_type="urn:other")
    assert error_of(await world.token(wrong_type)) == "invalid_request"
    both = code.form(client_assertion=make(), client_assertion_type=TYPE, client_secret="x")
    assert error_of(await world.token(both)) == "invalid_request"
    for good in (make(exp=now - 29), make(exp=now + 3630), make(nbf=now + 30), make(iat=now + 30)):
        form = {"client_assertion": good, "client_assertion_type": TYPE, "token": "x"}
        assert (await world.http.post("/revoke", data=form)).status_code == 200
    assert (await redeem(world, code, make())).status_code == 200


AFTER_A_RESTORE: list[tuple[dict[str, int], bool]] = [  # claims in seconds; the restore was at 100, now is 300
    ({"iat": 200}, True),
    ({"iat": 131}, True),
    ({"iat": 130}, False),  # the client's clock may be 30 seconds ahead
    ({"nbf": 200}, True),
    ({"iat": 0, "nbf": 200}, True),
    ({"exp": 3900}, True),  # it can't have been used before the restore
    ({"exp": 400}, False),  # it may have been used before
    ({"iat": 0}, False),
    ({"iat": 0, "nbf": 0}, False),
]


async def test_after_a_restore_an_assertion_counts_if_it_was_surely_not_used_before(tmp_path: Path) -> None:
    async with vault_with(tmp_path / "data") as (vault, http):
        jwks = {"keys": [CURVE.as_dict(private=False)]}
        client_id = str((await vault.register(token_endpoint_auth_method="private_key_jwt", jwks=jwks))["client_id"])
        begin, database = vault.deployment.now(), vault.deployment.database
        async with database.transaction() as transaction:
            await replay.note_restore(transaction, now=begin + 100)
        database.clock_offset += 300
        for claims, counts in AFTER_A_RESTORE:
            known: dict[str, object] = {"iss": client_id, "sub": client_id, "aud": vault.url, "jti": str(claims)}
            known |= {name: begin + value for name, value in ({"exp": 400} | claims).items()}
            sent = sign_jwt({"alg": "ES256", "kid": CURVE.kid, "typ": "JWT"}, known, CURVE)
            form = {"client_assertion": sent, "client_assertion_type": TYPE, "token": "x"}
            assert (await http.post("/revoke", data=form)).status_code == (200 if counts else 401), claims


async def test_an_assertion_counts_once(world: World) -> None:
    client_id = await client(world)
    first, second = await world.code(client_id), await world.code(client_id)
    sent = assertion(world, client_id)
    assert (await redeem(world, first, sent)).status_code == 200
    assert error_of(await redeem(world, second, sent)) == "invalid_client"
    assert (await redeem(world, second, assertion(world, client_id))).status_code == 200


@pytest.mark.parametrize("jwks", [{}, {"keys": "x"}, {"keys": [5]}, {"keys": [{"kty": "EC"}]}, {"keys": []}], ids=str)
async def test_keys_that_cannot_be_used_cannot_be_registered(world: World, jwks: dict[str, object]) -> None:
    body = {"redirect_uris": ["https://a.example/cb"], "token_endpoint_auth_method": "private_key_jwt", "jwks": jwks}
    assert error_of(await world.http.post("/register", json=body)) == "invalid_client_metadata"


async def test_a_key_address_that_cannot_be_reached_is_a_failed_authentication(world: World) -> None:
    client_id = await world.public_client(
        token_endpoint_auth_method="private_key_jwt", jwks_uri="https://10.0.0.1/keys.json"
    )
    code = await world.code(client_id)
    answers = [await redeem(world, code, assertion(world, client_id)) for _ in range(3)]  # a single fetch for all three
    assert {error_of(answer) for answer in answers} == {"invalid_client"}
    assert not any("www-authenticate" in answer.headers for answer in answers)  # only for credentials in that header


async def test_a_client_with_a_secret_cannot_switch_to_assertions(world: World) -> None:
    client_id = await world.public_client(token_endpoint_auth_method="client_secret_post")
    code = await world.code(client_id)
    assert error_of(await redeem(world, code, assertion(world, client_id))) == "invalid_client"
