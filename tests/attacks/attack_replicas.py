"""A vault with two processes on PostgreSQL: whatever is used or ended at one is used or ended at the other."""

from __future__ import annotations

import asyncio
import time

import httpx2
import pytest
from joserfc.jwk import ECKey

from tests.attacks.conftest import Pair
from tests.attacks.oauth.attack_tokens import _ath
from tests.attacks.target import ACCESS, EXCHANGE, new_key, proof
from tests.attacks.wire.handles import Handle, bound_handle, handle
from tests.support.person import forms_of

PATH = "/repos/alice/notes/readme"


async def call(http: httpx2.AsyncClient, one: Handle, made: str, *, scheme: str = "DPoP") -> httpx2.Response:
    return await http.get(one.path + PATH, headers={"authorization": f"{scheme} {one.value}", "dpop": made})


def right(one: Handle, key: ECKey, **claims: object) -> str:
    return proof(key, "GET", one.base + PATH, **({"ath": _ath(one.value)} | claims))


async def test_a_proof_that_one_process_took_is_refused_by_both(pair: Pair) -> None:
    one, key, _ = await bound_handle(pair.target, "github", "contents:read")
    for first, second in ((0, 1), (1, 0)):
        made = right(one, key)
        assert (await call(pair.clients[first], one, made)).status_code == 200
        for http in (pair.clients[second], pair.clients[first]):
            assert (await call(http, one, made)).status_code == 401


async def test_a_proof_that_is_sent_to_both_at_once_counts_once(pair: Pair) -> None:
    one, key, _ = await bound_handle(pair.target, "github", "contents:read")
    made = right(one, key)
    answers = await asyncio.gather(*(call(pair.clients[number % 2], one, made) for number in range(12)))
    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 11


async def test_an_id_counts_once_whatever_else_its_proof_says(pair: Pair) -> None:
    """The id was seen before, even if the client numbers its proofs or a clock moved."""
    one, key, _ = await bound_handle(pair.target, "github", "contents:read")
    assert (await call(pair.clients[0], one, right(one, key, jti="the only one"))).status_code == 200
    for iat in (int(time.time()) - 200, int(time.time()) + 20):
        for http in pair.clients:
            assert (await call(http, one, right(one, key, jti="the only one", iat=iat))).status_code == 401
    again, other_key, _ = await bound_handle(pair.target, "github", "contents:read")
    assert (await call(pair.clients[1], again, right(again, other_key, jti="the only one"))).status_code == 200


WRONG: dict[str, dict[str, object]] = {
    "the address of the process": {"htu": "PROCESS"},
    "the address in letters and digits": {"htu": "DIGITS"},
    "https": {"htu": "HTTPS"},
    "another connection": {"htu": "OTHER"},
    "another method": {"htm": "POST"},
    "another token": {"ath": _ath("other")},
    "no token": {"ath": None},
    "an old time": {"iat": int(time.time()) - 3600},
    "another key": {},
}


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("what", WRONG)
async def test_each_process_refuses_a_proof_for(pair: Pair, what: str, number: int) -> None:
    one, key, _ = await bound_handle(pair.target, "github", "contents:read")
    http = pair.clients[number]
    claims = {"ath": _ath(one.value)} | WRONG[what]
    base, path = one.base, one.path
    addresses = {
        "PROCESS": f"http://127.0.0.1:{http.base_url.port}{path}{PATH}",
        "DIGITS": base.replace("localhost", "127.0.0.1") + PATH,
        "HTTPS": base.replace("http://", "https://") + PATH,
        "OTHER": base.replace(path.split("/")[2], "x" * 22) + PATH,
    }
    htu = addresses.get(str(claims.pop("htu", "")), base + PATH)
    signer = new_key() if what == "another key" else key
    answer = await call(http, one, proof(signer, str(claims.pop("htm", "GET")), htu, **claims))
    assert answer.status_code == 401, answer.text
    assert (await call(http, one, right(one, key))).status_code == 200  # the twin


@pytest.mark.parametrize("number", [0, 1])
async def test_each_process_refuses_a_bound_handle_as_a_bearer(pair: Pair, number: int) -> None:
    one, key, _ = await bound_handle(pair.target, "github", "contents:read")
    for scheme in ("Bearer", "token"):
        assert (await call(pair.clients[number], one, right(one, key), scheme=scheme)).status_code == 401


async def test_a_proof_of_the_token_endpoint_counts_once_at_both(pair: Pair) -> None:
    _, key, agent = await bound_handle(pair.target, "github", "contents:read")
    form = {"grant_type": EXCHANGE, **pair.target.clients["backend"], "subject_token": agent.token}
    form |= {"subject_token_type": ACCESS, "audience": "github", "scope": "contents:read"}
    made = proof(key, "POST", f"{pair.target.url}/token")
    assert (await pair.other.post("/token", data=form, headers={"dpop": made})).status_code == 200
    for http in pair.clients:
        assert (await http.post("/token", data=form, headers={"dpop": made})).status_code == 400


async def test_what_ends_at_one_process_has_ended_at_the_other(pair: Pair) -> None:
    """Both have just used the handle and cached it."""
    target = pair.target
    person = target.mallory
    one = await handle(target, "github", "contents:read", person=person)
    headers = {"authorization": f"Bearer {one.value}"}
    for http in pair.clients:
        assert (await http.get(one.path + PATH, headers=headers)).status_code == 200
    page = await person.open(f"/agents/{target.clients['backend']['client_id']}/cut-off")
    assert (await person.submit(page, form="cut-off")).status_code == 200
    for http in reversed(pair.clients):
        assert (await http.get(one.path + PATH, headers=headers)).status_code in {401, 403}


async def test_a_code_and_a_refresh_token_count_once_at_both(pair: Pair) -> None:
    target = pair.target
    client_id = str((await target.register())["client_id"])
    code, verifier = await target.code(client_id)
    form = {"grant_type": "authorization_code", "client_id": client_id, "code": code, "code_verifier": verifier}
    form |= {"redirect_uri": "https://agent.example/callback"}
    answers = await asyncio.gather(*(pair.clients[number % 2].post("/token", data=form) for number in range(8)))
    won = [answer.json() for answer in answers if answer.status_code == 200]
    assert len(won) <= 1, [answer.text for answer in answers]
    client_id = str((await target.register())["client_id"])
    agent = await target.agent(client=client_id)
    spent = {"grant_type": "refresh_token", "client_id": client_id, "refresh_token": agent.refresh or ""}
    answers = await asyncio.gather(*(pair.clients[number % 2].post("/token", data=spent) for number in range(8)))
    tokens = {answer.json()["refresh_token"] for answer in answers if answer.status_code == 200}
    assert len(tokens) == 1, [answer.text for answer in answers]


async def test_a_form_is_answered_once_at_both(pair: Pair) -> None:
    """One consent, sent to both processes at the same time, yields one code."""
    target = pair.target
    client_id = str((await target.register())["client_id"])
    page = await target.alice.open(target.authorize_url(client_id, "A" * 43))
    assert page.status_code == 200, page.text[:200]
    form = next(one for one in forms_of(page.text) if "/consent" in one.action)
    data: dict[str, list[str]] = {"decision": ["allow"]}
    for name, value in form.fields:
        data.setdefault(name, []).append(value)
    cookies = "; ".join(f"{one.name}={one.value}" for one in target.alice.http.cookies.jar)
    headers = {"origin": target.url, "cookie": cookies}
    action = form.action.removeprefix(target.url)
    answers = await asyncio.gather(
        *(pair.clients[number % 2].post(action, data=data, headers=headers) for number in range(8))
    )
    codes = {answer.headers["location"] for answer in answers if "code=" in answer.headers.get("location", "")}
    assert len(codes) <= 1, codes
    assert any("code=" in answer.headers.get("location", "") for answer in answers), [
        (one.status_code, one.headers.get("location")) for one in answers
    ]
