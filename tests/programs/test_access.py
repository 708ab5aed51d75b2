"""Which account a program's call uses, and what the person is asked: tested without a program."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from providers.definitions.catalog import load_catalog
from providers.definitions.unruled_calls import ANY_CALL
from server.programs.program_run import ProgramOptions, problem_of
from server.proxy import program_access
from server.proxy.program_access import (
    AccountChoice,
    PermissionWait,
    ProgramAccess,
    WantedCall,
    reads,
    stores_encoding,
)
from server.proxy.program_hosts import ApiAddress, HostMap, addresses_of, host_map, hosts_of
from server.proxy.wire import ProxyRefused
from server.settings import Settings
from tests.support.doubles.stopped_clock import stopped_clock
from tests.support.rooms.program_room import AGENT, READ, ProgramRoom, program_room
from vault import connections
from vault.records import Connection
from vault.storage.database_url import open_database

HOSTS = HostMap(one for name in ("github", "github-app", "aws") for one in addresses_of(load_catalog().provider(name)))
OBJECT = WantedCall("GET", "/box/one", b"")
S3_READ = frozenset({"s3:read"})


@pytest_asyncio.fixture(scope="module")
async def shared_room(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[ProgramRoom]:
    async with program_room(tmp_path_factory.mktemp("access")) as room:
        yield room


@pytest_asyncio.fixture
async def room(shared_room: ProgramRoom) -> AsyncGenerator[ProgramRoom]:
    await shared_room.allow(READ)
    shared_room.said.clear()
    yield shared_room


@asynccontextmanager
async def connect_another(
    room: ProgramRoom, name: str, provider: str = "github", token: str = "t"
) -> AsyncGenerator[Connection]:
    """Another account, which the agent may not use yet; disconnected at the end."""
    connection = await room.connect(name, token=token, provider=provider)
    try:
        yield connection
    finally:
        deployment = room.vault.deployment
        async with deployment.transaction() as transaction:
            await connections.disconnect(transaction, deployment.keys, connection, now=deployment.now(), by="test")


def key_in(region: str) -> str:
    key = {"access_key_id": "AKIAIOSFODNN7EXAMPLE", "secret_access_key": "s" * 40, "region": region}
    return json.dumps(key)


def calls(path: str) -> tuple[Sequence[ApiAddress], WantedCall]:
    return HOSTS.find("api.github.com", 443, path), WantedCall("GET", path, b"")


def bucket(region: str) -> Sequence[ApiAddress]:
    return HOSTS.find(f"s3.{region}.amazonaws.com", 443, OBJECT.path)


async def code_of(choosing: object) -> str:
    with pytest.raises(ProxyRefused) as refused:
        await choosing  # pyright: ignore[reportGeneralTypeIssues]
    return refused.value.code


async def test_a_name_chooses_between_accounts_of_two_providers_at_one_host(room: ProgramRoom) -> None:
    async with connect_another(room, "Installation 7", "github-app") as installation:
        await room.allow(READ, connection=installation)
        found, call = calls("/repos/octo/hello")
        assert {one.provider for one in found} == {"github", "github-app"}
        async with room.access() as access:
            assert await code_of(access.choose(found, call)) == "account_required"
        for name, expected in (("alice", room.account), ("installation 7", installation)):
            async with room.access(name) as access:
                assert (await access.choose(found, call)).connection_id == expected.id


@pytest.mark.parametrize("allowed", [0, 1])
async def test_an_account_that_the_agent_may_not_use_hides_no_other(room: ProgramRoom, allowed: int) -> None:
    found, call = calls("/repos/octo/hello")
    async with connect_another(room, "one") as one, connect_another(room, "two") as two:
        connection = (one, two)[allowed]
        await room.allow(READ, connection=connection)
        async with room.access("one", "two") as access:
            assert (await access.choose(found, call)).connection_id == connection.id


async def test_no_other_account_takes_the_place_of_a_named_one(room: ProgramRoom) -> None:
    found, call = calls("/repos/octo/hello")
    async with room.access("work") as access:
        async with connect_another(room, "work") as work:
            await room.allow(READ, connection=work)
            assert (await access.choose(found, call)).connection_id == work.id
        assert await code_of(access.choose(found, call)) == "account_required", "alice isn't who was named"
    async with room.access() as access:
        assert (await access.choose(found, call)).connection_id == room.account.id


async def test_the_end_of_one_named_account_leaves_the_others_in_use(room: ProgramRoom) -> None:
    found, call = calls("/repos/octo/hello")
    async with room.access("alice", "payments") as access:
        async with connect_another(room, "payments", "stripe", "sk_test_canary"):
            assert (await access.choose(found, call)).connection_id == room.account.id
        assert (await access.choose(found, call)).connection_id == room.account.id
        refused = access.choose(bucket("eu-west-1"), OBJECT)
        async with connect_another(room, "aws account", "aws", key_in("eu-west-1")) as other:
            await room.allow(S3_READ, connection=other)
            assert await code_of(refused) == "account_required", "it could be the one that was named"


async def test_a_name_that_matches_nothing_is_refused_before_the_start(room: ProgramRoom) -> None:
    deployment = room.vault.deployment

    async def problem(*accounts: str) -> str | None:
        options = ProgramOptions(["true"], AGENT, accounts, {}, room.said.append)
        return await problem_of(deployment, room.principal, options)

    wrong = 'no connected account is called "{}". '
    assert await problem("alice", "alcie") == wrong.format("alcie") + 'Did you mean "alice"?'
    assert await problem("alice", "alcie", "someone.else") == wrong.format("alcie") + 'Did you mean "alice"?'
    assert await problem("someone.else") == wrong.format("someone.else") + "Use one of: alice."
    assert await problem("alice") is None
    assert await problem() is None


async def test_a_program_reaches_services_that_are_set_up_or_have_an_account(
    room: ProgramRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment, nobody = room.vault.deployment, replace(room.principal, user_id="nobody")
    assert (await hosts_of(deployment, nobody)).providers == {"github", "aws"}
    async with connect_another(room, "payments", "stripe", "sk_test_canary"):
        assert (await hosts_of(deployment, room.principal)).providers == {"github", "aws", "stripe"}
    assert (await hosts_of(deployment, room.principal)).providers == {"github", "aws"}
    aws = deployment.catalog.provider("aws")
    off = aws.with_registration(replace(aws.registration, is_on=False))
    monkeypatch.setitem(vars(deployment.catalog)["_providers"], "aws", off)  # as after a restart with the setting
    assert (await hosts_of(deployment, nobody)).providers == {"github"}


async def test_a_vault_that_wants_proofs_of_keys_says_so_before_the_start(room: ProgramRoom) -> None:
    options = ProgramOptions(["true"], AGENT, (), {}, room.said.append)
    strict = Settings.model_validate({"tokens": {"require_dpop": True}})
    deployment = replace(room.vault.deployment, settings=strict)
    assert "tokens.require_dpop" in str(await problem_of(deployment, room.principal, options))
    deployment = replace(deployment, settings=Settings.model_validate({}))
    assert await problem_of(deployment, room.principal, options) is None


async def test_the_host_says_which_of_two_accounts_is_meant(room: ProgramRoom) -> None:
    async with (
        connect_another(room, "ireland", "aws", key_in("eu-west-1")) as ireland,
        connect_another(room, "ohio", "aws", key_in("us-east-2")) as ohio,
        connect_another(room, "oregon", "aws", key_in("us-west-2")) as oregon,
        connect_another(room, "portland", "aws", key_in("us-west-2")) as portland,
        room.access() as access,
    ):
        for one in (ireland, ohio, oregon, portland):
            await room.allow(S3_READ, connection=one)
        for region, expected in (("eu-west-1", ireland), ("us-east-2", ohio)):
            chosen = await access.choose(bucket(region), OBJECT)
            assert chosen.connection_id == expected.id
            await access.check_place(chosen)
        assert await code_of(access.choose(bucket("us-west-2"), OBJECT)) == "account_required"
        assert await access.has_account_at(bucket("us-west-2"))
        assert not await access.has_account_at(bucket("eu-north-1"))
        assert await access.has_account_at(calls("/user")[0])
        async with connect_another(room, "tokyo", "aws", key_in("ap-northeast-1")):
            assert await access.has_account_at(bucket("eu-north-1")), "one that the agent could ask for"
        async with connect_another(room, "both", "aws", key_in("sa-east-1,af-south-1")) as both:
            await room.allow(S3_READ, connection=both)
            for region in ("sa-east-1", "af-south-1"):
                chosen = await access.choose(bucket(region), OBJECT)
                assert chosen.connection_id == both.id
                await access.check_place(chosen)
            assert not await access.has_account_at(bucket("eu-north-1"))
        nobodys = await access.choose(bucket("eu-north-1"), OBJECT)
        assert await code_of(access.check_place(nobodys)) == "unknown_target"


async def test_an_account_that_moves_is_found_at_its_new_host(room: ProgramRoom) -> None:
    database = room.vault.deployment.database
    async with connect_another(room, "ireland", "aws", key_in("eu-west-1")) as moving, room.access() as access:
        await room.allow(S3_READ, connection=moving)
        await access.check_place(await access.choose(bucket("eu-west-1"), OBJECT))
        await room.connect("ireland", token=key_in("us-east-2"), provider="aws")
        chosen = await access.choose(bucket("us-east-2"), OBJECT)
        assert await code_of(access.check_place(chosen)) == "unknown_target"  # the host is remembered for a while
        database.clock_offset += 31
        try:
            await access.check_place(chosen)
        finally:
            database.clock_offset -= 31


async def test_the_hosts_of_an_account_are_remembered_for_thirty_seconds(room: ProgramRoom) -> None:
    database = room.vault.deployment.database
    async with connect_another(room, "ireland", "aws", key_in("eu-west-1")) as moving, room.access() as access:
        await room.allow(S3_READ, connection=moving)
        with stopped_clock(database) as now:
            await access.check_place(await access.choose(bucket("eu-west-1"), OBJECT))
            await room.connect("ireland", token=key_in("us-east-2"), provider="aws")
            chosen = await access.choose(bucket("us-east-2"), OBJECT)
        for seconds, is_there in ((30, False), (31, True)):
            with stopped_clock(database, at=now + seconds):
                assert await access.has_account_at(bucket("us-east-2")) is is_there
        await access.check_place(chosen)


@pytest.mark.parametrize(("lifetime", "renewed_after"), [(300, 270), (62, 32), (60, 30), (20, 10)])
async def test_a_handle_is_renewed_before_it_ends(room: ProgramRoom, lifetime: int, renewed_after: int) -> None:
    issued: list[str] = []

    async def issue(chosen: AccountChoice, now: int) -> tuple[str, int]:
        issued.append(f"{now} {lifetime}")
        return issued[-1], lifetime

    database = room.vault.deployment.database
    async with room.access() as access:
        with stopped_clock(database) as now:
            chosen = await access.choose(*calls("/user"))
            first = await access.handle(chosen, issue)
        with stopped_clock(database, at=now + renewed_after - 1):
            assert await access.handle(chosen, issue) == first
        with stopped_clock(database, at=now + renewed_after):
            assert await access.handle(chosen, issue) != first
    assert len(issued) == 2


async def test_an_account_whose_key_cannot_be_read_is_at_no_host(room: ProgramRoom) -> None:
    async with (
        connect_another(room, "ireland", "aws", key_in("eu-west-1")) as ireland,
        connect_another(room, "unreadable", "aws", "not a key") as unreadable,
        room.access() as access,
    ):
        for one in (unreadable, ireland):
            await room.allow(S3_READ, connection=one)
        assert (await access.choose(bucket("eu-west-1"), OBJECT)).connection_id == ireland.id
        assert await access.has_account_at(bucket("eu-north-1"))  # it could be there; the call says why it fails


async def test_an_operation_counts_only_where_its_header_is_sent(room: ProgramRoom) -> None:
    found, call = calls("/repos/octo/hello")
    async with room.access() as access:
        chosen = await access.choose(found, replace(call, operation="DynamoDB_20120810.GetItem"))
        assert chosen.connection_id == room.account.id
        async with connect_another(room, "ireland", "aws", key_in("eu-west-1")) as ireland:
            await room.allow(S3_READ, connection=ireland)
            assert (await access.choose(bucket("eu-west-1"), OBJECT)).connection_id == ireland.id
            named = replace(OBJECT, operation="DynamoDB_20120810.GetItem")
            assert await code_of(access.choose(bucket("eu-west-1"), named)) == "call_not_allowed"


def test_a_path_belongs_to_the_api_with_the_longest_prefix() -> None:
    def api(name: str, path: str, provider: str = "one", port: int = 443) -> ApiAddress:
        return ApiAddress(provider, name, "https", "api.example", port, path)

    longer, shorter, other = api("long", "/a/b"), api("short", "/a"), api("other", "", "two")
    for known in ((longer, shorter, other), (other, shorter, longer)):
        hosts = HostMap([*known, api("elsewhere", "/a", port=8443)])
        assert set(hosts.find("API.example", 443, "/a/b/c")) == {longer, other}
        assert set(hosts.find("api.example", 443, "/a/bc")) == {shorter, other}
        assert hosts.find("api.example", 443, "/c") == (other,)
        assert hosts.find("api.example", 443, "c") == ()
        assert hosts.find("api.example", 80, "/a/b/c") == ()
    for host, port, count in (("s3.eu-west-1.amazonaws.com", 443, 1), ("s3.eu-west-1.example", 443, 0),
                              ("s3.eu-west-1.amazonaws.com", 80, 0)):  # fmt: skip
        assert len(HOSTS.at(host, port)) == count


async def test_only_a_simulator_stands_for_a_published_address(room: ProgramRoom) -> None:
    deployment = room.vault.deployment
    github = deployment.catalog.provider("github")  # its APIs are elsewhere by the settings
    for is_simulated in (True, False):
        settings = Settings.model_validate({"sandbox": {"loopback_upstreams": is_simulated}})
        hosts = host_map(replace(deployment, settings=settings), [github])
        assert bool(hosts.find("api.github.com", 443, "/user")) is is_simulated
        assert hosts.address("github", "rest").startswith("https://api.github.com" if is_simulated else "http://127.")


@pytest.mark.parametrize(
    ("provider", "api", "expected"),
    [
        ("one", "a", "https://one.example/v1"),  # the published address, which programs know
        ("one", "b", "https://b.one.example"),
        ("two", "a", ""),  # each account has another
        ("three", "a", ""),
    ],
)
def test_links_of_an_api_lead_to_the_address_that_programs_call(provider: str, api: str, expected: str) -> None:
    hosts = HostMap(
        [
            ApiAddress("one", "a", "http", "127.0.0.1", 8000, "/one"),
            ApiAddress("one", "a", "https", "one.example", 443, "/v1"),
            ApiAddress("one", "b", "https", "b.one.example", 443, ""),
            ApiAddress("two", "a", "https", "{site}.two.example", 443, ""),
        ]
    )
    assert hosts.address(provider, api) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://api.example/v1/", ("api.example", 443, "/v1")),
        ("http://api.example:8080", ("api.example", 8080, "")),
        ("https://{site}.api.example/v1", ("{site}.api.example", 443, "/v1")),
        ("https://{site}.example", None),  # any host below the top-level domain
        ("https://{site}.api.example:8443", None),
        ("https://{host}", None),
        ("https://api.example/{site}", None),
        ("ftp://api.example", None),
    ],
)
def test_programs_call_addresses_that_name_a_service(url: str, expected: tuple[str, int, str] | None) -> None:
    service = load_catalog().provider("github").model_copy(update={"apis": {"rest": url}})
    found = [(one.host, one.port, one.path) for one in addresses_of(service)]
    assert found == ([] if expected is None else [expected])
    published = addresses_of(service, published={"rest": "https://api.github.example", "gone": "https://x.example"})
    assert [one.host for one in published][len(found) :] == ["api.github.example"]


@pytest.mark.parametrize(("method", "refused"), [("GET", ""), ("HEAD", ""), ("TRACE", "call_not_allowed")])
async def test_head_is_judged_by_the_rules_of_get(room: ProgramRoom, method: str, refused: str) -> None:
    found, call = calls("/repos/octo/hello")
    async with room.access() as access:
        choosing = access.choose(found, replace(call, method=method))
        if refused:
            assert await code_of(choosing) == refused
        else:
            assert (await choosing).connection_id == room.account.id


async def test_questions_that_differ_are_asked_beside_each_other(room: ProgramRoom) -> None:
    await room.allow(frozenset())
    async with room.access(wait=120) as access:
        asked = [
            asyncio.create_task(access.choose(*calls(path)))
            for path in ("/repos/octo/hello", "/repos/octo/hello/issues", "/repos/octo/other/issues")
        ]
        async with asyncio.timeout(60):
            while len(room.said) < 2:
                await asyncio.sleep(0.02)
        await room.allow(READ | {"issues:read"})
        assert {(await one).connection_id for one in asked} == {room.account.id}
    assert len(room.said) == 2  # calls that one answer would allow wait for it together


async def test_a_refusal_without_a_link_is_not_repeated(room: ProgramRoom) -> None:
    issues = calls("/repos/octo/hello/issues")
    async with room.access() as access:
        async with connect_another(room, "bob") as bob:
            await room.allow(READ, connection=bob)
            assert await code_of(access.choose(*issues)) == "account_required"
            assert room.said == []
        for _ in range(2):  # the second time, too: a link exists already
            assert await code_of(access.choose(*issues)) == "delegation_required"
            assert len(room.said) == 1


@pytest.mark.parametrize(("provider", "stores"), [("aws", True), ("stripe", False), ("github", False), ("x", False)])
async def test_only_where_an_encoding_is_stored_it_is_kept(room: ProgramRoom, provider: str, *, stores: bool) -> None:
    chosen = AccountChoice(ApiAddress(provider, "main", "https", "a.example", 443, ""), "c", frozenset())
    assert stores_encoding(room.vault.deployment, chosen) is stores


async def test_an_unanswered_question_is_asked_again_after_a_while(
    room: ProgramRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    await room.allow(frozenset())
    async with room.access() as access:
        for quiet, said in ((60.0, 1), (60.0, 1), (0.0, 1)):
            monkeypatch.setattr(program_access, "_QUIET", quiet)
            assert await code_of(access.choose(*calls("/repos/octo/hello"))) == "delegation_required"
            assert len(room.said) == said
    async with room.access() as access:
        for said in (2, 3):
            assert await code_of(access.choose(*calls("/repos/octo/hello"))) == "delegation_required"
            assert len(room.said) == said


async def test_of_two_services_at_one_host_the_connected_one_is_asked_about(room: ProgramRoom) -> None:
    await room.allow(frozenset())
    found, call = calls("/repos/octo/hello")
    async with room.access() as access:
        for order in (found, found[::-1]):
            assert {one.provider for one in order} == {"github", "github-app"}
            assert await code_of(access.choose(order, call)) == "delegation_required"
        assert await code_of(access.choose(bucket("eu-west-1"), OBJECT)) == "connection_required", "there is none"


@pytest.mark.parametrize(
    ("scheme", "port", "url"),
    [
        ("http", 80, "http://a.example/x"),
        ("https", 443, "https://a.example/x"),
        ("http", 443, "http://a.example:443/x"),
    ],
)
def test_an_address_names_only_an_unusual_port(scheme: str, port: int, url: str) -> None:
    assert ApiAddress("one", "api", scheme, "a.example", port, "/x").url == url


async def test_the_person_is_asked_about_the_account_that_was_named(room: ProgramRoom) -> None:
    issues = calls("/repos/octo/hello/issues")
    async with connect_another(room, "bob") as bob:
        await room.allow(READ, connection=bob)
        for names, code in (((), "account_required"), (("bob",), "delegation_required")):
            async with room.access(*names) as access:
                assert await code_of(access.choose(*issues)) == code
    assert len(room.said) == 1
    assert "bob" in room.said[0]


@pytest.mark.parametrize(
    ("method", "scope", "expected"),
    [
        ("GET", "issues:write", True),
        ("GET", ANY_CALL, False),
        ("POST", "issues:write", False),
        ("POST", "issues:read", True),
    ],
)
def test_a_rule_reads_if_its_method_or_its_scope_does(method: str, scope: str, *, expected: bool) -> None:
    github = load_catalog().provider("github")
    rule = github.rules[0].model_copy(update={"method": (method,), "scopes": frozenset({scope})})
    assert reads(github, rule) is expected


async def test_all_handles_end_with_the_program(room: ProgramRoom) -> None:
    deployment = room.vault.deployment

    async def count() -> object:
        return (await deployment.database.fetch("select count(*) as n from handles", {}))[0]["n"]

    async with room.access() as access:
        chosen = await access.choose(*calls("/user"))
        assert len({*await asyncio.gather(*(access.handle(chosen) for _ in range(3)))}) == await count() == 1
        (held,) = await deployment.database.fetch("select expires_at from handles", {})
        assert held["expires_at"] == deployment.now() + 300
        issued_at = int(str(held["expires_at"])) - 300
        other = replace(chosen, scopes=chosen.scopes ^ READ)
        for one, passed, made in ((other, 5, 2), (chosen, 269, 2), (chosen, 270, 3), (other, 275, 4)):
            with stopped_clock(deployment.database, at=issued_at + passed):
                await access.handle(one)
                assert await count() == made, "a new one 30 seconds before its end"
    assert await count() == 0


@pytest.mark.parametrize(
    ("method", "scopes", "changes"),
    [
        ("POST", lambda reading: reading, False),
        ("POST", lambda reading: set(sorted(reading)[:1]), False),
        ("POST", lambda reading: {*reading, "contents:write"}, True),
        ("GET", lambda reading: {"contents:read"}, False),
    ],
)
async def test_a_call_with_scopes_that_only_read_changes_nothing(
    room: ProgramRoom, method: str, scopes: Callable[[frozenset[str]], set[str]], *, changes: bool
) -> None:
    found, call = calls("/repos/octo/hello")
    reading = room.vault.deployment.catalog.provider("github").reading_scopes
    assert "contents:write" not in reading
    chosen = AccountChoice(found[0], room.account.id, frozenset(scopes(reading)))
    async with room.access() as access:
        assert access.may_change(chosen, replace(call, method=method)) is changes


async def test_handles_that_cannot_be_given_up_take_no_result_away(
    room: ProgramRoom, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    closed = await open_database("sqlite:", data=tmp_path)
    await closed.close()
    asking = PermissionWait(lambda message, url: None, 0.0)
    for database, expected in ((closed, 1), (room.vault.deployment.database, 0)):
        caplog.clear()
        deployment = replace(room.vault.deployment, database=database)
        await ProgramAccess(deployment, room.principal, asking, agent=AGENT, accounts=()).close()
        assert len([one for one in caplog.records if "by themselves" in one.message]) == expected
