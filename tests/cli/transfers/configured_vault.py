"""The setup of this folder's tests: another program's grants from the same OAuth apps, and commands next to a vault."""

from __future__ import annotations

import asyncio
import json
import secrets
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner, Result

from providers.simulator.person import consent
from server.cli import app
from tests.support.rooms.exchange_room import GOOGLE, ExchangeRoom
from tests.support.rooms.mcp_room import SLACK
from tests.support.rooms.portal_room import query_of
from vault import connections
from vault.records import Connection, User
from vault.upstream import TokenAnswer

REDIRECT = "https://former.example/callback"
SCOPES = {"slack": SLACK, "google": GOOGLE}


@dataclass(frozen=True)
class ConfiguredVault:
    """A running vault, and its settings as an operator would write them."""

    room: ExchangeRoom
    settings: str

    @property
    def deployment(self):
        return self.room.deployment

    async def user(self) -> User:
        """A user without connected accounts."""
        return await self.room.user(f"person-{secrets.token_hex(4)}@example.com")

    async def former(self, provider: str, *, account: str = "alice") -> TokenAnswer:
        """The tokens of an account, as another program with the same OAuth app got them."""
        upstream = self.deployment.vault.upstreams[provider]
        verifier = "v" * 64
        url = upstream.authorization_url(
            redirect_uri=REDIRECT, state="s", scopes=SCOPES[provider], code_verifier=verifier, login_hint=None
        )
        code = query_of(await consent(url, account=account))["code"]
        return await upstream.redeem(code=code, redirect_uri=REDIRECT, code_verifier=verifier, state="s")

    async def run_command(self, *command: str | Path, data: Path | None = None) -> Result:
        """Run a command next to the running vault, or in another data directory."""
        arguments = [*map(str, command), "--json", "--data", str(data or self.deployment.data)]
        return await asyncio.to_thread(CliRunner().invoke, app, arguments)

    async def outcomes(self, *command: str | Path) -> list[str]:
        """Run an import; return the outcome of each account."""
        done = await self.run_command("import", *command)
        assert done.stdout.startswith("["), done.output
        return [str(one["outcome"]) for one in json.loads(done.stdout)]

    async def list_connections(self, user: User) -> tuple[Connection, ...]:
        return await connections.list_connections(self.deployment.database, user.id)


def token_of(answer: TokenAnswer) -> str:
    assert answer.refresh_token is not None
    return answer.refresh_token


def account_of(answer: TokenAnswer) -> str:
    assert answer.account is not None
    return answer.account.id
