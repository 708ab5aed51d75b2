"""One tool at a scripted provider, called with the minimum scopes that it declares."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from pydantic import BaseModel

from providers.api.api import UpstreamAPI
from providers.definitions.model import Provider
from providers.outbound.addresses import AddressPolicy
from providers.outbound.client import Outbound
from providers.tools.builtin import builtin_tools
from providers.tools.spec import ToolSpec
from tests.support.doubles.scripted_server import (
    Arrival,
    Reply,
    ScriptedServer,
    json_reply,
    provider_at,
    scripted_server,
)

TOOLS = {tool.name: tool for tool in builtin_tools()}
NOW = 1_790_000_000  # 2026-09-21T14:13:20Z
TOKEN = "upstream-token-canary-0123456789"
PACKED = {  # for an account with several values
    "aws": json.dumps({"access_key_id": "AKIAIOSFODNN7EXAMPLE", "secret_access_key": "x" * 40, "region": "us-east-1"}),
}


@dataclass
class Bench:
    """A scripted provider; `run` calls one tool with the minimum scopes that it declares."""

    server: ScriptedServer
    outbound: Outbound
    steps: list[tuple[int, int | None]] = field(default_factory=list)
    providers: dict[str, Provider] = field(default_factory=dict)  # read once

    async def run(self, name: str, /, **arguments: object) -> BaseModel:
        tool = TOOLS[name]
        parsed = tool.input.model_validate(arguments)
        return await tool.call(self.api(tool), parsed, self._progress)

    def api(self, tool: ToolSpec) -> UpstreamAPI:
        assert tool.provider is not None
        if tool.provider not in self.providers:
            self.providers[tool.provider] = provider_at(tool.provider, self.server.url)
        provider = self.providers[tool.provider]
        token = PACKED.get(tool.provider, TOKEN)
        return UpstreamAPI(provider, self.outbound, token=token, scopes=tool.scopes, account="T1:U1", now=NOW)

    async def _progress(self, done: int, total: int | None, message: str) -> None:
        self.steps.append((done, total))


def standard(arrival: Arrival) -> Reply:
    match arrival.path:
        case "/web/chat.postMessage":
            return json_reply({"ok": True, "channel": "C123", "ts": "1700000000.000100"})
        case "/calendar/freeBusy":
            return json_reply({"calendars": {item["id"]: {"busy": []} for item in arrival.json["items"]}})
        case "/drive/files/f1":
            return json_reply({"id": "f1", "name": "n", "mimeType": "text/plain", "size": "3"})
        case "/main/104000000000001":
            return json_reply({"id": "104000000000001", "access_token": "page-token"})
        case _:
            return json_reply({"ok": True, "id": "e1", "items": [], "channels": [], "messages": []})


@asynccontextmanager
async def open_bench() -> AsyncGenerator[Bench]:
    """A bench whose provider answers with `standard` until a test changes that."""
    async with scripted_server(standard) as server, Outbound(AddressPolicy(allow_loopback=True)) as outbound:
        yield Bench(server, outbound)
