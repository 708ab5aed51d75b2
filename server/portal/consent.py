"""The consent page: which agent wants access, to what, and which connected accounts it may use.

The authorization request's ticket holds the request; the form only approves or refuses it and selects accounts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final
from urllib.parse import urlsplit

from starlette.responses import Response

from server.http import pages
from server.oauth import authorize
from server.oauth.clients.rules import appearance
from server.oauth.rules import admin_resource
from server.portal import recognition, texts
from server.portal.access import access, access_changes, tool_sets
from server.portal.forms import PageRefused
from server.portal.requests import OwnVisit, sign_in_path
from server.sign_in import step_up
from vault import connections
from vault.records import Client
from vault.storage.database import Transaction
from vault.tokens import tokens

_TYPE_THE_CODE: Final = "/device"  # for a browser that didn't enter a device's code
_MOST_ACCOUNTS: Final = 25  # the others are on the agent's page

_Store = Callable[[Transaction], Awaitable[object]]


async def _load_pending(visit: OwnVisit, handle: str) -> authorize.PendingAuthorization:
    found = await authorize.load_pending(visit.deployment, handle) if handle else None
    if found is None:
        raise PageRefused("request_over", kind="gone")
    return found


async def show(visit: OwnVisit) -> Response:
    """Ask, unless the person allowed the same before. An unanswered request expires."""
    pending = await _load_pending(visit, visit.visit.query("request"))
    if not pending.belongs_to(visit.session):
        return pages.go(_TYPE_THE_CODE)
    if not pending.wanted.accepts(visit.session):
        return _sign_in_again(pending)
    await _check_admin(visit, pending)
    # A person who had to sign in first may arrive with a request that can be answered immediately.
    if not pending.asks_always and await authorize.find_consent(visit.deployment, pending, user=visit.user) is not None:
        return pages.leave(visit.visit.request, await _approve(visit, pending))
    client = pending.client
    earlier = await _earlier(visit, pending)
    context: dict[str, object] = {
        "client": client,
        "handle": pending.handle,
        "seen": appearance(client),
        "unverified": texts.is_unverified(client),
        "kind": texts.client_kind(client),
        "redirect_host": pending.redirect_host,
        "device": pending.wanted.device,
        "website": web_link(client, "client_uri"),
        "warnings": pending.warnings,
        "scopes": [(scope, texts.token_scope(scope)) for scope in sorted(pending.scopes)],
        "resource": pending.resource,
        "rows": await _rows(visit, pending),
        "days": access.DAYS,
        "has_accounts": bool(await connections.list_connections(visit.deployment.database, visit.user.id)),
        "tool_sets_of": await tool_sets.current_options(
            visit.deployment, visit.user, client_id=client.id, scopes=pending.scopes
        ),
        "earlier": earlier,
        "earlier_accounts": [] if earlier is None else recognition.summary(earlier.accounts),
        "is_local": not pending.redirect_uri.startswith("https:"),
        "ends_earlier": earlier is not None and await _rests(visit, earlier),
    }
    return visit.page("consent.html", context, form_targets=_targets(pending))


async def _check_admin(visit: OwnVisit, pending: authorize.PendingAuthorization) -> None:
    """Tokens for the Admin API are for admins, and need the passkey that the administration pages need."""
    if pending.resource != admin_resource(visit.deployment.public_url):
        return
    if not visit.user.role.audits:
        raise PageRefused("not_admin", kind="forbidden")
    back = f"/consent?request={pending.handle}"
    await step_up.check_passkey(visit.deployment, visit.session, "administration", back=back)


async def _rows(visit: OwnVisit, pending: authorize.PendingAuthorization) -> Sequence[access.AccessRow]:
    """The accounts that the agent's tools can use."""
    usable = access.usable_providers(visit.deployment, pending.client, scopes=pending.scopes)
    rows = await access.rows_of_agent(visit.deployment, visit.user, pending.client, providers=usable)
    return rows[:_MOST_ACCOUNTS]


async def _earlier(visit: OwnVisit, pending: authorize.PendingAuthorization) -> recognition.EarlierAgent | None:
    """The agent that this one claims to be. Not with a device's code, which an attacker may have sent (RFC 8628
    §5.4)."""
    if pending.wanted.device is not None:
        return None
    return await recognition.find_earlier(visit.deployment, visit.user, client=pending.client)


async def _rests(visit: OwnVisit, earlier: recognition.EarlierAgent) -> bool:
    """Whether every earlier sign-in has been unused for an access token's life, and is probably not needed."""
    deployment = visit.deployment
    ids = frozenset(one.id for one in (earlier.client, *earlier.others))
    since = deployment.now() - deployment.settings.tokens.access_lifetime
    return not await tokens.is_any_fresh(deployment.database, visit.user.id, client_ids=ids, since=since)


def _targets(pending: authorize.PendingAuthorization) -> list[str]:
    return [] if pending.wanted.device is not None else [pages.form_target(pending.redirect_uri)]


async def decide(visit: OwnVisit) -> Response:
    """Admit the agent with the selected accounts, or deny it.

    Reads only `decision` and the selected accounts from the form.
    """
    pending = await _load_pending(visit, visit.form.one("request"))
    if not pending.belongs_to(visit.session):
        return pages.go(_TYPE_THE_CODE)
    if not pending.wanted.accepts(visit.session):
        return _sign_in_again(pending)
    if visit.form.one("seen") != appearance(pending.client):  # its name changed while the person looked: ask again
        return pages.go(f"/consent?request={pending.handle}")
    decision = visit.form.one("decision")
    if decision != "deny":
        await _check_admin(visit, pending)
    match decision:
        case "deny":
            return _onward(
                visit, pending, await authorize.deny(visit.deployment, pending.handle, session=visit.session)
            )
        case "allow":
            try:
                target = await _approve(visit, pending, store=await _choices(visit, pending))
            except PageRefused as refused:
                if refused.kind != "conflict":
                    raise
                return pages.go(f"/consent?request={pending.handle}")  # ask about what is so now
            return _onward(visit, pending, target)
        case recognition.AGAIN:
            earlier = await _earlier(visit, pending)
            if earlier is None or visit.form.one(recognition.FIELD) != earlier.fingerprint:  # ask about what is so now
                return pages.go(f"/consent?request={pending.handle}")
            carry_over = partial(
                recognition.carry_over,
                user=visit.user,
                earlier=earlier,
                client_id=pending.client.id,
                ends_earlier=visit.form.one(recognition.END_FIELD) == "yes",
                now=visit.deployment.now(),
            )
            target = await _approve(visit, pending, store=carry_over)
            return _onward(visit, pending, target)
        case _:
            raise PageRefused("no_decision")


def _onward(visit: OwnVisit, pending: authorize.PendingAuthorization, target: str) -> Response:
    """Go to the agent; to a page of ours if the agent's device fetches the answer itself."""
    return pages.go(target) if pending.wanted.device is not None else pages.leave(visit.visit.request, target)


async def _choices(visit: OwnVisit, pending: authorize.PendingAuthorization) -> _Store:
    """Stores the tools and accounts that the form selects. Raises PageRefused, and so does what it returns."""
    deployment, user, form = visit.deployment, visit.user, visit.form
    changes = access.changed_rows(await _rows(visit, pending), form, now=deployment.now())

    async def store(transaction: Transaction) -> None:
        await tool_sets.save(deployment, user, client_id=pending.client.id, form=form, inside=transaction)
        await access_changes.save(deployment, user, changes, inside=transaction)

    return store


async def _approve(visit: OwnVisit, pending: authorize.PendingAuthorization, *, store: _Store | None = None) -> str:
    return await authorize.approve(
        visit.deployment, pending.handle, user=visit.user, session=visit.session, scopes=pending.scopes, store=store
    )


def _sign_in_again(pending: authorize.PendingAuthorization) -> Response:
    """The agent asked for a more recent sign-in than this browser's (OpenID Connect Core §3.1.2.1)."""
    return pages.go(sign_in_path(f"/consent?request={pending.handle}", is_again=True))


def web_link(client: Client, member: str) -> str:
    """An http(s) link from a client's metadata, or an empty string; no other schemes."""
    value = client.metadata.get(member)
    if not isinstance(value, str) or len(value) > 500:
        return ""
    try:
        parts = urlsplit(value)
    except ValueError:
        return ""
    return value if parts.scheme in {"https", "http"} and parts.hostname and not parts.username else ""
