"""The page where a person enters a credential of their account, such as an API key. It is never shown again.

`server.connecting.credentials` checks and stores it.
"""

from __future__ import annotations

from starlette.responses import Response

from server.connecting import credentials
from server.connecting.credentials import CredentialForm, Entry, EntryFault
from server.errors import status_of
from server.http import pages
from server.portal import connect
from server.portal.credential_form import form_context, values_of
from server.portal.requests import OwnVisit


async def show(visit: OwnVisit) -> Response:
    """Explain what to create at the service, such as an API key, and ask for it."""
    handle = str(visit.visit.request.path_params["handle"])
    form = await credentials.open_form(visit.deployment, handle, user=visit.user, session=visit.session)
    return _page(visit, handle, form)


def _page(visit: OwnVisit, handle: str, form: CredentialForm, *, refused: EntryFault | None = None) -> Response:
    context = {
        "action": f"/connect/credential/{handle}",
        "cancel": "/connections",
        "who": "",
        **form_context(form, visit.form, is_admin=visit.user.is_admin, refused=refused),
    }
    return visit.page("credential.html", context, status=200 if refused is None else status_of("invalid_request"))


async def submit(visit: OwnVisit) -> Response:
    """Check the entered values, and connect the account or show the error."""
    handle = str(visit.visit.request.path_params["handle"])
    form = await credentials.open_form(visit.deployment, handle, user=visit.user, session=visit.session)
    try:
        entry = Entry(
            values_of(form, visit.form), visit.form.one("label"), credentials.end_of_day(visit.form.one("ends"))
        )
        connected = await credentials.enter(
            visit.deployment, form, entry, handle=handle, user=visit.user, session=visit.session
        )
    except EntryFault as refused:
        return _page(visit, handle, form, refused=refused)
    return await _finish(visit, form, connected)


async def _finish(visit: OwnVisit, form: CredentialForm, connected: credentials.ConnectResult) -> Response:
    if form.replaces is not None:
        return pages.go(f"/connections/{connected.connection.id}")
    return await connect.finish(
        visit,
        connected.connection,
        form.trip.back,
        client_id=connected.client_id,
        is_allowed=bool(connected.delegated),
    )
