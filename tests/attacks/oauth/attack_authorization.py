"""The authorization endpoint, pushed requests, codes, and devices, as a hostile client or a hostile sender of links."""

from __future__ import annotations

import asyncio
from urllib.parse import urlencode

import pytest

from tests.attacks.target import DEVICE, REDIRECT, Target, pkce, query_of

NEVER_REDIRECTED: dict[str, dict[str, str | None]] = {
    "another redirect": {"redirect_uri": "https://evil.example/"},
    "a redirect below the registered one": {"redirect_uri": f"{REDIRECT}/evil"},
    "a redirect with another query": {"redirect_uri": f"{REDIRECT}?next=https://evil.example"},
    "a redirect with dot segments": {"redirect_uri": "https://agent.example/callback/../evil"},
    "a redirect in capitals": {"redirect_uri": REDIRECT.upper()},
    "a redirect with an encoded letter": {"redirect_uri": "https://agent.example/c%61llback"},
    "a redirect with another port": {"redirect_uri": "https://agent.example:444/callback"},
    "a redirect with user information": {"redirect_uri": "https://agent.example@evil.example/callback"},
    "a redirect with a line break": {"redirect_uri": f"{REDIRECT}\r\nSet-Cookie: a=b"},
    "a redirect with a fragment": {"redirect_uri": f"{REDIRECT}#a"},
    "a redirect of plain http": {"redirect_uri": REDIRECT.replace("https", "http")},
    "an unknown client": {"client_id": "unknown"},
    "a client of plain http": {"client_id": "http://agent.example/client.json"},
    "a client document inside": {"client_id": "https://169.254.169.254/latest/meta-data"},
    "a client document on loopback": {"client_id": "https://127.0.0.1/client.json"},
    "a client document with dot segments": {"client_id": "https://agent.example/a/../client.json"},
    "a client document with user information": {"client_id": "https://a:b@agent.example/client.json"},
    "a client document without a path": {"client_id": "https://agent.example"},
    "no client": {"client_id": None},
}


@pytest.mark.parametrize("name", NEVER_REDIRECTED)
async def test_shows_an_error_and_never_leads_away(target: Target, name: str) -> None:
    client_id = str((await target.register())["client_id"])
    answer = await target.alice.http.get(
        target.authorize_url(client_id, "A" * 43, **({} | NEVER_REDIRECTED[name]))
        if "client_id" not in NEVER_REDIRECTED[name]
        else "/authorize?"
        + urlencode(
            {
                "response_type": "code",
                "redirect_uri": REDIRECT,
                "code_challenge": "A" * 43,
                "code_challenge_method": "S256",
                **{key: value for key, value in NEVER_REDIRECTED[name].items() if value is not None},
            }
        )
    )
    assert answer.status_code in {400, 401}, (answer.status_code, answer.headers.get("location"))
    assert "location" not in answer.headers


ERRORS: dict[str, dict[str, str | None]] = {
    "the plain challenge": {"code_challenge_method": "plain"},
    "no challenge": {"code_challenge": None},
    "no challenge method": {"code_challenge_method": None},
    "a short challenge": {"code_challenge": "A" * 42},
    "the implicit flow": {"response_type": "token"},
    "the hybrid flow": {"response_type": "code id_token"},
    "the fragment mode": {"response_mode": "fragment"},
    "the form post mode": {"response_mode": "form_post"},
    "a request object": {"request": "eyJhbGciOiJub25lIn0.e30."},
    "a scope of the operator": {"scope": "admin"},
    "another resource": {"resource": "https://evil.example/mcp"},
    "a resource with dot segments": {"resource": "RESOURCE/../mcp"},
    "an API that this client may not call": {"resource": "https://api.example/v1"},
    "a thumbprint that is none": {"dpop_jkt": "../../etc/passwd"},
    "a nonce of 600 characters": {"nonce": "n" * 600},
    "an unknown prompt beside none": {"prompt": "none login"},
    "a negative age": {"max_age": "-1"},
}


@pytest.mark.parametrize("name", ERRORS)
async def test_is_told_to_the_client_as_an_error_without_a_code(target: Target, name: str) -> None:
    client_id = str((await target.register())["client_id"])
    changes = {key: value and value.replace("RESOURCE", f"{target.url}/mcp") for key, value in ERRORS[name].items()}
    answer = await target.alice.http.get(target.authorize_url(client_id, "A" * 43, **changes))
    assert answer.status_code == 303, answer.text[:200]
    assert answer.headers["location"].startswith(f"{REDIRECT}?"), answer.headers["location"]
    found = query_of(answer.headers["location"])
    assert "error" in found
    assert "code" not in found
    assert found["iss"] == target.url


@pytest.mark.parametrize(
    "twice", ["client_id", "redirect_uri", "scope", "state", "code_challenge", "resource", "prompt"]
)
async def test_a_parameter_that_comes_twice_gets_no_consent(target: Target, twice: str) -> None:
    client_id = str((await target.register())["client_id"])
    url = target.authorize_url(client_id, "A" * 43) + f"&{twice}=a&{twice}=b"
    answer = await target.alice.http.get(url)
    assert "/consent" not in answer.headers.get("location", "")
    assert answer.status_code == 400 or "error=" in answer.headers["location"]


REDEEMED: dict[str, dict[str, str | None]] = {
    "another client": {"client_id": "OTHER"},
    "no client": {"client_id": None},
    "another redirect": {"redirect_uri": "https://evil.example/"},
    "no redirect": {"redirect_uri": None},
    "no verifier": {"code_verifier": None},
    "another verifier": {"code_verifier": "A" * 43},
    "the challenge as verifier": {"code_verifier": "CHALLENGE"},
    "a short verifier": {"code_verifier": "A" * 42},
    "another resource": {"resource": "https://api.example/v1"},
    "a code with a blank": {"code": "CODE "},
    "a cut code": {"code": "CUT"},
    "another grant type": {"grant_type": "password"},
    "client credentials": {"grant_type": "client_credentials"},
}


@pytest.mark.parametrize("name", REDEEMED)
async def test_a_code_is_not_redeemed_with(target: Target, name: str) -> None:
    own, other = str((await target.register())["client_id"]), await target.register()
    code, verifier = await target.code(own)
    words = {"OTHER": str(other["client_id"]), "CHALLENGE": "A" * 43, "CODE ": code + " ", "CUT": code[:-1]}
    changes = {key: words.get(value or "", value) for key, value in REDEEMED[name].items()}
    refused = await target.redeem(own, code, verifier, **changes)
    assert refused.status_code in {400, 401}, refused.text
    assert "access_token" not in refused.text
    assert (await target.redeem(own, code, verifier)).status_code == 200  # the attack neither used nor ended it


async def test_a_code_is_redeemed_once_of_fifty_at_the_same_time(target: Target) -> None:
    client_id = str((await target.register())["client_id"])
    code, verifier = await target.code(client_id)
    answers = await asyncio.gather(*(target.redeem(client_id, code, verifier) for _ in range(50)))
    assert sum(one.status_code == 200 for one in answers) <= 1


async def test_a_replayed_code_ends_what_it_brought(target: Target) -> None:
    client_id = str((await target.register())["client_id"])
    code, verifier = await target.code(client_id)
    token = (await target.redeem(client_id, code, verifier)).json()["access_token"]
    assert (await target.redeem(client_id, code, verifier)).status_code == 400
    answer = await target.http.post("/mcp", json={}, headers={"authorization": f"Bearer {token}"})
    assert answer.status_code == 401


async def test_a_stranger_who_saw_the_code_ends_nothing(target: Target) -> None:
    client_id = str((await target.register())["client_id"])
    code, verifier = await target.code(client_id)
    token = (await target.redeem(client_id, code, verifier)).json()["access_token"]
    for changes in ({"code_verifier": "A" * 43}, {"client_id": str((await target.register())["client_id"])}):
        assert (await target.redeem(client_id, code, verifier, **changes)).status_code == 400
    answer = await target.http.post("/mcp", json={}, headers={"authorization": f"Bearer {token}"})
    assert answer.status_code != 401


async def test_prompt_none_never_asks_and_never_consents(target: Target) -> None:
    client_id = str((await target.register())["client_id"])
    answer = await target.alice.http.get(target.authorize_url(client_id, "A" * 43, prompt="none"))
    assert "error=consent_required" in answer.headers["location"]
    stranger = await target.browser()
    answer = await stranger.http.get(target.authorize_url(client_id, "A" * 43, prompt="none"))
    assert "error=login_required" in answer.headers["location"]


async def test_a_remembered_yes_to_a_known_id_does_not_reach_another_loopback_port(target: Target) -> None:
    client_id = target.clients["desktop"]["client_id"]
    await target.agent(client=client_id, redirect_uri="http://127.0.0.1:33418/callback")
    answer = await target.alice.http.get(
        target.authorize_url(client_id, "A" * 43, redirect_uri="http://127.0.0.1:44444/callback")
    )
    assert "code=" not in answer.headers.get("location", "")


async def test_a_consent_cannot_be_answered_twice(target: Target) -> None:
    client_id = str((await target.register())["client_id"])
    page = await target.alice.open(target.authorize_url(client_id, "A" * 43))
    answers = await asyncio.gather(
        *(target.alice.submit(page, form="/consent", button=("decision", "allow")) for _ in range(10))
    )
    assert sum("code=" in one.headers.get("location", "") for one in answers) == 1


async def test_more_scopes_than_were_asked_for_cannot_be_posted(target: Target) -> None:
    client_id, (verifier, challenge) = str((await target.register())["client_id"]), pkce()
    page = await target.alice.open(target.authorize_url(client_id, challenge, scope="tools"))
    more = {
        "scope": ["tools", "connections", "exchange", "openid", "offline_access"],
        "redirect_uri": "https://evil.example/",
    }
    answer = await target.alice.submit(page, more, form="/consent", button=("decision", "allow"))
    if "code=" in answer.headers.get("location", ""):
        assert answer.headers["location"].startswith(REDIRECT)
        tokens = await target.redeem(client_id, query_of(answer.headers["location"])["code"], verifier)
        assert tokens.json()["scope"] == "tools"


async def test_a_client_without_the_grant_does_not_get_the_scope_to_exchange(target: Target) -> None:
    client_id = str((await target.register())["client_id"])
    answer = await target.alice.open(target.authorize_url(client_id, "A" * 43, scope="tools exchange"))
    if answer.status_code == 200:
        assert (await target.agent(client=client_id, scope="tools exchange")).more["scope"] == "tools"


async def test_a_pushed_request_is_for_its_client_once(target: Target) -> None:
    own, other = str((await target.register())["client_id"]), await target.register()
    form = query_of(target.authorize_url(own, "A" * 43))
    pushed = (await target.http.post("/par", data=form)).json()["request_uri"]
    stolen = "/authorize?" + urlencode({"client_id": str(other["client_id"]), "request_uri": pushed})
    answer = await target.alice.http.get(stolen)
    assert "/consent" not in answer.headers.get("location", "")
    used = "/authorize?" + urlencode({"client_id": own, "request_uri": pushed})
    answers = [await target.alice.http.get(used) for _ in range(2)]
    assert sum("/consent" in one.headers.get("location", "") for one in answers) <= 1


@pytest.mark.parametrize(
    "uri", ["https://evil.example/request", "file:///etc/passwd", "urn:ietf:params:oauth:request_uri:x"]
)
async def test_a_request_is_fetched_from_nowhere(target: Target, uri: str) -> None:
    client_id = str((await target.register())["client_id"])
    answer = await target.alice.http.get("/authorize?" + urlencode({"client_id": client_id, "request_uri": uri}))
    assert answer.status_code == 400 or "error=" in answer.headers["location"]
    form = query_of(target.authorize_url(client_id, "A" * 43)) | {"request_uri": uri}
    assert (await target.http.post("/par", data=form)).status_code == 400


async def _device(target: Target) -> dict[str, str]:
    asked = await target.http.post("/device_authorization", data={**target.clients["device"], "scope": "tools"})
    assert asked.status_code == 200, asked.text
    return asked.json()


async def test_a_forwarded_device_consent_shows_nothing_and_can_not_be_answered(target: Target) -> None:
    asked = await _device(target)
    page = await target.mallory.open("/device")
    page = await target.mallory.submit(page, {"user_code": asked["user_code"]}, form="/device")
    assert "/consent" in str(page.url), page.text[:300]
    seen = await target.alice.open(str(page.url))
    assert "decision" not in seen.text
    forced = await target.alice.http.post(str(page.url), data={"decision": "allow"}, headers={"origin": target.url})
    assert forced.status_code in {303, 400, 403, 409, 410}
    form = {"grant_type": DEVICE, **target.clients["device"], "device_code": asked["device_code"]}
    assert (await target.token(form)).json()["error"] == "authorization_pending"


async def test_no_link_fills_a_device_code_in(target: Target) -> None:
    asked = await _device(target)
    page = await target.alice.open(f"/device?user_code={asked['user_code']}")
    assert asked["user_code"] not in page.text
    assert "verification_uri_complete" not in asked


async def test_a_device_code_is_no_other_clients(target: Target) -> None:
    asked = await _device(target)
    form = {"grant_type": DEVICE, **target.clients["backend"], "device_code": asked["device_code"]}
    assert (await target.token(form)).json()["error"] in {"unauthorized_client", "invalid_grant"}


async def test_user_codes_cannot_be_guessed_in_a_row(target: Target) -> None:
    person = await target.browser("mallory")
    page = await person.open("/device")
    answers = [await person.submit(page, {"user_code": f"BBBB-BBB{one}"}, form="/device") for one in "BCDFGHJKLMNPQRS"]
    assert answers[-1].status_code == 429
