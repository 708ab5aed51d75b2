"""Each MCP client's configuration: its file, the section and format of an entry, and its transports.

From the clients' own documentation and sources, read in November 2026; docs/evidence/clients.md names which were run.

| Client | Read |
| --- | --- |
| claude-code | code.claude.com/docs/en/mcp |
| claude-desktop | support.claude.com article 11503834 |
| cursor | cursor.com/docs/mcp, cursor.com/docs/mcp/install-links |
| vscode | code.visualstudio.com/docs/agents/reference/mcp-configuration |
| inspector | its README |
| codex | developers.openai.com/codex/mcp; `codex mcp add --help` of 0.171.0 |
| gemini-cli | reference/configuration.md in @google/gemini-cli 0.61.0: `url` is for SSE, `httpUrl` for HTTP |
| opencode | opencode.ai/docs/mcp-servers and /docs/migrate-v1: version 2 reads this form of version 1 |
| windsurf | docs.windsurf.com/windsurf/cascade/mcp |
| zed | zed.dev/docs/ai/mcp, zed.dev/docs/configuring-zed |
| goose | goose-docs.ai, "Configuration Files": no SSE |
| n8n | nodes/mcp/McpClientTool of @n8n/n8n-nodes-langchain 2.41.1 |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from server.setup.client_files import FormatName

TransportName = Literal["stdio", "http", "sse"]
Entry = Mapping[str, object]
ALL: Final[tuple[TransportName, ...]] = ("stdio", "http", "sse")
NO_SSE: Final[tuple[TransportName, ...]] = ("stdio", "http")
MCP_REMOTE: Final = "mcp-remote@0.15.1"  # the version that the tests run
START_TIMEOUT: Final = 60  # seconds: the first start creates keys


@dataclass(frozen=True, slots=True)
class Program:
    """How to start this installation, independent of the client's folder and environment."""

    command: str
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """Where clients keep their files on this machine, and `npx` if present."""

    platform: str  # as sys.platform
    home: Path
    environment: Mapping[str, str]
    npx: str | None = None

    def folder(self, variable: str, default: Path) -> Path:
        """A folder that a variable can move."""
        given = self.environment.get(variable)
        return Path(given) if given else default

    @property
    def applications(self) -> Path:
        """Where desktop programs keep their data."""
        if self.platform == "darwin":
            return self.home / "Library" / "Application Support"
        return self.config

    @property
    def config(self) -> Path:
        """Where command-line programs keep their configuration, also on macOS."""
        if self.platform == "win32":
            return self.folder("APPDATA", self.home / "AppData" / "Roaming")
        if self.platform == "darwin":
            return self.home / ".config"
        return self.folder("XDG_CONFIG_HOME", self.home / ".config")


@dataclass(frozen=True, slots=True)
class FileClient:
    """The configuration of a client. `files`: the files that it reads; the first existing one is changed, else the
    first."""

    title: str
    files: Callable[[Machine], Sequence[Path]]
    section: str
    remote: Callable[[TransportName, str, Machine], Entry]  # transport and URL
    local: Callable[[Program], Entry]
    format: FormatName = "json"
    transports: tuple[TransportName, ...] = ALL


def plain(program: Program) -> Entry:
    """`command`, `args`, and `env`, which most clients read."""
    env = {"env": dict(program.environment)} if program.environment else {}
    return {"command": program.command, "args": list(program.arguments), **env}


def _with_type(program: Program) -> Entry:
    return {"type": "stdio", **plain(program)}


def _url_with_type(transport: TransportName, url: str, _machine: Machine) -> Entry:
    return {"type": transport, "url": url}


def _url(_transport: TransportName, url: str, _machine: Machine) -> Entry:
    return {"url": url}


def _through_npx(transport: TransportName, url: str, machine: Machine) -> Entry:
    """mcp-remote, with npx's own folder on the path: desktop programs do not see a shell's path."""
    arguments = ("-y", MCP_REMOTE, url, "--transport", f"{transport}-only")
    if machine.npx is None or machine.platform == "win32":
        return plain(Program(machine.npx or "npx", arguments))
    folders = dict.fromkeys((str(Path(machine.npx).parent), "/usr/local/bin", "/usr/bin", "/bin"))
    return plain(Program(machine.npx, arguments, {"PATH": ":".join(folders)}))


def _opencode(program: Program) -> Entry:
    env = {"environment": dict(program.environment)} if program.environment else {}
    return {"type": "local", "command": [program.command, *program.arguments], "enabled": True, **env}


def _goose(program: Program) -> Entry:
    return {
        "enabled": True,
        "type": "stdio",
        "name": "token-vault",
        "cmd": program.command,
        "args": list(program.arguments),
        "envs": dict(program.environment or {}),
        "timeout": 300,
    }


def _codex(program: Program) -> Entry:
    return {**plain(program), "startup_timeout_sec": START_TIMEOUT}


def _xdg(machine: Machine) -> Path:
    """`~/.config` on every system, for programs that follow the XDG directories also on Windows and macOS."""
    return machine.folder("XDG_CONFIG_HOME", machine.home / ".config")


def _goose_file(machine: Machine) -> Path:
    if machine.platform == "win32":
        return machine.config / "Block" / "goose" / "config" / "config.yaml"
    return _xdg(machine) / "goose" / "config.yaml"


CLIENTS: Final[Mapping[str, FileClient]] = {
    "claude-code": FileClient(
        "Claude Code",
        lambda machine: [machine.folder("CLAUDE_CONFIG_DIR", machine.home) / ".claude.json"],
        "mcpServers",
        _url_with_type,
        _with_type,
    ),
    "claude-desktop": FileClient(
        "Claude Desktop",
        lambda machine: [machine.applications / "Claude" / "claude_desktop_config.json"],
        "mcpServers",
        _through_npx,
        plain,
    ),
    "cursor": FileClient(
        "Cursor",
        lambda machine: [machine.home / ".cursor" / "mcp.json"],
        "mcpServers",
        _url,  # it detects the transport itself
        _with_type,
    ),
    "vscode": FileClient(
        "VS Code",
        lambda machine: [machine.applications / "Code" / "User" / "mcp.json"],
        "servers",
        _url_with_type,
        _with_type,
    ),
    "codex": FileClient(
        "Codex",
        lambda machine: [machine.folder("CODEX_HOME", machine.home / ".codex") / "config.toml"],
        "mcp_servers",
        _url,
        _codex,
        format="toml",
        transports=NO_SSE,
    ),
    "gemini-cli": FileClient(
        "Gemini CLI",
        lambda machine: [machine.folder("GEMINI_CLI_HOME", machine.home) / ".gemini" / "settings.json"],
        "mcpServers",
        lambda transport, url, _: {"httpUrl" if transport == "http" else "url": url},
        plain,
    ),
    "opencode": FileClient(
        "opencode",
        lambda machine: [_xdg(machine) / "opencode" / name for name in ("opencode.jsonc", "opencode.json")],
        "mcp",
        lambda _transport, url, _machine: {"type": "remote", "url": url, "enabled": True},
        _opencode,
        transports=NO_SSE,
    ),
    "windsurf": FileClient(
        "Windsurf",
        lambda machine: [machine.home / ".codeium" / "windsurf" / "mcp_config.json"],
        "mcpServers",
        lambda _transport, url, _machine: {"serverUrl": url},
        plain,
    ),
    "zed": FileClient(
        "Zed",
        lambda machine: [machine.config / ("Zed" if machine.platform == "win32" else "zed") / "settings.json"],
        "context_servers",
        _url,
        plain,
        transports=NO_SSE,
    ),
    "goose": FileClient(
        "Goose",
        lambda machine: [_goose_file(machine)],
        "extensions",
        lambda _transport, url, _machine: {
            "enabled": True,
            "type": "streamable_http",
            "name": "token-vault",
            "uri": url,
            "timeout": 300,
        },
        _goose,
        format="yaml",
        transports=NO_SSE,
    ),
    "inspector": FileClient(
        "MCP Inspector",
        lambda machine: [machine.folder("MCP_CATALOG_PATH", machine.home / ".mcp-inspector" / "mcp.json")],
        "mcpServers",
        lambda transport, url, _: {"type": "streamable-http" if transport == "http" else "sse", "url": url},
        _with_type,
    ),
}
