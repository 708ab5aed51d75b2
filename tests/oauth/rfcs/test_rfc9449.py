"""RFC 9449: tokens bound to a key, and proofs that are valid for one request, once."""

from __future__ import annotations

import secrets
from pathlib import Path

import httpx2
import pytest
from joserfc.jwk import ECKey, RSAKey

from server.oauth import tokens
from server.oauth.dpop import check_proof, token_hash
from server.oauth.rules import OAuthError
from tests.support.rooms.oauth_world import World, b64, claims_of, error_of, sign_jwt, vault_with
from vault import grants, users

pytest_plugins = ["tests.support.rooms.oauth_fixtures"]

KEY = ECKey.generate_key("P-256")
OTHER = ECKey.generate_key("P-256")


def proof(
    world: World,
    method: str,
    path: str,
    *,
    key: ECKey | RSAKey = KEY,
    header: dict[str, object] | None = None,
    **claims: object,
) -> str:
    """A proof for the request; claims set to None are left out."""
    algorithm = "ES256" if isinstance(key, ECKey) else "RS256"
    head: dict[str, object] = {"typ": "dpop+jwt", "alg": algorithm, "jwk": key.as_dict(private=False)}
    body: dict[str, object] = {
        "jti": secrets.token_urlsafe(12),
        "htm": method,
        "htu": world.url + path,
        "iat": world.now(),
    }
    body = {name: value for name, value in (body | claims).items() if value is not None}
    return sign_jwt(head | (header or {}), body, key)


async def issue_bound_tokens(world: World, **registration: object) -> dict[str, str]:
    """Tokens of a public client, bound to KEY."""
    code = await world.code(await world.public_client(**registration))
    answer = await world.token(code.form(), headers={"DPoP": proof(world, "POST", "/token")})
    assert answer.status_code == 200, answer.text
    return answer.json() | {"client_id": code.client_id}


async def call(world: World, token: str, sent: str | None, scheme: str = "DPoP") -> httpx2.Response:
    headers = {"Authorization": f"{scheme} {token}"} | ({} if sent is None else {"DPoP": sent})
    return await world.http.get("/userinfo", headers=headers)


@pytest.mark.requirement("S-100")
async def test_a_bound_token_works_with_a_proof_of_its_key(world: World) -> None:
    issued = await issue_bound_tokens(world)
    assert issued["token_type"] == "DPoP"
    assert claims_of(issued["access_token"])["cnf"] == {"jkt": KEY.thumbprint()}
    token = issued["access_token"]
    good = proof(world, "GET", "/userinfo", ath=token_hash(token))
    assert (await call(world, token, good)).status_code == 200
    with_query = proof(world, "GET", "/userinfo?a=1#f", ath=token_hash(token))
    assert (await call(world, token, with_query)).status_code == 200


@pytest.mark.parametrize("is_bound", [True, False])
async def test_introspection_names_the_key_of_a_bound_token(world: World, *, is_bound: bool) -> None:
    client = await world.register(token_endpoint_auth_method="client_secret_post")
    known = {"client_id": str(client["client_id"]), "client_secret": str(client["client_secret"])}
    code = await world.code(known["client_id"])
    headers = {"DPoP": proof(world, "POST", "/token")} if is_bound else {}
    issued = (await world.token(code.form(client_secret=known["client_secret"]), headers=headers)).json()
    found = (await world.http.post("/introspect", data=known | {"token": issued["access_token"]})).json()
    expected = ("DPoP", {"jkt": KEY.thumbprint()}) if is_bound else ("Bearer", None)
    assert (found["token_type"], found.get("cnf")) == expected


@pytest.mark.requirement("S-100")
@pytest.mark.parametrize("endpoint", ["/userinfo", "/token", "/mcp"])
async def test_a_proof_names_the_address_as_it_was_called_and_nothing_more(world: World, endpoint: str) -> None:
    """Whatever a lenient parser would drop or decode is refused: one proof is for one address."""
    origin, port = world.url, world.url.rpartition(":")[2]
    token = (await issue_bound_tokens(world))["access_token"]

    client_id = await world.public_client()

    async def passes(htu: str, *, path: str = endpoint) -> bool:
        method = "GET" if endpoint == "/userinfo" else "POST"
        headers = {"DPoP": proof(world, method, endpoint, ath=token_hash(token), htu=htu)}
        if endpoint == "/token":
            form = {"client_id": client_id, "grant_type": "refresh_token", "refresh_token": "none"}
            return error_of(await world.http.post(path, data=form, headers=headers)) != "invalid_dpop_proof"
        headers["Authorization"] = f"DPoP {token}"
        return (await world.http.request(method, path, headers=headers)).status_code != 401

    letter = f"%{ord(endpoint[1]):02X}{endpoint[2:]}"
    for htu in (
        f"https://localhost:{port}{endpoint}",
        f"http://other.localhost:{port}{endpoint}",
        f"http://localhost:{int(port) - 1}{endpoint}",
        f"http://localhost{endpoint}",
        f"http://user@localhost:{port}{endpoint}",
        f"http://user:word@localhost:{port}{endpoint}",
        f"http://@localhost:{port}{endpoint}",
        f" {origin}{endpoint}",
        f"{origin}{endpoint} ",
        f"{origin}{endpoint[:3]}\t{endpoint[3:]}",
        f"{origin}{endpoint[:3]}\n{endpoint[3:]}",
        f"{origin}{endpoint}?a b",
        f"{origin}/{letter}",
        f"{origin}/{letter.lower()}",
        f"http://%6cocalhost:{port}{endpoint}",
        f"http://localhost:0{port}{endpoint}",
        f"{origin}/.{endpoint}",
        f"{origin}{endpoint}%",
        f"{origin}{endpoint}\u00e9",
        endpoint,
        "",
    ):
        assert not await passes(htu), htu
    assert not await passes(f"{origin}{endpoint}", path=f"/{letter}"), "another address was called"
    assert not await passes(f"{origin}/{letter}", path=f"/{letter}"), "an address that no client writes"
    for htu in (
        f"{origin}{endpoint}",
        f"HTTP://LocalHost:{port}{endpoint}",
        f"{origin}{endpoint}?a=1#f",
    ):
        assert await passes(htu), htu


@pytest.mark.parametrize(
    ("htu", "url", "is_same"),
    [
        ("https://vault.example/token", "https://vault.example:443/token", True),
        ("https://vault.example:443/token", "https://vault.example/token", True),
        ("http://vault.example:80/token", "http://vault.example/token", True),
        ("https://vault.example", "https://vault.example/", True),
        ("https://vault.example:80/token", "https://vault.example/token", False),
        ("https://vault.example:8443/token", "https://vault.example/token", False),
        ("http://vault.example/token", "https://vault.example/token", False),
        ("https://vault.example", "https://vault.example/token", False),
    ],
)
async def test_a_proof_may_leave_out_the_usual_port_and_nothing_else(
    world: World, htu: str, url: str, *, is_same: bool
) -> None:
    sent, now = proof(world, "POST", "", htu=htu), world.now()
    if is_same:
        assert check_proof(sent, method="POST", url=url, now=now).thumbprint == KEY.thumbprint()
    else:
        with pytest.raises(OAuthError):
            check_proof(sent, method="POST", url=url, now=now)


@pytest.mark.requirement("S-100")
async def test_a_bound_token_is_never_a_bearer_token(world: World) -> None:
    token = (await issue_bound_tokens(world))["access_token"]
    good = proof(world, "GET", "/userinfo", ath=token_hash(token))
    for sent in (None, good):
        assert (await call(world, token, sent, scheme="Bearer")).status_code == 401
    assert (await call(world, token, None)).status_code == 401
    unbound = (await world.tokens())["access_token"]
    assert (await call(world, unbound, proof(world, "GET", "/userinfo", ath=token_hash(unbound)))).status_code == 401


@pytest.mark.requirement("S-100")
async def test_a_proof_of_another_request_key_or_time_is_refused(world: World) -> None:
    token = (await issue_bound_tokens(world))["access_token"]
    ath = token_hash(token)
    now = world.now()
    private = KEY.as_dict(private=True)
    weak = {"kty": "oct", "k": b64("secret")}

    def make(**changes: object) -> str:
        return proof(world, "GET", "/userinfo", **({"ath": ath} | changes))  # pyright: ignore[reportArgumentType]

    bad = [
        make(htm="POST"),
        make(htm=None),
        make(htu=f"{world.url}/mcp"),
        make(htu="https://evil.example/userinfo"),
        make(htu=None),
        make(ath=token_hash("another")),
        make(ath=None),
        make(iat=now - 301),
        make(iat=now + 31),
        make(iat=None),
        make(iat="now"),
        make(jti=None),
        make(jti=""),
        make(jti="x" * 500),
        make(key=OTHER),
        make(key=RSAKey.generate_key(2048)),
        make(header={"typ": "JWT"}),
        make(header={"typ": None}),
        make(header={"jwk": OTHER.as_dict(private=False)}),
        make(header={"jwk": private}),
        make(header={"jwk": weak}),
        make(header={"jwk": None}),
        make(header={"crit": ["exp"], "exp": 1}),
        make(header={"jku": "https://evil.example/"}),
        make() + "x",
        make()[:-3],
        f"{b64({'typ': 'dpop+jwt', 'alg': 'none', 'jwk': KEY.as_dict(private=False)})}.{make().split('.')[1]}.",
        "garbage",
        "",
    ]
    for sent in bad:
        assert (await call(world, token, sent)).status_code == 401
    twice = [("Authorization", f"DPoP {token}"), ("DPoP", make()), ("DPoP", make())]
    assert (await world.http.get("/userinfo", headers=twice)).status_code == 401
    for good in (make(), make(iat=now - 300), make(iat=now + 30)):
        assert (await call(world, token, good)).status_code == 200


@pytest.mark.requirement("S-100")
async def test_a_proof_counts_once(world: World) -> None:
    token = (await issue_bound_tokens(world))["access_token"]
    sent = proof(world, "GET", "/userinfo", ath=token_hash(token))
    assert (await call(world, token, sent)).status_code == 200
    assert (await call(world, token, sent)).status_code == 401
    code = await world.code()
    headers = {"DPoP": proof(world, "POST", "/token")}
    assert (await world.token(code.form(), headers=headers)).status_code == 200
    answer = await world.token((await world.code()).form(), headers=headers)
    assert error_of(answer) == "invalid_dpop_proof"


@pytest.mark.requirement("S-100")
async def test_the_token_endpoint_refuses_bad_proofs_and_does_not_burn_the_code(world: World) -> None:
    code = await world.code()
    for sent in (
        proof(world, "GET", "/token"),
        proof(world, "POST", "/revoke"),
        proof(world, "POST", "/token", iat=world.now() - 1000),
        proof(world, "POST", "/token", header={"alg": "none"}),
        "a.b.c",
    ):
        answer = await world.token(code.form(), headers={"DPoP": sent})
        assert (answer.status_code, error_of(answer)) == (400, "invalid_dpop_proof")
    assert (await world.token(code.form(), headers={"DPoP": proof(world, "POST", "/token")})).status_code == 200


@pytest.mark.requirement("S-100")
async def test_the_refresh_token_of_a_public_client_is_bound_to_the_key(world: World) -> None:
    issued = await issue_bound_tokens(world)
    client_id, token = issued["client_id"], issued["refresh_token"]
    form = {"grant_type": "refresh_token", "client_id": client_id, "refresh_token": token}
    assert error_of(await world.token(form)) == "invalid_grant"  # no downgrade
    stranger = {"DPoP": proof(world, "POST", "/token", key=OTHER)}
    assert error_of(await world.token(form, headers=stranger)) == "invalid_grant"
    honest = {"DPoP": proof(world, "POST", "/token")}
    rotated = await world.token(form, headers=honest)
    assert rotated.status_code == 200
    assert rotated.json()["token_type"] == "DPoP"


@pytest.mark.requirement("S-100")
async def test_a_code_asked_for_with_a_key_counts_with_that_key_only(world: World) -> None:
    code = await world.code(dpop_jkt=KEY.thumbprint())
    assert error_of(await world.token(code.form())) == "invalid_grant"
    stranger = {"DPoP": proof(world, "POST", "/token", key=OTHER)}
    assert error_of(await world.token(code.form(), headers=stranger)) == "invalid_grant"
    assert (await world.token(code.form(), headers={"DPoP": proof(world, "POST", "/token")})).status_code == 200


@pytest.mark.requirement("S-100")
async def test_a_client_that_registered_dpop_cannot_do_without(world: World) -> None:
    code = await world.code(await world.public_client(dpop_bound_access_tokens=True))
    assert error_of(await world.token(code.form())) == "invalid_dpop_proof"
    assert (await world.token(code.form(), headers={"DPoP": proof(world, "POST", "/token")})).status_code == 200


async def test_an_rsa_key_works_too_and_a_weak_one_does_not(world: World) -> None:
    code = await world.code()
    sent = proof(world, "POST", "/token", key=RSAKey.generate_key(2048))
    assert (await world.token(code.form(), headers={"DPoP": sent})).status_code == 200
    weak = {"kty": "RSA", "n": b64(b"\xff" * 128), "e": "AQAB"}
    answer = await world.token(
        (await world.code()).form(), headers={"DPoP": proof(world, "POST", "/token", header={"jwk": weak})}
    )
    assert error_of(answer) == "invalid_dpop_proof"


@pytest.mark.parametrize(
    "jwk",
    [
        "text",
        ["list"],
        {},
        {"kty": "EC"},
        {"kty": "EC", "crv": "P-256", "x": "AA"},
        {"kty": "EC", "crv": "P-256", "x": 1, "y": 2},
        {"kty": "EC", "crv": "P-384", "x": "A" * 43, "y": "A" * 43},
        {"kty": "EC", "crv": "P-256", "x": "A" * 43, "y": "A" * 43},
        {"kty": "EC", "crv": "P-256", "x": "A" * 701, "y": "A" * 43},
        {"kty": "EC", "crv": "P-256", "x": "!", "y": "!"},
        {"kty": "EC", "crv": "P-256", "x": "A" * 43, "y": "A" * 43, "alg": "ES384"},
        {"kty": "RSA", "n": "A" * 342, "e": "A" * 100},
        {"kty": "OKP", "crv": "Ed25519", "x": "A" * 43},
    ],
    ids=str,
)
async def test_a_key_that_cannot_be_used_is_refused(world: World, jwk: object) -> None:
    sent = proof(world, "POST", "/token", header={"jwk": jwk})
    answer = await world.token((await world.code()).form(), headers={"DPoP": sent})
    assert error_of(answer) == "invalid_dpop_proof"


async def test_a_target_that_is_no_address_is_refused(world: World) -> None:
    sent = proof(world, "POST", "/token", htu="http://localhost:port/token")
    answer = await world.token((await world.code()).form(), headers={"DPoP": sent})
    assert error_of(answer) == "invalid_dpop_proof"


@pytest.mark.parametrize("is_demanded", [True, False])
async def test_a_token_without_a_key_is_refused_where_the_operator_demands_one(
    tmp_path: Path, *, is_demanded: bool
) -> None:
    """As one that was issued before the operator demanded it."""
    async with vault_with(tmp_path / "data", tokens={"require_dpop": is_demanded}) as (vault, http):
        client_id = str((await vault.register())["client_id"])
        person, now = await users.find_user(vault.deployment.database, "alice"), vault.deployment.now()
        assert person is not None
        async with vault.deployment.transaction() as transaction:
            grant = await grants.create_grant(
                transaction,
                user_id=person.id,
                client_id=client_id,
                scopes=frozenset({"openid"}),
                resource=f"{vault.url}/mcp",
                redirect_uri="http://127.0.0.1/callback",
                now=now,
            )
        token, _ = tokens.mint(vault.deployment, grant, scopes=grant.scopes, audience=grant.resource, now=now)
        answer = await http.get("/userinfo", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == (401 if is_demanded else 200)


async def test_an_operator_can_demand_dpop(tmp_path: Path) -> None:
    async with vault_with(tmp_path / "data", tokens={"require_dpop": True}) as (vault, http), vault.person() as alice:
        client_id = str((await vault.register())["client_id"])
        answer, verifier = await vault.authorize(alice, client_id)
        refused = await vault.redeem(client_id, answer["code"], verifier)
        assert refused.json()["error"] == "invalid_dpop_proof"
        found = (await http.get("/.well-known/oauth-protected-resource/mcp")).json()
        assert found["dpop_bound_access_tokens_required"] is True
