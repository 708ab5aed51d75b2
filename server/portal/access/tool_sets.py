"""The tool set that a person chooses for an agent: the choice on the consent and agents pages, and storing it.

A set only removes tools from those that the operator offers and gives no permission, so nothing else on these pages
depends on it.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Final

from providers.tools.sets import EVERYTHING
from server.deployment import Deployment
from server.http.translations import translate
from server.portal.forms import Form, PageRefused
from vault import tool_choices, users
from vault.audit import audit
from vault.records import Event, User
from vault.storage.database import Transaction

FIELD: Final = "tool_set"
# the choice when the page was rendered: an old form must not overwrite a newer choice
SHOWN_FIELD: Final = "tool_set_shown"


@dataclass(frozen=True, slots=True)
class ToolSetOption:
    """One option: the set's name (empty for all tools that the operator offers) and its number of tools."""

    value: str
    title: str
    number: int
    is_chosen: bool


def options(deployment: Deployment, *, client_id: str, chosen: str | None) -> tuple[ToolSetOption, ...]:
    """The choices for this agent: the sets that make a difference, and the current one."""
    offer, offered = deployment.offer, deployment.offer.names_for(client_id)
    found = [ToolSetOption("", translate(offer.sets[EVERYTHING].title), len(offered), is_chosen=chosen is None)]
    for one in offer.sets.values():
        left = one.tools & offered
        if one.name == chosen or (left and left != offered):
            found.append(ToolSetOption(one.name, translate(one.title), len(left), is_chosen=one.name == chosen))
    if chosen is not None and chosen not in offer.sets:  # the operator has removed the set, so no tools are left
        found.append(ToolSetOption(chosen, chosen, 0, is_chosen=True))
    return tuple(found)


async def current_options(
    deployment: Deployment, user: User, *, client_id: str, scopes: frozenset[str]
) -> tuple[ToolSetOption, ...]:
    """The current options for this person's agent; none for an agent whose `scopes` don't include tools."""
    if "tools" not in scopes:
        return ()
    chosen = await tool_choices.get_tool_set(deployment.database, user.id, client_id=client_id)
    return options(deployment, client_id=client_id, chosen=chosen)


async def save(
    deployment: Deployment, user: User, *, client_id: str, form: Form, inside: Transaction | None = None
) -> None:
    """Store the choice in the form if it is a change. Raises PageRefused if the form is too old.

    `inside`: the transaction, if it is part of a larger one.
    """
    if FIELD not in form.fields:
        return
    wanted, shown = form.one(FIELD), form.one(SHOWN_FIELD)
    if wanted == shown:
        return
    async with deployment.transaction() if inside is None else nullcontext(inside) as transaction:
        await users.hold_user(transaction, user.id)  # of two forms, one is first
        current = await tool_choices.get_tool_set(transaction, user.id, client_id=client_id)
        known = options(deployment, client_id=client_id, chosen=current)
        if shown != (current or "") or all(one.value != wanted for one in known):
            raise PageRefused("permissions_changed", kind="conflict")
        await store(transaction, user, client_id=client_id, tool_set=wanted or None, now=deployment.now())


async def store(transaction: Transaction, user: User, *, client_id: str, tool_set: str | None, now: int) -> None:
    """Store the choice, with its event."""
    if await tool_choices.set_tool_set(transaction, user.id, client_id=client_id, tool_set=tool_set, now=now):
        event = Event(
            kind="tools.chosen", user_id=user.id, client_id=client_id, details={"tool_set": tool_set or EVERYTHING}
        )
        await audit.append(transaction, event, now=now)
