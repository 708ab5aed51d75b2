"""The map on the start page: agents, accounts, and a line for each permission between them, thicker if used more."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from server.portal.access.access import AccessRow
from server.portal.agents import OwnAgent
from server.portal.connections import account_title
from server.portal.requests import OwnVisit
from vault.audit.audit import LastUse
from vault.records import Connection

MOST_AGENTS: Final = 10
MOST_ACCOUNTS: Final = 8
_HEIGHT: Final = 100.0  # of the drawing, in its own units; so is its width
_THINNEST, _THICKEST = 1.25, 7.0  # pixels


@dataclass(frozen=True, slots=True)
class MapLine:
    """What one agent may do with one account: `level` of the four choices, and how often it did so recently."""

    agent: OwnAgent
    account: Connection
    title: str  # of the account's provider
    level: str
    count: int
    path: str  # of the drawing
    width: str
    agent_place: int
    account_place: int


@dataclass(frozen=True, slots=True)
class AccessMap:
    """The most used of each, and the lines between them; how many more there are."""

    agents: tuple[OwnAgent, ...]
    accounts: tuple[Connection, ...]
    lines: tuple[MapLine, ...]
    more_agents: int
    more_accounts: int


def draw(
    visit: OwnVisit,
    agents: Sequence[tuple[OwnAgent, tuple[AccessRow, ...], int]],
    *,
    accounts: Sequence[Connection],
    uses: Sequence[LastUse],
    all_agents: int,
    all_accounts: int,
) -> AccessMap:
    """The map of these agents and accounts, with what each agent may use; the last two say how many there are."""
    counts = {(one.client_id, one.connection_id or ""): one.count for one in uses}
    busiest = max(counts.values(), default=0)
    places = {one.id: place for place, one in enumerate(accounts)}
    lines: list[MapLine] = []
    for place, (agent, rows, _) in enumerate(agents):
        for row in rows:
            to = places.get(row.connection.id)
            if to is None:
                continue
            count = counts.get((agent.client.id, row.connection.id), 0)
            lines.append(
                MapLine(
                    agent=agent,
                    account=row.connection,
                    title=account_title(visit, row.connection.provider),
                    level=row.level.value,
                    count=count,
                    path=_curve(_middle(place, len(agents)), _middle(to, len(accounts))),
                    width=_width(count, busiest),
                    agent_place=place,
                    account_place=to,
                )
            )
    shown = tuple(one for one, _, _ in agents)
    # Thin lines last, so that they stay visible above thick ones.
    ordered = tuple(sorted(lines, key=lambda one: -one.count))
    return AccessMap(shown, tuple(accounts), ordered, all_agents - len(shown), all_accounts - len(accounts))


def most_used(owned: Sequence[Connection], uses: Sequence[LastUse]) -> tuple[Connection, ...]:
    """The accounts to show, in the order of the list that the person knows."""
    totals: Counter[str | None] = Counter()
    for one in uses:
        totals[one.connection_id] += one.count
    chosen = {one.id for one in sorted(owned, key=lambda one: -totals[one.id])[:MOST_ACCOUNTS]}
    return tuple(one for one in owned if one.id in chosen)


def _middle(place: int, of: int) -> float:
    """The center of an item in a column of equal ones."""
    return _HEIGHT * (place + 0.5) / of


def _curve(start: float, end: float) -> str:
    half = _HEIGHT / 2
    return f"M0,{start:.2f} C{half:.0f},{start:.2f} {half:.0f},{end:.2f} {_HEIGHT:.0f},{end:.2f}"


def _width(count: int, busiest: int) -> str:
    """Pixels that grow with the root: ten times the calls must not hide the rest."""
    share = math.sqrt(count / busiest) if busiest else 0.0
    return f"{_THINNEST + (_THICKEST - _THINNEST) * share:.2f}"
