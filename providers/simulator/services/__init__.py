"""APIs of further services, small: what the declared tools call, in each service's own words.

That the token allows the operation was checked before (`families/resources.py`). What is written stays until the
simulator is reset. Shapes are from the services' documentation, read on 2026-11-25 and not run against them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.responses import Response

from providers.simulator.services import graph, hubspot, jira, linear, notion
from providers.simulator.services.desk import Visit

APIS: Mapping[str, Callable[[Visit], Response]] = {
    "notion": notion.answer,
    "linear": linear.answer,
    "jira": jira.answer,
    "hubspot": hubspot.answer,
    "graph": graph.answer,
}
