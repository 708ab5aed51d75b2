"""Services by Apprise URL: a real receiver on loopback, a real child process, and what it may not do, with twins."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import warnings
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Final

import pytest

from providers.outbound.addresses import AddressPolicy
from server.app import open_deployment
from server.http.page_texts import section, text
from server.notices import delivery, services
from server.notices.delivery import deliver
from server.notices.http_post import NotAccepted, Post, Uncertain, post
from server.notices.service_process import Answers, service_of
from server.provider_settings import SettingsRefused
from server.settings import load_settings
from tests.portal.notices.test_notifications import SECRET, add, ask_about
from tests.support.doubles.mailbox import Receiver, running_receiver
from tests.support.rooms.portal_room import Room, running_room
from vault.notices import channels
from vault.records import Client, User

TOKEN = "AbCdEfGhIjKlMnO"
DISCORD = f"discord://{'1' * 18}/{'a' * 68}"


@dataclass
class Place:
    room: Room
    receiver: Receiver

    @property
    def url(self) -> str:
        """What a person enters: a Gotify server on this machine, and its token."""
        return f"gotify://{self.receiver.url.removeprefix('http://')}/{TOKEN}"


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Place]:
    async with running_receiver() as receiver:
        overrides = {"notices": {"apprise": True}}
        async with running_room(tmp_path_factory.mktemp("services"), overrides=overrides) as room:
            await deliver(room.deployment)  # start the feed
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(delivery, "PATIENCE", 60.0)  # seconds, because a busy machine starts programs slowly
                yield Place(room, receiver)


async def reach_person(place: Place) -> tuple[User, Client, str]:
    """A person with such a channel, an agent, and the page that followed."""
    user, client = await place.room.user(), await place.room.agent(name="*Cursor* <b>[x](https://evil.example)")
    person = await place.room.signed_in(user)
    return user, client, await add(person, "service", place.url)


async def test_a_service_gets_the_words_and_the_page_and_its_secret_stays_secret(place: Place) -> None:
    user, client, page = await reach_person(place)
    assert "Added." in page
    assert "gotify" in page
    assert TOKEN not in page
    deployment = place.room.deployment
    (channel,) = await channels.list_channels(deployment.database, deployment.keys, user.id)
    assert TOKEN not in repr(channel)
    (row,) = await deployment.database.fetch("select * from notice_channels where id = :id", {"id": channel.id})
    assert TOKEN.encode() not in b"".join(str(value).encode() for value in dict(row).values())
    place.receiver.posted.clear()
    await ask_about(place.room, user, client)
    assert await deliver(deployment) == 1
    ((path, body),) = place.receiver.posted
    assert path == "/message"
    sent = json.loads(body)
    assert "*Cursor* <b>[x](https://evil.example) was allowed" in sent["title"]
    assert f"{place.room.url}/agents/" in sent["message"]
    assert SECRET not in str(sent)
    place.receiver.status = 401
    await ask_about(place.room, user, client)
    await deliver(deployment)
    (channel,) = await channels.list_channels(deployment.database, deployment.keys, user.id)
    assert channel.failure == "refused"
    place.receiver.status = 200


@pytest.mark.parametrize(
    ("url", "is_added"),
    [
        ("tgram://123456789:AbCdEfGhIjKlMnOpQrStUvWxYz0123456789/12315544", True),
        ("tgram://123456789:AbCdEfGhIjKlMnOpQrStUvWxYz0123456789/12315544/12315545", False),
        (DISCORD, True),
        (f"{DISCORD}?template=/etc/passwd", False),
        (f"{DISCORD}?retry=3", False),
        ("file:///etc/passwd", False),
        ("json://127.0.0.1/", False),
        ("jsons://example.com/", False),
        ("dbus://", False),
        ("syslog://", False),
        ("mailtos://user:pass@example.com", False),
        ("tgram://", False),
        ("tgram:/x", False),
        ("https://example.com/hook", False),
    ],
)
async def test_only_urls_of_web_services_are_taken(place: Place, url: str, is_added: bool) -> None:
    page = await add(await place.room.signed_in(await place.room.user()), "service", url)
    assert ("Added." in page) == is_added
    assert (text("notifications.bad_service") in unescape(page)) == (not is_added)


async def test_nobody_names_a_service_where_the_operator_did_not_turn_it_on(place: Place) -> None:
    user, client, _ = await reach_person(place)
    person, settings = await place.room.signed_in(user), place.room.deployment.settings.notices
    assert text("channel.service") in (await person.open("/notifications")).text
    object.__setattr__(settings, "apprise", False)
    try:
        assert text("channel.service") not in (await person.open("/notifications")).text.partition("<select")[2]
        assert section("notice_failure")["no_services"] in unescape(await add(person, "service", place.url + "2"))
        place.receiver.posted.clear()
        await ask_about(place.room, user, client)
        await deliver(place.room.deployment)
        assert place.receiver.posted == []
    finally:
        object.__setattr__(settings, "apprise", True)
    await ask_about(place.room, user, client)
    await deliver(place.room.deployment)
    assert len(place.receiver.posted) == 1


@pytest.mark.parametrize(
    ("kind", "url", "is_shown"),
    [
        ("service", f"unknown://host/{TOKEN}", False),
        ("service", f"unknown://host/{TOKEN}" + "x" * 900, False),
        ("webhook", f"unknown://host/{TOKEN}", True),
    ],
)
async def test_a_url_that_is_not_taken_does_not_come_back(place: Place, kind: str, url: str, is_shown: bool) -> None:
    page = await add(await place.room.signed_in(await place.room.user()), kind, url)
    assert "Added." not in page
    assert (TOKEN in page) == is_shown


async def test_a_url_that_is_known_does_not_come_back(place: Place) -> None:
    user, _, _ = await reach_person(place)
    page = await add(await place.room.signed_in(user), "service", place.url)
    assert text("notifications.known") in unescape(page)
    assert TOKEN not in page


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"apprise": True}, ""),
        ({"apprise": True, "private_networks": ["10.20.0.0/16"]}, ""),
        ({"apprise": True, "private_networks": ["8.8.8.0/24"]}, "isn't inside a private network"),
        ({"apprise": True, "private_networks": ["gotify.internal"]}, "is a name"),
    ],
)
def test_private_networks_are_networks(settings: dict[str, object], message: str) -> None:
    if not message:
        load_settings(overrides={"notices": settings})
        return
    with pytest.raises(SettingsRefused, match=message):
        load_settings(overrides={"notices": settings})


@pytest.mark.parametrize(("further", "message"), [({}, ""), ({"outbound": {"proxy": "http://p:1"}}, "outbound.proxy")])
async def test_services_and_a_proxy_exclude_each_other(
    tmp_path: Path, further: dict[str, object], message: str
) -> None:
    settings = load_settings(overrides={"notices": {"apprise": True}, **further})
    if not message:
        async with open_deployment(settings, data=tmp_path / "vault", creates=True):
            return
    with pytest.raises(SettingsRefused, match=message):
        async with open_deployment(settings, data=tmp_path / "vault", creates=True):
            pass


def test_every_scheme_is_one_of_apprise_that_goes_over_tls() -> None:
    from apprise.manager_plugins import NotificationManager

    secure: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from its imports
        plugins = list(NotificationManager().plugins())
    for plugin in plugins:
        named = plugin.secure_protocol or ()
        secure |= {named} if isinstance(named, str) else set(named)
    assert secure >= services.SCHEMES
    assert services.SCHEMES.isdisjoint({"jsons", "xmls", "forms", "mailtos", "dbus", "syslog", "file", "mqtts"})


_ATTEMPTS = """
import json, os, socket, subprocess, sys
from ipaddress import ip_network
from providers.outbound.addresses import AddressPolicy
from server.notices.confinement import confine
own = os.open(os.devnull, os.O_RDONLY)
if sys.argv[1] == "confined":
    confine(AddressPolicy(allow_loopback=sys.argv[2] == "loopback", private_networks=(ip_network("10.9.0.0/16"),)))
port, folder = int(sys.argv[3]), sys.argv[4]
def connect(host):
    with socket.socket() as one:
        one.settimeout(0.2)
        try:
            one.connect((host, port))
        except TimeoutError:
            pass
attempts = {
    "connect": lambda: connect("127.0.0.1"),
    "private": lambda: connect("10.8.0.1"),
    "allowed": lambda: connect("10.9.0.1"),
    "metadata": lambda: connect("169.254.169.254"),
    "name": lambda: connect("localhost"),
    "datagram": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", port)),
    "local socket": lambda: socket.socket(socket.AF_UNIX).close(),
    "listen": lambda: socket.socket().bind(("127.0.0.1", 0)),
    "program": lambda: subprocess.run(["true"], check=True),
    "shell": lambda: os.system("true"),
    "fork": lambda: os.fork() or os._exit(0),
    "write": lambda: open(folder + "/new", "w").close(),
    "read": lambda: open(folder + "/secret").close(),
    "remove": lambda: os.remove(folder + "/secret"),
    "descriptor": lambda: os.fdopen(own).close(),
    "environment": lambda: open(sys.prefix + "/pyvenv.cfg").close(),
    "keys": lambda: open("/etc/ssl/other/key.pem").close(),
    "package": lambda: open(os.__file__).close(),
    "certificates": lambda: open("/etc/ssl/certs/other.pem").close(),
}
def outcome(attempt):
    try:
        attempt()
    except PermissionError:
        return "refused"
    except OSError:
        pass
    return "done"
sys.stdout.write(json.dumps({name: outcome(attempt) for name, attempt in attempts.items()}))
"""


_FREE: Final = frozenset({"allowed", "package", "certificates"})


def test_a_confined_process_reaches_allowed_addresses_and_nothing_else(tmp_path: Path) -> None:
    """Each attempt runs unconfined, confined to public addresses, and confined with loopback allowed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def try_addresses(kind: str, addresses: str) -> dict[str, str]:
            (tmp_path / "secret").write_text("secret")
            arguments = (kind, addresses, str(listener.getsockname()[1]), str(tmp_path))
            environment = {"PYTHONPATH": str(Path(services.__file__).parents[2]), "PATH": os.environ["PATH"]}
            ran = subprocess.run(
                [sys.executable, "-B", "-c", _ATTEMPTS, *arguments], capture_output=True, env=environment, check=True
            )
            return json.loads(ran.stdout)

        free = try_addresses("free", "public")
        assert set(free.values()) == {"done"}
        assert try_addresses("confined", "public") == {name: "done" if name in _FREE else "refused" for name in free}
        expected = {name: "done" if name in {*_FREE, "connect"} else "refused" for name in free}
        assert try_addresses("confined", "loopback") == expected


@pytest.mark.parametrize(("allows", "said"), [(True, "sent"), (False, "unreachable")])
async def test_nothing_leaves_without_tls_but_to_loopback(place: Place, allows: bool, said: str) -> None:
    """The process itself refuses before it connects; the form already refuses such a scheme."""
    job = {"url": place.url, "title": "a", "body": "b", "is_trial": False, "private_networks": []}
    place.receiver.posted.clear()
    ran = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-B", "-c", services.PROGRAM), stdin=asyncio.subprocess.PIPE, stdout=-1, env={}
    )
    answer, _ = await ran.communicate(json.dumps({**job, "allow_loopback": allows}).encode())
    assert answer.decode() == said
    assert len(place.receiver.posted) == (1 if allows else 0)


@pytest.mark.parametrize("listens", [True, False])
@pytest.mark.parametrize("way", ["service", "webhook"])
async def test_what_was_cut_off_may_have_arrived_and_what_never_connected_has_not(
    place: Place, way: str, listens: bool
) -> None:
    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    if not listens:
        server.close()
    deployment = place.room.deployment
    async with server:
        if way == "service":
            sending = services.send(deployment, f"gotify://{address}/{TOKEN}", title="a", body="b")
        else:
            sending = post(deployment, Post(f"http://{address}/", {}, b"{}", peer="hook", sender="one", timeout=10))
        with pytest.raises(Uncertain if listens else NotAccepted) as raised:
            await sending
    assert listens or "unreachable" in str(raised.value)


@pytest.mark.parametrize(
    ("statuses", "said"),
    [
        ((), "unreachable"),
        ((503,), "busy"),
        ((429, 400), "refused"),
        ((200,), "uncertain"),
        ((200, 503), "uncertain"),
        ((503, 204, 400), "uncertain"),
    ],
)
def test_a_later_refusal_does_not_undo_what_may_have_arrived(statuses: tuple[int, ...], said: str) -> None:
    seen = Answers()
    for status in statuses:
        seen.note(status)
    assert seen.failure == said


async def test_a_digest_of_many_words_arrives_and_its_end_is_cut(place: Place) -> None:
    place.receiver.posted.clear()
    title, notices = "50 things", "\n\n".join(["\N{CYCLONE}" * 200 + "\nhttps://vault.example/x"] * 50)
    await services.send(place.room.deployment, place.url, title=title, body=notices)
    ((_, sent),) = place.receiver.posted
    message = json.loads(sent)["message"]
    assert len(message.encode()) <= 8 * 1024
    assert notices.startswith(message)
    assert len(message) > 2000


def test_what_a_service_takes_no_more_of_is_cut_and_not_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from its imports
        service = service_of(f"{DISCORD}?overflow=split&verify=no")
    (part,) = service._apply_overflow(body="https://vault.example/\n" + "x" * 8000, title="50 things")
    assert len(part["body"]) + len(part["title"]) <= 2000
    assert part["body"].startswith("https://vault.example/")
    assert service.verify_certificate


def test_the_policy_is_the_one_of_our_own_client(place: Place) -> None:
    assert place.room.deployment.http.policy == AddressPolicy(allow_loopback=True)
