"""The operator's rules on every surface: tools, exchange, proxy, and requests in the background."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from mcp_types import CallToolResult

from server.app import open_deployment
from server.policy import gate as gate_module
from server.policy.files import RulesRefused
from server.policy.gate import PolicyGate
from server.policy.schema import Action
from server.settings import load_settings
from tests.mcp.test_approve import link_of
from tests.support.harness import PASSWORD
from tests.support.inspection import read_events
from tests.support.person import Person
from tests.support.rooms.ciba_room import Asker, asker_client
from tests.support.rooms.exchange_room import Caller, ExchangeRoom, exchange_room, refusal_code
from tests.support.rooms.mcp_room import SLACK, Agent, text_of
from tests.support.rooms.oauth_world import World, error_of
from tests.support.rooms.proxy_room import READ, proxy_room
from tests.support.rules import look_twice, put
from vault import groups
from vault.records import Connection, Event
from vault.refusals import TemporarilyUnavailable

CHANNELS = 'forbid(principal, action == Action::"slack_channels", resource)'
POSTS = 'forbid(principal, action == Action::"slack_post", resource)'
ASK = f'@id("ask-first") @reason("posts are read first") @approval {POSTS};'


@dataclass
class RuledVault:
    """A vault with rules, and a way to write them."""

    exchanging: ExchangeRoom
    folder: Path
    shadow: Path

    @property
    def gate(self) -> PolicyGate:
        gate = self.exchanging.deployment.policy
        assert gate is not None
        return gate

    async def use(self, *rules: str, shadow: str = "") -> None:
        """Put these rules into effect, as the upkeep of a running vault does."""
        put(self.folder / "rules.cedar", "\n".join(rules))
        put(self.shadow / "rules.cedar", shadow)
        await look_twice(self.gate)

    async def agent(self, name: str) -> tuple[Agent, Connection]:
        place = self.exchanging.room
        await place.vault.add_user(name)
        agent = await place.agent(name)
        return agent, await place.connect(agent, "slack", scopes=SLACK)

    async def call(self, agent: Agent, tool: str, arguments: Mapping[str, object] = {}) -> CallToolResult:
        async with self.exchanging.room.client(agent) as client:
            return await client.call_tool(tool, dict(arguments))

    async def events(self, kind: str, agent: Agent | Caller) -> list[Event]:
        whose = agent.principal.client_id if isinstance(agent, Agent) else agent.client.id
        await self.exchanging.deployment.activity.settle()
        return [one for one in await self.exchanging.events(kind) if one.client_id == whose]


@pytest.fixture(scope="module")
async def ruled_vault(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[RuledVault]:
    base = tmp_path_factory.mktemp("ruled_vault")
    for name in ("rules", "shadow"):
        (base / name).mkdir()
    policy = {"folder": str(base / "rules"), "shadow_folder": str(base / "shadow")}
    admin = {"group_roles": {"CONTRACTORS": "auditor"}}
    async with exchange_room(base / "data", policy=policy, admin=admin) as opened:
        yield RuledVault(opened, base / "rules", base / "shadow")


@pytest.fixture(autouse=True)
async def fresh(ruled_vault: RuledVault) -> None:
    await ruled_vault.use()


# Tools


async def test_a_tool_is_refused_in_the_rules_words_and_the_activity_names_it(ruled_vault: RuledVault) -> None:
    agent, _ = await ruled_vault.agent("refused-person")
    assert not (await ruled_vault.call(agent, "slack_channels")).is_error
    await ruled_vault.use(f'@id("no-lists") @reason("channels are secret") {CHANNELS};')
    said = await ruled_vault.call(agent, "slack_channels")
    assert said.is_error
    assert "Rule no-lists: channels are secret" in text_of(said)
    (event,) = await ruled_vault.events("exchange.refused", agent)
    assert (event.details["code"], event.details["rule"]) == ("policy_refused", "no-lists")
    assert event.details["policy"] == ruled_vault.gate.digest
    await ruled_vault.use(f'@id("no-lists") {CHANNELS} when {{ context.strong }};')
    assert not (await ruled_vault.call(agent, "slack_channels")).is_error


async def test_a_rule_reads_the_person_their_groups_the_agent_and_its_address_as_they_are_now(
    ruled_vault: RuledVault,
) -> None:
    agent, _ = await ruled_vault.agent("Grouped-Person")
    deployment = ruled_vault.exchanging.deployment
    condition = 'when { principal in Group::"Contractors" && principal.name == "Grouped-Person" }'
    await ruled_vault.use(f'@id("contractors") {CHANNELS} {condition};')
    assert not (await ruled_vault.call(agent, "slack_channels")).is_error
    auditors = f'@id("auditors") {CHANNELS} when {{ principal.role == "auditor" }};'
    await ruled_vault.use(auditors)
    assert not (await ruled_vault.call(agent, "slack_channels")).is_error
    async with deployment.transaction() as transaction:
        group = await groups.create_group(transaction, "contractors", now=deployment.now())
        await groups.add_member(transaction, group.id, agent.principal.user_id, source="test", now=deployment.now())
    assert (await ruled_vault.call(agent, "slack_channels")).is_error, "by the role that the group gives"
    await ruled_vault.use(f'@id("contractors") {CHANNELS} {condition};')
    assert (await ruled_vault.call(agent, "slack_channels")).is_error
    inside = 'unless { context has address && context.address.isInRange(ip("127.0.0.0/8")) }'
    await ruled_vault.use(f'@id("inside") {CHANNELS} {inside};')
    assert not (await ruled_vault.call(agent, "slack_channels")).is_error
    await ruled_vault.use(f'@id("outside") {CHANNELS} {inside.replace("127.0.0.0", "10.0.0.0")};')
    assert (await ruled_vault.call(agent, "slack_channels")).is_error
    await ruled_vault.use(f'@id("agent") {CHANNELS} when {{ context.agent.name == "Test agent" }};')
    assert (await ruled_vault.call(agent, "slack_channels")).is_error


async def test_a_rule_can_ask_for_a_yes_to_exactly_this_call(ruled_vault: RuledVault) -> None:
    agent, _ = await ruled_vault.agent("yes-person")
    place = ruled_vault.exchanging.room
    await ruled_vault.use(ASK)
    post = {"channel": "#general", "text": "hello"}
    asked = await ruled_vault.call(agent, "slack_post", post)
    assert (await ruled_vault.events("exchange.refused", agent))[-1].details["rule"] == "ask-first"
    async with Person(place.url) as browser:
        await browser.sign_in("yes-person", PASSWORD)
        page = await browser.open(link_of(asked))
        await browser.submit(page, form="/approvals/", button=("decision", "allow"))
    other = await ruled_vault.call(agent, "slack_post", {**post, "text": "another"})
    assert link_of(other) != link_of(asked)
    assert not (await ruled_vault.call(agent, "slack_post", post)).is_error
    assert (await ruled_vault.call(agent, "slack_post", post)).is_error, "a yes is for one call"


# Exchange, proxy, requests


async def test_an_exchange_cant_get_what_a_rule_takes_from_a_tool(ruled_vault: RuledVault) -> None:
    place = ruled_vault.exchanging
    caller = await place.caller()
    agent = await place.agent(caller, "exchanging-person")
    await place.slack(agent)
    await ruled_vault.use(f'@id("posts") {POSTS};')
    no = await place.exchange(caller, agent.token, scope="chat:write")
    assert (no.status_code, refusal_code(no)) == (403, "access_denied")
    assert "Rule posts" in no.json()["error_description"]
    assert (await place.exchange(caller, agent.token, scope="channels:read")).status_code == 200
    await ruled_vault.use('@id("tokens") forbid(principal, action == Action::"exchange", resource);')
    assert refusal_code(await place.exchange(caller, agent.token, scope="channels:read")) == "access_denied"
    assert not (await ruled_vault.call(agent, "slack_channels")).is_error, "its tools are no exchange"


async def test_a_token_that_goes_out_whole_is_judged_by_all_that_it_can_do(ruled_vault: RuledVault) -> None:
    place = ruled_vault.exchanging
    narrowed, full = await place.caller(), await place.caller(release={"slack": "full"})
    for rule, refusal in (
        (f'@id("posts") {POSTS};', "access_denied"),
        (ASK, "authorization_pending"),
        ('@id("mails") forbid(principal, action == Action::"gmail_send", resource);', None),
    ):
        for caller, name in ((narrowed, "narrowed-person"), (full, "full-person")):
            agent = await place.agent(caller, f"{name}-{refusal}")
            await place.slack(agent)
            await ruled_vault.use(rule)
            answer = await place.exchange(caller, agent.token, scope="channels:read")
            if caller is full and refusal is not None:
                assert refusal_code(answer) == refusal
            else:
                assert answer.status_code == 200, answer.text


async def test_each_proxied_call_is_judged_even_right_after_another(tmp_path: Path) -> None:
    folder = tmp_path / "rules"
    folder.mkdir()
    async with proxy_room(tmp_path / "data", policy={"folder": str(folder)}) as place:
        handle = await place.ready(scopes=READ)
        gate = place.vault.deployment.policy
        assert gate is not None
        assert (await handle.call("GET", "/conversations.list")).status_code == 200
        condition = 'when { context.method == "GET" && context.path == "/conversations.list" }'
        (folder / "a.cedar").write_text(
            f'@id("lists") forbid(principal, action == Action::"proxy", resource) {condition};'
        )
        await look_twice(gate)
        no = await handle.call("GET", "/conversations.list")
        assert no.status_code == 403
        assert no.headers["token-vault-refusal"] == "policy_refused"
        assert "Rule lists" in no.text
        assert (await handle.call("GET", "/conversations.info?channel=C1")).status_code == 200
        events = await read_events(place.vault.deployment)
        told = [str(one.details["path"]) for one in events if one.kind == "token.exchanged"]
        assert sorted(told) == ["/conversations.info", "/conversations.list"]


async def test_a_client_may_be_kept_from_asking_a_person_in_the_background(ruled_vault: RuledVault) -> None:
    place = ruled_vault.exchanging
    person = await place.room.vault.add_user("asked-person")
    async with place.room.vault.person() as browser:
        world = World(place.room.vault, browser, place.http)
        asker = Asker(world, await asker_client(world), person)
        assert (await asker.post()).status_code == 200
        await ruled_vault.use(
            '@id("quiet") @reason("nobody is asked") forbid(principal, action == Action::"request", resource);'
        )
        no = await asker.post()
        assert error_of(no) == "access_denied"
        assert "Rule quiet: nobody is asked" in no.json()["error_description"]
        (event,) = await asker.events("approval.refused")
        assert event.details["rule"] == "quiet"


# What a rule can't do


async def test_rules_widen_nothing(ruled_vault: RuledVault) -> None:
    """A rule that permits everything is refused, and a vault with rules allows no more than one without."""
    place = ruled_vault.exchanging.room
    await place.vault.add_user("poor-person")
    agent = await place.agent("poor-person")
    connection = await place.connect(agent, "slack", scopes=SLACK, delegated=frozenset({"channels:read"}))
    (ruled_vault.folder / "wide.cedar").write_text('@id("all") permit(principal, action, resource);')
    with pytest.raises(TemporarilyUnavailable, match=r"wide\.cedar:1: a rule can only take away"):
        await look_twice(ruled_vault.gate)
    (ruled_vault.folder / "wide.cedar").unlink()
    await ruled_vault.use('@id("narrow") forbid(principal, action, resource) when { context.hour > 24 };')
    assert (await ruled_vault.call(agent, "slack_post", {"channel": "#general", "text": "x"})).is_error
    await place.allow(agent, connection, SLACK)
    assert not (await ruled_vault.call(agent, "slack_post", {"channel": "#general", "text": "x"})).is_error


async def test_unusable_rules_leave_the_earlier_ones_in_force(ruled_vault: RuledVault) -> None:
    agent, _ = await ruled_vault.agent("steady-person")
    await ruled_vault.use(f'@id("steady") {CHANNELS};')
    digest = ruled_vault.gate.digest
    put(ruled_vault.folder / "rules.cedar", "forbid(")
    await ruled_vault.gate.refresh()
    for _ in range(2):
        with pytest.raises(TemporarilyUnavailable, match=r"policy\.folder: rules\.cedar:1"):
            await ruled_vault.gate.refresh()
    assert ruled_vault.gate.digest == digest
    assert (await ruled_vault.call(agent, "slack_channels")).is_error
    await ruled_vault.use()
    assert not (await ruled_vault.call(agent, "slack_channels")).is_error


async def test_a_tool_that_the_rules_were_not_checked_against_isnt_used(
    ruled_vault: RuledVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, _ = await ruled_vault.agent("later-person")
    await ruled_vault.use('@id("tokens") forbid(principal, action == Action::"exchange", resource);', shadow=ASK)
    rules, shadow = ruled_vault.gate.rules, ruled_vault.gate.shadow
    assert rules is not None
    assert shadow is not None
    earlier = {name: one for name, one in rules.actions.items() if name != "slack_channels"}
    with monkeypatch.context() as patch:
        patch.setattr(rules, "actions", earlier)
        said = await ruled_vault.call(agent, "slack_channels")
        assert said.is_error
        assert "don't know this tool yet" in text_of(said)
    monkeypatch.setattr(shadow, "actions", earlier)
    assert not (await ruled_vault.call(agent, "slack_channels")).is_error


async def test_a_vault_with_unusable_rules_doesnt_open(tmp_path: Path) -> None:
    folder = tmp_path / "rules"
    folder.mkdir()
    settings = load_settings(overrides={"policy": {"folder": str(folder)}})
    async with open_deployment(settings, data=tmp_path / "data"):
        pass
    (folder / "x.cedar").write_text('@id("x") forbid(principal, action, resource) when { context.hours > 3 };')
    with pytest.raises(RulesRefused, match=r"^policy\.folder: x\.cedar:1: "):
        async with open_deployment(settings, data=tmp_path / "data"):
            pass


async def test_a_file_counts_once_two_looks_find_it_the_same(ruled_vault: RuledVault) -> None:
    agent, _ = await ruled_vault.agent("written-person")
    await ruled_vault.use(f'@id("steady") {CHANNELS};')
    digest = ruled_vault.gate.digest
    for half in ("", "// half of"):
        (ruled_vault.folder / "rules.cedar").write_text(half)
        await ruled_vault.gate.refresh()
        assert ruled_vault.gate.digest == digest
    assert (await ruled_vault.call(agent, "slack_channels")).is_error
    await ruled_vault.gate.refresh()
    assert ruled_vault.gate.digest != digest
    assert not (await ruled_vault.call(agent, "slack_channels")).is_error


async def test_files_that_change_while_they_are_read_change_nothing(
    ruled_vault: RuledVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ruled_vault.use(f'@id("steady") {CHANNELS};')
    digest = ruled_vault.gate.digest
    load = gate_module.load

    def load_while_written(folder: Path, actions: Mapping[str, Action], *, setting: str) -> object:
        found = load(folder, actions, setting=setting)
        put(ruled_vault.folder / "rules.cedar", f'@id("later") {CHANNELS};')
        return found

    put(ruled_vault.folder / "rules.cedar", "")
    with monkeypatch.context() as patch:
        patch.setattr(gate_module, "load", load_while_written)
        with pytest.raises(TemporarilyUnavailable, match="rename it"):
            await look_twice(ruled_vault.gate)
    assert ruled_vault.gate.digest == digest
    await look_twice(ruled_vault.gate)
    assert ruled_vault.gate.rules is not None
    assert [one.name for one in ruled_vault.gate.rules.rules] == ["later"]


# Rules to try


async def test_shadow_rules_with_a_mistake_hold_up_nothing_and_are_told(ruled_vault: RuledVault) -> None:
    agent, _ = await ruled_vault.agent("urgent-person")
    with pytest.raises(TemporarilyUnavailable, match=r"policy\.shadow_folder: rules\.cedar:1"):
        await ruled_vault.use(f'@id("urgent") {CHANNELS};', shadow="forbid(")
    assert (await ruled_vault.call(agent, "slack_channels")).is_error
    assert ruled_vault.gate.shadow is None
    with pytest.raises(TemporarilyUnavailable, match=r"policy\.shadow_folder"):
        await ruled_vault.gate.refresh()
    await ruled_vault.use(shadow=f'@id("try") {CHANNELS};')
    assert ruled_vault.gate.shadow is not None
    assert not (await ruled_vault.call(agent, "slack_channels")).is_error


async def test_a_vault_with_unusable_shadow_rules_opens_without_them(tmp_path: Path) -> None:
    folder = tmp_path / "shadow"
    folder.mkdir()
    (folder / "x.cedar").write_text("forbid(")
    settings = load_settings(overrides={"policy": {"shadow_folder": str(folder)}})
    async with open_deployment(settings, data=tmp_path / "data") as deployment:
        assert deployment.policy is not None
        assert deployment.policy.shadow is None
        with pytest.raises(TemporarilyUnavailable, match=r"policy\.shadow_folder: x\.cedar:1"):
            await deployment.policy.refresh()


async def test_shadow_rules_are_counted_and_do_nothing(ruled_vault: RuledVault) -> None:
    agent, _ = await ruled_vault.agent("shadowed-person")
    await ruled_vault.use(shadow=f'@id("try") {CHANNELS};')
    before = ruled_vault.gate.disagreements["allow", "forbid"]
    assert not (await ruled_vault.call(agent, "slack_channels")).is_error
    assert ruled_vault.gate.disagreements["allow", "forbid"] == before + 1
    (event,) = await ruled_vault.events("policy.disagreed", agent)
    assert (event.details["rule"], event.details["would"], event.details["purpose"]) == (
        "try",
        "forbid",
        "slack_channels",
    )
    await ruled_vault.use(f'@id("try") {CHANNELS};', shadow=f'@id("try") {CHANNELS};')
    assert (await ruled_vault.call(agent, "slack_channels")).is_error
    assert ruled_vault.gate.disagreements["allow", "forbid"] == before + 1


async def test_which_rules_are_used_is_in_the_activity(ruled_vault: RuledVault) -> None:
    await ruled_vault.use(f'@id("known") {CHANNELS};')
    loaded = await ruled_vault.exchanging.events("policy.loaded")
    assert loaded[-1].details["policy"] == ruled_vault.gate.digest
    await ruled_vault.gate.refresh()
    assert len(await ruled_vault.exchanging.events("policy.loaded")) == len(loaded), "once for each change"
