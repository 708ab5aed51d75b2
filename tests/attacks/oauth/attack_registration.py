"""RFC 7591 and 7592, as a stranger: what can be registered, and who can change it afterward."""

from __future__ import annotations

import time

import pytest

from tests.attacks.target import EXCHANGE, REDIRECT, Target, new_key
from tests.support.rooms.oauth_world import sign_jwt

REFUSED: dict[str, dict[str, object]] = {
    "a javascript redirect": {"redirect_uris": ["javascript:alert(1)"]},
    "a data redirect": {"redirect_uris": ["data:text/html,x"]},
    "a plain http redirect elsewhere": {"redirect_uris": ["http://agent.example/callback"]},
    "a redirect with a fragment": {"redirect_uris": ["https://agent.example/callback#a"]},
    "a redirect with user information": {"redirect_uris": ["https://a:b@agent.example/callback"]},
    "a wildcard host": {"redirect_uris": ["https://*.agent.example/callback"]},
    "a redirect with a line break": {"redirect_uris": ["https://agent.example/\r\nSet-Cookie: a=b"]},
    "a relative redirect": {"redirect_uris": ["/connections"]},
    "a host that only looks like loopback": {"redirect_uris": ["http://127.0.0.1.evil.example/"]},
    "a loopback name with a dot": {"redirect_uris": ["http://localhost.evil.example/"]},
    "a backslash in a redirect": {"redirect_uris": ["https://agent.example\\@evil.example/"]},
    "an unlisted scheme": {"redirect_uris": ["myapp://callback"]},
    "a file redirect": {"redirect_uris": ["file:///etc/passwd"]},
    "no redirect": {"redirect_uris": []},
    "redirects that are no list": {"redirect_uris": REDIRECT},
    "redirects that are no strings": {"redirect_uris": [{"a": 1}]},
    "an unknown authentication": {"token_endpoint_auth_method": "tls_client_auth"},
    "a name of control characters": {"client_name": "A\x1b[31m\u202egent"},
    "a name that is an object": {"client_name": {"a": 1}},
    "a javascript website": {"client_uri": "javascript:alert(1)"},
    "a logo from inside": {"logo_uri": "file:///etc/passwd"},
    "keys from plain http": {
        "token_endpoint_auth_method": "private_key_jwt",
        "jwks_uri": "http://169.254.169.254/keys",
    },
    "keys and a place for them": {
        "token_endpoint_auth_method": "private_key_jwt",
        "jwks": {"keys": []},
        "jwks_uri": "https://agent.example/keys",
    },
    "a symmetric key": {
        "token_endpoint_auth_method": "private_key_jwt",
        "jwks": {"keys": [{"kty": "oct", "k": "c2VjcmV0"}]},
    },
    "the implicit grant": {"grant_types": ["implicit"], "response_types": ["token"]},
    "the password grant": {"grant_types": ["password"]},
}


@pytest.mark.parametrize("name", REFUSED)
async def test_cannot_be_registered(target: Target, name: str) -> None:
    body = {"client_name": "A", "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none"} | REFUSED[name]
    answer = await target.http.post("/register", json=body)
    if name.startswith("a name of"):  # only for display: cleaned or refused
        assert answer.status_code == 400 or "\x1b" not in str(answer.json()["client_name"])
        return
    if answer.status_code == 201 and name in {"the implicit grant", "the password grant"}:  # omitted is refused, too
        assert not {"implicit", "password"} & set(answer.json()["grant_types"])
        return
    assert answer.status_code == 400, answer.text


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "127.1", "2130706433", "[::ffff:127.0.0.1]"]
)
async def test_keys_are_not_fetched_from_this_machine(target: Target, host: str) -> None:
    body = {"redirect_uris": [REDIRECT], "token_endpoint_auth_method": "private_key_jwt"}
    made = await target.http.post("/register", json=body | {"jwks_uri": f"https://{host}:{target.provider.port}/keys"})
    if made.status_code == 400:
        return
    client_id, now, before = str(made.json()["client_id"]), int(time.time()), target.provider.connections
    claims = {"iss": client_id, "sub": client_id, "aud": target.url, "iat": now, "exp": now + 60, "jti": "a"}
    form = {"client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer", "token": "x"}
    form["client_assertion"] = sign_jwt({"alg": "ES256"}, claims, new_key())
    answer = await target.http.post("/introspect", data=form)
    assert answer.status_code in {400, 401}, answer.text
    assert target.provider.connections == before


async def test_a_chosen_id_secret_or_ownership_is_not_taken(target: Target) -> None:
    chosen = {"client_id": "mine", "client_secret": "mine", "kind": "manual", "resources": ["https://api.example/v1"]}
    found = await target.register(**chosen, worker={"addresses": ["0.0.0.0/0"]}, release={"slack": "full"})
    assert "mine" not in {found["client_id"], found.get("client_secret")}
    assert not {"kind", "worker", "release", "resources"} & set(found)


async def test_the_exchange_is_not_given_to_a_stranger_with_more_than_its_own_tokens(target: Target) -> None:
    answer = await target.http.post(
        "/register",
        json={
            "redirect_uris": [REDIRECT],
            "token_endpoint_auth_method": "none",
            "grant_types": ["authorization_code", EXCHANGE],
        },
    )
    if answer.status_code == 201:
        victim = await target.agent(target.alice)
        form = {"grant_type": EXCHANGE, "client_id": answer.json()["client_id"], "subject_token": victim.token}
        form |= {"subject_token_type": "urn:ietf:params:oauth:token-type:access_token", "audience": "slack"}
        assert (await target.token(form)).status_code == 400


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize("credential", ["none", "another client's", "an access token", "in the query"])
async def test_a_registration_is_managed_by_its_own_token_only(target: Target, method: str, credential: str) -> None:
    victim, mine = await target.register(), await target.register()
    token = str(victim["registration_access_token"])
    sent = {
        "none": {},
        "another client's": {"authorization": f"Bearer {mine['registration_access_token']}"},
        "an access token": (await target.agent()).headers,
        "in the query": {},
    }[credential]
    path = f"/register/{victim['client_id']}" + (f"?access_token={token}" if credential == "in the query" else "")
    answer = await target.http.request(
        method, path, headers=sent, json={"redirect_uris": ["https://evil.example/"]} if method == "PUT" else None
    )
    assert answer.status_code in {401, 403}, answer.text
    after = await target.http.get(f"/register/{victim['client_id']}", headers={"authorization": f"Bearer {token}"})
    assert after.json()["redirect_uris"] == [REDIRECT]


async def test_a_rewritten_redirect_does_not_get_the_code_of_a_consent_for_the_old_one(target: Target) -> None:
    client = await target.register()
    page = await target.alice.open(target.authorize_url(str(client["client_id"]), "A" * 43))
    managed = {"authorization": f"Bearer {client['registration_access_token']}"}
    changed = {"client_id": client["client_id"], "redirect_uris": ["https://evil.example/"]}
    changed |= {"token_endpoint_auth_method": "none"}
    answer = await target.http.put(f"/register/{client['client_id']}", headers=managed, json=changed)
    assert answer.status_code == 200, answer.text
    decided = await target.alice.submit(page, form="/consent", button=("decision", "allow"))
    assert "code=" not in decided.headers.get("location", "")


async def test_a_client_that_renames_itself_while_the_person_looks_gets_nothing(target: Target) -> None:
    client = await target.register()
    page = await target.alice.open(target.authorize_url(str(client["client_id"]), "A" * 43))
    managed = {"authorization": f"Bearer {client['registration_access_token']}"}
    changed = {"client_id": client["client_id"], "redirect_uris": [REDIRECT], "client_name": "Your bank"}
    changed |= {"token_endpoint_auth_method": "none"}
    await target.http.put(f"/register/{client['client_id']}", headers=managed, json=changed)
    decided = await target.alice.submit(page, form="/consent", button=("decision", "allow"))
    assert "code=" not in decided.headers.get("location", "")


async def test_a_deleted_client_gets_no_code_and_its_tokens_end(target: Target) -> None:
    client = await target.register()
    agent = await target.agent(client=str(client["client_id"]))
    page = await target.alice.open(target.authorize_url(agent.client_id, "A" * 43))
    managed = {"authorization": f"Bearer {client['registration_access_token']}"}
    assert (await target.http.delete(f"/register/{agent.client_id}", headers=managed)).status_code == 204
    assert (await target.mcp(agent, "tools/list")).status_code == 401
    if page.status_code == 200:
        decided = await target.alice.submit(page, form="/consent", button=("decision", "allow"))
        assert "code=" not in decided.headers.get("location", "")


@pytest.mark.parametrize("body", [b"[]", b"null", b'"a"', b"{", b"\xff", b'{"a":1,"a":2}', b"[" * 5000], ids=repr)
async def test_a_body_that_is_no_object_is_refused(target: Target, body: bytes) -> None:
    answer = await target.http.post("/register", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
