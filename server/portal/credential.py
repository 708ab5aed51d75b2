"""The page where a person enters a credential of their account, such as an API key. It is never shown again.

`server.connecting.credentials` checks and stores it.
"""

from __future__ import annotations

from starlette.responses import Response

from providers.definitions.credential import NAMES
from server.connecting import credentials
from server.connecting.credentials import LABEL_LIMIT, CredentialForm, Entry, EntryFault
from server.errors import status_of
from server.http import pages
from server.http.page_texts import text
from server.http.translations import with_language
from server.portal import connect
from server.portal.requests import OwnVisit

_FIELD = "field."


async def show(visit: OwnVisit) -> Response:
    """Explain what to create at the service, such as an API key, and ask for it."""
    handle = str(visit.visit.request.path_params["handle"])
    form = await credentials.open_form(visit.deployment, handle, user=visit.user, session=visit.session)
    return _page(visit, handle, form)


def _page(visit: OwnVisit, handle: str, form: CredentialForm, *, refused: EntryFault | None = None) -> Response:
    provider = form.provider
    fields = {
        name: about for name, about in form.credential.fields.items() if visit.user.is_admin or not about.by_admin
    }
    public = {
        name: visit.form.one(_FIELD + name) or about.default for name, about in fields.items() if not about.secret
    }
    console = provider.console
    context: dict[str, object] = {
        "action": f"/connect/credential/{handle}",
        "provider": provider,
        "what": form.credential.title,
        "fields": [(name, about, public.get(name, "")) for name, about in fields.items()],
        "is_open": not form.credential.secrets,
        "page_there": "" if console is None or NAMES.search(console.url) else console.url,
        "steps": [with_language(one) for one in (() if console is None else console.steps)],
        "replaces": form.replaces,
        "names_itself": bool(provider.identity.id),
        "has_key": form.credential.signed_token is not None or form.credential.send.certificate is not None,
        "is_tried": provider.identity.source == "endpoint" or form.credential.kind != "key",
        "label": visit.form.one("label") or ("" if form.replaces is None else form.replaces.label),
        "ends": visit.form.one("ends"),
        "longest": LABEL_LIMIT,
        "error": "" if refused is None else _words(form, refused),
        "error_field": "" if refused is None else refused.field,
    }
    return visit.page("credential.html", context, status=200 if refused is None else status_of("invalid_request"))


def _words(form: CredentialForm, refused: EntryFault) -> str:
    """The error text, without the entered values."""
    about = form.credential.fields.get(refused.field)
    example = "" if about is None or about.secret else about.example
    name = "shape_like" if example and refused.reason == "shape" else refused.reason
    return text(
        f"credential_refused.{name}",
        field="" if about is None else about.title,
        example=example,
        provider=form.provider.title,
        regions=", ".join(sorted(form.provider.registration.regions)),
        status=str(refused.status or ""),
        account="" if form.replaces is None else form.replaces.label,
    )


async def submit(visit: OwnVisit) -> Response:
    """Check the entered values, and connect the account or show the error."""
    handle = str(visit.visit.request.path_params["handle"])
    form = await credentials.open_form(visit.deployment, handle, user=visit.user, session=visit.session)
    values = {name: visit.form.one(_FIELD + name) for name in form.credential.fields}
    try:
        entry = Entry(values, visit.form.one("label"), credentials.end_of_day(visit.form.one("ends")))
        connected = await credentials.enter(
            visit.deployment, form, entry, handle=handle, user=visit.user, session=visit.session
        )
    except EntryFault as refused:
        return _page(visit, handle, form, refused=refused)
    return await _finish(visit, form, connected)


async def _finish(visit: OwnVisit, form: CredentialForm, connected: credentials.ConnectResult) -> Response:
    if form.replaces is not None:
        return pages.go(f"/connections/{connected.connection.id}")
    return await connect.finish(visit, connected.connection, form.trip.back, client_id=connected.client_id)
