"""Notices: webhooks, ntfy, and Slack URLs that lead inside, elsewhere, or nowhere; others' channels and links.

The vault of the other surfaces is a sandbox, which may call loopback, so internal URLs are tried at another vault.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from urllib.parse import urlsplit

import pytest

from tests.attacks.administration.attack_administration import someone
from tests.attacks.portal.attack_people import form_of, send
from tests.attacks.target import Target
from tests.support.doubles.scripted_server import Arrival, Reply, ScriptedServer, scripted_server
from tests.support.person import Form, Person, forms_of

CHANNELS = "/notifications/channels"


async def add(person: Person, kind: str, wanted: str) -> bool:
    """Add a channel; return whether the vault accepted it."""
    form = form_of(await person.open("/notifications"), CHANNELS)
    answer = await person.http.post(
        form.action, data=dict(form.fields) | {"kind": kind, "target": wanted}, headers={"origin": person.origin}
    )
    assert answer.status_code in {303, 400}, answer.text[:300]
    return answer.status_code == 303


async def channels(person: Person) -> list[Form]:
    """The forms of the person's channels, oldest first."""
    page = await person.open("/notifications")
    return [one for one in forms_of(page.text) if ("action", "remove") in one.buttons]


async def act(person: Person, form: Form, action: str, *, token: str | None = None) -> int:
    data = dict(form.fields) | {"action": action} | ({} if token is None else {"form_token": token})
    answer = await person.http.post(form.action, data=data, headers={"origin": person.origin})
    assert answer.status_code < 500, answer.text[:300]
    return answer.status_code


async def clear(person: Person) -> None:
    for form in await channels(person):
        assert await act(person, form, "remove") == 303


INSIDE = (
    "http://127.0.0.1:{port}/x", "http://localhost:{port}/x", "https://127.0.0.1:{port}/x", "https://localhost/x",
    "https://169.254.169.254/latest/meta-data/", "https://[fd00:ec2::254]/latest/", "https://100.100.100.200/x",
    "https://[::1]:{port}/x", "https://[::ffff:127.0.0.1]:{port}/x", "https://[::ffff:7f00:1]:{port}/x", "https://[::]/x",
    "https://[64:ff9b::7f00:1]/x", "https://[2002:7f00:1::]/x", "https://[fe80::1%25lo]/x", "https://0.0.0.0:{port}/x",
    "https://2130706433:{port}/x", "https://0x7f000001/x", "https://0177.0.0.1/x", "https://127.1/x", "https://10.0.0.1/x",
    "https://127.0.0.1.:{port}/x", "https://localhost.:{port}/x", "https://a.localhost/x", "https://192.168.0.1/x",
    "https://①②⑦.0.0.1/x", "https://127。0。0。1/x", "https://evil.example@127.0.0.1/x", "https://168.63.129.16/x",
    "https://127.0.0.1:{port}#@hooks.slack.com/x", "https://hooks.slack.com\\@127.0.0.1/x", "//127.0.0.1/x",
    "https://hooks.slack.com:pw@127.0.0.1/x", "ftp://127.0.0.1/x", "file:///etc/passwd", "gopher://127.0.0.1/x",
    "https://hooks.slack.com/x\r\nHost: 127.0.0.1", "https:///127.0.0.1/x", "https://127.0.0.1%2f@evil.example/x",
    "javascript:alert(1)", "https://[::ffff:0:127.0.0.1]/x", "https://172.16.0.1/x", "https://224.0.0.1/x",
)  # fmt: skip


@pytest.mark.parametrize("kind", ["webhook", "slack", "ntfy"])
@pytest.mark.parametrize("wanted", INSIDE)
async def test_an_address_that_leads_inside_is_no_channel(
    person: Person, inside: ScriptedServer, kind: str, wanted: str
) -> None:
    assert not await add(person, kind, wanted.format(port=urlsplit(inside.url).port))
    assert inside.arrivals == []


def own_name() -> str:
    """This machine's own name, which looks harmless; the address that it resolves to decides."""
    name = socket.gethostname()
    try:
        found = {one[4][0] for one in socket.getaddrinfo(name, 443)}
    except OSError:
        pytest.skip("this machine's name is not known here")
    if not all(str(one).startswith(("127.", "10.", "172.", "192.168.", "::1", "fe80")) for one in found):
        pytest.skip("this machine has a public address")
    return name


async def check_uncalled(person: Person, inside: ScriptedServer) -> None:
    """Test the person's channel, and check that nothing is called."""
    (form,) = await channels(person)
    await act(person, form, "test")
    page = (await person.open("/notifications")).text
    await clear(person)
    assert inside.arrivals == []
    assert "can't be" in page or "not allowed" in page or "isn't" in page, "what it says of an address inside"


@pytest.mark.parametrize("kind", ["webhook", "slack", "ntfy"])
async def test_a_name_that_leads_inside_is_not_called(person: Person, inside: ScriptedServer, kind: str) -> None:
    assert await add(person, kind, f"https://{own_name()}:{urlsplit(inside.url).port}/x")
    await check_uncalled(person, inside)


async def new_person(target: Target) -> tuple[str, Person]:
    """A person of the sandbox."""
    return await someone(target)


async def test_a_redirect_is_not_followed_and_an_answer_is_not_shown(target: Target, inside: ScriptedServer) -> None:
    _, one = await new_person(target)

    def leads(_: Arrival) -> Reply:
        return Reply(307, b"canary-body", {"location": f"{inside.url}/secret", "x-secret": "canary-header"})

    async with scripted_server(leads) as receiver:
        for status in ("webhook", "slack"):
            assert await add(one, status, f"{receiver.url}/hook")
        assert await add(one, "ntfy", f"{receiver.url}/topic")
        for form in await channels(one):
            await act(one, form, "test")
        assert len(receiver.arrivals) == 3
    assert inside.arrivals == []
    page = (await one.open("/notifications")).text
    assert "canary" not in page


@pytest.mark.parametrize("what", ["endless headers", "an endless body", "a wrong encoding", "no HTTP at all"])
async def test_a_receiver_that_misbehaves_costs_its_person_a_message_only(target: Target, what: str) -> None:
    _, one = await new_person(target)
    sent = {
        "endless headers": b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 200_000,
        "an endless body": b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n" + b"x" * 300_000,
        "a wrong encoding": b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc",
        "no HTTP at all": b"220 mail.example ESMTP\r\n",
    }[what]

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert await add(one, "webhook", f"http://127.0.0.1:{port}/x")
        (form,) = await channels(one)
        assert await act(one, form, "test") == 303
    assert (await target.mallory.http.get("/notifications")).status_code == 200


async def test_the_rest_of_an_address_is_shown_to_nobody(target: Target) -> None:
    """The rest may contain a password."""
    _, one = await new_person(target)
    secret = secrets.token_hex(16)
    async with scripted_server(lambda _: Reply(500)) as receiver:
        for kind in ("webhook", "slack"):
            assert await add(one, kind, f"{receiver.url}/{secret}?key={secret}")
        assert await add(one, "ntfy", f"{receiver.url}/{secret}")
        for form in await channels(one):
            await act(one, form, "test")
    for path in ("/notifications", "/account", "/account/data", "/activity", "/activity/export?format=jsonl"):
        assert secret not in (await one.http.get(path)).text, path
    for folder in (target.place.data, target.server.data):
        for file in folder.rglob("*"):
            assert not file.is_file() or secret.encode() not in file.read_bytes(), file


@pytest.mark.parametrize("action", ["test", "remove", "confirm"])
async def test_somebody_elses_channel_is_not_there(target: Target, action: str) -> None:
    (_, one), (_, thief) = await new_person(target), await new_person(target)
    async with scripted_server(lambda _: Reply(200)) as receiver:
        assert await add(one, "webhook", f"{receiver.url}/x")
        assert await add(thief, "webhook", f"{receiver.url}/y")
        (theirs,), (own,) = await channels(one), await channels(thief)
        tokens = (dict(theirs.fields)["form_token"], dict(own.fields)["form_token"], "")
        for token in tokens:
            assert await act(thief, theirs, action, token=token) in {403, 404}
        assert receiver.arrivals == []
        assert len(await channels(one)) == 1
        assert await act(one, theirs, "test") == 303  # the twin
        assert [arrival.path for arrival in receiver.arrivals] == ["/x"]


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
async def test_a_foreign_page_adds_no_channel(target: Target, origin: str) -> None:
    _, one = await new_person(target)
    data = dict(form_of(await one.open("/notifications"), CHANNELS).fields)
    data |= {"kind": "webhook", "target": "https://evil.example/x"}
    headers = {"origin": origin, "sec-fetch-site": "cross-site"}
    assert (await one.http.post(CHANNELS, data=data, headers=headers)).status_code == 403
    assert await channels(one) == []


async def test_a_person_has_eight_channels_however_many_are_added_at_once(target: Target) -> None:
    _, one = await new_person(target)
    form = form_of(await one.open("/notifications"), CHANNELS)
    fields = [dict(form.fields) | {"kind": "webhook", "target": f"https://x{n}.example/x"} for n in range(24)]
    await asyncio.gather(*(one.http.post(CHANNELS, data=each, headers={"origin": target.url}) for each in fields))
    assert len(await channels(one)) == 8


async def test_a_person_sends_so_many_messages_an_hour_at_will(target: Target) -> None:
    _, one = await new_person(target)
    async with scripted_server(lambda _: Reply(200)) as receiver:
        assert await add(one, "webhook", f"{receiver.url}/x")
        (form,) = await channels(one)
        said = await asyncio.gather(*(act(one, form, "test") for _ in range(30)))
        assert said.count(429) == 20
        assert len(receiver.arrivals) == 10


async def test_a_mail_address_is_no_channel_where_no_mail_is_sent(target: Target) -> None:
    _, one = await new_person(target)
    for wanted in ("victim@example.com", "a@b\r\nBcc: c@d", '"a b"@example.com', "a@example.com,b@example.com"):
        assert not await add(one, "email", wanted)


@pytest.mark.parametrize("secret", ["", "x", "../../x", "\x00", "x" * 5000])
async def test_a_link_that_confirms_nothing_confirms_nothing(target: Target, secret: str) -> None:
    _, one = await new_person(target)
    answer = await one.http.get("/notifications", params={"confirm": secret})
    assert answer.status_code < 500
    assert 'action="/notifications/confirm"' not in answer.text


FIELDS = {
    "zone": ("../../etc/passwd", "UTC\x00", "Europe/Nowhere", "x" * 3000),
    "language": ("xx", "../de", ""),
    "how.approval": ("never", "", "at_once\r\n"),
    "digest_at": ("25:00", "٠٨:٠٠", ""),
}


@pytest.mark.parametrize(("name", "value"), [(name, one) for name, values in FIELDS.items() for one in values])
async def test_a_choice_that_is_none_is_refused(target: Target, name: str, value: str) -> None:
    _, one = await new_person(target)
    page = await one.open("/notifications")
    form = next(each for each in forms_of(page.text) if each.action == "/notifications")
    answer = await send(target, one, form, **{name: value})
    assert answer.status_code == 400, (answer.status_code, answer.headers)
    assert "set-cookie" not in {key for key in answer.headers if "language" in answer.headers[key]}
