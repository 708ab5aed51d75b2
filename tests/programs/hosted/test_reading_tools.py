"""A tool accepted as read-only: whether its calls are allowed depends on scopes, not on the HTTP method.

AWS's Query protocol reads and writes with the same methods at one path, so only the operation tells them apart.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import pytest

from providers.definitions.catalog import load_catalog, shipped_files
from tests.credentials.test_aws import APIS, KEY_ID, SECRET, Aws
from tests.programs.hosted.hosted_room import CURIOUS, HostedRoom, hosted_room, needs_sandbox, text
from tests.support.accounts import open_account
from tests.support.doubles.scripted_server import ScriptedServer, scripted_server
from tests.support.rooms.mcp_room import Agent
from vault.records import Connection
from vault.upstream import Account, TokenAnswer

EC2 = "https://ec2.eu-west-1.amazonaws.com/"
READ, STOP = "Action=DescribeInstances", "Action=StopInstances"
OPERATE, SEE = frozenset({"ec2:operate"}), frozenset({"ec2:read"})


@dataclass
class AwsPlace:
    """A vault whose local server may call AWS."""

    hosted: HostedRoom
    server: ScriptedServer

    async def account(self, agent: Agent, scopes: frozenset[str]) -> Connection:
        """An account of the agent's person that the agent may use."""
        deployment = self.hosted.deployment
        known = deployment.catalog.provider("aws").all_scopes
        key = {"access_key_id": KEY_ID, "secret_access_key": SECRET, "region": "eu-west-1"}
        async with deployment.transaction() as transaction:
            account = await open_account(
                transaction,
                deployment,
                agent.principal.user_id,
                "aws",
                TokenAnswer(json.dumps(key), None, known, None, Account("aws", "aws")),
            )
        await self.hosted.room.allow(agent, account, scopes)
        return account


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[AwsPlace]:
    needs_sandbox()
    async with scripted_server(Aws().answer) as server:
        aws = {"enabled": True, "apis": {name: f"{server.url}/{name}" for name in APIS}}
        curious = {**CURIOUS, "providers": ["aws"]}
        async with hosted_room(
            tmp_path_factory.mktemp("reading") / "vault", more={"aws": aws}, curious=curious
        ) as room:
            await room.add("curious", reads=("peek",))
            yield AwsPlace(room, server)


@pytest.mark.parametrize("by", ["GET", "POST"])
async def test_a_reading_tool_stops_no_instance_by_whatever_method(place: AwsPlace, by: str) -> None:
    agent = await place.hosted.agent("curious", person=f"reader_{by.lower()}")
    await place.account(agent, OPERATE)

    async def ask(tool: str, operation: str) -> int:
        if by == "GET":
            return (await place.hosted.ask(agent, tool, url=f"{EC2}?{operation}"))["status"]
        body = json.dumps(dict([operation.split("=")]))
        return (await place.hosted.ask(agent, tool, url=EC2, method="POST", body=body))["status"]

    sent = len(place.server.arrivals)
    assert await ask("peek", STOP) == 403
    assert len(place.server.arrivals) == sent
    assert await ask("peek", READ) == 200, "its permission includes the one to read"
    assert await ask("fetch", STOP) == 200, "the twin: a tool that writes"
    assert len(place.server.arrivals) == sent + 2


async def test_a_refusal_says_that_the_tool_was_accepted_as_reading(place: AwsPlace) -> None:
    agent = await place.hosted.agent("curious", person="told")
    await place.account(agent, OPERATE)
    refused = await place.hosted.ask(agent, "peek", url=f"{EC2}?{STOP}")
    assert "accepted as a tool that only reads" in refused["body"]
    unknown = await place.hosted.ask(agent, "peek", url=f"{EC2}?Action=RunInstances")
    assert "No request rule" in unknown["body"]


@pytest.mark.parametrize(
    ("url", "may_repeat"),
    [(f"{EC2}?{STOP}", False), (f"{EC2}?{READ}", True)],
    ids=["stops", "sees"],
)
async def test_only_what_may_have_changed_something_must_not_be_repeated(
    place: AwsPlace, url: str, *, may_repeat: bool
) -> None:
    agent = await place.hosted.agent("curious", person=f"repeats_{may_repeat}".lower())
    await place.account(agent, OPERATE)
    missing = "https://s3.eu-west-1.amazonaws.com/box"
    kept = await place.hosted.call(agent, "curious", "fetch_both", url=url, other=missing, strict=0)
    assert not kept.is_error, text(kept)
    assert "A part may be missing" in text(kept)
    assert ("don't repeat the whole call" in text(kept)) is not may_repeat


async def test_a_read_by_post_may_be_repeated(place: AwsPlace) -> None:
    agent = await place.hosted.agent("curious", person="posts")
    await place.account(agent, SEE)
    body = json.dumps({"Action": "DescribeInstances"})
    both = {"url": EC2, "other": "https://s3.eu-west-1.amazonaws.com/box", "strict": 0}
    kept = await place.hosted.call(agent, "curious", "fetch_both", method="POST", body=body, **both)
    assert "A part may be missing" in text(kept)
    assert "don't repeat" not in text(kept)


def test_a_scope_reads_by_more_than_get_only_if_its_file_says_so() -> None:
    for file in shipped_files():
        provider = load_catalog().provider(file.stem)
        for rule in provider.rules:
            for scope in rule.scopes & provider.reading_scopes:
                assert rule.method == ("GET",) or provider.scopes[scope].reads, (provider.name, scope, rule.path)
        assert "spend" not in provider.reading_scopes
    assert "ec2:operate" not in load_catalog().provider("aws").reading_scopes
    assert "ec2:read" in load_catalog().provider("aws").reading_scopes
