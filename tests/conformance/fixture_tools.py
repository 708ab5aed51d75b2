"""The tools that the conformance suite calls by name, as far as this product's tools can provide them.

They enter a vault only through the tests' entry point (`running_vault(more_tools=...)`); none of them ships.
"""

from __future__ import annotations

import asyncio
from typing import Final

from providers.api.api import ToolRefused, UpstreamAPI
from providers.tools.spec import Progress, ToolOutput
from providers.tools.tool import tool

SCOPES: Final = {"chat:write"}


class TextOutput(ToolOutput):
    """One text."""

    text: str

    def __str__(self) -> str:
        return self.text


@tool("slack", title="Simple text", scopes=SCOPES, effect="read")
async def test_simple_text(api: UpstreamAPI) -> TextOutput:
    """Answer with a simple text."""
    return TextOutput(text="This is a simple text response for testing.")


@tool("slack", title="Error", scopes=SCOPES, effect="read")
async def test_error_handling(api: UpstreamAPI) -> TextOutput:
    """Fail each time."""
    raise ToolRefused("This tool intentionally returns an error for testing")


@tool("slack", title="Progress", scopes=SCOPES, effect="read")
async def test_tool_with_progress(api: UpstreamAPI, progress: Progress) -> TextOutput:
    """Report progress three times."""
    for done in (0, 50, 100):
        await progress(done, 100, "Under way")
        await asyncio.sleep(0.05)
    return TextOutput(text="Done.")


TOOLS: Final = (test_simple_text, test_error_handling, test_tool_with_progress)
