"""APIs of further services, small: what the declared tools call, in each service's own words.

That the token allows the operation was checked before (`families/resources.py`). What is written stays until the
simulator is reset. Shapes are from the services' documentation, read on 2026-11-25 and not run against them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.responses import Response

from providers.simulator.services import facebook, graph, hubspot, jira, linear, notion, salesforce
from providers.simulator.services.desk import ServiceCall

APIS: Mapping[str, Callable[[ServiceCall], Response]] = {
    "notion": notion.answer,
    "linear": linear.answer,
    "jira": jira.answer,
    "hubspot": hubspot.answer,
    "graph": graph.answer,
    "salesforce": salesforce.answer,
    "facebook": facebook.answer,
}
# How these say that a token is dead (401) or allows too little (403); the others say it in the words of RFC 6750.
REFUSALS: Mapping[str, Callable[[int], Response]] = {
    "salesforce": salesforce.no_authority,
    "facebook": facebook.no_authority,
}
