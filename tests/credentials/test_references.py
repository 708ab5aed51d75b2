"""References that people enter instead of keys: read when used if the operator allows it, and never shown."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from providers.credentials.references import is_below, prefix_problem
from providers.oauth.secret_references import SecretUnavailable
from server.connecting.entered_keys import open_keys
from server.deployment import ENTRIES_PER_HOUR
from server.secret_settings import SecretSettings
from server.secret_sources import EnteredSecrets, SecretSources
from server.settings import SettingsRefused, load_settings
from tests.support.doubles.scripted_server import ScriptedServer, scripted_server
from tests.support.doubles.secret_services import BAO_TOKEN, openbao, openbao_settings
from tests.support.inspection import read_events
from tests.support.person import Person
from tests.support.rooms.key_room import READ, WRITE, KeyRoom, running_key_room
from tests.support.rooms.portal_room import accounts_of
from vault import delegations
from vault.approvals import approvals
from vault.approvals.approvals import ToolCall
from vault.exchange.exchange import ExchangeRequest, exchange
from vault.records import Connection, Event, User
from vault.refresh import grant_checks
from vault.refusals import ApprovalRequired
from vault.upkeep import receipts

PATH = "people/{user}/mailroom"


@dataclass
class Place:
    """A vault that resolves references at `bao`, whose `secrets` the test changes."""

    room: KeyRoom
    bao: ScriptedServer
    secrets: dict[str, dict[str, str]]

    async def person(self) -> tuple[User, Person, str]:
        """A person, and a reference to their existing key."""
        user = await self.room.user()
        path = PATH.format(user=user.name)
        self.secrets[path] = {"key": self.room.simulator.sandbox.keys.make(user.name)}
        return user, await self.room.signed_in(user), f"bao://secret/{path}#key"

    def key(self, user: User) -> str:
        """This person's key at the source."""
        return self.secrets[PATH.format(user=user.name)]["key"]

    async def connect_account(self, provider: str = "mailroom", **more: str) -> tuple[User, Connection]:
        """Connect a person's account with a reference."""
        user, person, reference = await self.person()
        return user, await self.room.connect_account(user, person, provider, key=reference, **more)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Place]:
    secrets: dict[str, dict[str, str]] = {}
    async with scripted_server(openbao(secrets)) as bao:
        settings = openbao_settings(bao.url, "bao://secret/people/{user}/", "bao://secret/shared/")
        async with running_key_room(tmp_path_factory.mktemp("references"), overrides={"secrets": settings}) as room:
            yield Place(room, bao, secrets)


async def exchanges(place: Place, user: User) -> list[Event]:
    """The events of each use."""
    found = await read_events(place.room.deployment, user_id=user.id)
    return [one for one in found if one.kind == "token.exchanged"]


@pytest.mark.parametrize(
    ("provider", "way", "more"),
    [
        ("mailroom", "header", {}),
        ("mailroom-bearer", "bearer", {"label": "My box"}),
        ("mailroom-basic", "password", {"login": "alice"}),
    ],
)
async def test_a_key_is_read_where_it_is_kept_for_each_use(
    place: Place, provider: str, way: str, more: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    room = place.room
    with caplog.at_level(logging.DEBUG):
        user, connection = await place.connect_account(provider, **more)
        handle = await room.allow_agent(user, connection, WRITE)
        for _ in range(2):
            before = len(place.bao.arrivals)
            answer = await handle.call("POST", "/messages?later=1", api="main", json={"to": place.key(user)})
            assert (answer.status_code, answer.json()["to"]) == (200, "*" * len(place.key(user)))
            assert len(place.bao.arrivals) == before + 1
    assert (room.books()[-1]["way"], room.books()[-1]["account"]) == (way, user.name)
    used = await exchanges(place, user)
    assert [one.details.get("secret_source") for one in used] == ["bao", "bao"]
    assert place.key(user) not in caplog.text + str([one.details for one in used])


async def test_a_key_that_the_vault_holds_is_read_nowhere(place: Place) -> None:
    user = await place.room.user()
    connection = await place.room.connect_account(user, await place.room.signed_in(user))
    handle, before = await place.room.allow_agent(user, connection, READ), len(place.bao.arrivals)
    assert (await handle.call("GET", "/messages", api="main")).status_code == 200
    [used] = await exchanges(place, user)
    assert ("secret_source" in used.details, len(place.bao.arrivals)) == (False, before)


@pytest.mark.parametrize("is_elsewhere", [True, False])
async def test_a_decision_about_what_is_kept_elsewhere_is_not_repeated(place: Place, *, is_elsewhere: bool) -> None:
    user, person, key = await place.person()
    connection = await place.room.connect_account(user, person, key=key if is_elsewhere else place.key(user))
    who, now = (await place.room.allow_agent(user, connection, READ)).agent.principal, place.room.deployment.now()
    request = ExchangeRequest(who, "mailroom", READ, is_kept=True)
    token = await exchange(request, vault=place.room.deployment.vault, now=now)
    assert (token.basis is None, token.secret_source) == (is_elsewhere, "bao" if is_elsewhere else "")
    assert await grant_checks.source_of(place.room.deployment.vault, connection.id) == token.secret_source


@pytest.mark.parametrize("is_gone", [True, False])
async def test_what_is_revoked_at_the_source_is_dead_at_the_next_read(place: Place, *, is_gone: bool) -> None:
    user, connection = await place.connect_account()
    handle, path = await place.room.allow_agent(user, connection, READ), PATH.format(user=user.name)
    kept = place.secrets.pop(path) if is_gone else {}
    answer = await handle.call("GET", "/messages", api="main")
    assert (answer.status_code == 200) is not is_gone
    if is_gone:
        assert "kept elsewhere and can't be read" in answer.text
        assert "bao://" not in answer.text
        place.secrets[path] = kept  # nothing was lost
        assert (await handle.call("GET", "/messages", api="main")).status_code == 200


async def test_a_key_that_was_replaced_at_the_source_is_used_and_costs_no_account(place: Place) -> None:
    user, connection = await place.connect_account()
    handle, keys = await place.room.allow_agent(user, connection, READ), place.room.simulator.sandbox.keys
    keys.delete(place.key(user))
    answer = await handle.call("GET", "/messages", api="main")
    [held] = await accounts_of(place.room, user)
    assert (answer.headers["token-vault-refusal"], held.state.value) == ("upstream_unauthorized", "active")
    place.secrets[PATH.format(user=user.name)]["key"] = keys.make(user.name)
    assert (await handle.call("GET", "/messages", api="main")).status_code == 200


async def test_a_decision_comes_before_the_source_is_asked(place: Place) -> None:
    user, connection = await place.connect_account()
    handle, before = await place.room.allow_agent(user, connection, READ), len(place.bao.arrivals)
    refused = await handle.call("POST", "/messages", api="main", json={})
    assert refused.status_code == 403, refused.text
    assert len(place.bao.arrivals) == before
    assert (await handle.call("GET", "/messages", api="main")).status_code == 200


@pytest.mark.parametrize("is_approved", [True, False])
async def test_an_approval_is_spent_once_before_the_source_is_asked(place: Place, *, is_approved: bool) -> None:
    (user, connection), deployment = await place.connect_account(), place.room.deployment
    who, now = (await place.room.allow_agent(user, connection, READ)).agent.principal, deployment.now()
    call, held = ToolCall("mailroom_list", lambda: {"box": "in"}), {"user_id": user.id, "client_id": who.client_id}
    async with deployment.transaction() as transaction:
        await delegations.set_ask(transaction, **held, connection_id=connection.id, ask=READ, now=now)
        asked, _ = await approvals.ask(
            transaction,
            deployment.keys,
            call=call,
            principal=who,
            connection_id=connection.id,
            provider="mailroom",
            account=connection.account,
            label=connection.label,
            scopes=READ,
            now=now,
        )
    if is_approved:
        async with deployment.transaction() as transaction:
            await approvals.decide(transaction, asked.id, user_id=user.id, is_approved=True, now=now)
    request, before = ExchangeRequest(who, "mailroom", READ, call=call), len(place.bao.arrivals)
    if is_approved:
        assert (await exchange(request, vault=deployment.vault, now=now)).value == place.key(user)
    else:
        with pytest.raises(ApprovalRequired):
            await exchange(request, vault=deployment.vault, now=now)
    kinds = [one.kind for one in await read_events(deployment, user_id=user.id)]
    assert (kinds.count("approval.consumed"), len(place.bao.arrivals) - before) == (is_approved, is_approved)


@pytest.mark.parametrize(
    ("provider", "field", "reference", "said"),
    [
        ("mailroom", "key", "bao://secret/people/{user}/mailroom#key", ""),
        ("mailroom", "key", "bao://secret/people/somebody/mailroom#key", "secrets.entered"),
        ("mailroom", "key", "bao://secret/people/{user}/../somebody/mailroom#key", "secrets.entered"),
        ("mailroom", "key", "bao://secret/people/{user}/mailroom", "secrets.entered"),
        ("mailroom", "key", "file:///etc/passwd", "secrets.entered"),
        ("mailroom", "key", "env://PATH", "secrets.entered"),
        ("mailroom", "key", "bao://secret/people/{user}/mailroom#other", "can&#39;t be read from there"),
    ],
)
async def test_only_allowed_references_can_be_entered(
    place: Place, provider: str, field: str, reference: str, said: str
) -> None:
    user, person, _ = await place.person()
    place.secrets["people/somebody/mailroom"] = place.secrets[PATH.format(user=user.name)]
    values = {field: reference.format(user=user.name)} | ({"client_id": "abc"} if field != "key" else {})
    before = len(place.bao.arrivals)
    answer = await place.room.enter(person, await place.room.form(person, provider), **values)
    assert ("/connect/done/" in str(answer.url)) is not said, answer.text
    assert said in answer.text
    assert len(await accounts_of(place.room, user)) == (not said)
    assert "secrets.entered" not in said or len(place.bao.arrivals) == before


async def test_a_person_has_no_more_references_read_than_people_enter(place: Place) -> None:
    user, person, reference = await place.person()
    page, before = await place.room.form(person), len(place.bao.arrivals)
    for _ in range(ENTRIES_PER_HOUR):
        place.room.deployment.entries.spend(user.id, "mailroom", now=time.monotonic())
    assert "Too many attempts" in (await place.room.enter(person, page, key=reference)).text
    assert len(place.bao.arrivals) == before
    other = await place.room.enter(person, await place.room.form(person, "mailroom-user"), key=reference)
    assert "/connect/done/" in str(other.url), "other services count for themselves"


@pytest.mark.parametrize(
    ("allowed", "is_read"), [("bao://secret/people/{user}/", True), ("bao://secret/shared/", False)]
)
async def test_what_the_operator_no_longer_allows_is_not_read(allowed: str, *, is_read: bool) -> None:
    async with scripted_server(openbao({"people/alice/mailroom": {"key": "canary-0"}})) as bao:
        settings = SecretSettings.model_validate({"openbao_url": bao.url, "openbao_token": BAO_TOKEN})
        secrets, reference = (
            EnteredSecrets(SecretSources(settings), (allowed,), open_keys),
            "bao://secret/people/alice/mailroom#key",
        )
        if is_read:
            assert await secrets.read(reference) == "canary-0"
        else:
            with pytest.raises(SecretUnavailable, match=r"secrets\.entered"):
                await secrets.read(reference)
        assert len(bao.arrivals) == is_read


async def test_disconnecting_leaves_the_secret_at_its_source(place: Place) -> None:
    room, (user, connection) = place.room, await place.connect_account()
    person, before = await room.signed_in(user), len(place.bao.arrivals)
    page = await person.open(f"/connections/{connection.id}/disconnect")
    assert "The secret stays where it is kept" in page.text
    closed = await person.submit(page, form="/disconnect")
    assert "The secret stays where it is kept" in closed.text
    receipt = await receipts.get_receipt(room.deployment.database, connection.id)
    assert receipt is not None
    assert (receipt.result, receipt.reason, receipt.is_final) == ("unsupported", "kept_elsewhere", True)
    assert len(place.bao.arrivals) == before  # the key isn't read to find out


async def test_disconnecting_a_key_that_the_vault_holds_says_that_it_works(place: Place) -> None:
    room, user = place.room, await place.room.user()
    person = await room.signed_in(user)
    connection = await room.connect_account(user, person)
    page = await person.open(f"/connections/{connection.id}/disconnect")
    assert "stays where it is kept" not in page.text
    assert "it still works at the provider" in (await person.submit(page, form="/disconnect")).text


@pytest.mark.parametrize(
    ("reference", "prefix", "is_allowed"),
    [
        ("op://People/Slack/key", "op://People/", True),
        ("op://PeopleMore/Slack/key", "op://People/", False),
        ("op://People/..%2FAdmins/key", "op://People/", False),
        ("op://People/./key", "op://People/", False),
        ("bao://secret/team/key#value", "bao://secret/team/key#value", True),
        ("bao://secret/team/key#other", "bao://secret/team/key#value", False),
        ("bao://secret/alice/key#value", "bao://secret/{user}/", True),
        ("bao://secret/alicex/key#value", "bao://secret/{user}/", False),
        ("bao://secret/bob/key#value", "bao://secret/{user}/", False),
        ("bao://people/alice/key#token", "bao://people/{user}/key#token", True),
        ("bao://people/alice/key#token_admin", "bao://people/{user}/key#token", False),
        ("bao://people/alice/more/key#token", "bao://people/{user}/key#token", False),
        ("op://People/alice/key", "op://People/{user}/key", True),
        ("op://People/alice/key/other", "op://People/{user}/key", False),
        ("bws://be8e0ad8-d545-4017-a55a-b02f014d4158", "bws://", True),
        ("mr_live_0", "bao://secret/", False),
    ],
)
def test_a_reference_is_below_a_beginning(reference: str, prefix: str, *, is_allowed: bool) -> None:
    assert prefix_problem(prefix) is None
    assert is_below(reference, prefix, user="alice") is is_allowed


@pytest.mark.parametrize(
    ("prefix", "is_good"),
    [
        ("bao://secret/people/", True),
        ("bao://secret/people", False),
        ("bao://", False),
        ("file:///etc/", False),
        ("env://KEY", False),
        ("op://People/", True),
    ],
)
def test_the_setting_names_services_and_whole_folders(tmp_path: Path, prefix: str, *, is_good: bool) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f'[secrets]\nentered = ["{prefix}"]\n')
    if is_good:
        assert load_settings(file).secrets.entered == (prefix,)
    else:
        with pytest.raises(SettingsRefused, match="begin with op://, bws://, or bao://"):
            load_settings(file)
