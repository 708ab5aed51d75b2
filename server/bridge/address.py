"""The address of a remote vault as a person enters it. Pure."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from server.bridge.refusals import BridgeRefused
from server.settings import LOOPBACK_HOSTS

_HOST: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\]")
_AGENT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")
_PORTS: Final = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class RemoteVault:
    """A remote token vault, and the agent that calls it from this machine."""

    origin: str
    agent: str
    is_for_programs: bool = False  # for `run`: its tokens are exchanged for proxy handles

    @property
    def resource(self) -> str:
        """The vault's MCP endpoint: the target of messages and the audience of tokens."""
        return f"{self.origin}/mcp"

    @property
    def is_loopback(self) -> bool:
        return (urlsplit(self.origin).hostname or "") in LOOPBACK_HOSTS

    @property
    def name(self) -> str:
        """A short name for files; the same for all processes of this agent at this vault."""
        return hashlib.sha256("\n".join((self.origin, *self._who)).encode()).hexdigest()[:24]

    @property
    def account(self) -> str:
        """The name of its credentials in a keyring."""
        return " ".join((self.origin, *self._who))

    @property
    def _who(self) -> tuple[str, ...]:
        return (self.agent, "run") if self.is_for_programs else (self.agent,)


def remote_vault(url: str, *, agent: str, is_for_programs: bool = False) -> RemoteVault:
    """The vault at this origin or MCP address. Raises BridgeRefused; https is required except on this machine."""
    if not _AGENT.fullmatch(agent):
        raise BridgeRefused("use letters, digits, spaces, '.', '_' and '-' in --client, at most 64 characters")
    wrong = BridgeRefused("set --url to the address of a vault, such as https://vault.example or its /mcp")
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError as error:
        raise wrong from error
    host = parts.netloc.lower().rpartition(":")[0] if port is not None else parts.netloc.lower().removesuffix(":")
    if parts.scheme not in _PORTS or not _HOST.fullmatch(host) or port == 0 or parts.query or parts.fragment:
        raise wrong
    if parts.path.rstrip("/") not in {"", "/mcp"}:
        raise wrong
    if parts.scheme == "http" and host not in LOOPBACK_HOSTS:
        raise BridgeRefused("use https for --url: over plain http, anyone on the network could read the tokens")
    shown = "" if port is None or port == _PORTS[parts.scheme] else f":{port}"
    return RemoteVault(f"{parts.scheme}://{host}{shown}", agent, is_for_programs)
