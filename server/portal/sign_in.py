"""Signing in and out: password, passkey, and a one-time link for this machine's owner. Rules: `server.sign_in`."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from server.deployment import Deployment
from server.errors import PersonRefused, status_of
from server.http import pages
from server.http.addresses import address_of
from server.http.page_texts import text
from server.portal.forms import PageRefused
from server.portal.requests import OwnVisit, Visit, safe_return
from server.portal.texts import refusal_words
from server.runtime.browser import forget
from server.sign_in import passkeys, password, proofs
from server.sign_in.password import OWNER_ISSUER, OWNER_SUBJECT
from vault import limits, users
from vault.keys.passwords import MIN_LENGTH, PasswordRefused
from vault.records import User

_WINDOWS_PER_MINUTE: Final = 6


async def local_owner(deployment: Deployment) -> User | None:
    """The owner of this machine, if the vault is reached on loopback: see `server.mcp.local_owner`."""
    if not deployment.settings.is_loopback:
        return None
    marked = await users.find_by_identity(deployment.database, issuer=OWNER_ISSUER, subject=OWNER_SUBJECT)
    admins = [marked] if marked is not None else await users.list_admins(deployment.database)
    usable = [user for user in admins if user.disabled_at is None]
    return usable[0] if len(usable) == 1 else None


async def show(visit: Visit) -> Response:
    """The ways to sign in; a signed-in person moves on, unless an agent asked for a fresh sign-in."""
    return_to = safe_return(visit.query("return_to"))
    if visit.user is not None and visit.query("again") != "1":
        return pages.go(return_to)
    if not visit.deployment.settings.sign_in.openid and not await password.has_admin(visit.deployment):
        return pages.go("/first-run")
    needs_passkey = visit.user is not None and visit.query("need") == "passkey"
    lost = {"unread": text("sign_in.form_unread"), "unfinished": text("sign_in.form_unfinished")}
    return await _form(visit, return_to=return_to, needs_passkey=needs_passkey, lost=lost.get(visit.query("lost"), ""))


async def _form(
    visit: Visit,
    *,
    return_to: str,
    name: str = "",
    needs_passkey: bool = False,
    lost: str = "",
    error: str = "",
    status: int = 200,
) -> Response:
    """The page. `needs_passkey`: a signed-in person confirms something, and a password is not enough. `lost`: what
    became of the form after which the person comes here.
    """
    settings = visit.deployment.settings
    context: dict[str, object] = {
        "return_to": return_to,
        "is_again": visit.user is not None,
        "name": name,
        "lost": lost,
        "error": error,
        "needs_passkey": needs_passkey,
        "has_password": settings.sign_in.local and not needs_passkey,
        "passkey": _passkey_options(visit),
        "openid": [(key, provider.title) for key, provider in settings.sign_in.openid.items()],
        "has_owner": not needs_passkey and await local_owner(visit.deployment) is not None,
        "can_open": visit.deployment.open_browser is not None,
        "no_admin": not await password.has_admin(visit.deployment),
    }
    return visit.page("sign_in.html", context, status=status)


def _passkey_options(visit: Visit) -> str:
    """What the browser is asked for a passkey; empty where none can be used."""
    if not _takes_passkeys(visit) or passkeys.rp_id(visit.deployment) is None:
        return ""
    return passkeys.signing_in_options(visit.deployment, secret=visit.secret)


def _takes_passkeys(visit: Visit) -> bool:
    """If people can only sign in at their company, a passkey confirms actions here but doesn't sign anyone in."""
    return visit.deployment.settings.sign_in.local or visit.user is not None


async def with_password(visit: Visit) -> Response:
    """Sign in with name and password."""
    form, deployment = visit.form, visit.deployment
    return_to = safe_return(form.one("return_to"))
    attempt = password.Attempt(
        name=form.one("name"),
        address=address_of(visit.request),
        password=form.one("password"),
        known=password.read_cookie(deployment, visit.request, "known"),
    )
    if not deployment.settings.sign_in.local:
        raise PageRefused("no_passwords", kind="forbidden")
    response = pages.go(return_to)
    try:
        user = await password.check_sign_in(deployment, attempt)
        proof = proofs.password_of(user)
        await password.begin_session(deployment, visit.request, response, user=user, method="password", proof=proof)
    except (password.SignInRefused, password.SignInThrottled) as refusal:
        return await _refusal_page(visit, refusal, return_to=return_to, name=attempt.name[:200])
    return response


async def with_passkey(visit: Visit) -> Response:
    """Sign in with a passkey, or confirm with one: either way a new session."""
    deployment, form = visit.deployment, visit.form
    return_to = safe_return(form.one("return_to"))
    if not _takes_passkeys(visit):
        raise PageRefused("no_passkeys", kind="forbidden")
    response = pages.go(return_to)
    try:
        user, used = await passkeys.check_sign_in(
            deployment,
            answer=passkeys.read_answer(form.one("answer")),
            secret=visit.secret,
            address=address_of(visit.request),
        )
        _check_same_person(visit, user)
        # Where people sign in at their company, confirming here must not outlast what the company said.
        until = None if deployment.settings.sign_in.local or visit.session is None else visit.session.expires_at
        await password.begin_session(
            deployment,
            visit.request,
            response,
            user=user,
            method="passkey",
            proof=proofs.passkey(used),
            is_strong=True,
            until=until,
        )
    except (passkeys.PasskeyRefused, password.SignInRefused, password.SignInThrottled) as refusal:
        return await _refusal_page(visit, refusal, return_to=return_to, needs_passkey=form.one("need") == "passkey")
    return response


def _check_same_person(visit: Visit, user: User) -> None:
    """Confirming can't switch to another person, whose accounts would then be connected or used by mistake."""
    if visit.user is not None and visit.user.id != user.id:
        raise passkeys.PasskeyRefused(text("sign_in.other_persons_passkey"), kind="forbidden")


async def _refusal_page(
    visit: Visit, refusal: PersonRefused, *, return_to: str, name: str = "", needs_passkey: bool = False
) -> Response:
    """The page again, with why."""
    is_throttled = isinstance(refusal, password.SignInThrottled)
    status = status_of("too_many_requests" if is_throttled else "not_signed_in")
    response = await _form(
        visit,
        return_to=return_to,
        name=name,
        needs_passkey=needs_passkey,
        error=refusal_words(refusal),
        status=status,
    )
    if isinstance(refusal, password.SignInThrottled):
        response.headers["retry-after"] = str(refusal.retry_after)
    return response


async def open_window(visit: Visit) -> Response:
    """Open the owner's browser on this computer, signed in.

    The caller never sees the link, and must be one of the owner's own programs; nothing is opened for others on a
    shared machine.
    """
    deployment = visit.deployment
    _check_own_user(visit)
    owner = await local_owner(deployment)
    if owner is None:
        raise PageRefused("no_owner", kind="forbidden")
    now = deployment.now()
    async with deployment.transaction() as transaction:
        may = await limits.spend(transaction, "sign-in:owner-window", limit=_WINDOWS_PER_MINUTE, window=60, now=now)
    if not may:
        raise PageRefused("many_windows", kind="too_many_requests")
    opened = False
    if deployment.open_browser is not None:
        link = await password.owner_link(deployment, owner.id, return_to=safe_return(visit.form.one("return_to")))
        opened = deployment.open_browser(link)
    return visit.page("local_window.html", {"opened": opened})


async def with_owner_link(visit: Visit) -> Response:
    """The one-time link of `token-vault sign-in`: signs this browser in, and moves on without the secret in the
    address.

    A link that another user of the machine opens isn't used up.
    """
    _check_own_user(visit)
    try:
        user = await password.owner_of_link(visit.deployment, visit.query("ticket"))
    except password.SignInRefused as refusal:
        raise PageRefused("link_over", refusal.description, kind="forbidden") from refusal
    response = pages.go(safe_return(visit.query("return_to")))
    proof = password.owner_link_proof(visit.deployment, visit.query("ticket"), user)
    await password.begin_session(visit.deployment, visit.request, response, user=user, method="owner_link", proof=proof)
    forget(visit.deployment.data, visit.deployment.url(f"/sign-in/local?{visit.request.url.query}"))
    return response


async def show_link(visit: Visit) -> Response:
    """Explain an admin's link. Opening this page, as mail programs do, doesn't use up the link."""
    ticket = visit.query("ticket")
    return await _link_page(visit, ticket, await _user_of_link(visit, ticket), error="", status=200)


async def _user_of_link(visit: Visit, ticket: str) -> User:
    try:
        return await password.user_of_link(visit.deployment, ticket)
    except password.SignInRefused as refusal:
        raise PageRefused("link_over", refusal.description, kind="forbidden") from refusal


async def _link_page(visit: Visit, ticket: str, user: User, *, error: str, status: int) -> Response:
    context: dict[str, object] = {
        "ticket": ticket,
        "who": user.name,
        "has_password": visit.deployment.settings.sign_in.local,
        "minimum": MIN_LENGTH,
        "error": error,
    }
    return visit.page("sign_in_link.html", context, status=status)


async def with_link(visit: Visit) -> Response:
    """Use the link: choose a password, where the vault has them, and sign in."""
    form, deployment = visit.form, visit.deployment
    ticket = form.one("ticket")
    user = await _user_of_link(visit, ticket)
    new = form.one("password") if deployment.settings.sign_in.local else None
    try:
        password.check_same(form.one("password"), form.one("password_again"))
        user, proof = await password.use_sign_in_link(deployment, ticket, new=new)
    except PasswordRefused as refusal:
        return await _link_page(visit, ticket, user, error=refusal_words(refusal), status=status_of("invalid_request"))
    except password.SignInRefused as refusal:
        raise PageRefused("link_over", refusal.description, kind="forbidden") from refusal
    response = pages.go("/first-run")
    await password.begin_session(deployment, visit.request, response, user=user, method="link", proof=proof)
    return response


def _check_own_user(visit: Visit) -> None:
    """Refuse a browser of another user of this machine, if the platform reports the user. Behind a proxy, it can't."""
    user = password.peer_of(visit.deployment, visit.request)
    if user is not None and not user.is_owner:
        raise PageRefused(
            "other_user",
            kind="forbidden",
            detail="another user of this machine",
        )


async def out(visit: OwnVisit) -> Response:
    """Sign out."""
    response = pages.go("/sign-in")
    await password.sign_out(visit.deployment, visit.visit.request, response, session=visit.session)
    return response
