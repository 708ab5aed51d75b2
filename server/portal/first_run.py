"""The first-run page: create the first admin, then how to set up providers and add the vault to a client."""

from __future__ import annotations

from starlette.responses import Response

from server.connecting import provider_authorization
from server.deployment import Deployment
from server.errors import status_of
from server.http import pages
from server.portal.requests import Visit, sign_in_path
from server.setup.client_links import web_links
from server.sign_in import password
from vault.keys.passwords import MIN_LENGTH, PasswordRefused
from vault.refusals import TransitionRefused
from vault.users import NameRefused, NameTaken


async def show(visit: Visit) -> Response:
    """The form for the first admin; once there is one, what the operator enters where."""
    if not await password.has_admin(visit.deployment):
        return visit.page("first_run.html", {"error": "", "name": "", "minimum": MIN_LENGTH})
    if visit.user is None:
        return pages.go(sign_in_path("/first-run"))
    links = web_links(visit.deployment.url("/mcp"))
    return visit.page("setup.html", {"providers": provider_facts(visit.deployment), "links": links})


def provider_facts(deployment: Deployment) -> list[dict[str, object]]:
    """What an operator needs for each provider: its name here, whether it is set up, and the address to register."""
    return [
        {
            "name": provider.name,
            "title": provider.title,
            "is_configured": deployment.vault.upstreams[provider.name].is_configured,
            "callback": provider_authorization.callback_url(deployment, provider.name),
        }
        for provider in deployment.catalog
        if provider.audience is None
    ]


async def create(visit: Visit) -> Response:
    """Make the first admin and sign them in."""
    form = visit.form
    try:
        password.check_same(form.one("password"), form.one("password_again"))
        user = await password.create_first_admin(
            visit.deployment, secret=form.one("secret").strip(), name=form.one("name"), password=form.one("password")
        )
    except (password.SignInRefused, PasswordRefused, NameRefused, NameTaken, TransitionRefused) as refusal:
        context: dict[str, object] = {
            "error": refusal.description,
            "name": form.one("name")[:200],
            "minimum": MIN_LENGTH,
        }
        return visit.page("first_run.html", context, status=status_of("invalid_request"))
    response = pages.go("/connections")
    await password.begin_session(visit.deployment, visit.request, response, user=user, method="first_admin")
    return response
