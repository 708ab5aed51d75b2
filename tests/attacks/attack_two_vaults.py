"""Two vaults of one person with the same clients: what one of them issued is worthless at the other (RFC 8628)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from tests.attacks.target import DEVICE, PASSWORD, REDIRECT, Agent, Target, query_of, running_target
from tests.support.person import forms_of

pytestmark = pytest.mark.timeout(400)  # two vaults have to start


@pytest.fixture(scope="session")
async def other(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Target]:
    """A vault with the same people and names as `target`."""
    async with running_target(tmp_path_factory.mktemp("other")) as running:
        yield running


async def ask(target: Target) -> dict[str, str]:
    """A device asks for a code."""
    asked = await target.http.post("/device_authorization", data={**target.clients["device"], "scope": "tools"})
    assert asked.status_code == 200, asked.text
    return asked.json()


async def poll(target: Target, device_code: str, *, credentials: dict[str, str] | None = None) -> dict[str, str]:
    await asyncio.sleep(0.1)
    own = target.clients["device"] if credentials is None else credentials
    return (await target.token({"grant_type": DEVICE, **own, "device_code": device_code})).json()


async def say_yes(target: Target, user_code: str) -> bool:
    """Whether alice's code leads to a consent page, which she approves."""
    page = await target.alice.submit(await target.alice.open("/device"), {"user_code": user_code}, form="/device")
    if not any("/consent" in form.action for form in forms_of(page.text)):
        return False
    page = await target.alice.submit(page, form="/consent", button=("decision", "allow"))
    return page.status_code == 200


async def test_a_user_code_of_one_is_unknown_at_the_other(target: Target, other: Target) -> None:
    """A victim who types a stranger's code at her own vault must give nothing to the stranger's vault."""
    asked = await ask(other)
    assert not await say_yes(target, asked["user_code"])
    assert (await poll(other, asked["device_code"]))["error"] == "authorization_pending"
    assert await say_yes(other, asked["user_code"])  # the twin


@pytest.mark.parametrize("whose", ["its own client there", "its client here"])
async def test_a_device_code_of_one_gets_nothing_at_the_other(target: Target, other: Target, whose: str) -> None:
    asked = await ask(target)
    assert await say_yes(target, asked["user_code"])
    here = target.clients["device"]
    refused = await poll(other, asked["device_code"], credentials=here if whose == "its client here" else None)
    assert refused["error"] in {"invalid_grant", "invalid_client"}
    assert "access_token" in await poll(target, asked["device_code"])  # the twin: it was not used up either


async def test_the_same_user_code_asked_for_at_both_reaches_one_device_only(target: Target, other: Target) -> None:
    """The person looks at a page of the other vault and compares the code."""
    mine, theirs = await ask(target), await ask(other)
    assert mine["user_code"] != theirs["user_code"]
    assert mine["verification_uri"].startswith(target.url)
    assert theirs["verification_uri"].startswith(other.url)
    assert await say_yes(target, mine["user_code"])
    assert (await poll(other, theirs["device_code"]))["error"] == "authorization_pending"


async def test_a_waiting_question_of_one_is_unknown_at_the_other(target: Target, other: Target) -> None:
    asked = await ask(target)
    page = await target.alice.submit(
        await target.alice.open("/device"), {"user_code": asked["user_code"]}, form="/device"
    )
    handle = query_of(str(page.url))["request"]
    person = await other.browser("alice")
    there = await person.open(f"/consent?request={handle}")
    assert not any("/consent" in form.action for form in forms_of(there.text))
    form = next(one for one in forms_of(page.text) if "/consent" in one.action)
    body = dict(form.fields) | {"decision": "allow"}
    answer = await person.http.post("/consent", data=body, headers={"origin": other.url})
    assert answer.status_code in {303, 400, 403, 404, 409, 410}, answer.text[:200]
    assert "answered" not in answer.headers.get("location", "")
    assert (await poll(target, asked["device_code"]))["error"] == "authorization_pending"


async def test_a_session_of_one_is_signed_out_at_the_other(target: Target, other: Target) -> None:
    """Both are on `localhost`, so a browser sends the cookies of one to the other's port."""
    person = await other.browser("alice")
    for name, value in person.http.cookies.items():
        target_name = next((one for one in target.alice.http.cookies if one.startswith("token_vault")), name)
        for sent in {name, target_name}:
            answer = await target.http.get("/connections", headers={"cookie": f"{sent}={value}"})
            assert answer.status_code in {302, 303}, answer.text[:200]


async def test_tokens_of_one_are_refused_at_the_other_and_end_nothing_there(target: Target, other: Target) -> None:
    asked = await ask(other)
    assert await say_yes(other, asked["user_code"])
    issued = await poll(other, asked["device_code"])
    stolen = Agent(other.clients["device"]["client_id"], issued["access_token"], issued.get("refresh_token"))
    assert (await other.mcp(stolen, "tools/list")).status_code == 200  # the twin
    assert (await target.mcp(stolen, "tools/list")).status_code == 401
    form = {**target.clients["device"], "token": stolen.token}
    assert (await target.http.post("/revoke", data=form)).status_code == 200
    assert (await other.mcp(stolen, "tools/list")).status_code == 200
    refused = await target.exchange("backend", stolen.token, audience="slack", scope="chat:write")
    assert refused.status_code == 400, refused.text


async def test_a_code_of_one_is_redeemed_at_that_one_only(target: Target, other: Target) -> None:
    client = str((await target.register())["client_id"])
    code, verifier = await target.code(client)
    same = str((await other.register())["client_id"])
    for asks in (client, same):
        answer = await other.redeem(asks, code, verifier)
        assert answer.status_code in {400, 401}, answer.text
    assert (await target.redeem(client, code, verifier)).status_code == 200


async def test_the_answer_of_a_request_says_which_vault_it_comes_from(target: Target, other: Target) -> None:
    """RFC 9207: a client that asked one vault notices an answer from the other (mix-up)."""
    for vault in (target, other):
        client = str((await vault.register())["client_id"])
        page = await vault.alice.open(vault.authorize_url(client, "A" * 43))
        answer = await vault.alice.submit(page, form="/consent", button=("decision", "allow"))
        assert answer.headers["location"].startswith(REDIRECT)
        assert query_of(answer.headers["location"])["iss"] == vault.url


async def test_a_password_form_of_one_signs_in_nowhere_else(target: Target, other: Target) -> None:
    person = await target.browser()
    page = await person.open("/sign-in")
    form = next(one for one in forms_of(page.text) if any(name == "password" for name, _ in one.fields))
    body = dict(form.fields) | {"name": "alice", "username": "alice", "password": PASSWORD}
    answer = await other.http.post(form.action, data=body, headers={"origin": target.url})
    assert answer.status_code in {400, 403}, (answer.status_code, answer.headers.get("location"))
