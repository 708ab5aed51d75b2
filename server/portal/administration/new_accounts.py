"""An account for a person: an admin chooses a service and enters a credential, as in the Admin API.

The form is the one that people use for their own accounts. An agent can use the account once the person, or a rule of
their company, allows it.
"""

from __future__ import annotations

from urllib.parse import quote

from starlette.responses import Response

from providers.definitions.articles import with_article
from server.administration import access, registrations
from server.administration.access import EnteredValues
from server.administration.actor import ChangeRefused
from server.administration.people import check_is_enabled
from server.connecting import credentials
from server.connecting.credentials import CredentialForm, EntryFault
from server.connecting.provider_authorization import check_may_connect
from server.errors import status_of
from server.http.page_texts import text
from server.portal.administration import people
from server.portal.administration.room import AdminVisit
from server.portal.credential_form import form_context, values_of
from vault.records import User


async def choose(visit: AdminVisit) -> Response:
    """List the services that take entered credentials and are set up."""
    person, upstreams = await people.person_of(visit), visit.deployment.vault.upstreams
    check_is_enabled(person)
    services = [
        one for one in visit.deployment.catalog if one.credential is not None and upstreams[one.name].is_configured
    ]
    context: dict[str, object] = {"person": person, "path": people.path_of(person), "services": services}
    return await visit.page("choose_service.html", context)


async def show(visit: AdminVisit) -> Response:
    """Ask for the credential of the person's account."""
    person = await people.person_of(visit)
    return await _page(visit, person, await _form(visit, person))


async def _form(visit: AdminVisit, person: User) -> CredentialForm:
    check_is_enabled(person)
    provider = registrations.provider_named(visit.deployment, visit.param("provider"))
    form = credentials.form_for_other(visit.deployment, provider)
    await check_may_connect(visit.deployment, visit.own.session, provider, back=_path_of(person, form))
    return form


def _path_of(person: User, form: CredentialForm) -> str:
    return f"{people.path_of(person)}/connect/{quote(form.provider.name, safe='')}"


async def _page(
    visit: AdminVisit,
    person: User,
    form: CredentialForm,
    *,
    refused: EntryFault | None = None,
    known: ChangeRefused | None = None,
) -> Response:
    """`known`: the account is already connected."""
    context: dict[str, object] = {
        "person": person,
        "path": people.path_of(person),
        "action": _path_of(person, form),
        "cancel": people.path_of(person),
        "who": person.name,
        "a_provider": with_article(form.provider.title),
        **form_context(form, visit.form, is_admin=True, refused=refused),
    }
    if known is not None:
        context["error"] = text("admin_people.already_connected", who=person.name)
        return await visit.page("new_account.html", context, status=known.status)
    return await visit.page(
        "new_account.html", context, status=200 if refused is None else status_of("invalid_request")
    )


async def add(visit: AdminVisit) -> Response:
    """Check the entered values, and connect the person's account or show the error."""
    person = await people.person_of(visit)
    form = await _form(visit, person)
    entered = EnteredValues(values_of(form, visit.form), visit.form.one("label"), visit.form.one("ends"))
    try:
        made = await access.connect_entered(visit.actor, person, form.provider, entered=entered)
    except EntryFault as refused:
        return await _page(visit, person, form, refused=refused)
    except ChangeRefused as refused:
        if refused.reason != "connected":
            raise
        return await _page(visit, person, form, known=refused)
    values = {"account": made.label, "provider": form.provider.title, "who": person.name}
    return await visit.go(people.path_of(person), said=text("admin_people.account_added", **values))
