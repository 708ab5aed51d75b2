"""Background requests (OpenID CIBA): who asks, who answers, what ends them, and attempts to get more."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import replace

import httpx2
import pytest

from tests.attacks.administration.attack_administration import form_for, someone
from tests.attacks.conftest import Pair
from tests.attacks.oauth.ciba import CIBA, Shop, client, error, post, rival, shop
from tests.attacks.portal.attack_people import form_of, send
from tests.attacks.target import DEVICE, LOOPBACK, REDIRECT, Target
from tests.support.rooms.oauth_world import claims_of

# Who asks, and who collects the answer


async def test_an_honest_request_gets_one_token_of_its_person(target: Target) -> None:
    """The twin of the attacks below."""
    one = await shop(target)
    auth_req_id = await one.ask(binding_message="Order 4711")
    assert await one.is_waiting(auth_req_id)
    page = await one.person.open(f"/approvals/{await one.question()}")
    assert "Order 4711" in page.text
    await one.answer()
    answer = await one.poll(auth_req_id)
    assert (answer.status_code, claims_of(answer.json()["access_token"])["sub"]) == (200, one.person_id)


@pytest.mark.parametrize(
    "who", ["backend", "device", "self-registered", "public", "wrong secret", "no secret", "nobody", "in the URL"]
)
async def test_a_client_that_no_operator_allowed_asks_nobody(target: Target, who: str) -> None:
    one = await shop(target)
    form = {**one.client, "scope": "openid tools", "login_hint": one.person_id}
    query = ""
    match who:
        case "backend" | "device":
            form |= target.clients[who]
        case "self-registered" | "public":
            method = "client_secret_post" if who == "self-registered" else "none"
            made = await target.register(
                grant_types=["authorization_code", "refresh_token", CIBA],
                token_endpoint_auth_method=method,
                backchannel_token_delivery_mode="poll",
            )
            del form["client_secret"]
            form |= {name: str(made[name]) for name in ("client_id", "client_secret") if name in made}
        case "wrong secret":
            form["client_secret"] = "x" * 43
        case "no secret":
            del form["client_secret"]
        case "nobody":
            form["client_id"] = "nobody"
        case _:
            query = f"?client_secret={form.pop('client_secret')}"
    if who == "device":
        del form["client_secret"]
    answer = await target.http.post(f"/bc-authorize{query}", data=form)
    assert answer.status_code in {400, 401}, answer.text
    assert "auth_req_id" not in answer.text
    assert "/approvals/r" not in (await one.person.open("/approvals")).text
    await one.ask()  # the twin


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
async def test_the_endpoint_takes_a_form_by_post_only(target: Target, method: str) -> None:
    one = await shop(target)
    form = {**one.client, "scope": "openid", "login_hint": one.person_id}
    answer = await target.http.request(method, "/bc-authorize", params=form)
    assert answer.status_code in {400, 401, 405}, answer.text[:200]
    for headers in ({"content-type": "application/json"}, {"content-type": "text/plain"}):
        answer = await target.http.post("/bc-authorize", content=json.dumps(form), headers=headers)
        assert answer.status_code in {400, 401, 415}, answer.text[:200]
    assert "/approvals/r" not in (await one.person.open("/approvals")).text


async def test_no_page_of_another_origin_asks(target: Target) -> None:
    one = await shop(target)
    form = {**one.client, "scope": "openid", "login_hint": one.person_id}
    answer = await target.http.post("/bc-authorize", data=form, headers={"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answer.headers or answer.status_code >= 400


async def test_an_answer_is_for_the_client_that_asked(target: Target) -> None:
    one = await shop(target)
    auth_req_id, other = await one.ask_and_approve(), await rival(one)
    question = re.findall(r"approvals/(r[\w-]+)", (await one.person.open("/activity")).text)
    changed = [auth_req_id[:-1], auth_req_id + "=", auth_req_id + " ", auth_req_id.swapcase(), "r" + auth_req_id, "%00"]
    for wrong in (*changed, *question, "", "\x00", "x" * 100_000, "é"):
        assert error(await one.poll(wrong)) in {"invalid_grant", "invalid_request"}, wrong[:80]
    assert error(await other.poll(auth_req_id)) == "invalid_grant"
    mixed = await target.token({"grant_type": CIBA, **other.client, "auth_req_id": auth_req_id} | {
        "client_id": one.client["client_id"]
    })  # fmt: skip
    assert error(mixed) == "invalid_client"
    assert error(await one.poll(auth_req_id, client_secret="x" * 43)) == "invalid_client"
    assert (await one.poll(auth_req_id)).status_code == 200  # the twin


async def test_the_id_that_pages_show_is_worth_nothing(target: Target) -> None:
    one = await shop(target)
    auth_req_id = await one.ask()
    question = await one.question()
    assert question not in auth_req_id
    await one.answer()
    for wrong in (question, question[1:], f"/approvals/{question}"):
        assert error(await one.poll(wrong)) == "invalid_grant"
    for path in ("/approvals", f"/approvals/{question}", "/activity", "/activity/export?format=jsonl", "/account/data"):
        assert auth_req_id not in (await one.person.http.get(path)).text, path
    assert (await one.poll(auth_req_id)).status_code == 200


async def test_one_answer_is_worth_one_token_however_often_it_is_fetched(target: Target) -> None:
    one = await shop(target)
    auth_req_id = await one.ask_and_approve()
    answers = await asyncio.gather(*(one.poll(auth_req_id) for _ in range(12)))
    assert [answer.status_code for answer in answers].count(200) == 1
    for _ in range(3):
        assert error(await one.poll(auth_req_id)) == "invalid_grant"


async def test_one_answer_is_worth_one_token_at_two_processes(pair: Pair) -> None:
    one = await shop(pair.target)
    auth_req_id = await one.ask()
    question = await one.question()
    form = form_of(await one.person.open(f"/approvals/{question}"), "/approvals/")

    async def decide(http: httpx2.AsyncClient, decision: str) -> int:
        cookies = "; ".join(f"{kept.name}={kept.value}" for kept in one.person.http.cookies.jar)
        headers = {"origin": pair.target.url, "cookie": cookies}
        sent = await post(http, form.action, [*form.fields, ("decision", decision)], headers)
        return sent.status_code

    answered = await asyncio.gather(*(decide(http, "allow") for http in pair.clients * 4))
    assert answered.count(303) == 1, answered
    fetched = await asyncio.gather(*(one.poll(auth_req_id, http=http) for http in pair.clients * 6))
    assert [answer.status_code for answer in fetched].count(200) == 1


OTHER_GRANTS: tuple[tuple[str, str], ...] = (
    (DEVICE, "device_code"),
    ("authorization_code", "code"),
    ("refresh_token", "refresh_token"),
    ("urn:ietf:params:oauth:grant-type:token-exchange", "subject_token"),
)


@pytest.mark.parametrize(("grant", "name"), OTHER_GRANTS, ids=[name for _, name in OTHER_GRANTS])
async def test_an_answer_is_for_its_own_grant(target: Target, grant: str, name: str) -> None:
    one = await shop(target)
    auth_req_id = await one.ask_and_approve()
    more = {"subject_token_type": "urn:ietf:params:oauth:token-type:access_token", "code_verifier": "v" * 64}
    answer = await target.token(
        {"grant_type": grant, **one.client, name: auth_req_id, "redirect_uri": REDIRECT, **more}
    )
    assert answer.status_code in {400, 401}
    assert "access_token" not in answer.text
    assert (await one.poll(auth_req_id)).status_code == 200


async def test_a_code_of_a_device_is_no_request(target: Target) -> None:
    one = await shop(target)
    started = await target.http.post("/device_authorization", data={**target.clients["device"], "scope": "tools"})
    for code in (started.json()["device_code"], started.json()["user_code"]):
        assert error(await one.poll(code)) == "invalid_grant"


# Who answers


async def test_nobody_answers_for_another_person(target: Target) -> None:
    one = await shop(target)
    auth_req_id, path = await one.ask(), f"/approvals/{await one.question()}"
    theirs = form_of(await one.person.open(path), "/approvals/")
    _, other = await someone(target)
    _, admin = await someone(target, is_admin=True)
    for person in (other, admin, target.alice):
        page = await person.open(path)
        assert (page.status_code, "openid" in page.text) == (403, False)
        own = form_of(await person.open("/account"), "/")
        for fields in (theirs.fields, own.fields):
            sent = await post(person.http, path, [*fields, ("decision", "allow")], {"origin": target.url})
            assert sent.status_code in {400, 403, 404}, sent.text[:200]
    stranger = await target.browser()
    assert "openid" not in (await stranger.open(path)).text
    sent = await post(stranger.http, path, [*theirs.fields, ("decision", "allow")], {"origin": target.url})
    assert sent.status_code in {303, 400, 401, 403}
    assert await one.is_waiting(auth_req_id)
    assert "Approved" in (await one.answer()).text


FORGED: dict[str, Mapping[str, str | None]] = {
    "another origin": {"origin": "https://evil.example"},
    "no origin": {"origin": "null"},
    "another port": {"origin": "http://localhost:1"},
    "another site's request": {"sec-fetch-site": "cross-site", "origin": "https://evil.example"},
    "a look-alike": {"origin": "http://localhost.evil.example"},
}


@pytest.mark.parametrize("what", FORGED)
async def test_a_foreign_page_answers_nothing(target: Target, what: str) -> None:
    one = await shop(target)
    auth_req_id, path = await one.ask(), f"/approvals/{await one.question()}"
    form = form_of(await one.person.open(path), "/approvals/")
    headers = {name: value for name, value in FORGED[what].items() if value is not None}
    sent = await post(one.person.http, path, [*form.fields, ("decision", "allow")], headers)
    assert sent.status_code in {400, 403}, sent.text[:200]
    assert await one.is_waiting(auth_req_id)


@pytest.mark.parametrize(
    "fields", ["none", "empty", "another path's", "another session's", "twice", "by GET", "as JSON"]
)
async def test_an_answer_without_its_own_form_is_none(target: Target, fields: str) -> None:
    one = await shop(target)
    auth_req_id, path = await one.ask(), f"/approvals/{await one.question()}"
    own = form_of(await one.person.open(path), "/approvals/")
    (token,) = [name for name, _ in own.fields if name != "form_page"]
    sent: list[tuple[str, str]] = [("decision", "allow")]
    http, headers = one.person.http, {"origin": target.url}
    match fields:
        case "empty":
            sent.append((token, ""))
        case "another path's":
            sent += form_of(await one.person.open("/account"), "/").fields
        case "another session's":
            _, other = await someone(target)
            sent += form_of(await other.open("/account"), "/").fields
        case "twice":
            sent += [*own.fields, ("decision", "deny")]
        case _:
            pass
    if fields == "by GET":
        answer = await http.get(path, params=[*own.fields, *sent])
        assert "Approved" not in answer.text
    elif fields == "as JSON":
        answer = await http.post(path, json=dict([*own.fields, *sent]), headers=headers)
        assert answer.status_code >= 400
    else:
        answer = await post(http, path, sent, headers)
        assert answer.status_code >= 400 or fields == "twice", answer.text[:200]
    assert fields == "twice" or await one.is_waiting(auth_req_id)
    assert (await one.poll(auth_req_id)).status_code != 200


async def test_the_question_is_in_no_frame_and_no_cache(target: Target) -> None:
    one = await shop(target)
    await one.ask()
    page = await one.person.http.get(f"/approvals/{await one.question()}")
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert "no-store" in page.headers["cache-control"]
    assert page.headers["x-frame-options"].upper() == "DENY"


async def test_of_answers_that_race_one_counts(target: Target) -> None:
    one = await shop(target)
    auth_req_id, path = await one.ask(), f"/approvals/{await one.question()}"
    form = form_of(await one.person.open(path), "/approvals/")
    decisions = ["allow", "deny"] * 5
    answers = await asyncio.gather(*(send_decision(one, path, form.fields, decision) for decision in decisions))
    done = [decision for decision, status in zip(decisions, answers, strict=True) if status == 303]
    assert len(done) == 1, answers
    fetched = await one.poll(auth_req_id)
    assert (fetched.status_code == 200) == (done == ["allow"])
    for decision in ("allow", "deny"):  # nothing changes it afterward
        assert await send_decision(one, path, form.fields, decision) == 410


async def send_decision(one: Shop, path: str, fields: list[tuple[str, str]], decision: str) -> int:
    headers = {"origin": one.target.url}
    return (await post(one.person.http, path, [*fields, ("decision", decision)], headers)).status_code


async def test_a_standing_yes_is_not_given_to_a_request(target: Target) -> None:
    one = await shop(target)
    auth_req_id, path = await one.ask(), f"/approvals/{await one.question()}"
    form = form_of(await one.person.open(path), "/approvals/")
    fields = [*form.fields, ("decision", "standing"), ("per_day", "100"), ("days", "90")]
    sent = await post(one.person.http, path, fields, {"origin": target.url})
    assert sent.status_code in {400, 403}, sent.text[:200]
    assert await one.is_waiting(auth_req_id)


async def test_an_agent_answers_no_request_over_mcp(target: Target) -> None:
    """Nor can the client that asked: the request isn't a tool call, so it can't be answered as a task."""
    one = await shop(target)
    both = await client(target, "Shop with sign-in", "--redirect-uri", LOOPBACK)
    one = replace(one, client=both)
    target.clients["both"] = both
    agent = await target.agent(one.person, client="both", redirect_uri=LOOPBACK)
    for decision in (None, "allow"):
        auth_req_id = await one.ask()
        question = await one.question()
        if decision is not None:
            await one.answer()
        for method in ("tasks/get", "tasks/update", "tasks/cancel"):
            answer = await target.mcp(agent, method, {"taskId": question, "inputResponses": {}}, name=question)
            assert answer.json()["error"]["code"] == -32602, (method, answer.text)
        fetched = await one.poll(auth_req_id)
        assert (fetched.status_code, error(fetched)) == ((200, "") if decision else (400, "authorization_pending")), (
            fetched.text
        )
        if decision is None:
            await one.answer("deny")


# What ends a request


async def test_what_is_over_is_worth_nothing(target: Target) -> None:
    one = await shop(target)
    late, kept = await one.ask(requested_expiry="4"), await rival(one)
    question = await one.question()
    form = form_of(await one.person.open(f"/approvals/{question}"), "/approvals/")
    await asyncio.sleep(5)
    assert error(await one.poll(late)) == "expired_token"
    assert await send_decision(one, f"/approvals/{question}", form.fields, "allow") == 410
    assert error(await one.poll(late)) == "expired_token"
    assert question not in (await one.person.open("/approvals")).text
    assert (await one.poll(await kept.ask_and_approve(), **kept.client)).status_code == 200  # the twin


@pytest.mark.parametrize("how", ["cut off", "disabled", "deleted", "denied and cut off"])
async def test_a_yes_dies_with_whoever_gave_it_and_with_what_it_was_for(target: Target, how: str) -> None:
    one = await shop(target)
    approved, waiting = await one.ask_and_approve(), await one.ask()
    client_id = one.client["client_id"]
    if how in {"disabled", "deleted"}:
        name = str((await one.person.http.get("/account/data")).json()["user"]["name"])
        what = "disable" if how == "disabled" else "delete"
        page = await target.alice.open(
            f"/administration/people/{one.person_id}" + ("/delete" if what == "delete" else "")
        )
        ended = await send(target, target.alice, form_for(page, what), **({"name": name} if what == "delete" else {}))
        assert ended.status_code == 303
    elif how == "cut off":
        page = await one.person.open(f"/agents/{client_id}/cut-off")
        if page.status_code == 200:
            await one.person.submit(page, form="cut-off")
        else:  # a client without any grant yet is ended from its approval page
            await one.answer("cut_off")
    else:
        await one.answer("cut_off")
    for auth_req_id in (approved, waiting):
        answer = await one.poll(auth_req_id)
        assert (answer.status_code, "access_token" in answer.text) == (400, False), answer.text
        assert error(answer) in {"invalid_grant", "expired_token", "access_denied"}
    again = await one.post()
    assert (again.status_code == 200) == (how not in {"disabled", "deleted"}), again.text


async def test_a_client_that_was_removed_fetches_nothing(target: Target) -> None:
    one = await shop(target)
    made = json.loads(await target.command("clients", "add", "Brief", "--confidential", "--ciba", "--json"))
    brief = replace(one, client={part: str(made[part]) for part in ("client_id", "client_secret")})
    auth_req_id = await brief.ask_and_approve()
    await target.command("clients", "remove", brief.client["client_id"])
    assert error(await brief.poll(auth_req_id)) == "invalid_client"
    assert (await brief.post()).status_code == 401


# More than was asked


WIDER: tuple[dict[str, str | None], ...] = (
    {"scope": "openid admin:read"}, {"scope": "openid exchange"}, {"scope": "tools"}, {"scope": None}, {"scope": ""},
    {"scope": "openid create:me:connected_accounts read:me:connected_accounts"}, {"resource": "/admin/v1"},
    {"resource": "/me/"}, {"resource": "/api/v2/"}, {"resource": "https://api.example/v1"}, {"resource": "/mcp#x"},
    {"resource": "https://evil.example/mcp"}, {"audience": "https://api.example/v1"}, {"request": "a.b.c"},
    {"authorization_details": '[{"type": "account"}]'}, {"authorization_details": '{"type": "payment"}'},
)  # fmt: skip


@pytest.mark.parametrize("changes", WIDER, ids=str)
async def test_no_request_grows_beyond_its_client(target: Target, changes: dict[str, str | None]) -> None:
    one = await shop(target)
    sent = {name: target.url + value if (value or "").startswith("/") else value for name, value in changes.items()}
    answer = await one.post(**sent)
    if answer.status_code == 200:
        await one.answer()
        token = (await one.poll(answer.json()["auth_req_id"])).json()["access_token"]
        claims = claims_of(token)
        assert set(str(claims["scope"]).split()) <= {"openid", "tools"}, claims
        assert claims["aud"] == f"{target.url}/mcp"
        assert (
            await target.http.get("/admin/v1/people", headers={"authorization": f"Bearer {token}"})
        ).status_code == 401
    else:
        assert answer.status_code == 400
        assert "/approvals/r" not in (await one.person.open("/approvals")).text


OTHERWISE: tuple[dict[str, str], ...] = (
    {"scope": "openid tools connections exchange"},
    {"resource": "https://api.example/v1"},
    {"resource": "/sse"},
)


@pytest.mark.parametrize("changes", OTHERWISE, ids=str)
async def test_no_answer_is_wider_than_the_question(target: Target, changes: dict[str, str]) -> None:
    one = await shop(target)
    auth_req_id = await one.ask_and_approve(resource=f"{target.url}/mcp", scope="openid tools")
    sent = {name: target.url + value if value.startswith("/") else value for name, value in changes.items()}
    answer = await one.poll(auth_req_id, **sent)
    if answer.status_code == 200:
        assert set(answer.json()["scope"].split()) <= {"openid", "tools"}
        assert claims_of(answer.json()["access_token"])["aud"] == f"{target.url}/mcp"
    else:
        assert error(answer) in {"invalid_target", "invalid_scope", "invalid_request"}
        assert (await one.poll(auth_req_id)).status_code == 200


async def test_a_renewed_token_is_no_wider_and_details_are_not_renewed(target: Target) -> None:
    one = await shop(target)
    details = json.dumps([{"type": "payment", "amount": "1"}])
    once = await one.ask_and_approve(scope="openid offline_access tools", authorization_details=details)
    assert "refresh_token" not in (await one.poll(once)).json()
    kept = (await one.poll(await one.ask_and_approve(scope="openid offline_access tools"))).json()
    form = {"grant_type": "refresh_token", **one.client, "refresh_token": kept.get("refresh_token", "")}
    wider = await target.token({**form, "scope": "openid tools connections exchange admin:read"})
    assert wider.status_code == 400 or set(wider.json()["scope"].split()) <= {"openid", "tools", "offline_access"}
