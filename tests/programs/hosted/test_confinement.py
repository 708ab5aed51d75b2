"""What a hostile MCP server can't reach in its sandbox, each next to something that it can reach."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import AsyncGenerator

import pytest

from server.programs.hosted.syscalls import call_filter
from tests.programs.hosted.hosted_room import SERVERS, HostedRoom
from tests.support.rooms.mcp_room import Agent


@pytest.fixture(scope="module")
async def agent(place: HostedRoom) -> AsyncGenerator[Agent]:
    yield await place.agent("curious")


async def test_it_sees_its_folders_and_nothing_of_the_vaults_data(place: HostedRoom, agent: Agent) -> None:
    assert await place.ask(agent, "look", path=str(SERVERS)) == ["curious.py"]
    data = place.deployment.data
    assert (data / "master.key").exists()
    for path in (data, data / "master.key", f"/proc/{os.getpid()}/root{data}"):
        assert "FileNotFoundError" in await place.ask(agent, "look", path=str(path)), path
    assert await place.ask(agent, "look", path=str(data.parent)) == ["files"], "the way to its own folder"
    for path in ("/etc/shadow", "/root/.ssh", "/run/docker.sock", "/sys", "/var/lib"):
        assert "FileNotFoundError" in await place.ask(agent, "look", path=path), path


async def test_it_writes_only_in_memory_and_its_own_folder(place: HostedRoom, agent: Agent) -> None:
    files = place.deployment.settings.local_servers["curious"].writable
    for path in ("/tmp/x", "/home/program/x", f"{files}/x"):
        assert await place.ask(agent, "write", path=path) == 7, path
    (kept,) = files.glob("*/x")
    assert kept.read_text() == "written"
    for path in ("/usr/x", str(SERVERS / "x"), "/run/token-vault/x", "/etc/x", "/x", "/dev/x"):
        assert "Error" in await place.ask(agent, "write", path=path), path
    another = await place.agent("curious")
    assert await place.ask(another, "look", path=str(files)) == []


async def test_its_environment_has_no_variable_of_the_vault(
    place: HostedRoom, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET_OF_THE_VAULT", "canary")
    fresh = await place.agent("curious")
    seen = await place.ask(fresh, "environment")
    assert "canary" not in str(seen)
    assert seen["SLACK_BOT_TOKEN"].startswith("token-vault-")
    assert seen["HTTPS_PROXY"] == "http://run:***@127.0.0.1:3128", "an answer is without its proxy's password"


async def test_it_sees_no_process_but_its_own(place: HostedRoom, agent: Agent) -> None:
    seen = await place.ask(agent, "processes")
    assert sorted(seen) == ["1", "2"]
    assert await place.ask(agent, "look", path="/proc/1/root/etc") == await place.ask(agent, "look", path="/etc")
    assert await place.ask(agent, "look", path="/proc/self/fd") == ["0", "1", "2", "3"], "3 looks"
    assert str(place.deployment.data.parent) not in str(seen), "not in bubblewrap's arguments, either"
    assert "Operation not permitted" in str(await place.ask(agent, "call_kernel", number=_NUMBERS["ptrace"]))
    assert await place.ask(agent, "call_kernel", number=_NUMBERS["getpid"]) == 2


async def test_it_reaches_its_proxy_and_no_other_port_or_network(place: HostedRoom, agent: Agent) -> None:
    assert await place.ask(agent, "connect", host="127.0.0.1", port=3128) == "connected"
    port = place.deployment.settings.server.port
    with socket.create_connection(("127.0.0.1", port), timeout=10):
        pass
    assert "refused" in await place.ask(agent, "connect", host="127.0.0.1", port=port)
    assert "unreachable" in await place.ask(agent, "connect", host="1.1.1.1", port=443)
    assert "gaierror" in await place.ask(agent, "connect", host="slack.com", port=443)


@pytest.mark.skipif(call_filter() is None, reason="no filter for this architecture")
async def test_it_opens_no_socket_that_knows_no_namespace(place: HostedRoom, agent: Agent) -> None:
    assert await place.ask(agent, "open_socket", family=socket.AF_INET) == "opened"
    for family in (40, 38, 17):  # vsock, alg, packet
        assert "not supported" in await place.ask(agent, "open_socket", family=family)
    assert await place.ask(agent, "open_pair", family=socket.AF_UNIX) == "opened"
    assert "not supported" in await place.ask(agent, "open_pair", family=30), "TIPC, which has pairs, too"
    for number in (425, 428):  # io_uring_setup, open_tree
        assert "Operation not permitted" in await place.ask(agent, "call_kernel", number=number)


@pytest.mark.skipif(call_filter() is None, reason="no filter for this architecture")
async def test_it_gets_no_memory_that_nobody_counts(place: HostedRoom, agent: Agent) -> None:
    for name in ("memfd_create", "shmget", "msgget", "semget"):
        assert "Operation not permitted" in str(await place.ask(agent, "call_kernel", number=_NUMBERS[name])), name
    assert await place.ask(agent, "look", path="/proc/self/oom_score_adj") == "1000\n"
    limits, nice = await place.ask(agent, "look", path="/proc/self/limits"), min(19, os.nice(0) + 10)
    assert "Max file size             1073741824" in limits
    assert (await place.ask(agent, "look", path="/proc/self/stat")).rpartition(")")[2].split()[16] == str(nice)


_NUMBERS = (
    {"getpid": 39, "ptrace": 101, "memfd_create": 319, "shmget": 29, "msgget": 68, "semget": 64}
    if platform.machine() == "x86_64"
    else {"getpid": 172, "ptrace": 117, "memfd_create": 279, "shmget": 194, "msgget": 186, "semget": 190}
)  # numbers for the two architectures
