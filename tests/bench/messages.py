"""The calls of each era as clients send them: bodies, and raw requests with their headers."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Mapping

from tests.bench.servers.contenders import Contender

HANDSHAKE = "2025-11-25"
WANTED = b"1764000000.000100"  # in each answer
CLIENT = {"name": "bench", "version": "1"}
INITIALIZE: Mapping[str, object] = {"protocolVersion": HANDSHAKE, "capabilities": {}, "clientInfo": CLIENT}
READY = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'
_MODERN = {
    "Content-Type": "application/json",
    "Accept": "application/json, text/event-stream",
    "MCP-Protocol-Version": "2026-07-28",
    "Mcp-Method": "tools/call",
    "Mcp-Name": "slack_post",
}
_OTHER = {**_MODERN, "Content-Type": "application/json; charset=utf-8", "Accept": "text/event-stream,application/json"}
_ENVELOPE: Mapping[str, object] = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": CLIENT,
    "io.modelcontextprotocol/clientCapabilities": {},
}
_SESSION = {**{name: _MODERN[name] for name in ("Content-Type", "Accept")}, "MCP-Protocol-Version": HANDSHAKE}
ERAS: Mapping[str, tuple[Mapping[str, str], bool, bool]] = {  # headers, whether modern, whether with progress token
    "2026-07-28": (_MODERN, True, False),
    "2026-07-28, progress token": (_MODERN, True, True),
    "2026-07-28, other spelling": (_OTHER, True, True),
    "2025-11-25, session": (_SESSION, False, True),
}


def request(number: int | str, method: str, params: Mapping[str, object]) -> bytes:
    """A JSON-RPC request."""
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode()


def call(number: int, *, is_modern: bool, has_progress: bool = True) -> bytes:
    """One `tools/call`; most clients send a progress token with it."""
    meta = {**(_ENVELOPE if is_modern else {}), **({"progressToken": number} if has_progress else {})}
    arguments = {"channel": "general", "text": "hi"}
    return request(number, "tools/call", {"name": "slack_post", "arguments": arguments, "_meta": meta})


def check(answer: bytes) -> None:
    """End the run if a call failed."""
    if WANTED not in answer or b'"isError":true' in answer.replace(b" ", b""):
        raise SystemExit(f"a call failed: {answer[:400].decode(errors='replace')}")


def authorization(contender: Contender) -> dict[str, str]:
    """The header with the contender's token, if it needs one."""
    return {"Authorization": f"Bearer {contender.token}"} if contender.token else {}


def open_session(contender: Contender) -> str:
    """Open and initialize a handshake session; return its id."""
    headers = {**_SESSION, **authorization(contender)}
    connection = http.client.HTTPConnection("127.0.0.1", contender.port, timeout=30)
    connection.request("POST", "/mcp", request("first", "initialize", INITIALIZE), headers)
    answer = connection.getresponse()
    answer.read()
    session = answer.getheader("mcp-session-id")
    if session is None:
        raise SystemExit(f"no session: {answer.status}")
    connection.request("POST", "/mcp", READY, headers | {"mcp-session-id": session})
    connection.getresponse().read()
    connection.close()
    return session


def over_http(contender: Contender, era: str) -> Callable[[int], bytes]:
    """Raw requests of the era, by number."""
    headers, is_modern, has_progress = ERAS[era]
    own = authorization(contender) | ({} if is_modern else {"Mcp-Session-Id": open_session(contender)})
    lines = [f"{name}: {value}" for name, value in ({"Host": f"127.0.0.1:{contender.port}"} | headers | own).items()]

    def make(number: int) -> bytes:
        body = call(number, is_modern=is_modern, has_progress=has_progress)
        head = ["POST /mcp HTTP/1.1", *lines, f"Content-Length: {len(body)}"]
        return ("\r\n".join(head) + "\r\n\r\n").encode() + body

    return make
