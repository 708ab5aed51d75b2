"""Adding, renaming, and removing passkeys. `server.sign_in.passkeys` checks the browser's response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.responses import Response

from server.administration.people import removable_identities
from server.http import pages
from server.http.page_texts import text
from server.portal.forms import PageRefused
from server.portal.requests import OwnVisit, safe_return
from server.portal.step_up import link_of
from server.sign_in import passkeys as ceremonies
from server.sign_in import step_up
from server.sign_in.devices import describe_browser
from vault import users
from vault.audit import audit
from vault.records import Event
from vault.sign_in import passkeys, sessions
from vault.sign_in.passkeys import NAME_LIMIT, Passkey, PasskeyTaken, TooManyPasskeys


@dataclass(frozen=True, slots=True)
class AddingForm:
    """What the page needs to add a passkey.

    `options` is empty if no passkey can be added now: then `link` leads to what the person must do first, or
    `is_available` is False because the vault's address isn't a domain.
    """

    options: str = ""
    suggestion: str = ""
    link: str = ""
    is_available: bool = True
    return_to: str = ""


async def adding_form(visit: OwnVisit, held: Sequence[Passkey], *, return_to: str) -> AddingForm:
    """Check before the browser is asked, so that it doesn't create a passkey that is refused afterwards."""
    deployment = visit.deployment
    if ceremonies.rp_id(deployment) is None:
        return AddingForm(is_available=False)
    try:
        await step_up.check_passkey_change(deployment, visit.session)
    except step_up.StepUpRequired as needed:
        return AddingForm(link=link_of(needed, back=_page_path(return_to)), return_to=return_to)
    return AddingForm(
        options=ceremonies.adding_options(deployment, visit.user, held, secret=visit.visit.secret),
        suggestion=describe_browser(visit.visit.request.headers.get("user-agent", "")),
        return_to=return_to,
    )


def _page_path(return_to: str) -> str:
    return "/account" + (f"?return_to={return_to}" if return_to else "")


async def add(visit: OwnVisit) -> Response:
    """Store the passkey that the browser created. A person who needed one for another page goes back there."""
    deployment, user = visit.deployment, visit.user
    await step_up.check_passkey_change(deployment, visit.session)
    name = _name(visit) or describe_browser(visit.visit.request.headers.get("user-agent", ""))
    answer = ceremonies.read_answer(visit.form.one("answer"))
    try:
        await ceremonies.add(deployment, user, answer=answer, secret=visit.visit.secret, name=name)
    except (PasskeyTaken, TooManyPasskeys) as refused:
        raise PageRefused("passkey", refused.description, kind="conflict") from refused
    async with deployment.transaction() as transaction:  # it has just verified the person
        await sessions.note_proof(transaction, visit.session.token_hash, now=deployment.now())
    return_to = safe_return(visit.form.one("return_to"))
    return pages.go(return_to if return_to != "/" else "/account?done=passkey_added")


def _name(visit: OwnVisit) -> str:
    name = " ".join(visit.form.one("name").split())
    if len(name) > NAME_LIMIT or not name.isprintable():
        raise PageRefused("passkey_name", text("refused.passkey_name", longest=NAME_LIMIT))
    return name


async def rename(visit: OwnVisit) -> Response:
    """Rename a passkey."""
    name, which = _name(visit), str(visit.visit.request.path_params["passkey"])
    if name:
        async with visit.deployment.transaction() as transaction:
            is_known = await passkeys.rename(transaction, visit.user.id, which, name=name)
        if not is_known:
            raise PageRefused("no_passkey", kind="not_found")
    return pages.go("/account")


async def remove(visit: OwnVisit) -> Response:
    """Remove a passkey, unless the person could no longer sign in."""
    deployment, user = visit.deployment, visit.user
    await step_up.check_passkey_change(deployment, visit.session)
    which = str(visit.visit.request.path_params["passkey"])
    async with deployment.transaction() as transaction:
        await users.hold_user(transaction, user.id)
        held = {one.id: one for one in await passkeys.list_passkeys(transaction, user.id)}
        if which not in held:
            raise PageRefused("no_passkey", kind="not_found")
        is_only_way = user.password_hash is None and not await removable_identities(transaction, user)
        if is_only_way and len(held) == 1:
            raise PageRefused("last_passkey", kind="conflict")
        await passkeys.remove(transaction, user.id, which)
        details = {"name": held[which].name, "passkey": which}
        await audit.append(
            transaction, Event("passkey.removed", user_id=user.id, details=details), now=deployment.now()
        )
    return pages.go("/account?done=passkey_removed")
