"""A vault whose GitHub has a repository, and a local agent that runs programs against it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from server.deployment import Deployment
from server.mcp.local_owner import local_principal
from server.programs.program_run import ProgramOptions, ProgramRecord, run_program
from server.proxy.program_access import PermissionWait, ProgramAccess
from tests.support.doubles.git_host import GitHost, git_host
from tests.support.harness import RunningVault, running_vault
from tests.support.inspection import read_events
from vault import connections, delegations
from vault.records import Connection, Event, Principal
from vault.upstream import Account, TokenAnswer

TOKEN = "ghu_canary0123456789abcdefghijklmnop"
READ = frozenset({"metadata:read", "contents:read"})
WRITE = frozenset({"contents:write", "workflows:write"})
AGENT = "coder"


@dataclass
class ProgramRoom:
    """`said`: what the person at the terminal was told."""

    vault: RunningVault
    host: GitHost
    principal: Principal
    account: Connection
    folder: Path
    said: list[str] = field(default_factory=list[str])

    async def allow(self, scopes: frozenset[str], *, connection: Connection | None = None) -> None:
        """Let the agent use the account with exactly these scopes."""
        async with self.vault.deployment.transaction() as transaction:
            await delegations.allow(
                transaction,
                user_id=self.principal.user_id,
                client_id=self.principal.client_id,
                connection_id=(connection or self.account).id,
                scopes=scopes,
                now=self.vault.deployment.now(),
            )

    async def connect(self, name: str, *, token: str = TOKEN, provider: str = "github") -> Connection:
        """An account of the person with all scopes; at GitHub, if no provider is named."""
        deployment = self.vault.deployment
        policy = deployment.vault.policies[provider]
        scopes = frozenset(deployment.catalog.provider(provider).scopes)
        async with deployment.transaction() as transaction:
            return await connections.open_connection(
                transaction,
                deployment.keys,
                user_id=self.principal.user_id,
                provider=provider,
                answer=TokenAnswer(token, "ghr_canary", scopes, 28_800, Account(name, name)),
                asked=scopes,
                policy=policy,
                now=deployment.now(),
            )

    @asynccontextmanager
    async def access(self, *accounts: str, wait: float = 0.0) -> AsyncGenerator[ProgramAccess]:
        """What decides about a program of the agent; `said` gets the links."""
        asking = PermissionWait(lambda message, url: self.said.append(f"{message} {url}"), wait)
        opened = ProgramAccess(self.vault.deployment, self.principal, asking, agent=AGENT, accounts=accounts)
        try:
            yield opened
        finally:
            await opened.close()

    async def run(
        self,
        *command: str,
        wait: float = 0.0,
        allows_other_hosts: bool = False,
        accounts: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Ran:
        """Run the program as the agent, with a file as its output."""
        return await run_in(
            self.vault.deployment,
            self.principal,
            command,
            folder=self.folder,
            accounts=accounts,
            environment=environment or {},
            say=self.said.append,
            wait=wait,
            allows_other_hosts=allows_other_hosts,
        )

    async def python(self, program: str, **options: object) -> Ran:
        """Run a program in this interpreter."""
        return await self.run(sys.executable, "-c", program, **options)  # pyright: ignore[reportArgumentType] -- of `run`

    async def events(self, kind: str) -> list[Event]:
        """The events of the agent, newest first."""
        deployment = self.vault.deployment
        found = await read_events(deployment)
        return [one for one in reversed(found) if one.kind == kind and one.client_id == self.principal.client_id]


@dataclass
class Ran:
    """What a program did."""

    record: ProgramRecord
    output: str

    @property
    def code(self) -> int:
        return self.record.exit_code

    @property
    def json(self) -> dict[str, object]:
        return json.loads(self.output)


async def run_in(
    deployment: Deployment,
    principal: Principal,
    command: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    say: Callable[[str], None],
    accounts: Sequence[str] = (),
    wait: float = 0.0,
    allows_other_hosts: bool = False,
) -> Ran:
    """Run a program with `folder` as its home as this agent, with a file as its output."""
    out = folder / "out"
    out.unlink(missing_ok=True)
    options = ProgramOptions(
        ["sh", "-c", 'out=$1; shift; exec "$@" >"$out" 2>&1', "sh", str(out), *command],
        AGENT,
        accounts,
        {**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder), **environment},
        say=say,
        wait=wait,
        allows_other_hosts=allows_other_hosts,
    )
    record = await run_program(deployment, principal, options)
    return Ran(record, out.read_text())


@asynccontextmanager
async def program_room(folder: Path) -> AsyncGenerator[ProgramRoom]:
    """A vault with GitHub at a double; the agent may not use alice's account yet."""
    async with git_host(folder / "git", token=TOKEN) as host:
        providers = {
            "github": {
                "client_id": "ours",
                "client_secret": "client-secret-canary",
                "authorize_url": f"{host.url}/authorize",
                "token_url": f"{host.url}/token",
                "revoke_url": f"{host.url}/revoke",
                "userinfo_url": f"{host.url}/rest/user",
                "apis": {"rest": f"{host.url}/rest", "git": f"{host.url}/git"},
            },
            "aws": {"enabled": True},
        }
        longer = {"exchange": {"handle_lifetime": 900}}  # than handles of programs
        async with running_vault(folder / "data", providers=providers, overrides=longer) as vault:
            principal = await local_principal(vault.deployment, AGENT)
            home = folder / "home"
            home.mkdir()
            room = ProgramRoom(vault, host, principal, account=None, folder=home)  # pyright: ignore[reportArgumentType] -- below
            room.account = await room.connect("alice")
            yield room
