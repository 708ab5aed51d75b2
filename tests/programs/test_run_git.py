"""git behind `token-vault run` with hosts other than GitHub: git's own server requires each host's Basic credential."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio

from providers.credentials.entered_values import pack
from server.mcp.local_owner import local_principal
from tests.support.doubles.git_host import git_host
from tests.support.harness import running_vault
from tests.support.rooms.program_room import AGENT, TOKEN, ProgramRoom
from vault.records import Connection

# By provider: the user name of Basic, the path of a repository, and the scopes to read and to push.
HOSTS = {
    "gitlab": ("oauth2", "{}", {"read_repository"}, {"write_repository"}),
    "gitea": ("oauth2", "{}", {"read:repository"}, {"write:repository"}),
    "bitbucket": ("x-token-auth", "{}", {"repository"}, {"repository:write"}),
    "azure-devops": ("vault", "octo/_git/{}", {"read"}, {"write"}),
}


@pytest_asyncio.fixture(scope="module")
async def shared_git_room(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncGenerator[tuple[ProgramRoom, dict[str, Connection]]]:
    folder = tmp_path_factory.mktemp("git-hosts")
    async with git_host(folder / "git", token=TOKEN) as host:
        host.users = {name: user for name, (user, *_) in HOSTS.items()}
        (host.folder / "octo" / "_git").mkdir()
        (host.folder / "octo" / "_git" / "hello").symlink_to(host.repository)
        (host.folder / "octo" / "deeper").mkdir()
        (host.folder / "octo" / "deeper" / "hello.git").symlink_to(host.repository)
        here = {f"{name}_url": f"{host.url}/{name}" for name in ("authorize", "token", "revoke", "userinfo")}
        providers: dict[str, object] = {
            name: {
                "client_id": "ours",
                "client_secret": "secret",
                **here,
                "apis": {"main": f"{host.url}/{name}/api", "git": f"{host.url}/{name}"},  # below git's, like GitLab's
            }
            for name in ("gitlab", "gitea", "bitbucket")
        }
        providers["azure-devops"] = {"enabled": True, "apis": {"main": f"{host.url}/azure-devops"}}
        async with running_vault(folder / "data", providers=providers) as vault:
            principal = await local_principal(vault.deployment, AGENT)
            home = folder / "home"
            home.mkdir()
            room = ProgramRoom(vault, host, principal, account=None, folder=home)  # pyright: ignore[reportArgumentType] -- unused
            credential = vault.deployment.catalog.provider("azure-devops").credential
            assert credential is not None
            tokens = dict.fromkeys(HOSTS, TOKEN) | {"azure-devops": pack(credential, {"key": TOKEN})}
            yield room, {name: await room.connect("alice", token=tokens[name], provider=name) for name in HOSTS}


@pytest.mark.parametrize("name", HOSTS)
async def test_git_clones_and_pushes_only_where_the_person_allows_it(
    shared_git_room: tuple[ProgramRoom, dict[str, Connection]], name: str
) -> None:
    room, accounts = shared_git_room
    _, where, read, write = HOSTS[name]
    path = (
        where.format("hello") if "_git" in where else "octo/deeper/hello.git" if name == "gitlab" else "octo/hello.git"
    )
    await room.allow(frozenset(read), connection=accounts[name])
    copy: Path = room.folder / name
    cloned = await room.run("git", "clone", "-q", f"{room.host.url}/{name}/{path}", str(copy))
    assert cloned.code == 0, cloned.output
    (copy / "README").write_text(f"changed by {name}\n")
    mine = ["-c", "user.name=a", "-c", "user.email=a@example"]
    assert (await room.run("git", "-C", str(copy), *mine, "commit", "-qam", name)).code == 0
    refused = await room.run("git", "-C", str(copy), "push", "-q", "origin", f"HEAD:{name}")
    assert refused.code != 0
    assert "403" in refused.output
    await room.allow(frozenset(read | write), connection=accounts[name])
    pushed = await room.run("git", "-C", str(copy), "push", "-q", "origin", f"HEAD:{name}")
    assert pushed.code == 0, pushed.output
    assert (room.host.repository / "refs" / "heads" / name).exists()


@pytest.mark.parametrize(
    ("name", "path", "scope"),
    [("gitlab", "/projects/1/issues/2", "read_api"), ("gitea", "/repos/octo/hello/issues/2", "read:issue")],
)
async def test_the_api_below_the_address_of_git_gets_the_token_itself(
    shared_git_room: tuple[ProgramRoom, dict[str, Connection]], name: str, path: str, scope: str
) -> None:
    room, accounts = shared_git_room
    await room.allow(frozenset({scope}), connection=accounts[name])
    room.host.arrivals.clear()
    called = await room.run("curl", "-sS", "--max-time", "60", f"{room.host.url}/{name}/api{path}")
    assert room.host.arrivals == [("GET", f"/{name}/api{path}", f"Bearer {TOKEN}")], called.output


async def test_no_repository_is_below_the_address_of_the_api(
    shared_git_room: tuple[ProgramRoom, dict[str, Connection]],
) -> None:
    room, accounts = shared_git_room
    await room.allow(frozenset({"read_repository"}), connection=accounts["gitlab"])
    room.host.arrivals.clear()
    for below in ("api/projects/1/repository/files", "API/projects"):
        url = f"{room.host.url}/gitlab/{below}/git-upload-pack"
        called = await room.run("curl", "-sS", "--max-time", "60", "-d", "{}", url)
        assert "Nothing was sent" in called.output, called.output
    assert room.host.arrivals == []
    await room.run("curl", "-sS", "--max-time", "60", "-d", "{}", f"{room.host.url}/gitlab/apis/x/git-upload-pack")
    assert [path for _, path, _ in room.host.arrivals] == ["/gitlab/apis/x/git-upload-pack"]  # the twin
