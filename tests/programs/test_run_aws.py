"""AWS's own command under `token-vault run`: it signs with a placeholder, the vault with the account's access key."""

from __future__ import annotations

import gzip
import shutil
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest_asyncio

from providers.definitions.catalog import load_catalog
from server.proxy.program_hosts import HostMap, addresses_of
from tests.conftest import unavailable
from tests.credentials.test_aws import APIS, SECRET, Aws, AwsRoom
from tests.support.doubles.scripted_server import scripted_server
from tests.support.rooms.key_room import running_key_room
from tests.support.rooms.program_room import run_in


@pytest_asyncio.fixture
async def room(tmp_path: Path) -> AsyncGenerator[AwsRoom]:
    aws = Aws()
    async with scripted_server(aws.answer) as server:
        more = {"aws": {"apis": {name: f"{server.url}/{name}" for name in APIS}}}
        async with running_key_room(tmp_path / "data", more=more) as opened:
            yield AwsRoom(opened, aws, server)


async def test_aws_uses_an_account_whose_key_it_never_has(room: AwsRoom, tmp_path: Path) -> None:
    if shutil.which("aws") is None:
        unavailable("aws isn't installed")
    user = await room.keys.user()
    connection = await room.connect_account(user)
    agent = (await room.keys.allow_agent(user, connection, frozenset({"s3:write"}))).agent
    (tmp_path / "given").write_text("hello")
    script = (
        "aws s3api put-object --bucket box --key one --body $HOME/given"
        " && aws s3api head-object --bucket box --key one --query ContentLength"
        " && aws s3api get-object --bucket box --key one $HOME/taken; env | grep AWS_"
    )
    ran = await run_in(
        room.keys.deployment,
        agent.principal,
        ["sh", "-c", script],
        folder=tmp_path,
        environment={"AWS_DEFAULT_REGION": "eu-west-1", "AWS_PROFILE": "of-the-person", "AWS_MAX_ATTEMPTS": "1"},
        say=lambda _: None,
    )
    assert room.aws.objects == {"/s3/box/one": b"hello"}, ran.output
    assert (tmp_path / "taken").read_text() == "hello"
    assert SECRET not in ran.output
    assert "AWS_PROFILE" not in ran.output


def test_a_host_that_differs_by_account_is_known_by_its_form() -> None:
    hosts = HostMap(addresses_of(load_catalog().provider("aws")))
    (found,) = hosts.find("s3.eu-west-1.amazonaws.com", 443, "/box/one")
    assert (found.api, found.url) == ("s3", "https://s3.eu-west-1.amazonaws.com")
    assert hosts.domains == {"amazonaws.com"}
    for other in ("s3.eu.west.amazonaws.com", "s3.eu-west-1.amazonaws.com.evil.example", "iam.eu-west-1.amazonaws.com"):
        assert hosts.at(other, 443) == ()


async def test_an_encoding_that_s3_would_store_is_refused_and_not_removed(room: AwsRoom, tmp_path: Path) -> None:
    user = await room.keys.user()
    connection = await room.connect_account(user)
    agent = (await room.keys.allow_agent(user, connection, frozenset({"s3:write"}))).agent
    program = (
        "import gzip, urllib.error, urllib.request as u\n"
        "def put(**more):\n"
        "    at = 'https://s3.eu-west-1.amazonaws.com/box/one'\n"
        "    headers = {'Content-Type': 'text/plain', **more}\n"
        "    request = u.Request(at, data=gzip.compress(b'hello', mtime=0), headers=headers, method='PUT')\n"
        "    try: return u.urlopen(request).status\n"
        "    except urllib.error.HTTPError as error: return error.code, error.headers['token-vault-refusal']\n"
        "print(put(**{'Content-Encoding': 'gzip'}), put())"
    )
    ran = await run_in(
        room.keys.deployment,
        agent.principal,
        [sys.executable, "-c", program],
        folder=tmp_path,
        environment={},
        say=lambda _: None,
    )
    assert ran.output.strip() == "(415, 'unsupported_body') 200", ran.output
    assert room.aws.objects == {"/s3/box/one": gzip.compress(b"hello", mtime=0)}
