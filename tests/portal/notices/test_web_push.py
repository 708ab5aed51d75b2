"""Web push: a subscribed browser gets what its person wants to know, and nobody else can read or send it."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from html import unescape

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec

from server.http.page_texts import text
from server.notices import web_push
from server.notices.delivery import deliver
from tests.portal.notices.test_notifications import SECRET, ask, ask_about
from tests.support.doubles.push_service import (
    PushService,
    SubscribedBrowser,
    decode,
    encode,
    point,
    running_push_service,
)
from tests.support.person import Person
from tests.support.rooms.portal_room import Room, running_room
from vault.notices import channels
from vault.notices.channels import MOST_CHANNELS
from vault.records import Client, User


@dataclass
class Place:
    """A vault, and a push service for its messages to browsers."""

    room: Room
    service: PushService


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Place]:
    async with running_push_service() as service, running_room(tmp_path_factory.mktemp("push")) as room:
        await deliver(room.deployment)  # start the feed
        yield Place(room, service)


@pytest.fixture(autouse=True)
def reset_service(place: Place) -> None:
    place.service.messages.clear()
    place.service.status = 201


async def sign_up(person: Person, subscription: str) -> str:
    """Submit what the browser created; returns the page that follows."""
    page = await person.open("/notifications")
    return (await person.submit(page, {"subscription": subscription}, form="/notifications/browser")).text


async def signed_up(place: Place) -> tuple[User, Client, Person, SubscribedBrowser]:
    """A person whose browser receives messages, and an agent."""
    user, client = await place.room.user(), await place.room.agent(name="Cursor")
    person, browser = await place.room.signed_in(user), place.service.browser(user.id)
    assert "Added." in await sign_up(person, browser.subscription())
    return user, client, person, browser


async def test_a_browser_gets_the_page_of_an_approval_and_nobody_on_the_way_can_read_it(place: Place) -> None:
    user, client, person, browser = await signed_up(place)
    approval = await ask(place.room, user, client)
    assert await deliver(place.room.deployment) == 1
    (sent,) = place.service.sent_to(browser)
    message = browser.read(sent.body)
    assert json.loads(message) == {
        "title": "Token Vault",
        "body": "Cursor asks for your approval: Post to Slack (alice)",
        "url": f"{place.room.url}/approvals/{approval}",
        "kind": "approval",
        "action": "Review",
    }
    assert SECRET not in message.decode()
    assert b"Cursor" not in sent.body
    assert sent.headers["content-encoding"] == "aes128gcm"
    assert sent.headers["urgency"] == "high"
    assert 0 < int(sent.headers["ttl"]) <= 600
    (key,) = re.findall(r'data-push="([^"]+)"', (await person.open("/notifications")).text)
    claims = sent.claims(place.service.url, key)
    assert 0 < int(str(claims["exp"])) - place.room.deployment.now() <= 86400
    assert str(claims["sub"]).startswith("mailto:token-vault@")
    with pytest.raises(InvalidTag):
        place.service.browser(user.id).read(sent.body)  # another browser with the same address can't read it


async def test_a_test_reaches_the_browser_from_its_page(place: Place) -> None:
    user, _, person, browser = await signed_up(place)
    (channel,) = await channels.list_channels(place.room.deployment.database, place.room.deployment.keys, user.id)
    page = await person.open("/notifications")
    answer = await person.submit(page, form=f"/notifications/{channel.id}", button=("action", "test"))
    assert "The test was sent." in answer.text
    (sent,) = place.service.sent_to(browser)
    assert json.loads(browser.read(sent.body))["title"] == text("notice.test_title")
    assert web_push.endpoint_hash(browser.endpoint) in page.text
    assert browser.endpoint not in page.text
    assert encode(browser.auth) not in page.text


@pytest.mark.parametrize(("status", "is_gone"), [(404, True), (410, True), (413, False)])
async def test_a_browser_that_is_gone_gets_nothing_more(place: Place, status: int, is_gone: bool) -> None:
    user, client, person, browser = await signed_up(place)
    place.service.status = status
    await ask_about(place.room, user, client)
    await deliver(place.room.deployment)
    assert ("no longer accepts notifications" in (await person.open("/notifications")).text) == is_gone
    place.service.status = 201
    await ask_about(place.room, user, client)
    await deliver(place.room.deployment)
    assert len(place.service.sent_to(browser)) == (1 if is_gone else 2)


def far_point() -> str:
    """65 bytes that look like a point but aren't on the curve."""
    return encode(b"\x04" + b"\x01" * 64)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, 200),
        ({"auth": encode(b"short")}, 400),
        ({"auth": 7}, 400),
        ({"auth": None}, 400),
        ({"p256dh": far_point()}, 400),
        ({"p256dh": "not base64!"}, 400),
        ({"p256dh": encode(b"\x02" + b"\x01" * 32)}, 400),
    ],
)
async def test_keys_that_no_browser_makes_are_refused(place: Place, changes: dict[str, object], status: int) -> None:
    person, browser = await place.room.signed_in(await place.room.user()), place.service.browser("any")
    page = await person.open("/notifications")
    wanted = {"subscription": browser.subscription(**changes)}
    assert (await person.submit(page, wanted, form="/notifications/browser")).status_code == status


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ("https://10.0.0.1/push/1", "can&#39;t reach this browser"),
        ("http://push.example/1", "can&#39;t reach this browser"),
        ("https://push.example/" + "x" * web_push.ENDPOINT_LIMIT, "This choice can&#39;t be used"),
        ("https://push.example/1", "Added."),
    ],
    ids=["private", "in the clear", "too long", "public"],
)
async def test_messages_go_to_public_addresses_only(place: Place, endpoint: str, said: str) -> None:
    person = await place.room.signed_in(await place.room.user())
    assert said in await sign_up(person, SubscribedBrowser(endpoint).subscription())


@pytest.mark.parametrize(
    "sent", ["", "no JSON", "[]", '{"endpoint": 1, "keys": {}}', '{"endpoint": "https://a.example"}']
)
async def test_what_is_no_subscription_is_refused(place: Place, sent: str) -> None:
    assert web_push.read_subscription(sent) is None
    assert web_push.read_subscription(SubscribedBrowser("https://a.example").subscription()) is not None


async def test_a_browser_signs_up_once_and_a_person_has_so_many(place: Place) -> None:
    _, _, person, browser = await signed_up(place)
    assert text("notifications.known") in unescape(await sign_up(person, browser.subscription()))
    for number in range(6):
        assert "Added." in await sign_up(person, place.service.browser(str(number)).subscription())
    page = await person.open("/notifications")  # while there is room for one more
    for number, said in ((8, "Added."), (9, text("notifications.full", number=MOST_CHANNELS))):
        wanted = {"subscription": place.service.browser(str(number)).subscription()}
        assert said in unescape((await person.submit(page, wanted, form="/notifications/browser")).text)


def test_the_vaults_key_is_the_same_in_every_process_and_another_in_every_vault() -> None:
    def public_point(subkey: bytes) -> bytes:
        return point(web_push.application_key(subkey))

    assert public_point(b"a" * 32) == public_point(b"a" * 32)
    assert public_point(b"a" * 32) != public_point(b"b" * 32)


def test_messages_are_encrypted_as_the_standards_example_is() -> None:
    """RFC 8291 appendix A."""
    sender = ec.derive_private_key(
        int.from_bytes(decode("yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"), "big"), ec.SECP256R1()
    )
    subscription = web_push.PushSubscription(
        "https://push.example.net/push/JzLQ3raZJfFBR0aqvOMsLrt54w4rJUsV",
        decode("BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"),
        decode("BTBZMqHH6r4Tts7J_aSIgg"),
    )
    made = web_push.encrypt_with(
        b"When I grow up, I want to be a watermelon", subscription, sender, salt=decode("DGv6ra1nlYgDCS1FRnbzlw")
    )
    assert encode(made) == (
        "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_"
        "yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
    )
