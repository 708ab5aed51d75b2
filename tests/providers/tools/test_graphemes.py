"""Limits in characters as people see them, and the format of a time, checked before a post goes to Bluesky."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio
from pydantic import ValidationError

from providers.outbound.json_values import text_at
from providers.tools.graphemes import count_graphemes
from tests.generating.shipped_tools import shipped_tools
from tests.support.doubles.scripted_server import json_reply
from tests.support.tool_bench import Bench, open_bench

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
# atproto.com/specs/lexicon: a datetime, whose preferred form is UTC with milliseconds
DATETIME = re.compile(r"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9]\.[0-9]{3}Z")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def bench() -> AsyncGenerator[Bench]:
    async with open_bench() as opened:
        yield opened


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("hello", 5),
        ("e\u0301", 1),
        (FAMILY, 1),
        ("\U0001f44d\U0001f3fd", 1),
        ("\u2708\ufe0f", 1),
        ("\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7", 2),
        ("\U0001f1e9\U0001f1ea\U0001f1eb", 2),
        ("\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", 1),
        ("\ud55c\uad6d\uc5b4", 3),
        ("\u1112\u1161\u11ab", 1),
        ("\uac00\u11a8", 1),
        ("\uac01\u1161", 2),
        ("a\r\nb", 3),
        ("a\n\u0301", 3),
        ("a\u200db", 2),
        ("\u0ba8\u0bbf", 1),
        ("\u0e19\u0e33", 1),
        ("\u0e19\u0e19", 2),
        ("\u0645\u06cc\u200c\u062e", 3),
    ],
)
def test_what_people_see_as_one_character_counts_once(text: str, count: int) -> None:
    assert count_graphemes(text) == count


@pytest.mark.parametrize(
    ("text", "is_taken"),
    [
        ("x" * 300, True),
        ("x" * 301, False),
        ("e\u0301" * 300, True),
        ("e\u0301" * 301, False),
        (FAMILY * 166, True),  # 2988 bytes
        (FAMILY * 167, False),  # 3006 bytes
    ],
)
async def test_a_post_that_bluesky_would_refuse_is_not_sent(bench: Bench, text: str, *, is_taken: bool) -> None:
    bench.server.answer = lambda _: json_reply({"uri": "at://did:plc:x/app.bsky.feed.post/1"})
    bench.server.arrivals.clear()
    spec = shipped_tools()["bluesky_post"]
    arguments = {"handle": "alice.bsky.social", "text": text, "created_at": "2026-12-01T09:00:00.5+01:00"}
    if not is_taken:
        with pytest.raises(ValidationError, match="write at most"):
            spec.input.model_validate(arguments)
        return
    await spec.call(bench.api(spec), spec.input.model_validate(arguments), silent)
    [arrival] = bench.server.arrivals
    sent_at = text_at(arrival.json, "record.createdAt")
    assert (text_at(arrival.json, "record.text"), sent_at) == (text, "2026-12-01T08:00:00.500Z")
    assert sent_at is not None and DATETIME.fullmatch(sent_at)


async def silent(done: int, total: int | None, message: str) -> None:
    """Progress that nobody watches."""
