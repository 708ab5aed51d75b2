"""The two journeys through the guides, from the provider's console to a posted message and a listed calendar.

The first deviation from the guide ends the journey with what the person sees then (`JourneyStop`).
"""

from __future__ import annotations

import asyncio
import html
import json
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx2
from mcp import Client
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientMetadata
from mcp_types import CallToolResult, TextContent
from pydantic import AnyUrl

from providers.simulator.person import ConsentRefused, consent
from tests.first_hour.consoles import AppCredentials, GoogleConsole, SlackConsole
from tests.first_hour.guide import Guide
from tests.first_hour.internet import AGENT, VAULT, Internet
from tests.first_hour.terminal import CommandOutput, Terminal, empty_environment
from tests.support.network.tls import Authority, tls_proxy
from tests.support.person import Person
from tests.support.processes import opened_url

PASSWORD = "the password of a new user"
POST = ("slack_post", {"channel": "#general", "text": "My first message"})
LIST = ("calendar_list", {})
CALLS: Mapping[str, tuple[str, dict[str, object]]] = {"slack": POST, "google": LIST}
BROWSER = '#!/bin/sh\nprintf %s "$1" > "{opened}.part" && mv "{opened}.part" "{opened}"\n'
_PROMPT = r"This vault has no admin yet\. Open (\S+) and enter this one-time secret:\s+(\S+)"


class JourneyStop(Exception):
    """The person is stuck. `shown` is the first message that says so."""

    def __init__(self, where: str, shown: str) -> None:
        super().__init__(f"{where}: {shown}")
        self.where = where
        self.shown = " ".join(shown.split())


@dataclass
class Slips:
    """This person's mistakes; none by default."""

    slack_console: dict[str, object] = field(default_factory=dict[str, object])
    google_console: dict[str, object] = field(default_factory=dict[str, object])
    client_id: Callable[[AppCredentials], str] = lambda handed: handed.client_id
    client_secret: Callable[[AppCredentials], str] = lambda handed: handed.client_secret
    before_doctor: Callable[[Journey], Awaitable[None]] | None = None
    first_window: Mapping[str, str] = field(default_factory=dict[str, str])  # variables of the first window only
    public_url: Callable[[str], str] = lambda block: block
    agents: Callable[[str], str] = lambda block: block
    proxy_changes: Callable[[bytes], bytes] | None = None
    proxy_certificate: Callable[[Path], Authority] | None = None
    providers: tuple[str, ...] = ("slack", "google")


@dataclass
class Journey:
    """One person, one machine, one internet."""

    guide: Guide
    internet: Internet
    home: Path
    window: Terminal
    stack: AsyncExitStack
    slips: Slips
    report: Callable[[str, float], None]
    done: list[str] = field(default_factory=list[str])

    @property
    def data(self) -> Path:
        """The data directory on this platform, according to the guides."""
        return self.home / ".local" / "share" / "token-vault"

    @asynccontextmanager
    async def step(self, name: str) -> AsyncGenerator[None]:
        """One step of the guide, timed."""
        began = time.monotonic()
        yield
        self.report(name, time.monotonic() - began)

    def other_window(self) -> Terminal:
        """A new terminal, without the variables exported in the first."""
        kept = {name: value for name, value in self.window.environment.items() if name not in self.slips.first_window}
        return Terminal(self.window.folder, kept, self.window.cwd)

    # steps of every journey

    async def set_up(self, line: str) -> None:
        """Run `providers setup NAME`: enter in the console what it prints, and answer what it asks."""
        name = line.split()[-1]
        async with self.step(f"{line}, and the console"):
            handed: list[AppCredentials] = []

            def first(shown: str) -> str:
                console = (
                    SlackConsole(self.internet.simulator, **self.slips.slack_console)
                    if name == "slack"
                    else GoogleConsole(self.internet.simulator, **self.slips.google_console)
                )
                handed.append(console.follow(shown.replace("\r\n", "\n")))
                return self.slips.client_id(handed[0])

            answers = [("Client ID: ", first), ("Client secret: ", lambda shown: self.slips.client_secret(handed[0]))]
            shown = await self.window.type(line, answers=answers)
            _require_success(f"setup {name}", shown)

    async def look(self, line: str) -> None:
        """Run `doctor`; return every line that is a problem, with its fix."""
        async with self.step(line):
            shown = await self.window.type(line)
            if shown.code == 0 and "providers setup slack (or google)" not in shown.text:
                return
            wrong = re.findall(r"^(?:problem|note +providers ).*\n.*fix: .*$", shown.text, flags=re.MULTILINE)
            raise JourneyStop("doctor", "\n".join(wrong) or shown.text)

    async def use(self, client: Client, follow: Callable[[str, CallToolResult], Awaitable[None]]) -> None:
        """Call with the agent, approve on the linked page, and check that the same call works."""
        for provider in self.slips.providers:
            tool, arguments = CALLS[provider]
            async with self.step(f"ask the agent for {tool}, agree, ask again"):
                told = await client.call_tool(tool, arguments)
                if "/connect/" not in _text(told):
                    raise JourneyStop(f"call {provider}", _text(told))
                await follow(provider, told)
                again = await client.call_tool(tool, arguments)
                if again.is_error:
                    raise JourneyStop(f"call {provider}", _text(again))
                self.done.append(tool)

    async def agree(self, person: Person, link: str, *, provider: str) -> None:
        """Approve on the vault's page and on the provider's page, and return."""
        where = f"connect {provider}"
        page = await person.open(link)
        _page_worked(where, page)
        before = _words(page.text)
        page = await person.submit(page, form="/connect/", button=("decision", "allow"))
        if "location" not in page.headers:
            raise JourneyStop(where, _words(page.text))
        try:
            back = await consent(page.headers["location"], trust=self.internet.trust)
        except ConsentRefused as refused:
            raise JourneyStop(where, f"{before} {_words(str(refused))}") from refused
        page = await person.open(back)
        _page_worked(where, page)
        if 'class="notice"' in page.text:
            raise JourneyStop(where, _words(page.text))

    def browser(self, origin: str) -> Person:
        return Person(origin, transport=httpx2.AsyncHTTPTransport(verify=self.internet.trust))

    # the journeys

    async def on_this_machine(self) -> None:
        """Follow docs/get-started/quickstart.md, starting with its third section."""
        for line in self.guide.lines("get-started/quickstart.md", "3. Create your app at the provider"):
            if line.split()[-1] in self.slips.providers:
                await self.set_up(line)
        if self.slips.before_doctor is not None:
            await self.slips.before_doctor(self)
        (line,) = self.guide.lines("get-started/quickstart.md", "4. Check the installation")
        await self.look(line)
        (line,) = self.guide.lines("get-started/quickstart.md", "5. Configure your MCP client")
        async with self.step(line):
            _require_success("client-config", await self.other_window().type(line))
        entry = self.entry_of_claude_code()
        opened = self.home / "opened"
        program = self.home / "browser"
        program.write_text(BROWSER.format(opened=opened), encoding="utf-8")
        program.chmod(0o700)
        desktop = empty_environment(self.home, path="/usr/bin:/bin", more={"BROWSER": f"{program} %s"})
        parameters = StdioServerParameters(
            command=str(entry["command"]),
            args=[str(word) for word in entry["args"]],
            env=desktop | dict(entry.get("env", {})),
            cwd=self.home,
        )
        async with Client(parameters) as client, self.browser("http://localhost:8765") as person:

            async def follow(provider: str, told: CallToolResult) -> None:
                await self.agree(person, await _come_up(opened), provider=provider)

            await self.use(client, follow)

    async def behind_a_proxy(self) -> None:
        """Follow docs/operate/tls-proxy.md, its section from installation to a post."""
        title = "From installation to an agent that posts"
        look, slack, google, serve, again, config = self.guide.lines("operate/tls-proxy.md", title)
        async with self.step(look):
            shown = await self.window.type(look)
            named = re.search(r"^settings_file +(\S+)$", shown.text, flags=re.MULTILINE)
            assert named is not None, shown.text
        async with self.step("write the settings file, start the proxy"):
            block = self.guide.blocks("operate/tls-proxy.md", "Run behind a TLS proxy or a tunnel", "toml")[0]
            assert VAULT in block
            agents = self.guide.blocks("operate/tls-proxy.md", "Agents", "toml")[0]
            Path(named[1]).write_text(f"{self.slips.public_url(block)}\n{self.slips.agents(agents)}", encoding="utf-8")
            authority = self.internet.authority
            if self.slips.proxy_certificate is not None:
                authority = self.slips.proxy_certificate(self.home)
            proxy = tls_proxy(self.internet.vault_socket(), authority, backend=8765, change=self.slips.proxy_changes)
            await self.stack.enter_async_context(proxy)
        for line in (slack, google):
            if line.split()[-1] in self.slips.providers:
                await self.set_up(line)
        origin = f"https://{VAULT}"
        async with self.step(serve):
            shown = await self.window_of_the_server().start(serve, until=_PROMPT)
            welcome = re.search(_PROMPT, shown.text)
            if welcome is None:
                raise JourneyStop("serve", shown.text)
        person = await self.stack.enter_async_context(self.browser(origin))
        await self.look(again)
        async with self.step("open the printed address, make the first account"):
            page = await person.open(welcome[1])
            answers = {"secret": welcome[2], "name": "alice", "password": PASSWORD, "password_again": PASSWORD}
            _page_worked("first account", await person.submit(page, dict(answers), form="/first-run"))
        async with self.step(config):
            _require_success("client-config", await self.other_window().type(config))
        entry = self.entry_of_claude_code()
        async with self.agent_over_http(str(entry["url"]), person) as client:

            async def follow(provider: str, told: CallToolResult) -> None:
                link = re.search(rf"{re.escape(origin)}/connect/[\w-]+", _text(told))
                assert link is not None, _text(told)
                await self.agree(person, link[0], provider=provider)

            await self.use(client, follow)

    def window_of_the_server(self) -> Terminal:
        window = self.other_window()
        self.stack.push_async_callback(window.close)
        return window

    def entry_of_claude_code(self) -> dict[str, object]:
        """The entry that the client reads from its own file."""
        content = json.loads((self.home / ".claude.json").read_text(encoding="utf-8"))
        return content["mcpServers"]["token-vault"]

    @asynccontextmanager
    async def agent_over_http(self, url: str, person: Person) -> AsyncGenerator[Client]:
        """Connect the official client with only the URL, identified as Claude Code; the person consents once."""
        answer: dict[str, str] = {}

        async def show(address: str) -> None:
            page = await person.open(address)
            _page_worked("sign in", page)
            page = await person.submit(page, form="/consent", button=("decision", "allow"))
            query = parse_qs(urlsplit(page.headers["location"]).query)
            answer.update({name: values[0] for name, values in query.items()})

        async def wait() -> AuthorizationCodeResult:
            return AuthorizationCodeResult(code=answer["code"], state=answer.get("state"), iss=answer.get("iss"))

        metadata = OAuthClientMetadata(
            client_name="Claude Code",
            redirect_uris=[AnyUrl("http://localhost:33418/callback")],
            token_endpoint_auth_method="none",
        )
        sign_in = OAuthClientProvider(
            url, metadata, _Wallet(), redirect_handler=show, callback_handler=wait, client_metadata_url=AGENT
        )
        async with (
            httpx2.AsyncClient(auth=sign_in, timeout=30, verify=self.internet.trust) as http,
            Client(streamable_http_client(url, http_client=http)) as client,
        ):
            yield client


class _Wallet:
    """What a client keeps between runs."""

    def __init__(self) -> None:
        self.kept: dict[str, object] = {}

    async def get_tokens(self):
        return self.kept.get("tokens")

    async def set_tokens(self, tokens: object) -> None:
        self.kept["tokens"] = tokens

    async def get_client_info(self):
        return self.kept.get("client")

    async def set_client_info(self, client_info: object) -> None:
        self.kept["client"] = client_info


async def _come_up(opened: Path) -> str:
    """The URL that the opened browser shows."""
    async with asyncio.timeout(10):
        while not opened.exists():
            await asyncio.sleep(0.02)
    address = opened.read_text(encoding="utf-8")
    opened.unlink()
    return opened_url(address)


def _require_success(where: str, shown: CommandOutput) -> None:
    if shown.code != 0:
        last = [line for line in shown.text.splitlines() if line.startswith("token-vault:")]
        raise JourneyStop(where, "\n".join(last) or shown.text)


def _page_worked(where: str, page: httpx2.Response) -> None:
    if page.status_code != 200:
        raise JourneyStop(where, _words(page.text))


def _text(result: CallToolResult) -> str:
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


def _words(page: str) -> str:
    """The text that a person reads on a page."""
    without = re.sub(r"<(style|script|head)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", without)).split())
