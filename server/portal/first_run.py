"""The first-run page: create the first admin, then the steps to a first call of an agent, each with its state."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from starlette.responses import Response

from server.deployment import Deployment
from server.errors import status_of
from server.http import pages
from server.portal.needs import read_needs
from server.portal.requests import OwnVisit, Visit, sign_in_path
from server.portal.texts import refusal_words
from server.setup.client_config import ClientConfig, VaultLocation, client_config
from server.setup.client_kinds import CLIENTS, Machine, Program
from server.sign_in import password, proofs
from vault import clients, connections
from vault.audit import audit
from vault.keys.passwords import MIN_LENGTH, PasswordRefused
from vault.refusals import TransitionRefused
from vault.users import NameRefused, NameTaken

_USUAL: Final = "claude-code"
_SYSTEMS: Final = (("Windows", "win32"), ("Mac", "darwin"))  # in a browser's User-Agent


async def show(visit: Visit) -> Response:
    """Show the form for the first admin, or the steps to a first call once there is an admin."""
    if not await password.has_admin(visit.deployment):
        return visit.page("first_run.html", {"error": "", "name": "", "minimum": MIN_LENGTH})
    if visit.user is None or visit.session is None:
        return pages.go(sign_in_path("/first-run"))
    known = replace(visit, needs=await read_needs(visit.deployment, visit.user))
    return await _steps(OwnVisit(known, visit.session, visit.user))


async def _steps(visit: OwnVisit) -> Response:
    """What is done of: a provider, an account, an agent, a call."""
    deployment, user = visit.deployment, visit.user
    chosen = visit.visit.query("client")
    chosen = chosen if chosen in CLIENTS else _USUAL
    made = _config(visit, chosen)
    uses = await audit.last_uses_of_agents(deployment.database, user.id)
    own = await clients.list_own(deployment.database, user.id, now=deployment.now())
    context: dict[str, object] = {
        "has_provider": has_provider(deployment),
        "accounts": len(await connections.list_connections(deployment.database, user.id)),
        "agents": [one.name or one.id for one in own],
        "called_at": max(uses.values(), default=None),
        "clients": [(name, kind.title) for name, kind in CLIENTS.items()],
        "chosen": chosen,
        "chosen_title": CLIENTS[chosen].title,
        "config": made,
        "file": "" if made.place is None else str(made.place.file),
        "notes": [one for one in made.notes if "token-vault " not in one],
        "mcp": deployment.url("/mcp"),
    }
    return visit.page("steps.html", context)


def has_provider(deployment: Deployment) -> bool:
    """Whether people can connect an account at all."""
    return any(
        provider.audience is None and deployment.vault.upstreams[provider.name].is_configured
        for provider in deployment.catalog
    )


def _config(visit: OwnVisit, client: str) -> ClientConfig:
    """What goes into the settings of a client on the person's machine, which connects over HTTP."""
    settings, agent = visit.deployment.settings, visit.visit.request.headers.get("user-agent", "")
    system = next((platform for word, platform in _SYSTEMS if word in agent), "linux")
    where = VaultLocation(Program("token-vault"), (), settings.public_url, settings.is_loopback)
    return client_config(client, "http", vault=where, machine=Machine(system, Path("~"), {}))


async def create(visit: Visit) -> Response:
    """Create the first admin, with the secret that the server printed, and sign them in."""
    form = visit.form
    try:
        password.check_same(form.one("password"), form.one("password_again"))
        user = await password.create_first_admin(
            visit.deployment, secret=form.one("secret").strip(), name=form.one("name"), password=form.one("password")
        )
    except (password.SignInRefused, PasswordRefused, NameRefused, NameTaken, TransitionRefused) as refusal:
        context: dict[str, object] = {
            "error": refusal_words(refusal),
            "name": form.one("name")[:200],
            "minimum": MIN_LENGTH,
        }
        return visit.page("first_run.html", context, status=status_of("invalid_request"))
    response = pages.go("/first-run")
    proof = proofs.password_of(user)
    await password.begin_session(
        visit.deployment, visit.request, response, user=user, method="first_admin", proof=proof
    )
    return response
