"""What a tool's caller reads: the result with the authority of the call, or words that say what happened. Pure."""

from __future__ import annotations

from typing import Final

from mcp_types import CallToolResult, TextContent
from pydantic import BaseModel, ValidationError

from providers.tools.spec import ToolSpec
from vault.exchange.exchange import UpstreamToken
from vault.records import Narrowing

META_KEY: Final = "io.github.mcp-token-vault/exchange"
TEXT_LIMIT: Final = 60_000  # characters of upstream text in one answer


def failure(text: str) -> CallToolResult:
    """Words that say what happened and what to do."""
    return CallToolResult(content=[TextContent(text=text)], is_error=True)


def misfit(spec: ToolSpec, error: ValidationError) -> str:
    """Which arguments do not fit, in the schema's words; never the values, which may hold anything."""
    lines = [
        f"{'.'.join(str(part) for part in found['loc']) or 'arguments'}: {found['msg']}"
        for found in error.errors(include_url=False, include_input=False, include_context=False)[:10]
    ]
    return f"{spec.name} was not called, the arguments do not fit: " + "; ".join(lines)


def success(output: BaseModel, token: UpstreamToken | None) -> CallToolResult:
    """The result, the same as readable text, and the authority with which the call was made."""
    text = str(output)
    if len(text) > TEXT_LIMIT:
        text = text[:TEXT_LIMIT] + "\n(cut: the structured result has the rest)"
    content: list[TextContent] = [TextContent(text=text)]
    meta: dict[str, object] | None = None
    if token is not None:
        content.append(TextContent(text=_enforcement(token)))
        meta = {
            META_KEY: {
                "narrowing": token.narrowing.value,
                "scopes": sorted(token.scopes),
                "granted": sorted(token.granted),
                "account": token.label,
                "connection_id": token.connection_id,
            }
        }
    return CallToolResult(content=[*content], structured_content=output.model_dump(mode="json"), _meta=meta)


_HOW: Final = {
    Narrowing.UPSTREAM: "the token itself carried no more",
    Narrowing.ENFORCED: "the vault let no other call through",
    Narrowing.FULL: "the whole account's authority, by the operator's switch",
}


def _enforcement(token: UpstreamToken) -> str:
    """One line that says with what authority the call was made and who enforced it."""
    how = _HOW[token.narrowing]
    wider = sorted(token.granted - token.scopes)
    rest = f"; the connection also has {' '.join(wider)}" if wider else ""
    return f"[vault] as {token.label}, scopes {' '.join(sorted(token.scopes))} ({token.narrowing}: {how}{rest})"
