"""Background requests (OpenID CIBA): whom they name, what the person reads, floods, and notifying the client."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace

import httpx2
import jwt
import pytest

from tests.attacks.administration.attack_administration import form_for, id_of, someone
from tests.attacks.oauth.ciba import CIBA, QUESTION, WAITS, Shop, client, error, rival, shop
from tests.attacks.portal.attack_notices import add as add_channel
from tests.attacks.portal.attack_people import send
from tests.attacks.target import Target, new_key, proof
from tests.support.doubles.scripted_server import Reply, scripted_server
from tests.support.person import Person, forms_of, without_own_markup
from tests.support.processes import Place, free_port
from tests.support.rooms.ciba_room import nested_details

# Whom a request names


HINTS: dict[str, dict[str, str | None]] = {
    "nobody": {"login_hint": "nobody"},
    "a pattern": {"login_hint": "%"},
    "a list": {"login_hint": "{id},{id}"},
    "NUL": {"login_hint": "{id}\x00"},
    "a name with NUL": {"login_hint": "alice\x00"},
    "10,000 characters": {"login_hint": "x" * 10_000},
    "another issuer": {"login_hint": '{"format":"iss_sub","iss":"https://evil.example/","sub":"{id}"}'},
    "a repeated member": {"login_hint": '{"format":"iss_sub","iss":"{url}","sub":"x","sub":"{id}"}'},
    "half a pair": {"login_hint": '{"format":"iss_sub","iss":"{url}","sub":"\\ud800"}'},
    "NUL in JSON": {"login_hint": '{"format":"iss_sub","iss":"{url}","sub":"{id}\\u0000"}'},
    "a deep one": {"login_hint": '{"format":' + "[" * 900},
    "a number": {"login_hint": '{"format":"iss_sub","iss":"{url}","sub":1e999}'},
    "two": {"id_token_hint": "a.b.c"},
    "none": {"login_hint": None},
    "an unsigned token": {"login_hint": None, "id_token_hint": "{none}"},
    "a token of another key": {"login_hint": None, "id_token_hint": "{other}"},
    "an access token": {"login_hint": None, "id_token_hint": "{access}"},
    "another client's ID token": {"login_hint": None, "id_token_hint": "{foreign}"},
}


async def hint(one: Shop, text: str) -> str:
    """The hint with its placeholders filled in."""
    now = int(time.time())
    claims = {"iss": one.target.url, "sub": one.person_id, "aud": one.client["client_id"], "iat": now, "exp": now + 600}
    if text == "{none}":
        return jwt.encode(claims, None, algorithm="none")
    if text == "{other}":
        return jwt.encode(claims, new_key().as_pem(private=True), algorithm="ES256")
    if text in {"{access}", "{foreign}"}:
        other = await rival(one)
        got = (await other.poll(await other.ask_and_approve())).json()
        return str(got["access_token" if text == "{access}" else "id_token"])
    return text.replace("{id}", one.person_id).replace("{url}", one.target.url)


@pytest.mark.parametrize("what", HINTS)
async def test_a_hint_that_names_nobody_asks_nobody(target: Target, what: str) -> None:
    one = await shop(target)
    sent = {name: None if text is None else await hint(one, text) for name, text in HINTS[what].items()}
    answer = await one.post(**sent)
    assert (answer.status_code, error(answer)) in {(400, "unknown_user_id"), (400, "invalid_request")}, answer.text
    assert "/approvals/r" not in (await one.person.open("/approvals")).text


async def test_whoever_is_disabled_looks_like_nobody(target: Target) -> None:
    one = await shop(target)
    page = await target.alice.open(f"/administration/people/{one.person_id}")
    assert (await send(target, target.alice, form_for(page, "disable"))).status_code == 303
    gone, nobody = await one.post(), await one.post(login_hint="nobody")
    told = [{**one.json(), "request_id": ""} for one in (gone, nobody)]
    assert (gone.status_code, told[0]) == (nobody.status_code, told[1])


# What the person reads


MESSAGES = (
    "<script>alert(1)</script>", "two\nlines", "two\r\nlines", "a\x00b", "\u202ereversed", "a\u200bb", "x" * 65,
    "{{ 7*7 }}", "a\tb", "'; drop table approvals; --", "\ufeffx", "A\u0430", "javascript:alert(1)//", "a|b",
    "a\x1b[31mb", "grün",
)  # fmt: skip


@pytest.mark.parametrize("message", MESSAGES, ids=ascii)
async def test_a_message_that_could_deceive_is_refused(target: Target, message: str) -> None:
    one = await shop(target)
    answer = await one.post(binding_message=message)
    unreadable = "invalid_request" if "\x00" in message else "invalid_binding_message"
    assert (answer.status_code, error(answer)) == (400, unreadable), answer.text
    assert (await one.post(binding_message="Order 4711: 12,50 EUR")).status_code == 200


DETAILS: dict[str, str] = {
    "markup": '[{"type":"payment","<script>alert(1)</script>":"<img src=x onerror=alert(1)>"}]',
    "another line": '[{"type":"payment","to":"Bakery\\namount: 1"}]',
    "another direction": '[{"type":"payment","to":"\\u202egnp.exe"}]',
    "NUL": '[{"type":"payment","to":"a\\u0000b"}]',
    "a template": '[{"type":"payment","to":"{{ 7*7 }}{% raw %}"}]',
    "a thousand members": '[{"type":"payment",' + ",".join(f'"{n}":1' for n in range(800)) + "}]",
    "a long text": '[{"type":"payment","to":"' + "x" * 8000 + '"}]',
    "half a pair": '[{"type":"payment","to":"\\ud800"}]',
    "twice": '[{"type":"payment","amount":"1","amount":"1000"}]',
    "a number that no float holds": '[{"type":"payment","amount":123456789012345678901}]',
    "infinity": '[{"type":"payment","amount":1e999}]',
    "NaN": '[{"type":"payment","amount":NaN}]',
    "eleven": json.dumps([{"type": "payment"}] * 11),
    "too much": '[{"type":"payment","to":"' + "x" * 9000 + '"}]',
    **{f"{depth} levels": nested_details(depth) for depth in (20, 100, 300, 500, *range(880, 1000, 12), 2000, 4000)},
}


@pytest.mark.parametrize("what", DETAILS)
async def test_details_are_shown_as_they_are_or_refused(target: Target, what: str) -> None:
    """Whatever they contain, the person's pages still open."""
    one = await shop(target)
    answer = await one.post(authorization_details=DETAILS[what])
    assert answer.status_code in {200, 400}, answer.text
    listed = await one.person.open("/approvals")
    assert listed.status_code == 200, listed.text[:300]
    if answer.status_code == 400:
        assert error(answer) == "invalid_authorization_details"
        assert "/approvals/r" not in listed.text
        return
    assert what not in {"twice", "half a pair", "infinity", "NaN", "eleven", "too much"}
    page = await one.person.open(f"/approvals/{await one.question()}")
    assert page.status_code == 200
    for text in (without_own_markup(page.text), without_own_markup(listed.text)):
        assert "<script>alert" not in text
        assert "<img src=x" not in text
        assert not re.search("[\x00\u202e]", text)
        assert ">49<" not in text
    if what == "another line":
        assert "to: Bakery amount: 1" in page.text
    await one.answer()
    token = (await one.poll(answer.json()["auth_req_id"])).json()
    assert token["authorization_details"] == json.loads(DETAILS[what])


async def test_a_name_that_a_client_carries_is_no_markup(target: Target) -> None:
    one = await shop(target)
    named = replace(one, client=await client(target, "<script>alert(1)</script>\u202eknab"))
    await named.ask()
    for path in ("/approvals", f"/approvals/{await named.question()}", "/activity", "/"):
        text = without_own_markup((await one.person.open(path)).text)
        assert "<script>alert" not in text, path
        assert "\u202e" not in text, path


async def test_a_notice_says_who_asks_and_nothing_of_what(target: Target) -> None:
    one = await shop(target)
    async with scripted_server(lambda _: Reply(200)) as receiver:
        assert await add_channel(one.person, "webhook", f"{receiver.url}/hook")
        details = json.dumps([{"type": "payment", "to": "canary-details"}])
        auth_req_id = await one.ask(binding_message="canary-message", authorization_details=details)
        async with asyncio.timeout(20):
            while not receiver.arrivals:
                await asyncio.sleep(0.2)
        said = receiver.log
    assert "Shop" in said
    assert "canary" not in said
    assert auth_req_id not in said
    assert one.client["client_secret"] not in said


# Floods


async def test_a_person_is_not_asked_until_they_say_yes(target: Target) -> None:
    one = await shop(target)
    answers = await asyncio.gather(*(one.post() for _ in range(30)))
    taken = [answer.status_code for answer in answers].count(200)
    assert taken <= 5
    assert {answer.status_code for answer in answers} == {200, 429}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert 0 < int(refused.headers["retry-after"]) <= 3600
    _, person = await someone(target)
    other = replace(one, person=person, person_id=await id_of(person))
    assert (await other.post()).status_code == 200, "another person is asked"


async def test_who_denied_three_times_is_left_alone(target: Target) -> None:
    one = await shop(target)
    for _ in range(3):
        await one.ask()
        await one.answer("deny")
    refused = await one.post()
    assert refused.status_code == 429
    assert (await (await rival(one)).post()).status_code == 200


async def test_polling_in_a_loop_is_told_to_slow_down_and_holds_nobody_up(target: Target) -> None:
    one = await shop(target)
    auth_req_id = await one.ask()
    started = time.monotonic()
    for _ in range(10):
        answers = await asyncio.gather(*(one.poll(auth_req_id) for _ in range(30)))
        assert {error(answer) for answer in answers} <= WAITS
        assert (await target.http.get("/readyz")).status_code == 200
    assert time.monotonic() - started < 60
    hurried = [answer for answer in answers if error(answer) == "slow_down"]
    assert hurried
    assert int(hurried[0].headers["retry-after"]) >= 5
    await one.answer()
    assert (await one.poll(auth_req_id)).status_code == 200


async def test_names_are_not_tried_in_a_loop(target: Target) -> None:
    one = await shop(target)
    made = json.loads(await target.command("clients", "add", "Guessing", "--confidential", "--ciba", "--json"))
    guessing = replace(one, client={part: str(made[part]) for part in ("client_id", "client_secret")})
    for _ in range(30):
        answers = await asyncio.gather(*(guessing.post(login_hint=secrets.token_hex(4)) for _ in range(50)))
        if any(answer.status_code == 429 for answer in answers):
            break
    assert any(answer.status_code == 429 for answer in answers)
    assert (await one.post()).status_code == 200


# Keys


async def test_a_token_is_bound_to_the_key_of_its_own_proof(target: Target) -> None:
    one, key = await shop(target), new_key()
    auth_req_id = await one.ask_and_approve()
    url = f"{target.url}/token"
    form = {"grant_type": CIBA, **one.client, "auth_req_id": auth_req_id}
    used = proof(key, "POST", url)
    for wrong in ("a.b.c", proof(key, "GET", url), proof(key, "POST", f"{url}x"), proof(key, "POST", url, iat=1)):
        assert error(await target.token(form, dpop=wrong)) == "invalid_dpop_proof"
    answer = await target.token(form, dpop=used)
    assert (answer.status_code, answer.json()["token_type"]) == (200, "DPoP"), answer.text
    token = answer.json()["access_token"]
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    assert (await target.http.post("/mcp", json=body, headers={"authorization": f"Bearer {token}"})).status_code == 401
    again = await one.ask_and_approve()
    assert error(await target.token({**form, "auth_req_id": again}, dpop=used)) == "invalid_dpop_proof"


# Notifying the client


@dataclass
class Plain:
    """A vault without a sandbox, its command line, and a person."""

    place: Place
    person: Person
    http: httpx2.AsyncClient


@pytest.fixture(scope="module")
async def plain(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Plain]:
    place = Place(tmp_path_factory.mktemp("pings"), free_port())
    place.configure()
    password = "a long enough test password"
    async with (
        place.serve(),
        Person(place.url) as browser,
        httpx2.AsyncClient(base_url=place.url, timeout=30, trust_env=False) as http,
    ):
        code, _, err = await place.run("users", "add", "mallory", "--admin", "--password-stdin", feed=password + "\n")
        assert code == 0, err
        assert (await browser.sign_in("mallory", password)).status_code == 200
        yield Plain(place, browser, http)


INSIDE = (
    "https://127.0.0.1:{port}/x", "https://localhost:{port}/x", "https://[::1]:{port}/x", "https://2130706433:{port}/x",
    "https://[::ffff:127.0.0.1]:{port}/x", "https://127.1:{port}/x", "https://0.0.0.0:{port}/x",
    "https://a.localhost:{port}/x", "https://evil.example@127.0.0.1:{port}/x", "https://127.0.0.1.:{port}/x",
)  # fmt: skip


async def test_no_client_is_told_inside_the_network(plain: Plain, target: Target) -> None:
    """An internal address is refused when entered, or never called; the sandbox, which may call it, does."""
    async with scripted_server(lambda _: Reply(204)) as inside:

        async def add_asker(number: int, address: str) -> None:
            words = ("--confidential", "--ciba", "--ciba-notify", address.format(port=inside.port), "--json")
            code, out, _ = await plain.place.run("clients", "add", f"Asker {number}", *words)
            if code != 0:
                return
            made = json.loads(out)
            form = {part: str(made[part]) for part in ("client_id", "client_secret")}
            form |= {"scope": "openid", "login_hint": "mallory", "client_notification_token": "t"}
            answer = await plain.http.post("/bc-authorize", data=form)
            assert answer.status_code == 200, answer.text

        for number in range(0, len(INSIDE), 2):
            await asyncio.gather(
                *(add_asker(number + more, one) for more, one in enumerate(INSIDE[number : number + 2]))
            )
        for question in sorted(set(QUESTION.findall((await plain.person.open("/approvals")).text))):
            page = await plain.person.open(f"/approvals/{question}")
            await plain.person.submit(page, form="/approvals/", button=("decision", "deny"))
        one = await shop(target)
        words = ("--ciba-notify", f"https://127.0.0.1:{inside.port}/x")
        twin = replace(one, client=await client(target, "Told", *words))
        await asyncio.sleep(11)  # two rounds of the upkeep
        assert inside.connections == 0
        await twin.ask(client_notification_token="t")
        await twin.answer()
        async with asyncio.timeout(20):
            while not inside.connections:
                await asyncio.sleep(0.2)


ADDRESSES = (
    "http://shop.example/x", "ftp://shop.example/x", "javascript:alert(1)", "file:///etc/passwd", "//shop.example/x",
    "https://shop.example/" + "x" * 3000, "HTTPS:shop.example", "x",
)  # fmt: skip


async def test_an_address_that_is_none_is_refused(target: Target) -> None:
    for address in ADDRESSES:
        words = ("clients", "add", "Odd", "--confidential", "--ciba", "--ciba-notify", address, "--json")
        code, out, err = await target.place.run(*words)
        assert code != 0, (address, out)
        assert "Traceback" not in out + err


@pytest.mark.parametrize("token", [None, "", "a b", "x" * 1025, "a\r\nx-evil: 1", "a\x00", "é", "a,b"], ids=ascii)
async def test_a_token_for_telling_is_one_header_word_and_stays_unseen(target: Target, token: str | None) -> None:
    one = await shop(target)
    told = replace(one, client=await client(target, "Told elsewhere", "--ciba-notify", "https://shop.example/told"))
    answer = await told.post(client_notification_token=token)
    assert (answer.status_code, error(answer)) == (400, "invalid_request"), answer.text
    good = f"canary{secrets.token_hex(8)}"
    await told.ask(client_notification_token=good)
    question = await told.question()
    for path in ("/approvals", f"/approvals/{question}", "/activity/export?format=jsonl", "/account/data"):
        assert good not in (await one.person.http.get(path)).text, path
    for file in target.server.data.rglob("*"):
        assert not file.is_file() or good.encode() not in file.read_bytes(), file


async def test_a_form_of_the_page_has_no_way_out(target: Target) -> None:
    """A hostile detail adds no form, field, or button."""
    one = await shop(target)
    text = '"></p></form><form action="https://evil.example/approvals/"><button name="decision" value="allow">'
    await one.ask(authorization_details=json.dumps([{"type": "payment", text: text}]))
    page = await one.person.open(f"/approvals/{await one.question()}")
    forms = [form for form in forms_of(page.text) if "approvals" in form.action]
    assert [form.action for form in forms] == [f"/approvals/{await one.question()}"]
    assert sorted(value for _, value in forms[0].buttons) == ["allow", "cut_off", "deny"]
    assert "form-action" in page.headers["content-security-policy"]
