"""How Google's authorization endpoint refuses: it redirects the browser to its own error page.

The reason is in `authError`, url-safe base64 of a small protobuf message: code, text, HTTP status. Seen in public
repositories that quote live answers, and read, not run (2026-11-25); the words are those that people report.
"""

from __future__ import annotations

import base64
import binascii
from urllib.parse import urlencode

from starlette.responses import Response

from providers.simulator.calls import SimulatedCall
from providers.simulator.pages import refused_page

PATH = "/google/signin/oauth/error"
_WORDS = {
    "redirect_uri_mismatch": (
        "You can't sign in to this app because it doesn't comply with Google's OAuth 2.0 policy. If you're the app "
        "developer, register the redirect URI in the Google Cloud Console."
    ),
    "invalid_client": "The OAuth client was not found.",
}


def error_location(code: str, description: str) -> str:
    """Where the browser is sent for this error."""
    text = _WORDS.get(code, description)
    status = 401 if code == "invalid_client" else 400
    message = _field(1, code.encode()) + _field(2, text.encode()) + b"\x20" + _varint(status)
    query = {"authError": base64.urlsafe_b64encode(message).decode(), "flowName": "GeneralOAuthFlow"}
    return f"{PATH}?{urlencode(query)}"


def error_page(call: SimulatedCall) -> Response:
    """The page that the person sees."""
    code, text = _read(call.query.get("authError", ""))
    return refused_page("google", error=code, description=text)


def _read(value: str) -> tuple[str, str]:
    try:
        message = base64.urlsafe_b64decode(value)
    except (binascii.Error, ValueError):
        return "invalid_request", ""
    parts: list[str] = []
    while message[:1] in {b"\x0a", b"\x12"}:
        size, begin = message[1], 2
        if size >= 0x80:
            size, begin = (size & 0x7F) | (message[2] << 7), 3
        parts.append(message[begin : begin + size].decode(errors="replace"))
        message = message[begin + size :]
    return (parts[0], parts[1]) if len(parts) == 2 else ("invalid_request", "")


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    return bytes([value]) if value < 0x80 else bytes([value & 0x7F | 0x80, value >> 7])
