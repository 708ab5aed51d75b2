"""The table of pages: which function answers which path and method, and who may see it."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from server.deployment import Deployment
from server.errors import status_of
from server.http import pages
from server.http.assets import ASSETS, LIFETIME
from server.portal import (
    activity,
    agents,
    connect,
    connections,
    consent,
    credential,
    device,
    first_run,
    home,
    log_out,
    notifications,
    openid,
    sign_in,
)
from server.portal.administration.routes import admin_routes
from server.portal.approvals import access_requests, approvals, notification_answers, standing_approvals, user_code
from server.portal.profile import deletion, own_data, page, passkeys, password, signed_in
from server.portal.requests import open_route, own_route


async def _static(request: Request) -> Response:
    """Stylesheet, script, icons, and logos. Anyone."""
    found = ASSETS.get(str(request.path_params["path"]))
    if found is None:
        raise HTTPException(status_of("not_found"))
    response = pages.secure(Response(found.content, media_type=found.media_type))
    response.headers["cache-control"] = f"public, max-age={LIFETIME}"
    return response


def page_routes(deployment: Deployment) -> list[Route]:
    """Every page's route, most specific path first."""
    for_auth0 = [open_route(deployment, "/v2/logout", get=log_out.show, post=log_out.decide)]
    return [
        *(for_auth0 if deployment.settings.auth0.enabled else []),
        Route("/static/{path:path}", _static, methods=["GET"]),
        own_route(deployment, "/", get=home.show),
        open_route(deployment, "/first-run", get=first_run.show, post=first_run.create),
        open_route(deployment, "/sign-in", get=sign_in.show, post=sign_in.with_password),
        open_route(deployment, "/sign-in/passkey", post=sign_in.with_passkey),
        open_route(deployment, "/sign-in/local", get=sign_in.with_owner_link, post=sign_in.open_window),
        open_route(deployment, "/sign-in/link", get=sign_in.show_link, post=sign_in.with_link),
        open_route(deployment, "/sign-in/openid/{name}", get=openid.start),
        open_route(deployment, "/sign-in/openid/{name}/callback", get=openid.callback),
        own_route(deployment, "/sign-out", post=sign_in.out),
        own_route(deployment, "/account", get=page.show),
        own_route(deployment, "/account/password", get=password.show, post=password.change),
        own_route(deployment, "/account/passkeys/new", post=passkeys.add),
        own_route(deployment, "/account/passkeys/{passkey}", post=passkeys.rename),
        own_route(deployment, "/account/passkeys/{passkey}/remove", post=passkeys.remove),
        own_route(deployment, "/account/sessions", post=signed_in.sign_out),
        own_route(deployment, "/account/data", get=own_data.download),
        own_route(deployment, "/account/delete", get=deletion.confirm, post=deletion.delete),
        own_route(deployment, "/notifications", get=notifications.show, post=notifications.save),
        own_route(deployment, "/notifications/channels", post=notifications.add),
        own_route(deployment, "/notifications/browser", post=notifications.add_browser),
        own_route(deployment, "/notifications/confirm", post=notifications.confirm),
        own_route(deployment, "/notifications/{channel}", post=notifications.change),
        own_route(deployment, "/approvals", get=approvals.show_all),
        own_route(deployment, "/approvals/code", post=user_code.change),
        own_route(deployment, "/approvals/undo", post=standing_approvals.undo),
        own_route(deployment, "/approvals/standing/{standing}/end", post=standing_approvals.end),
        own_route(deployment, "/approvals/{approval}/answer", post=notification_answers.answer),
        own_route(deployment, "/approvals/{approval}", get=approvals.show, post=approvals.decide),
        own_route(deployment, "/access-requests", get=access_requests.show_all),
        own_route(deployment, "/access-requests/new", get=access_requests.show_new, post=access_requests.ask),
        own_route(deployment, "/access-requests/{request}", get=access_requests.show, post=access_requests.change),
        own_route(deployment, "/consent", get=consent.show, post=consent.decide),
        own_route(deployment, "/device", get=device.show, post=device.enter),
        own_route(deployment, "/device/answered", get=device.show_answered),
        open_route(deployment, "/connect/callback/{provider}", get=connect.callback),
        own_route(deployment, "/connect/done/{connection}", get=connect.show_done),
        own_route(deployment, "/connect/credential/{handle}", get=credential.show, post=credential.submit),
        own_route(deployment, "/connect/{handle}", get=connect.show, post=connect.decide),
        own_route(deployment, "/connections", get=connections.show),
        own_route(deployment, "/connections/connect", get=connections.choose, post=connections.connect),
        own_route(deployment, "/connections/{connection}", get=connections.show_one),
        own_route(deployment, "/connections/{connection}/access", post=connections.change),
        own_route(deployment, "/connections/{connection}/undo", post=connections.undo),
        own_route(deployment, "/connections/{connection}/rename", post=connections.rename),
        own_route(deployment, "/connections/{connection}/reconnect", post=connections.reconnect),
        own_route(
            deployment, "/connections/{connection}/disconnect", get=connections.confirm, post=connections.disconnect
        ),
        own_route(deployment, "/agents", get=agents.show),
        own_route(deployment, "/agents/{client:path}/access", post=agents.change),
        own_route(deployment, "/agents/{client:path}/tools", post=agents.choose_tools),
        own_route(deployment, "/agents/{client:path}/undo", post=agents.undo),
        own_route(deployment, "/agents/{client:path}/cut-off", get=agents.confirm, post=agents.cut_off),
        own_route(deployment, "/agents/{client:path}", get=agents.show_one),
        own_route(deployment, "/activity", get=activity.show),
        own_route(deployment, "/activity/new", get=activity.show_new, is_presence=False),
        own_route(deployment, "/activity/export", get=activity.export),
        *admin_routes(deployment),
    ]
