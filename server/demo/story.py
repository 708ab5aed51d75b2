"""The whole story in one run: sandbox providers, a vault, and an unmodified MCP client; every step uses real HTTP.

Each step prints what happened, to whom, with which scopes, and how long it took; a failing step ends the demo.
`server.demo.person` scripts the person; everything else is the real product.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx2
from mcp import Client
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientMetadata
from mcp_types import CallToolResult, ElicitRequestURLParams, InputRequiredResult, TextContent
from pydantic import AnyUrl
from rich.console import Console
from rich.text import Text

from providers.simulator.local_server import Simulator, running_simulator
from server.app import open_deployment
from server.demo.person import DemoFailed, DemoPerson
from server.demo.screen import Wallet, insist, listen, play_all, serve_vault, show_activity, show_step
from server.deployment import Deployment
from server.mcp.tool_answers import META_KEY
from server.settings import load_settings
from server.setup.client_config import VaultLocation, client_config
from server.setup.client_kinds import Machine, Program
from server.sign_in.password import first_admin_secret, owner_link
from vault import connections, users

PERSON: Final = "alice"
AGENT: Final = "Demo agent"
REDIRECT: Final = "http://127.0.0.1:33418/callback"
_ENDED: Final = (
    "\nTo try it with your own MCP client, run: make demo KEEP=1, or token-vault demo --keep. Everything stays running."
)
POST: Final = {"channel": "#general", "text": "Hello from an agent that never saw a Slack token."}


@dataclass
class Stage:
    """Everything that runs, and the screen."""

    deployment: Deployment
    simulator: Simulator
    person: DemoPerson
    console: Console
    password: str = field(repr=False)
    wallet: Wallet = field(default_factory=Wallet)
    prompts: int = 0  # how often a browser window opened for the agent

    @asynccontextmanager
    async def step(self, title: str) -> AsyncGenerator[list[str]]:
        """Print a step with its findings and duration."""
        async with show_step(self.console, title) as facts:
            yield facts

    @asynccontextmanager
    async def agent(self) -> AsyncGenerator[Client]:
        """An ordinary MCP client with the agent's stored state."""
        answer: dict[str, str] = {}

        async def open_browser(url: str) -> None:
            self.prompts += 1
            answer.update(await self.person.sign_in_and_consent(url, name=PERSON, password=self.password))

        async def wait_for_browser() -> AuthorizationCodeResult:
            return AuthorizationCodeResult(code=answer["code"], state=answer.get("state"), iss=answer.get("iss"))

        async def cannot_be_asked(context: object, params: object) -> object:
            raise DemoFailed("the client called the elicitation callback, although the demo handles the rounds itself")

        endpoint = self.deployment.url("/mcp")
        sign_in = OAuthClientProvider(
            server_url=endpoint,
            client_metadata=OAuthClientMetadata(
                client_name=AGENT, redirect_uris=[AnyUrl(REDIRECT)], token_endpoint_auth_method="none"
            ),
            storage=self.wallet,
            redirect_handler=open_browser,
            callback_handler=wait_for_browser,
        )
        async with (
            httpx2.AsyncClient(auth=sign_in, timeout=30, trust_env=False) as http,
            Client(
                streamable_http_client(endpoint, http_client=http),
                elicitation_callback=cannot_be_asked,  # type: ignore[arg-type]  # declares that the client opens links
            ) as client,
        ):
            yield client


async def play(*, keep: bool, data: Path | None) -> bool:
    """Play the story; False if a step failed."""
    console = Console(highlight=False)
    async with AsyncExitStack() as stack:
        directory = data or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="token-vault-demo-")))
        stage = await stack.enter_async_context(_stage(directory, console))
        if not await play_all(console, lambda: _story(stage)):
            return False
        if keep:
            await _keep(stage)
        else:
            console.print(Text(_ENDED, "dim"), soft_wrap=True)
    return True


@asynccontextmanager
async def _stage(data: Path, console: Console) -> AsyncGenerator[Stage]:
    """Start the sandbox and the vault, and create the first admin on the first-run page."""
    listening = listen()
    port: int = listening.getsockname()[1]
    started = time.monotonic()
    async with running_simulator() as simulator, AsyncExitStack() as stack:
        sections: dict[str, object] = {
            "server": {"port": port, "public_url": f"http://localhost:{port}"},
            "providers": dict(simulator.settings()),
            "sandbox": {"loopback_upstreams": True},
        }
        deployment = await stack.enter_async_context(open_deployment(load_settings(overrides=sections), data=data))
        await stack.enter_async_context(serve_vault(deployment, listening))
        person = await stack.enter_async_context(DemoPerson(deployment.public_url))
        stage = Stage(deployment, simulator, person, console, secrets.token_urlsafe(12))
        console.print(
            Text(f"Vault at {deployment.public_url}, sandbox Slack and Google at {simulator.url}", "bold"),
            Text(f"{1000 * (time.monotonic() - started):.0f} ms", "dim"),
            soft_wrap=True,
        )
        yield stage


async def _story(stage: Stage) -> None:
    secret = await first_admin_secret(stage.deployment)
    async with stage.step(f"{PERSON} sets up the vault with the secret that it printed at startup"):
        if secret is None:
            raise DemoFailed("this data directory already has an admin; use an empty one")
        await stage.person.make_first_admin(secret, name=PERSON, password=stage.password)
    async with AsyncExitStack() as stack:
        agent = await _first_contact(stage, stack)
        await _slack(stage, agent)
        await _calendar(stage, agent)
        await _beyond(stage, agent)
        await _refresh(stage, agent)
    await _afresh(stage)
    await _disconnect(stage)
    await show_activity(stage.console, stage.deployment, "What the vault recorded")


async def _first_contact(stage: Stage, stack: AsyncExitStack) -> Client:
    async with stage.step(
        f"{AGENT} registers itself, {PERSON} signs in and allows it, and the tools are listed"
    ) as facts:
        agent = await stack.enter_async_context(stage.agent())
        tools = await agent.list_tools()
        client, tokens = stage.wallet.client, stage.wallet.tokens
        insist(client is not None and tokens is not None, "the agent got no token")
        facts += [
            f"client {client.client_id if client else ''}, token scopes: {tokens.scope if tokens else ''}",
            f"MCP {agent.protocol_version}, tools: {', '.join(tool.name for tool in tools.tools)}",
        ]
    return agent


async def _slack(stage: Stage, agent: Client) -> None:
    async with stage.step(f"slack_post: not connected yet, so the answer is a link for {PERSON}") as facts:
        asked = await _ask(agent, "slack_post", POST)
        facts.append(_link(asked))
    async with stage.step(f"{PERSON} opens the link and agrees, here and at Slack") as facts:
        await stage.person.connect(_link(asked), account="alice")
        facts += await _connected_accounts(stage, "slack")
    async with stage.step(f"The same call again: posted as {PERSON}") as facts:
        result = await _retry(agent, "slack_post", POST, asked)
        insist(len(stage.simulator.books()["posts"]) == 1, "Slack has no post")
        facts += _facts(result)


async def _calendar(stage: Stage, agent: Client) -> None:
    async with stage.step(
        f"{PERSON} connects Google from the portal, with more permissions than this agent will get"
    ) as facts:
        await stage.person.connect_from_portal("google", account="alice")
        facts += await _connected_accounts(stage, "google")
    async with stage.step(
        "calendar_list: connected, but not for this agent; allowing it takes one click, without a trip to Google"
    ) as facts:
        asked = await _ask(agent, "calendar_list", {})
        await stage.person.connect(_link(asked), account="alice")
        facts.append(_link(asked))
    async with stage.step("calendar_list: events, with a token that Google itself narrowed") as facts:
        result = await _retry(agent, "calendar_list", {}, asked)
        meta = _exchange_facts(result)
        insist(set(_strings(meta["scopes"])) < set(_strings(meta["granted"])), "the token was not narrowed")
        facts += [
            f"this token:     {' '.join(_strings(meta['scopes']))}",
            f"the connection: {' '.join(_strings(meta['granted']))}",
            *_facts(result),
        ]


async def _beyond(stage: Stage, agent: Client) -> None:
    async with stage.step(
        "calendar_create: outside the agreed permissions, so it's refused before anything is sent"
    ) as facts:
        before = len(stage.simulator.books()["api_calls"])
        wanted = {"summary": "Surprise", "start": "2030-01-01T10:00:00Z", "end": "2030-01-01T11:00:00Z"}
        asked = await _ask(agent, "calendar_create", wanted)
        insist(len(stage.simulator.books()["api_calls"]) == before, "something was sent to Google")
        facts += [f"Google received nothing; {PERSON} can allow it at", _link(asked)]


async def _refresh(stage: Stage, agent: Client) -> None:
    async with stage.step("The Slack token expires; the next call refreshes it in the background") as facts:
        before = len(stage.simulator.books()["refreshes"])
        stage.simulator.control("expire", face="slack")
        result = await agent.call_tool("slack_post", {**POST, "text": "Still here."})
        insist(not result.is_error, f"the call failed: {_text(result)}")
        refreshes = len(stage.simulator.books()["refreshes"]) - before
        insist(refreshes == 1, f"{refreshes} refreshes instead of one")
        facts += ["one refresh at Slack", *_facts(result)]


async def _afresh(stage: Stage) -> None:
    async with stage.step("The agent restarts and calls again, without any prompt") as facts:
        before = stage.prompts
        async with stage.agent() as agent:
            result = await agent.call_tool("calendar_list", {"limit": 2})
        insist(not result.is_error, f"the call failed: {_text(result)}")
        insist(stage.prompts == before, "a browser window opened")
        facts += _facts(result)


async def _disconnect(stage: Stage) -> None:
    owner = await users.find_user(stage.deployment.database, PERSON)
    found = await connections.list_connections(stage.deployment.database, owner.id if owner else "")
    async with stage.step(
        f"{PERSON} disconnects Slack: the grant is revoked at Slack too, and its key is destroyed"
    ) as facts:
        await stage.person.disconnect(next(one.id for one in found if one.provider == "slack"))
        insist(len(stage.simulator.books()["revocations"]) > 0, "Slack got no revocation")
        facts.append("revoked at Slack")
    async with stage.step("The next call reports it"), stage.agent() as agent:
        asked = await _ask(agent, "slack_post", POST)
        insist(bool(_link(asked)), "there is no link")


async def _ask(agent: Client, tool: str, arguments: Mapping[str, object]) -> InputRequiredResult:
    """Call a tool that must ask for the person."""
    result = await agent.session.call_tool(tool, dict(arguments), allow_input_required=True)
    if not isinstance(result, InputRequiredResult):
        raise DemoFailed(f"{tool} didn't ask for the person: {_text(result)}")
    return result


async def _retry(
    agent: Client, tool: str, arguments: Mapping[str, object], asked: InputRequiredResult
) -> CallToolResult:
    result = await agent.call_tool(tool, dict(arguments), request_state=asked.request_state)
    insist(not result.is_error, f"{tool} failed: {_text(result)}")
    return result


def _link(asked: InputRequiredResult) -> str:
    for request in (asked.input_requests or {}).values():
        if isinstance(request.params, ElicitRequestURLParams):
            return request.params.url
    raise DemoFailed("the answer has no link")


def _text(result: CallToolResult) -> str:
    return " | ".join(block.text for block in result.content if isinstance(block, TextContent))


def _facts(result: CallToolResult) -> list[str]:
    lines = [line for block in result.content if isinstance(block, TextContent) for line in block.text.splitlines()]
    return lines if len(lines) <= 5 else [*lines[:3], f"... {len(lines) - 4} more lines", lines[-1]]


def _exchange_facts(result: CallToolResult) -> Mapping[str, object]:
    meta: object = (result.meta or {}).get(META_KEY)
    if not isinstance(meta, dict):
        raise DemoFailed("the answer doesn't report how its scopes were enforced")
    return {str(key): value for key, value in meta.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- JSON


def _strings(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- JSON


async def _connected_accounts(stage: Stage, provider: str) -> list[str]:
    owner = await users.find_user(stage.deployment.database, PERSON)
    found = await connections.list_connections(stage.deployment.database, owner.id if owner else "")
    lines = [f"{one.label}: {' '.join(sorted(one.scopes))}" for one in found if one.provider == provider]
    insist(bool(lines), f"{provider} is not connected")
    return lines


async def _keep(stage: Stage) -> None:
    """Print how to continue, and keep running until the person stops it."""
    deployment = stage.deployment
    owner = await users.find_user(deployment.database, PERSON)
    link = await owner_link(deployment, owner.id if owner else "")
    vault = VaultLocation(Program("token-vault"), (), deployment.public_url, is_loopback=True)
    machine = Machine(sys.platform, Path.home(), {})
    configuration = client_config("claude-code", "http", vault=vault, machine=machine)
    for line in (
        Text(f"\nPortal {deployment.public_url}", "bold"),
        f"Sign in as {PERSON} with the password {stage.password}, or with this one-time link, valid for two minutes:",
        link,
        "MCP client configuration:",
        configuration.text,
        "Or, for Claude Code, in one line:",
        configuration.command_line or "",
        "On the sandbox's consent pages, choose any account. Press Ctrl+C to stop.",
    ):
        stage.console.print(line, soft_wrap=True)
    told = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    await told.wait()
