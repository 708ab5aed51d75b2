"""Changing the password, which signs the person out everywhere and ends agents' access."""

from __future__ import annotations

from starlette.responses import Response

from server.errors import status_of
from server.http import pages
from server.http.addresses import address_of
from server.portal.requests import OwnVisit
from server.portal.texts import refusal_words
from server.sign_in import password, proofs, step_up
from vault.keys.passwords import MIN_LENGTH, PasswordRefused


async def show(visit: OwnVisit) -> Response:
    """Show the form; a person without a password must sign in again first, since the form can't ask for a current
    one."""
    _check_first_one(visit)
    return _form(visit, error="", status=200)


def _check_first_one(visit: OwnVisit) -> None:
    if visit.user.password_hash is None:
        step_up.check_recent(visit.deployment, visit.session, back="/account/password")


def _form(visit: OwnVisit, *, error: str, status: int) -> Response:
    context: dict[str, object] = {
        "error": error,
        "has_password": visit.user.password_hash is not None,
        "minimum": MIN_LENGTH,
    }
    return visit.page("password.html", context, status=status)


async def change(visit: OwnVisit) -> Response:
    """Set the new password, then sign in this browser again, since all sessions ended with the old password."""
    form, request = visit.form, visit.visit.request
    _check_first_one(visit)
    try:
        password.check_same(form.one("password"), form.one("password_again"))
        user = await password.change_password(
            visit.deployment,
            visit.user,
            current=form.one("current"),
            new=form.one("password"),
            address=address_of(request),
        )
    except (PasswordRefused, password.SignInRefused) as refusal:
        return _form(visit, error=refusal_words(refusal), status=status_of("invalid_request"))
    except password.SignInThrottled as refusal:
        return _form(visit, error=refusal_words(refusal), status=status_of("too_many_requests"))
    response = pages.go("/account?done=password")
    method = password.PASSWORD_CHANGED
    await password.begin_session(
        visit.deployment, request, response, user=user, method=method, proof=proofs.password_of(user)
    )
    return response
