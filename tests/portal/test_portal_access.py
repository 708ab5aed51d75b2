"""Access: four choices for an agent and an account, saved as a difference, described in words, can be undone once."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import httpx2
import pytest

from server.portal.access.access_changes import UNDO_LIFETIME
from tests.support.person import Person, forms_of
from tests.support.refused_pages import is_refused
from tests.support.rooms.portal_room import Room
from vault import connections, delegations
from vault.exchange.approval_rules import WRITES
from vault.records import Client, ClientKind, Connection, Delegation, User

READS = frozenset({"channels:read", "channels:history"})
ALL = READS | {"chat:write"}
Answers = dict[str, str | list[str] | None]


async def _account(
    room: Room, user: User, provider: str = "slack", *, label: str = "alice (Acme)", scopes: frozenset[str] = ALL
) -> Connection:
    return await room.account(user, provider, label=label, scopes=scopes)


async def _agent(room: Room, user: User, name: str = "Cursor") -> Client:
    client = await room.agent(name=name)
    await room.grant(user, client)
    return client


async def _live_delegation(room: Room, client: Client, connection: Connection) -> Delegation | None:
    found = await delegations.get(
        room.deployment.database, user_id=connection.user_id, client_id=client.id, connection_id=connection.id
    )
    return found if found is not None and found.is_live(room.deployment.now()) else None


async def _save(person: Person, client: Client, answers: Answers) -> httpx2.Response:
    return await person.submit(await person.open(f"/agents/{client.id}"), answers, form="/access")


def _message(page: httpx2.Response) -> str:
    found = re.search(r"<span>((?:Saved|Undone): [^<]*)</span>", page.text)
    return "" if found is None else found[1]


async def test_the_four_choices_give_nothing_what_reads_everything_or_what_is_ticked(room: Room) -> None:
    user = await room.user()
    person, client, slack = await room.signed_in(user), await _agent(room, user), await _account(room, user)
    level = f"level.{slack.id}"
    steps: list[tuple[Answers, frozenset[str], str]] = [
        ({level: "read"}, READS, "Saved: Cursor can now read Slack."),
        ({level: "write"}, ALL, "Saved: Cursor can now post, change, and delete messages as you on Slack."),
        ({level: "read"}, READS, "Saved: Cursor can no longer post, change, and delete messages as you on Slack."),
        (
            {level: "custom", "use": [f"{slack.id} chat:write"]},
            frozenset({"chat:write"}),
            "Saved: Cursor has the permissions you chose on Slack.",
        ),
        ({level: "off"}, frozenset(), "Saved: Cursor can no longer use Slack."),
        ({level: "custom", "use": []}, frozenset(), ""),
    ]
    for answers, scopes, message in steps:
        page = await _save(person, client, answers)
        held = await _live_delegation(room, client, slack)
        assert (frozenset[str]() if held is None else held.scopes) == scopes, answers
        assert _message(page) == message
    assert (await room.kinds(user))[-5:] == [*["delegation.changed"] * 4, "delegation.revoked"]


async def test_only_the_difference_is_written(room: Room) -> None:
    user = await room.user()
    person, client = await room.signed_in(user), await _agent(room, user)
    slack, google = await _account(room, user), await _account(room, user, "google", scopes=frozenset({"openid"}))
    async with room.deployment.transaction() as transaction:
        await delegations.allow(
            transaction,
            user_id=user.id,
            client_id=client.id,
            connection_id=slack.id,
            scopes=frozenset({"channels:read"}),
            now=room.deployment.now(),
            expires_at=room.deployment.now() + 100_000,
        )
    before = await _live_delegation(room, client, slack)
    await _save(person, client, {f"level.{google.id}": "write"})
    assert await _live_delegation(room, client, slack) == before, "to the second"
    assert "delegation.changed" not in await room.kinds(user), "an account without scopes has nothing to give"


async def test_writes_are_asked_about_with_every_tool_that_writes_and_only_these(room: Room) -> None:
    user = await room.user()
    person, client, slack = await room.signed_in(user), await _agent(room, user), await _account(room, user)
    page = await _save(person, client, {f"level.{slack.id}": "write", f"asks.{slack.id}": "writes"})
    held = await _live_delegation(room, client, slack)
    assert held is not None
    writing = {f"tool:{one.name}" for one in room.deployment.tools if one.provider == "slack" and not one.read_only}
    reading = {f"tool:{one.name}" for one in room.deployment.tools if one.provider == "slack" and one.read_only}
    assert writing
    assert reading
    assert held.ask == writing | {WRITES, "chat:write"}, "named too, for a release that doesn't know the first"
    fields = dict(next(one for one in forms_of(page.text) if one.action.endswith("/access")).fields)
    assert fields[f"asks.{slack.id}"] == "writes"
    assert fields[f"level.{slack.id}"] == "write"
    page = await _save(person, client, {f"asks.{slack.id}": None})
    assert _message(page) == "Saved: Cursor no longer asks before it writes to Slack."
    held = await _live_delegation(room, client, slack)
    assert held is not None
    assert held.ask == frozenset()


async def test_what_a_command_asks_about_is_shown_under_custom_and_kept(room: Room) -> None:
    user = await room.user()
    person, client, slack = await room.signed_in(user), await _agent(room, user), await _account(room, user)
    ask = frozenset({"tool:slack_post", "chat:write"})
    which = {"user_id": user.id, "client_id": client.id, "connection_id": slack.id}
    async with room.deployment.transaction() as transaction:
        await delegations.allow(transaction, **which, scopes=ALL, now=room.deployment.now())
        await delegations.set_ask(transaction, **which, ask=ask, now=room.deployment.now())
    page = await person.open(f"/agents/{client.id}")
    fields = forms_of(page.text)[1].fields
    assert (f"level.{slack.id}", "custom") in [one for form in forms_of(page.text) for one in form.fields], fields
    page = await person.submit(page, {f"until.{slack.id}": "7"}, form="/access")
    held = await _live_delegation(room, client, slack)
    assert held is not None
    assert held.ask == ask


async def test_an_access_ends_with_its_last_day(room: Room) -> None:
    user = await room.user()
    person, client, slack = await room.signed_in(user), await _agent(room, user), await _account(room, user)
    page = await _save(person, client, {f"level.{slack.id}": "read", f"until.{slack.id}": "7"})
    held, now = await _live_delegation(room, client, slack), room.deployment.now()
    assert held is not None
    assert held.expires_at is not None
    assert held.expires_at % 86400 == 0
    assert now + 7 * 86400 <= held.expires_at <= now + 8 * 86400
    assert "Until " in page.text
    for refused in ("2001-01-01", "9999-01-01", "soon", "-1"):
        answer = await _save(person, client, {f"until.{slack.id}": refused})
        assert is_refused(answer, "end_day", 400), refused
        assert await _live_delegation(room, client, slack) == held
    day = datetime.fromtimestamp(now + 30 * 86400, UTC).date()
    await _save(person, client, {f"until.{slack.id}": day.isoformat()})
    held = await _live_delegation(room, client, slack)
    assert held is not None
    assert held.expires_at is not None
    assert datetime.fromtimestamp(held.expires_at - 1, UTC).date() == day
    page = await _save(person, client, {f"until.{slack.id}": ""})
    assert _message(page) == "Saved: Cursor can use Slack without an end date."
    held = await _live_delegation(room, client, slack)
    assert held is not None
    assert held.expires_at is None


async def test_one_account_of_a_provider_is_the_default(room: Room) -> None:
    user = await room.user()
    person, client = await room.signed_in(user), await _agent(room, user)
    first, second = await _account(room, user), await _account(room, user, label="alice (Other)")
    both: Answers = {f"level.{one.id}": "read" for one in (first, second)}
    await _save(person, client, both)
    for chosen, other in ((first, second), (second, first)):
        answers: Answers = {f"level.{chosen.id}": "custom", "default": chosen.id}
        await _save(person, client, answers)
        held, left = await _live_delegation(room, client, chosen), await _live_delegation(room, client, other)
        assert held is not None
        assert left is not None
        assert (held.is_default, left.is_default) == (True, False)


async def test_a_change_is_taken_back_once_and_that_too(room: Room) -> None:
    user = await room.user()
    person, client, slack = await room.signed_in(user), await _agent(room, user), await _account(room, user)
    await _save(person, client, {f"level.{slack.id}": "write", f"asks.{slack.id}": "writes", f"until.{slack.id}": "30"})
    before = await _live_delegation(room, client, slack)
    assert before is not None
    page = await _save(person, client, {f"level.{slack.id}": "off"})
    assert _message(page) == "Saved: Cursor can no longer use Slack."
    undone = await person.submit(page, form="/undo")
    assert _message(undone) == "Undone: Cursor can now read and write Slack."
    after = await _live_delegation(room, client, slack)
    assert after is not None
    assert (after.scopes, after.ask, after.expires_at) == (before.scopes, before.ask, before.expires_at)
    assert (await person.submit(page, form="/undo")).status_code == 410, "once"
    again = await person.submit(undone, form="/undo")
    assert _message(again) == "Undone: Cursor can no longer use Slack."
    assert await _live_delegation(room, client, slack) is None


@pytest.mark.requirement("S-173")
@pytest.mark.parametrize(
    "reason", ["nothing", "late", "another person", "changed since", "changed there and back", "cut off", "no token"]
)
async def test_a_change_is_taken_back_by_its_person_in_time_and_only_if_nothing_changed_since(
    room: Room, reason: str
) -> None:
    user = await room.user()
    person, client, slack = await room.signed_in(user), await _agent(room, user), await _account(room, user)
    await _save(person, client, {f"level.{slack.id}": "write"})
    page = await _save(person, client, {f"level.{slack.id}": "off"})
    sender, answers = person, Answers()
    match reason:
        case "late":
            room.deployment.database.clock_offset += UNDO_LIFETIME
        case "another person":
            other = await room.user()
            sender = await room.signed_in(other)
            await _agent(room, other)
            form = next(one for one in forms_of(page.text) if one.action.endswith("/undo"))
            answers = {"saved": dict(form.fields)["saved"]}
        case "changed since":
            await _save(person, client, {f"level.{slack.id}": "read"})
        case "changed there and back":
            for level in ("read", "off"):
                await _save(person, client, {f"level.{slack.id}": level})
        case "cut off":
            await person.submit(await person.open(f"/agents/{client.id}/cut-off"), form="cut-off")
        case "no token":
            answers = {"form_token": ""}
        case _:
            pass
    try:
        answer = await sender.submit(page, answers, form="/undo")
    finally:
        room.deployment.database.clock_offset = 0
    held = await _live_delegation(room, client, slack)
    if reason == "nothing":
        assert answer.status_code == 200
        assert held is not None
        assert held.scopes == ALL
    else:
        assert answer.status_code in {403, 409, 410}
        assert held is None or held.scopes == READS


async def test_undo_gives_back_no_scope_that_the_account_has_lost(room: Room) -> None:
    user = await room.user()
    person, client, slack = await room.signed_in(user), await _agent(room, user), await _account(room, user)
    await _save(person, client, {f"level.{slack.id}": "write"})
    page = await _save(person, client, {f"level.{slack.id}": "off"})
    async with room.deployment.transaction() as transaction:
        await transaction.execute("update connections set scopes = 'channels:read' where id = :id", {"id": slack.id})
    await person.submit(page, form="/undo")
    held = await _live_delegation(room, client, slack)
    assert held is not None
    assert held.scopes == {"channels:read"}


async def test_the_page_of_an_account_sets_the_same_access(room: Room) -> None:
    user = await room.user()
    person, slack = await room.signed_in(user), await _account(room, user)
    first, second = await _agent(room, user, "Cursor"), await _agent(room, user, "Claude")
    page = await person.open(f"/connections/{slack.id}")
    page = await person.submit(
        page, {f"level.{first.id}": "read", f"level.{second.id}": "write"}, form=f"/connections/{slack.id}/access"
    )
    assert page.url.path == f"/connections/{slack.id}"
    assert {"Cursor can now read Slack.", "Claude can now read and write Slack."} <= set(
        re.findall(r"\w+ can now [a-z ]+ Slack\.", _message(page))
    )
    held = [await _live_delegation(room, one, slack) for one in (first, second)]
    assert [None if one is None else one.scopes for one in held] == [READS, ALL]
    page = await person.submit(page, form="/undo")
    assert [await _live_delegation(room, one, slack) for one in (first, second)] == [None, None]
    stranger = await room.signed_in(await room.user())
    for path in (f"/connections/{slack.id}", f"/agents/{first.id}"):
        assert (await stranger.http.get(path)).status_code == 404


async def test_the_consent_page_shows_accounts_that_the_agents_tools_can_use(room: Room) -> None:
    user = await room.user()
    exchanging = frozenset({"authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:token-exchange"})
    person = await room.signed_in(user)
    client = await room.agent(ClientKind.MANUAL, grant_types=exchanging)
    slack = await _account(room, user)
    other = await _account(room, user, "asana", label="Tasks", scopes=frozenset({"tasks:read"}))
    assert not [one for one in room.deployment.tools if one.provider == "asana"]
    with_tools = (await person.open(room.authorize_path(client))).text
    with_exchange = (await person.open(room.authorize_path(client, scope="tools exchange"))).text
    for connection, shown in ((slack, (True, True)), (other, (False, True))):
        assert (f"level.{connection.id}" in with_tools, f"level.{connection.id}" in with_exchange) == shown
    page = await person.open(room.authorize_path(client))
    hidden: Answers = {f"level.{slack.id}": "read", f"level.{other.id}": "write"}
    answer = await person.submit(page, hidden, form="/consent", button=("decision", "allow"))
    assert answer.status_code == 303
    given = await delegations.list_for_client(room.deployment.database, user.id, client_id=client.id)
    assert [(one.connection_id, one.scopes) for one in given] == [(slack.id, READS)]


async def test_an_account_gets_a_name_of_the_persons_own(room: Room) -> None:
    user = await room.user()
    person, slack = await room.signed_in(user), await _account(room, user)
    for name, shown in (("  Work   chat ", "Work chat"), ("<b>&", "&lt;b&gt;&amp;"), ("", "")):
        page = await person.submit(await person.open(f"/connections/{slack.id}"), {"nickname": name}, form="/rename")
        assert page.status_code == 200
        assert not shown or f"<bdi>{shown}</bdi>" in (await person.open("/connections")).text
    assert "connection.renamed" in await room.kinds(user)
    for refused in ("x" * 61, "a\u202eb", "a\x00b"):
        page = await person.submit(await person.open(f"/connections/{slack.id}"), {"nickname": refused}, form="/rename")
        assert page.status_code == 400, refused
    stored = await connections.get_connection(room.deployment.database, slack.id, user_id=user.id)
    assert stored is not None
    assert stored.nickname == ""


async def test_what_needs_the_person_is_counted_on_every_page_and_in_the_title(room: Room) -> None:
    user = await room.user()
    person, slack = await room.signed_in(user), await _account(room, user)
    assert "<title>Agents" in (await person.open("/agents")).text
    async with room.deployment.transaction() as transaction:
        await transaction.execute("update connections set state = 'needs_reauth' where id = :id", {"id": slack.id})
    for path in ("/", "/agents", "/connections", "/activity", "/account"):
        text = (await person.open(path)).text
        assert "<title>(1) " in text, path
        assert 'class="count">1<' in text, path
    home = (await person.open("/")).text
    assert "Needs your attention" in home
    assert "Slack: Reconnect needed" in home
