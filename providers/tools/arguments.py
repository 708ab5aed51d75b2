"""Arguments that several tools share, and functions that read them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final

from pydantic import Field

GO_ON: Final = "`next_cursor` of the previous answer"
Cursor = Annotated[str | None, Field(min_length=1, max_length=500, description=GO_ON)]
Address = Annotated[str, Field(pattern=r"^[A-Za-z0-9._%+'-]{1,64}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+$", max_length=254)]

DAY: Final = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
CLOCK: Final = r"[Tt ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?"
OFFSET: Final = r"([Zz]|[+-][0-9]{2}:[0-9]{2})"
Moment = Annotated[str, Field(pattern=f"^{DAY}{CLOCK}{OFFSET}$", max_length=40)]  # RFC 3339
ZoneName = Annotated[str | None, Field(max_length=64, pattern=r"^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}$")]


def parse_moment(value: str) -> datetime:
    """The instant in RFC 3339 text that passed a pattern above."""
    return datetime.fromisoformat(value.upper())
