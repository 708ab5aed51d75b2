"""Web push: endpoints that lead inside, elsewhere, or nowhere; invalid keys; others' browsers; floods."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from base64 import b64encode
from urllib.parse import urlsplit

import httpx2
import pytest
from cryptography.exceptions import InvalidTag

from tests.attacks.administration.attack_administration import someone
from tests.attacks.portal.attack_notices import INSIDE, act, channels, check_uncalled, own_name
from tests.attacks.portal.attack_people import form_of
from tests.attacks.target import Target
from tests.support.doubles.push_service import PushMessage, SubscribedBrowser, encode
from tests.support.doubles.scripted_server import Arrival, Reply, ScriptedServer, scripted_server
from tests.support.person import Person

BROWSER = "/notifications/browser"


async def subscribe(person: Person, subscription: str, **headers: str) -> httpx2.Response:
    """Send what the page's script sends."""
    form = form_of(await person.open("/notifications"), BROWSER)
    data = dict(form.fields) | {"subscription": subscription}
    answer = await person.http.post(form.action, data=data, headers={"origin": person.origin} | headers)
    assert answer.status_code < 500, answer.text[:300]
    return answer


@pytest.mark.parametrize("wanted", INSIDE)
async def test_an_endpoint_that_leads_inside_is_no_browser(person: Person, inside: ScriptedServer, wanted: str) -> None:
    endpoint = wanted.format(port=urlsplit(inside.url).port)
    assert (await subscribe(person, SubscribedBrowser(endpoint).subscription())).status_code == 400
    assert await channels(person) == []
    assert inside.arrivals == []


async def test_a_name_that_leads_inside_is_not_called(person: Person, inside: ScriptedServer) -> None:
    endpoint = f"https://{own_name()}:{urlsplit(inside.url).port}/push"
    assert (await subscribe(person, SubscribedBrowser(endpoint).subscription())).status_code == 303
    await check_uncalled(person, inside)


async def test_a_redirect_is_not_followed_and_an_answer_is_not_shown(target: Target, inside: ScriptedServer) -> None:
    _, one = await someone(target)

    def leads(_: Arrival) -> Reply:
        return Reply(307, b"canary-body", {"location": f"{inside.url}/secret", "x-secret": "canary-header"})

    async with scripted_server(leads) as service:
        assert (await subscribe(one, SubscribedBrowser(f"{service.url}/p").subscription())).status_code == 303
        (form,) = await channels(one)
        await act(one, form, "test")
        assert len(service.arrivals) == 1
    assert inside.arrivals == []
    assert "canary" not in (await one.open("/notifications")).text


GOOD = SubscribedBrowser("https://push.example/1")
ODD: dict[str, str] = {
    "nothing": "",
    "no JSON": "x",
    "a list": "[]",
    "null": "null",
    "a text": '"https://push.example/1"',
    "no keys": '{"endpoint": "https://push.example/1"}',
    "keys in a list": '{"endpoint": "https://push.example/1", "keys": []}',
    "an endpoint in a list": json.dumps({"endpoint": ["https://push.example/1"], "keys": {}}),
    "an endpoint twice": GOOD.subscription()[:-1] + ', "endpoint": "https://127.0.0.1/"}',
    "no point": GOOD.subscription(p256dh=encode(b"\x04" + b"\x01" * 64)),
    "the point at infinity": GOOD.subscription(p256dh=encode(b"\x00")),
    "zeros": GOOD.subscription(p256dh=encode(b"\x04" + bytes(64))),
    "a compressed point": GOOD.subscription(p256dh=encode(b"\x02" + b"\x01" * 32)),
    "a hybrid point": GOOD.subscription(p256dh=encode(b"\x06" + b"\x01" * 64)),
    "a long key": GOOD.subscription(p256dh="B" * 100_000),
    "a short secret": GOOD.subscription(auth=encode(b"x" * 15)),
    "a long secret": GOOD.subscription(auth=encode(b"x" * 17)),
    "a secret that is a number": GOOD.subscription(auth=7),
    "a secret with blanks": GOOD.subscription(auth=" " + encode(b"x" * 16)),
    "a secret of plain base64": GOOD.subscription(auth=b64encode(b"\xff" * 16).decode()),
    "half a pair": '{"endpoint": "https://push.example/\\ud800", "keys": {}}',
    "NUL": GOOD.subscription().replace("/1", "/\\u0000"),
    "100,000 lists": '{"endpoint": ' + "[" * 100_000,
    "an endless number": '{"endpoint": "https://push.example/1", "keys": ' + "9" * 100_000 + "}",
    "line breaks": GOOD.subscription().replace("/1", "/\\r\\nx: y"),
    "a long endpoint": SubscribedBrowser("https://push.example/" + "x" * 2000).subscription(),
    "a password": SubscribedBrowser("https://user:pw@push.example/1").subscription(),
    "no host": SubscribedBrowser("https:///x").subscription(),
}


@pytest.mark.parametrize("what", ODD)
async def test_a_subscription_that_no_browser_makes_is_refused(target: Target, what: str) -> None:
    _, one = await someone(target)
    answer = await subscribe(one, ODD[what])
    assert answer.status_code in {400, 413}, answer.status_code
    assert await channels(one) == []


async def test_one_that_a_browser_makes_is_taken_and_shown_to_nobody(target: Target) -> None:
    """The twin. Others could send to the endpoint, so it is shown nowhere and stored sealed."""
    (_, one), (_, other) = await someone(target), await someone(target)
    secret = secrets.token_hex(16)
    browser = SubscribedBrowser(f"https://push.example/{secret}")
    assert (await subscribe(one, browser.subscription())).status_code == 303
    assert len(await channels(one)) == 1
    hidden = (secret, encode(browser.auth), browser.subscription())
    for person in (one, other, target.alice):
        for path in ("/notifications", "/account", "/account/data", "/activity/export?format=jsonl"):
            text = (await person.http.get(path)).text
            assert not any(each in text for each in hidden), path
    for folder in (target.place.data, target.server.data):
        for file in folder.rglob("*"):
            assert not file.is_file() or not any(each.encode() in file.read_bytes() for each in hidden), file


@pytest.mark.parametrize("action", ["test", "remove", "confirm"])
async def test_somebody_elses_browser_is_not_there(target: Target, action: str) -> None:
    (_, one), (_, thief) = await someone(target), await someone(target)
    async with scripted_server(lambda _: Reply(201)) as service:
        assert (await subscribe(one, SubscribedBrowser(f"{service.url}/one").subscription())).status_code == 303
        assert (await subscribe(thief, SubscribedBrowser(f"{service.url}/own").subscription())).status_code == 303
        (theirs,), (own,) = await channels(one), await channels(thief)
        for token in (dict(theirs.fields)["form_token"], dict(own.fields)["form_token"], ""):
            assert await act(thief, theirs, action, token=token) in {403, 404}
        assert service.arrivals == []
        assert await act(one, theirs, "test") == 303  # the twin
        assert [arrival.path for arrival in service.arrivals] == ["/one"]


async def test_whoever_names_anothers_endpoint_learns_nothing_and_says_nothing_there(target: Target) -> None:
    """The message is encrypted with the attacker's keys, so the browser that owns the endpoint can't read it."""
    (_, one), (_, thief) = await someone(target), await someone(target)
    async with scripted_server(lambda _: Reply(201)) as service:
        honest = SubscribedBrowser(f"{service.url}/shared")
        assert (await subscribe(one, honest.subscription())).status_code == 303
        assert (await subscribe(thief, SubscribedBrowser(honest.endpoint).subscription())).status_code == 303
        (form,) = await channels(thief)
        await act(thief, form, "test")
        (arrival,) = service.arrivals
        with pytest.raises(InvalidTag):
            honest.read(arrival.body)
        assert len(await channels(one)) == 1
        (own,) = await channels(one)
        await act(one, own, "test")
        assert b"title" in honest.read(service.arrivals[-1].body)  # the twin


async def test_what_the_vault_says_of_itself_is_for_that_service_and_names_nobody(target: Target) -> None:
    user_id, one = await someone(target)
    async with scripted_server(lambda _: Reply(201)) as service:
        assert (await subscribe(one, SubscribedBrowser(f"{service.url}/a?secret=x").subscription())).status_code == 303
        (form,) = await channels(one)
        await act(one, form, "test")
        (arrival,) = service.arrivals
        (key,) = re.findall(r'data-push="([^"]+)"', (await one.open("/notifications")).text)
        headers = {name.lower(): value for name, value in arrival.headers.items()}
        claims = PushMessage(arrival.path, headers, arrival.body).claims(service.url, key)
        assert set(claims) == {"aud", "exp", "sub"}
        assert user_id not in str(headers) + str(claims)
        assert "cookie" not in headers


MISBEHAVIOR = {
    "endless headers": b"HTTP/1.1 201 Created\r\n" + b"x: y\r\n" * 200_000,
    "an endless body": b"HTTP/1.1 201 Created\r\ncontent-length: 99999999\r\n\r\n" + b"x" * 300_000,
    "no HTTP at all": b"220 mail.example ESMTP\r\n",
    "two answers": b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\nHTTP/1.1 307 x\r\nlocation: http://127.0.0.1/\r\n\r\n",
    "silence": b"",
}


@pytest.mark.parametrize("what", MISBEHAVIOR)
async def test_a_service_that_misbehaves_costs_its_person_a_message_only(target: Target, what: str) -> None:
    _, one = await someone(target)
    done = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if not MISBEHAVIOR[what]:
            await done.wait()
        writer.write(MISBEHAVIOR[what])
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert (await subscribe(one, SubscribedBrowser(f"http://127.0.0.1:{port}/x").subscription())).status_code == 303
        (form,) = await channels(one)
        testing = asyncio.ensure_future(act(one, form, "test"))
        assert (await target.mallory.http.get("/notifications")).status_code == 200
        async with asyncio.timeout(15):
            assert await testing == 303
        done.set()


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
async def test_a_foreign_page_adds_no_browser(target: Target, origin: str) -> None:
    _, one = await someone(target)
    for sites in ({}, {"sec-fetch-site": "cross-site"}):
        assert (await subscribe(one, GOOD.subscription(), origin=origin, **sites)).status_code == 403
    stranger = await target.browser()
    data = {"subscription": GOOD.subscription(), "form_token": "x"}
    answer = await stranger.http.post(BROWSER, data=data, headers={"origin": target.url})
    assert answer.status_code in {303, 403}
    assert await channels(one) == []


async def test_a_person_has_eight_however_many_are_added_at_once_and_one_endpoint_once(target: Target) -> None:
    _, one = await someone(target)
    form = form_of(await one.open("/notifications"), BROWSER)

    async def send(number: int) -> int:
        browser = SubscribedBrowser(f"https://push.example/{number}").subscription()
        data = dict(form.fields) | {"subscription": browser}
        return (await one.http.post(BROWSER, data=data, headers={"origin": target.url})).status_code

    said = await asyncio.gather(*(send(number) for number in range(24)))
    assert said.count(303) == 8
    assert len(await channels(one)) == 8


async def test_a_person_sends_so_many_messages_an_hour_at_will(target: Target) -> None:
    _, one = await someone(target)
    async with scripted_server(lambda _: Reply(201)) as service:
        assert (await subscribe(one, SubscribedBrowser(f"{service.url}/x").subscription())).status_code == 303
        (form,) = await channels(one)
        said = await asyncio.gather(*(act(one, form, "test") for _ in range(30)))
        assert said.count(429) == 20
        assert len(service.arrivals) == 10


async def test_the_script_that_shows_messages_is_ours_and_reaches_no_further(target: Target) -> None:
    answer = await target.http.get("/static/push-worker.js")
    assert answer.headers["content-type"].startswith(("text/javascript", "application/javascript"))
    assert "service-worker-allowed" not in answer.headers
    assert answer.headers["x-content-type-options"] == "nosniff"
    for odd in ("/static/../push-worker.js", "/static/push-worker.js/x", "/static/%2e%2e/app.py", "/push-worker.js"):
        assert (await target.http.get(odd)).status_code in {303, 404}
