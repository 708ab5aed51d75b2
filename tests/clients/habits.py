"""How MCP clients were observed to handle registrations and tokens, as data. The README gives the sources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

USUAL_GRANTS: Final = ("authorization_code", "refresh_token")


@dataclass(frozen=True, slots=True)
class Habit:
    """One client's habits. Times are in seconds."""

    name: str
    processes: tuple[int, ...] = (0,)  # how long after the first process each one notices the expiry
    redirect: str = "http://127.0.0.1:{port}/callback"
    grants: tuple[str, ...] = USUAL_GRANTS
    scope: str | None = "tools connections offline_access"
    resource: str | None = ""  # appended to the server's URL; None: omitted
    registers_each_start: bool = False
    registers_each_expiry: bool = False
    crashes: bool = False  # once a day between receiving and storing a token, until the next morning
    clock_off: int = 0
    is_eager: bool = True  # refreshes by its clock; otherwise only after a 401

    @property
    def signs_in_by_itself(self) -> bool:
        """Whether it asks the person again regardless of the server."""
        return self.registers_each_start or self.registers_each_expiry or "refresh_token" not in self.grants


HABITS: Final = (
    Habit("Claude Code", processes=(0, 8, 76), redirect="http://localhost:{port}/callback", scope=None),
    Habit("Codex", processes=(0, 0, 0, 0, 0, 465), is_eager=False),
    Habit("Gemini CLI", scope="openid email profile tools connections mail.read", resource="/", is_eager=False),
    Habit("VS Code", processes=(0, 30), redirect="http://127.0.0.1:{port}/", clock_off=-600),
    Habit("Fast clock", clock_off=600, resource=None),
    Habit("mcp-remote", processes=(0, 0, 1), redirect="http://localhost:{port}/oauth/callback", crashes=True),
    Habit("Cursor", processes=(0, 2), redirect="http://localhost:{port}/callback", registers_each_start=True),
    Habit("mcporter", registers_each_expiry=True, is_eager=False),
    Habit("mcp-use", grants=("authorization_code",), scope="tools connections", is_eager=False),
)
