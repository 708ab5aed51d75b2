"""Refusals of pages, in the words that a person reads, each with the same request that passes without that reason."""

from __future__ import annotations

import ast
import html
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import httpx2
import pytest

from server.http import page_texts
from server.portal.csrf import form_token
from tests.portal.notices.test_notifications import ask
from tests.portal.sign_in.test_passkeys import holder, options_of, submit_answer
from tests.support.doubles.mailbox import running_receiver
from tests.support.harness import PASSWORD
from tests.support.person import Person, session_token
from tests.support.refused_pages import is_refused
from tests.support.rooms.portal_room import Room
from vault import users
from vault.notices import channels

ROOT = Path(__file__).parents[2]
_OWN = Path(__file__)


async def post(room: Room, person: Person, path: str, **fields: str) -> httpx2.Response:
    """Send a form as this person, possibly one that no page offered."""
    key = room.deployment.keys.subkey("csrf")
    token = form_token(key, session_token(person.http), action=path)
    return await person.http.post(path, data={"form_token": token, **fields}, headers={"Origin": room.url})


async def test_activity_is_exported_in_two_forms(room: Room) -> None:
    person = await room.signed_in()
    assert is_refused(await person.open("/activity/export?format=xml"), "export_format", 400)
    for form in ("csv", "jsonl"):
        assert (await person.open(f"/activity/export?format={form}")).status_code == 200


async def test_a_form_has_a_size_and_no_nul(room: Room) -> None:
    person = await room.signed_in(await room.user())
    sent = {"kind": "webhook", "target": "https://hooks.example/alice"}
    for more, name, status in (("x" * 65_536, "form_large", 413), ("a\0", "form_bytes", 400)):
        answer = await post(room, person, "/notifications/channels", **sent, more=more)
        assert is_refused(answer, name, status)
    assert (await post(room, person, "/notifications/channels", **sent)).status_code == 303


async def test_a_person_sends_so_many_tests_in_an_hour(room: Room) -> None:
    user = await room.user()
    person, deployment = await room.signed_in(user), room.deployment
    async with running_receiver() as receiver:
        await post(room, person, "/notifications/channels", kind="webhook", target=f"{receiver.url}/a")
        (channel,) = await channels.list_channels(deployment.database, deployment.keys, user.id)
        path = f"/notifications/{channel.id}"
        for _ in range(10):
            assert (await post(room, person, path, action="test")).status_code == 303
        assert is_refused(await post(room, person, path, action="test"), "many_messages", 429)
        deployment.database.clock_offset += 2 * 3600
        assert (await post(room, person, path, action="test")).status_code == 303
        assert is_refused(await post(room, person, "/notifications/nothing", action="remove"), "no_channel", 404)
        assert (await post(room, person, path, action="remove")).status_code == 303


async def test_an_agent_that_is_gone_has_no_page(room: Room) -> None:
    user, client = await room.user(), await room.agent()
    await room.grant(user, client)
    person = await room.signed_in(user)
    unknown = await person.open("/agents/nothing")
    assert is_refused(unknown, "no_agent", 404)
    assert '<a class="button primary" href="/agents">' in unknown.text, "the next step"
    assert (await person.open(f"/agents/{client.id}")).status_code == 200
    assert is_refused(await post(room, person, "/agents/nothing/cut-off"), "no_agent", 404)
    assert (await post(room, person, f"/agents/{client.id}/cut-off")).status_code == 303


async def test_an_address_has_no_nul(room: Room) -> None:
    person = await room.signed_in(await room.user())
    assert is_refused(await person.open("/activity?tool=a%00"), "address", 400)
    assert (await person.open("/activity?tool=a")).status_code == 200


@pytest.mark.parametrize(
    ("changes", "is_taken"),
    [({}, True), ({"language": "xx"}, False), ({"how.approval": "never"}, False), ({"digest_at": "25:00"}, False)],
)
async def test_a_choice_of_notifications_is_one_of_the_page(
    room: Room, changes: dict[str, str], is_taken: bool
) -> None:
    person = await room.signed_in(await room.user())
    fields = {f"how.{kind}": "daily" for kind in channels.KINDS} | {"language": "en", "digest_at": "08:00"}
    answer = await post(room, person, "/notifications", **(fields | changes))
    assert (answer.status_code == 303, is_refused(answer, "notice_choice", 400)) == (is_taken, not is_taken)


async def test_a_channel_is_of_a_kind_that_there_is_and_confirmed_by_its_own_link(room: Room) -> None:
    """The twin of the second is in `test_notifications`: a mailed link confirms."""
    person = await room.signed_in(await room.user())
    long = "https://hooks.example/".ljust(1001, "b")
    for kind, target in (("push", ""), ("endpoint", ""), ("fax", ""), ("webhook", long)):
        sent = {"kind": kind, "target": target or "https://hooks.example/b"}
        assert is_refused(await post(room, person, "/notifications/channels", **sent), "notice_choice", 400)
    sent = {"kind": "webhook", "target": "https://hooks.example/b"}
    assert (await post(room, person, "/notifications/channels", **sent)).status_code == 303
    assert is_refused(await post(room, person, "/notifications/confirm", secret="nothing"), "confirm_over", 410)


async def test_an_approval_is_answered_by_a_button(room: Room) -> None:
    user, client = await room.user(), await room.agent()
    person, approval = await room.signed_in(user), await ask(room, user, client)
    path = f"/approvals/{approval}"
    for decision in ("", "maybe"):
        assert is_refused(await post(room, person, path, decision=decision), "no_decision", 400)
    assert (await post(room, person, path, decision="deny")).status_code == 303
    late = await post(room, person, path, decision="deny")
    assert (late.status_code, page_texts.english()["refused"]["too_late_title"] in late.text) == (410, True)
    stranger = await room.signed_in(await room.user())
    foreign = await post(room, stranger, path, decision="deny")
    assert foreign.status_code == 403
    assert page_texts.english()["refused"]["not_yours_title"] in html.unescape(foreign.text)


async def test_only_a_passkey_that_is_there_gets_a_name_or_goes(room: Room) -> None:
    one = await holder(room)
    page = await one.add()
    (found,) = set(re.findall(r'action="(/account/passkeys/[^"/]+)"', page.text)) - {"/account/passkeys/new"}
    for path, fields in (("", {"name": "Key"}), ("/remove", {})):
        refused = await post(room, one.person, f"/account/passkeys/nothing{path}", **fields)
        assert is_refused(refused, "no_passkey", 404)
        assert (await post(room, one.person, found + path, **fields)).status_code == 303


async def test_what_is_not_there_is_not_ended_or_taken_back(room: Room) -> None:
    """Twins with what is there: test_portal_journeys.py, test_review_page.py, test_imported_apis.py."""
    person = await room.signed_in(await room.user())
    assert is_refused(await post(room, person, "/approvals/standing/nothing/end"), "standing_over", 410)
    admin = await room.signed_in("alice")
    assert is_refused(await admin.open("/administration/tools/servers/nothing"), "no_server", 404)
    assert is_refused(await admin.open("/administration/tools/imports/nothing"), "no_import", 404)
    assert is_refused(await post(room, person, "/approvals/undo", saved="nothing"), "undo_over", 410)


async def test_a_person_tries_so_many_codes_in_ten_minutes(room: Room) -> None:
    person = await room.signed_in(await room.user())
    for _ in range(10):
        assert "Too many codes" not in (await post(room, person, "/device", user_code="ABCD-EFGH")).text
    assert is_refused(await post(room, person, "/device", user_code="ABCD-EFGH"), "many_codes", 429)
    room.deployment.database.clock_offset += 1800
    assert "Too many codes" not in (await post(room, person, "/device", user_code="ABCD-EFGH")).text


@pytest.mark.parametrize(("local", "is_in"), [(True, True), (False, False)])
async def test_who_signs_in_elsewhere_has_no_password_or_passkey_here(room: Room, local: bool, is_in: bool) -> None:
    one = await holder(room)
    await one.add()
    settings = room.deployment.settings.sign_in
    browsers = [await room.browser(), await room.browser()]
    pages = [await browser.open("/sign-in") for browser in browsers]
    object.__setattr__(settings, "local", local)
    try:
        password = await browsers[0].sign_in(one.user.name, PASSWORD, page=pages[0])
        passkey = await submit_answer(browsers[1], pages[1], one.device.get(options_of(pages[1])))
    finally:
        object.__setattr__(settings, "local", True)
    for answer, name in ((password, "no_passwords"), (passkey, "no_passkeys")):
        assert (answer.status_code == 200, is_refused(answer, name, 403)) == (is_in, not is_in), name


@pytest.mark.parametrize(
    ("missing", "name", "there"),
    [
        ("/connections/nothing", "no_connection", "/connections"),
        ("/connections/connect?provider=nothing", "no_provider", "/connections/connect?provider=slack"),
        ("/access-requests/new?group=nothing", "no_such_access", "/access-requests"),
    ],
)
async def test_what_is_not_there_has_no_page(room: Room, missing: str, name: str, there: str) -> None:
    person = await room.signed_in(await room.user())
    assert is_refused(await person.open(missing), name, 404)
    assert (await person.open(there)).status_code == 200


async def test_only_a_browser_that_is_signed_in_is_signed_out(room: Room) -> None:
    user = await room.user()
    person, other = await room.signed_in(user), await room.signed_in(user)
    assert is_refused(await post(room, person, "/account/sessions", session="nothing"), "no_session", 404)
    assert (await post(room, person, "/account/sessions", session="others")).status_code == 303
    assert (await other.http.get("/account")).status_code == 303


@pytest.mark.parametrize(("days", "is_on"), [(0, False), (30, True)])
async def test_access_is_asked_for_where_it_can_be(room: Room, days: int, is_on: bool) -> None:
    person, settings = await room.signed_in(await room.user()), room.deployment.settings.access_requests
    before = settings.longest_days
    object.__setattr__(settings, "longest_days", days)
    try:
        page = await person.open("/access-requests/new?group=nothing")
    finally:
        object.__setattr__(settings, "longest_days", before)
    assert is_refused(page, "requests_off", 403) == (not is_on)
    assert is_refused(page, "no_such_access", 404) == is_on


async def test_an_administrator_disables_others_only(room: Room) -> None:
    admin, other = await room.signed_in("alice"), await room.user()
    (own,) = [one.id for one in await users.list_users(room.deployment.database) if one.name == "alice"]
    refused = await post(room, admin, f"/administration/people/{own}/disable")
    assert is_refused(refused, "not_yourself", 409)
    assert (await post(room, admin, f"/administration/people/{other.id}/disable")).status_code == 303


async def test_a_registration_is_removed_where_there_is_one(room: Room) -> None:
    """The twin is in tests/portal/administration/test_admin_providers.py."""
    admin = await room.signed_in("alice")
    assert is_refused(await admin.open("/administration/providers/github/remove"), "no_registration", 404)


async def test_a_consent_is_of_a_request_that_is_open(room: Room) -> None:
    """The twin is every consent: test_portal_consent.py."""
    person = await room.signed_in(await room.user())
    assert is_refused(await person.open("/consent?handle=nothing"), "request_over", 410)


# Refusals whose words no test reads, with the reason.
_UNREAD = {
    "many_sign_ins": "by status: tests/portal/sign_in/test_signin_openid.py",
    "log_out": "by status: tests/auth0",
    "passkey": "with the words of WebAuthn's own refusals: tests/portal/sign_in/test_passkeys.py",
}


def _code_of(source: str) -> Iterator[ast.AST]:
    """The nodes of a test file without docstrings and without `_UNREAD`; comments aren't nodes."""
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        match node:
            case ast.Expr(value=ast.Constant(value=str())) | ast.Assign(targets=[ast.Name(id="_UNREAD")]):
                continue
            case _:
                yield node
                waiting += ast.iter_child_nodes(node)


@cache
def _said_in_tests() -> tuple[frozenset[str], frozenset[str]]:
    """Those strings of the tests' code that could be a refusal's words, and the names of refusals that they check."""
    others = {"test_page_texts.py", "test_translations.py"}
    strings, names = set[str](), set[str]()
    said = page_texts.english()["refused"]
    everything, pieces = "\n".join(said.values()), {piece for name in said for piece in _pieces_of(name)}

    def is_fit(text: str) -> bool:
        return (len(text) >= 10 and text in everything) or any(piece in text for piece in pieces)

    for path in (ROOT / "tests").rglob("*.py"):
        if "node_modules" in path.parts or path.name in others:
            continue
        text = path.read_text("utf-8")
        quoted = re.findall(r"[\"']([^\"'\n]{10,})[\"']", html.unescape(text))
        if "is_refused(" in text or '"refused"]' in text or is_fit(text) or any(one in everything for one in quoted):
            found, checked = _said_in(text, is_own=path == _OWN)
            strings |= {one for one in found if is_fit(one)}
            names |= checked
    return frozenset(strings), frozenset(names)


def _pieces_of(name: str) -> list[str]:
    """The parts of a refusal's words between values and markup."""
    words = page_texts.english()["refused"]
    said = [words.get(name, ""), words.get(f"{name}_title", "")]
    return [piece for one in said for piece in re.split(r"\{[^}]*\}|<[^>]*>", one) if len(piece) >= 10]


def _said_in(source: str, *, is_own: bool = False) -> tuple[set[str], set[str]]:
    """As `_said_in_tests`, for one file. In this file, names also stand in tables."""
    strings, names = set[str](), set[str]()
    for node in _code_of(source):
        match node:
            case ast.Constant(value=str(value)):
                strings.add(html.unescape(value))
            case ast.Call(func=ast.Name(id="is_refused"), args=[_, ast.Constant(value=str(name)), *_]):
                names.add(name)
            case ast.Subscript(
                value=ast.Subscript(slice=ast.Constant(value="refused")), slice=ast.Constant(value=str(name))
            ):
                names.add(name.removesuffix("_title"))
            case _:
                pass
    return strings, names | strings if is_own else names


def _names() -> Iterator[str]:
    """The refusals that pages raise themselves."""
    sources = [path.read_text("utf-8") for path in (ROOT / "server" / "portal").rglob("*.py")]
    for source in sources:
        for node in ast.walk(ast.parse(source)) if "PageRefused" in source else ():
            match node:
                case ast.Call(func=ast.Name(id="PageRefused"), args=[ast.Constant(value=str(name)), *_]):
                    yield name
                case _:
                    pass


def _is_read(name: str, strings: frozenset[str], names: frozenset[str]) -> bool:
    """Whether a test reads these words or names the refusal."""
    return name in names or any(
        piece in string or (string in piece and len(string) >= max(10, len(piece) / 2))
        for string in strings
        for piece in _pieces_of(name)
    )


@pytest.mark.parametrize(
    ("source", "is_read"),
    [
        ('assert is_refused(answer, "export_format", 400)', True),
        ('assert page_texts.english()["refused"]["export_format_title"] in page.text', True),
        ('assert "{words}" in page.text', True),
        ('assert f"{words} {number}" in page.text', True),
        ('# is_refused(answer, "export_format", 400): {words}', False),
        ('def test() -> None:\n    """{words}, and is_refused(answer, "export_format")."""', False),
        ('assert is_refused(answer, "another", 400)', False),
    ],
)
def test_only_code_counts_as_reading_a_refusal(source: str, is_read: bool) -> None:
    words = page_texts.english()["refused"]["export_format"]
    assert '"' not in words
    strings, names = _said_in(source.replace("{words}", words))
    assert _is_read("export_format", frozenset(strings), frozenset(names)) == is_read


def test_every_refusal_of_a_page_is_read_by_a_test() -> None:
    names = set(_names())
    unread = {name for name in names if not _is_read(name, *_said_in_tests())}
    assert unread - _UNREAD.keys() == set()
    assert _UNREAD.keys() - names == set(), "of refusals that are gone"
