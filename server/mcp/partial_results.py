"""The texts for agents about a call that did only part of its work."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from providers.api.api import PARTLY_DONE
from providers.tools.spec import ToolSpec
from server.connecting.agent_refusals import plain, tell
from server.deployment import Deployment, MissingPart
from server.errors import as_sentence
from vault.records import Principal
from vault.refusals import ConnectionRequired, DelegationRequired, VaultError

_NOTE: Final = 2.0  # seconds to create a link for a missing part
_NOTE_MARGIN: Final = 0.2  # before the deadline, so that the result itself isn't lost
logger = logging.getLogger("token_vault.tools")


async def missing_part_note(
    deployment: Deployment, principal: Principal, missing: MissingPart | None, *, spec: ToolSpec, seconds: float
) -> str:
    """The note for a result without a part that the person could allow; empty for a complete result."""
    if missing is None:
        return ""
    what = await _what_to_allow(deployment, principal, missing.refusal, tool=spec.name, seconds=seconds)
    again = "" if missing.may_repeat else " Something was changed already: don't repeat the whole call."
    return f"[vault] A part may be missing. {what}{again}"


async def stop_text(
    deployment: Deployment, principal: Principal, refused: VaultError, *, spec: ToolSpec, seconds: float
) -> str:
    """The text for a call that wrote and was then refused by the vault."""
    logger.info("tool stopped after a write", extra={"tool": spec.name, "detail": refused.detail or refused.code})
    if isinstance(refused, ConnectionRequired | DelegationRequired):
        what = await _what_to_allow(deployment, principal, refused, tool=spec.name, seconds=seconds)
    else:
        what = as_sentence(plain(refused).description)
    return f"{spec.title} stopped. {what} {PARTLY_DONE}"


async def _what_to_allow(
    deployment: Deployment,
    principal: Principal,
    missing: ConnectionRequired | DelegationRequired,
    *,
    tool: str,
    seconds: float,
) -> str:
    """What the person can do, with a link if one can be made in time.

    The provider was called, so a failure here must not lose the known outcome.
    """
    try:
        async with asyncio.timeout(min(_NOTE, seconds - _NOTE_MARGIN)):
            told = await tell(deployment, missing, principal, tool=tool)
    except (VaultError, TimeoutError) as error:
        logger.warning("no link for a missing part", extra={"tool": tool, "cause": str(error)})
        return "The person needs to allow more for this."
    return told.text + ("" if told.link is None else f" The person can do that at {told.link.url}")
