"""RFC 9068, RFC 8725, RFC 6750: which access tokens work, and that forgeries fail. Tested where a token is needed."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import secrets
import zlib
from base64 import b64decode, urlsafe_b64decode
from pathlib import Path

import pytest
from joserfc.jwk import ECKey, RSAKey

from server.oauth import tokens
from tests.support.doubles.canary import running_canary
from tests.support.harness import PASSWORD
from tests.support.person import session_token
from tests.support.rooms.oauth_world import World, b64, claims_of, header_of, sign_jwt, vault_with

pytest_plugins = ["tests.support.rooms.oauth_fixtures"]


async def forge(world: World, token: str) -> None:
    """Check that the token is refused quickly, with an answer that reveals nothing."""
    async with asyncio.timeout(30):
        answer = await world.http.get("/userinfo", headers={"Authorization": b"Bearer " + token.encode()})
    assert answer.status_code == 401
    assert "alice" not in answer.text


def own_key(world: World) -> RSAKey:
    return world.vault.deployment.keys.signing.current(world.now())


@pytest.mark.requirement("S-095")
async def test_a_token_says_what_the_standard_asks(world: World) -> None:
    issued = await world.tokens()
    header, claims = header_of(issued["access_token"]), claims_of(issued["access_token"])
    assert header.keys() == {"alg", "kid", "typ"}
    assert header["alg"] == "RS256"
    assert header["typ"] == "at+jwt"
    assert claims["iss"] == world.url
    assert claims["aud"] == f"{world.url}/mcp"
    assert claims["client_id"] == claims["azp"] == issued["client_id"]
    assert claims["scope"] == issued["scope"]
    assert 0 < int(str(claims["exp"])) - int(str(claims["iat"])) <= 3600
    assert len(str(claims["jti"])) >= 22
    assert "alice" not in json.dumps(claims)  # the opaque subject is the only personal data


@pytest.mark.requirement("S-095")
@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://evil.example"},
        {"iss": None},
        {"aud": "https://other.example"},
        {"aud": None},
        {"aud": []},
        {"aud": ["https://other.example"]},
        {"exp": None},
        {"exp": "never"},
        {"exp": 10**12},
        {"exp": True},
        {"iat": None},
        {"iat": 0},
        {"jti": None},
        {"client_id": None},
        {"client_id": "another"},
        {"sub": "another"},
        {"sub": None},
        {"gid": "another"},
        {"gid": None},
        {"scope": ["openid"]},
        {"cnf": {"jkt": "x"}},
        {"cnf": {"x5t#S256": "x"}},
    ],
    ids=str,
)
async def test_even_our_own_signature_does_not_help_wrong_claims(world: World, changes: dict[str, object]) -> None:
    token = (await world.tokens())["access_token"]
    claims = {name: value for name, value in (claims_of(token) | changes).items() if value is not None}
    await forge(world, sign_jwt(header_of(token), claims, own_key(world)))
    assert await world.probe(sign_jwt(header_of(token), claims_of(token), own_key(world))) == 200


async def test_a_token_of_the_future_is_refused(world: World) -> None:
    for seconds, status in ((31, 401), (30, 200)):
        with world.clock_ahead(seconds):
            token = (await world.tokens())["access_token"]
            assert await world.probe(token) == 200
        assert await world.probe(token) == status


async def test_the_chain_of_actors_is_read_outermost_first_and_bounded(world: World) -> None:
    token = (await world.tokens())["access_token"]

    def acted_by(names: str) -> str:
        act: object = None
        for name in reversed(names):
            act = {"sub": name} | ({} if act is None else {"act": act})
        return sign_jwt(header_of(token), claims_of(token) | {"act": act}, own_key(world))

    deployment = world.vault.deployment
    assert (await tokens.verify(deployment, acted_by("abcd"))).actors == ("a", "b", "c", "d")
    with pytest.raises(tokens.TokenRefused):  # nobody is left out of the record of who acted
        await tokens.verify(deployment, acted_by("abcde"))
    assert (await tokens.verify(deployment, token)).actors == ()


async def test_a_token_is_for_the_audiences_that_a_caller_names(world: World) -> None:
    token = (await world.tokens())["access_token"]
    deployment = world.vault.deployment
    assert (await tokens.verify(deployment, token, audiences=frozenset({f"{world.url}/mcp"}))).audience
    with pytest.raises(tokens.TokenRefused):
        await tokens.verify(deployment, token, audiences=frozenset({"https://api.example"}))


def test_what_is_remembered_of_tokens_is_bounded() -> None:
    verdicts = tokens._Verdicts()
    claims = tokens.AccessClaims(
        "s", "c", "g", "a", frozenset(), 0, 1, "j", (), None, None, is_strong=False, details=None
    )
    for number in range(5000):
        verdicts.remember(number.to_bytes(4, "big"), claims)
        assert verdicts.get((0).to_bytes(4, "big")) is claims  # it is in use, so it is kept
    assert verdicts.get((1).to_bytes(4, "big")) is None
    assert verdicts.get((4999).to_bytes(4, "big")) is claims


async def test_a_token_ends_with_its_time(world: World) -> None:
    token = (await world.tokens())["access_token"]
    assert await world.probe(token) == 200  # and from now on its signature is remembered
    with world.clock_ahead(3500):
        assert await world.probe(token) == 200
    with world.clock_ahead(3600):
        assert await world.probe(token) == 401


async def test_a_token_that_comes_without_a_refresh_token_works_for_a_day(world: World) -> None:
    client_id = await world.public_client(grant_types=["authorization_code"])
    issued = await world.tokens(client_id)
    assert "refresh_token" not in issued
    assert "refresh_token_expires_in" not in issued
    assert int(issued["expires_in"]) == 86400
    with world.clock_ahead(86000):
        assert await world.probe(issued["access_token"]) == 200
    with world.clock_ahead(86400):
        assert await world.probe(issued["access_token"]) == 401


async def test_an_operator_sets_a_day_for_every_access_token(tmp_path: Path) -> None:
    async with (
        vault_with(tmp_path / "data", tokens={"access_lifetime": 86400}) as (vault, http),
        vault.person() as alice,
    ):
        await alice.sign_in("alice", PASSWORD)
        world = World(vault, alice, http)
        issued = await world.tokens()
        assert int(issued["expires_in"]) == 86400
        with world.clock_ahead(86000):
            assert await world.probe(issued["access_token"]) == 200
            revoked = await world.http.post(
                "/revoke", data={"client_id": issued["client_id"], "token": issued["refresh_token"]}
            )
            assert revoked.status_code == 200
            assert await world.probe(issued["access_token"]) == 401  # a long lifetime doesn't help: the grant is read


@pytest.mark.requirement("S-090")
@pytest.mark.parametrize(
    "name", ["none", "None", "NONE", "nOnE", "noNe", "none ", " none", "non\u0435", "", None, 0, []]
)
async def test_an_unsigned_token_is_refused_however_it_is_spelled(world: World, name: object) -> None:
    token = (await world.tokens())["access_token"]
    header = b64(header_of(token) | {"alg": name})
    body = token.split(".")[1]
    for signature in ("", token.split(".")[2], "AA"):
        await forge(world, f"{header}.{body}.{signature}")


@pytest.mark.requirement("S-090")
@pytest.mark.parametrize("name", ["RS384", "RS512", "PS256", "PS384"])
async def test_only_our_one_algorithm_counts(world: World, name: str) -> None:
    token = (await world.tokens())["access_token"]
    await forge(world, sign_jwt(header_of(token) | {"alg": name}, claims_of(token), own_key(world)))


@pytest.mark.requirement("S-091")
@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
async def test_a_public_key_is_never_an_hmac_secret(world: World, algorithm: str) -> None:
    token = (await world.tokens())["access_token"]
    published = (await world.http.get("/.well-known/jwks.json")).json()["keys"]
    digest = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}[algorithm]
    for jwk in published:
        key = RSAKey.import_key(jwk)
        pem, der = key.as_pem(private=False), key.as_der(private=False)
        texts = [json.dumps(jwk), json.dumps(jwk, separators=(",", ":")), jwk["n"], jwk["kid"], ""]
        candidates = [
            pem,
            pem.strip(),
            pem.replace(b"\n", b"\r\n"),
            b"".join(pem.splitlines()[1:-1]),
            der,
            der.hex().encode(),
            urlsafe_b64decode(jwk["n"] + "=="),
            b64decode(b"".join(pem.splitlines()[1:-1])),
            b64(der).encode(),
            *(text.encode() for text in texts),
        ]
        for secret in candidates:
            signing_input = f"{b64(header_of(token) | {'alg': algorithm, 'kid': jwk['kid']})}.{token.split('.')[1]}"
            signature = b64(hmac.new(secret, signing_input.encode(), digest).digest())
            await forge(world, f"{signing_input}.{signature}")


@pytest.mark.requirement("S-092")
@pytest.mark.parametrize(
    "kid",
    [
        None,
        "",
        "../../../../dev/null",
        "/dev/null",
        "file:///dev/null",
        "http://127.0.0.1:9/key",
        "https://evil.example/jwks.json",
        "' or '1'='1",
        "x' union select 'key",
        "%00",
        "\x00",
        "0",
        0,
        True,
        ["kid"],
        {"kid": 1},
        "x" * 3000,
        "${jndi:ldap://127.0.0.1/a}",
    ],
    ids=repr,
)
async def test_a_key_id_is_a_name_to_look_up_and_nothing_else(world: World, kid: object) -> None:
    token = (await world.tokens())["access_token"]
    header = {name: value for name, value in (header_of(token) | {"kid": kid}).items() if value is not None}
    await forge(world, f"{b64(header)}.{'.'.join(token.split('.')[1:])}")
    empty = hmac.new(b"", f"{b64(header | {'alg': 'HS256'})}.{token.split('.')[1]}".encode(), hashlib.sha256).digest()
    await forge(world, f"{b64(header | {'alg': 'HS256'})}.{token.split('.')[1]}.{b64(empty)}")


@pytest.mark.requirement("S-093")
async def test_keys_named_by_the_token_itself_are_refused_and_never_fetched(world: World) -> None:
    token = (await world.tokens())["access_token"]
    mine = RSAKey.generate_key(2048)
    async with running_canary() as canary:
        address = f"{canary.url}/keys"
        additions: list[dict[str, object]] = [
            {"jwk": mine.as_dict(private=False)},
            {"jku": address},
            {"x5u": address},
            {"x5c": ["MIIB"]},
            {"x5t": "x"},
            {"jwk": mine.as_dict(private=False), "kid": mine.thumbprint()},
            {"jku": address, "kid": mine.thumbprint()},
        ]
        for addition in additions:
            await forge(world, sign_jwt(header_of(token) | addition, claims_of(token), mine))
            await forge(world, sign_jwt(header_of(token) | addition, claims_of(token), own_key(world)))
    for addition in ({"crit": ["exp"]}, {"crit": []}, {"b64": True}, {"b64": False, "crit": ["b64"]}, {"cty": "JWT"}):
        header = b64(header_of(token) | addition)
        await forge(world, f"{header}.{'.'.join(token.split('.')[1:])}")
    assert canary.arrivals == 0


@pytest.mark.requirement("S-094")
async def test_signature_segments_and_serialisation_are_strict(world: World) -> None:
    token = (await world.tokens())["access_token"]
    header, body, signature = token.split(".")
    last = signature[-1]
    other = "B" if last != "B" else "C"
    bent = [
        f"{header}.{body}.",
        f"{header}.{body}",
        f"{header}..{signature}",
        f".{body}.{signature}",
        f"{header}.{body}.{signature}.",
        f".{header}.{body}.{signature}",
        f"{header}.{body}.{signature}=",
        f"{header}=.{body}.{signature}",
        f"{header}.{body}.{signature[:-1]}{other}",
        f"{header}.{body}.{signature[:-4]}",
        f"{header}.{body}.{signature}AAAA",
        f"{header}.{body}.{'A' * len(signature)}",
        f"{header}.{body}.{signature[::-1]}",
        f"{header}.{body[:-2]}AA.{signature}",
        f"{header}.{b64(claims_of(token) | {'scope': 'openid tools exchange'})}.{signature}",
        f"{header} .{body}.{signature}",
        f"{header}.{body}\t.{signature}",
        json.dumps({"protected": header, "payload": body, "signature": signature}),
        json.dumps({"payload": body, "signatures": [{"protected": header, "signature": signature}]}),
        token + "," + token,
        token.replace("-", "+").replace("_", "/") if "-" in token or "_" in token else "x.y.z",
    ]
    for one in bent:
        await forge(world, one)
    mine = ECKey.generate_key("P-256")
    with_curve = {"alg": "ES256", "typ": "at+jwt", "kid": header_of(token)["kid"]}
    await forge(world, sign_jwt(with_curve, claims_of(token), mine))
    await forge(world, f"{b64(with_curve)}.{body}.{b64(bytes(64))}")  # the all-zero signature, CVE-2022-21449
    assert await world.probe(token) == 200


@pytest.mark.requirement("S-094")
async def test_a_foreign_key_of_the_same_name_does_not_count(world: World) -> None:
    token = (await world.tokens())["access_token"]
    await forge(world, sign_jwt(header_of(token), claims_of(token), RSAKey.generate_key(2048)))


@pytest.mark.requirement("S-096")
async def test_a_token_counts_in_the_header_only(world: World) -> None:
    token = (await world.tokens())["access_token"]
    get, post = world.http.get, world.http.post
    for answer in (
        await get("/userinfo", params={"access_token": token}),
        await get("/userinfo", headers={"Cookie": f"access_token={token}; token={token}"}),
        await post("/userinfo", data={"access_token": token}),
        await post("/userinfo", json={"access_token": token}),
        await get("/userinfo", headers={"X-Access-Token": token}),
        await get("/userinfo", headers={"Authorization": token}),
        await get("/userinfo", headers={"Authorization": f"Token {token}"}),
        await get("/userinfo", headers={"Authorization": f"Basic {token}"}),
        await get("/userinfo", headers={"Proxy-Authorization": f"Bearer {token}"}),
        await get("/userinfo", headers=[("Authorization", f"Bearer {token}"), ("Authorization", "Bearer x")]),
    ):
        assert answer.status_code in {400, 401}
    assert (await get("/userinfo", headers={"Authorization": f"bearer {token}"})).status_code == 200
    assert (await post("/userinfo", headers={"Authorization": f"Bearer {token}"})).status_code == 200


@pytest.mark.requirement("S-097")
async def test_no_other_kind_of_token_works_as_an_access_token(world: World) -> None:
    code = await world.code()
    issued = (await world.token(code.form())).json()
    client = await world.register()
    kinds = [
        code.code,
        issued["refresh_token"],
        issued["id_token"],
        str(client["registration_access_token"]),
        str(client["client_id"]),
        session_token(world.alice.http),
        sign_jwt(
            {"alg": "RS256", "typ": "JWT", "kid": own_key(world).kid}, claims_of(issued["access_token"]), own_key(world)
        ),
        sign_jwt(
            {"alg": "RS256", "typ": "dpop+jwt", "kid": own_key(world).kid},
            claims_of(issued["access_token"]),
            own_key(world),
        ),
        sign_jwt({"alg": "RS256", "kid": own_key(world).kid}, claims_of(issued["access_token"]), own_key(world)),
    ]
    for token in kinds:
        await forge(world, token)
    assert await world.probe(issued["access_token"]) == 200


@pytest.mark.requirement("S-098")
async def test_bombs_end_at_once(world: World) -> None:
    zipped = zlib.compress(b" " * 30_000_000)[:6000]
    encrypted = {"alg": "dir", "enc": "A256GCM", "zip": "DEF"}
    slow = {"alg": "PBES2-HS512+A256KW", "enc": "A256GCM", "p2c": 2**31 - 1, "p2s": b64(secrets.token_bytes(16))}
    for token in (
        f"{b64(encrypted)}..{b64(bytes(12))}.{b64(zipped)}.{b64(bytes(16))}",
        f"{b64(slow)}.{b64(bytes(40))}.{b64(bytes(12))}.{b64(b'x')}.{b64(bytes(16))}",
        "." * 5000,
        "a." * 2500,
        "A" * 15_000,
        f"{b64('[' * 3000)}.{b64('[' * 3000)}.AA",
        f"{b64(json.dumps({'alg': 'RS256', 'typ': 'at+jwt', 'kid': 'x', 'n': 10**4000}))}.e30.AA",
    ):
        await forge(world, token)


@pytest.mark.requirement("S-099")
async def test_a_narrow_token_is_told_which_scope_it_lacks(world: World) -> None:
    narrow, wide = await world.tokens(scope="tools"), await world.tokens(scope="tools openid")
    answer = await world.http.get("/userinfo", headers={"Authorization": f"Bearer {narrow['access_token']}"})
    assert answer.status_code == 403
    assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]
    assert 'scope="openid"' in answer.headers["www-authenticate"]
    assert await world.probe(wide["access_token"]) == 200


async def test_without_a_token_the_challenge_has_no_error(world: World) -> None:
    answer = await world.http.get("/userinfo")
    assert answer.status_code == 401
    assert "error=" not in answer.headers["www-authenticate"]


@pytest.mark.requirement("S-101")
async def test_tokens_of_another_vault_are_refused(world: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    async with vault_with(tmp_path_factory.mktemp("other") / "data") as (other, _), other.person() as alice:
        foreign = await other.agent(alice, scope="openid tools")
        await forge(world, foreign.access_token)
