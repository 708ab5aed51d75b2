"""The table of administration pages."""

from __future__ import annotations

from starlette.routing import Route

from server.deployment import Deployment
from server.portal.administration import (
    activity,
    agents,
    groups,
    imported_apis,
    keys,
    mcp_servers,
    new_accounts,
    people,
    providers,
    revocations,
    rules,
    vault_pages,
    webhooks,
)
from server.portal.administration.room import ROOT, admin_route


def admin_routes(deployment: Deployment) -> list[Route]:
    """Every administration page's route, most specific path first."""
    return [
        admin_route(deployment, "", get=vault_pages.show_overview),
        admin_route(deployment, "/providers", get=providers.show),
        admin_route(deployment, "/providers/{provider}", get=providers.show_one, post=providers.save),
        admin_route(deployment, "/providers/{provider}/test", post=providers.test, back=".."),
        admin_route(
            deployment, "/providers/{provider}/remove", get=providers.confirm, post=providers.remove, is_form=True
        ),
        admin_route(deployment, "/people", get=people.show),
        admin_route(deployment, "/people/new", get=people.show_new, post=people.add, is_form=True),
        admin_route(deployment, "/people/{user}", get=people.show_one),
        admin_route(deployment, "/people/{user}/link", post=people.make_link, back=".."),
        admin_route(deployment, "/people/{user}/disable", post=people.disable, back=".."),
        admin_route(deployment, "/people/{user}/enable", post=people.enable, back=".."),
        admin_route(deployment, "/people/{user}/admin", post=people.make_admin, back=".."),
        admin_route(deployment, "/people/{user}/not-admin", post=people.end_admin, back=".."),
        admin_route(deployment, "/people/{user}/role", post=people.change_role, back=".."),
        admin_route(deployment, "/people/{user}/connect", get=new_accounts.choose, is_form=True),
        admin_route(
            deployment,
            "/people/{user}/connect/{provider}",
            get=new_accounts.show,
            post=new_accounts.add,
            is_form=True,
        ),
        admin_route(deployment, "/people/{user}/delete", get=people.confirm, post=people.delete, is_form=True),
        admin_route(deployment, "/groups", get=groups.show, post=groups.create),
        admin_route(deployment, "/groups/directory", post=groups.make_token, back=".."),
        admin_route(deployment, "/groups/directory/end", post=groups.end_token, back=f"{ROOT}/groups"),
        admin_route(deployment, "/groups/{group}", get=groups.show_one),
        admin_route(deployment, "/groups/{group}/add", post=groups.add_member, back=".."),
        admin_route(deployment, "/groups/{group}/remove", post=groups.remove_member, back=".."),
        admin_route(deployment, "/groups/{group}/give", post=groups.give, back=".."),
        admin_route(deployment, "/groups/{group}/rule", post=groups.change_rule, back=".."),
        admin_route(deployment, "/groups/{group}/disconnect", post=groups.disconnect, back=".."),
        admin_route(deployment, "/groups/{group}/delete", post=groups.delete, back=".."),
        admin_route(deployment, "/agents", get=agents.show),
        admin_route(deployment, "/agents/{client:path}/cut-off", get=agents.confirm, post=agents.cut_off, is_form=True),
        admin_route(deployment, "/agents/{client:path}", get=agents.show_one),
        admin_route(deployment, "/settings", get=vault_pages.show_settings),
        admin_route(deployment, "/tools", get=rules.show_tools),
        admin_route(deployment, "/tools/servers", get=mcp_servers.show, post=mcp_servers.add),
        admin_route(deployment, "/tools/servers/{server}", get=mcp_servers.show_one),
        admin_route(deployment, "/tools/servers/{server}/accept", post=mcp_servers.accept, back=".."),
        admin_route(deployment, "/tools/servers/{server}/disable", post=mcp_servers.disable, back=".."),
        admin_route(deployment, "/tools/servers/{server}/enable", post=mcp_servers.enable, back=".."),
        admin_route(deployment, "/tools/servers/{server}/disconnect", post=mcp_servers.disconnect, back=".."),
        admin_route(
            deployment, "/tools/servers/{server}/remove", get=mcp_servers.confirm, post=mcp_servers.remove, is_form=True
        ),
        admin_route(deployment, "/tools/imports", get=imported_apis.show),
        admin_route(deployment, "/tools/imports/{api}", get=imported_apis.show_one),
        admin_route(deployment, "/tools/imports/{api}/accept", post=imported_apis.accept, back=".."),
        admin_route(deployment, "/tools/imports/{api}/discard", post=imported_apis.discard, back=".."),
        admin_route(deployment, "/tools/imports/{api}/remove", post=imported_apis.remove, back=".."),
        admin_route(deployment, "/policies", get=rules.show_policies),
        admin_route(deployment, "/revocations", get=revocations.show),
        admin_route(deployment, "/revocations/agents/{id}/receipt", get=revocations.download_of_agent),
        admin_route(deployment, "/revocations/{id}/receipt", get=revocations.download),
        admin_route(deployment, "/revocations/{id}/retry", post=revocations.retry, back=f"{ROOT}/revocations"),
        admin_route(deployment, "/revocations/{id}/settle", post=revocations.settle, back=f"{ROOT}/revocations"),
        admin_route(deployment, "/keys", get=keys.show),
        admin_route(deployment, "/keys/rotate", post=keys.rotate, back=".."),
        admin_route(deployment, "/webhooks", get=webhooks.show, post=webhooks.add),
        admin_route(deployment, "/webhooks/{endpoint}", get=webhooks.show_one),
        admin_route(deployment, "/webhooks/{endpoint}/test", post=webhooks.test, back=".."),
        admin_route(deployment, "/webhooks/{endpoint}/rotate", post=webhooks.rotate, back=".."),
        admin_route(deployment, "/webhooks/{endpoint}/disable", post=webhooks.disable, back=".."),
        admin_route(deployment, "/webhooks/{endpoint}/enable", post=webhooks.enable, back=".."),
        admin_route(deployment, "/webhooks/{endpoint}/resend", post=webhooks.resend, back=".."),
        admin_route(deployment, "/webhooks/{endpoint}/remove", post=webhooks.remove, back=".."),
        admin_route(deployment, "/activity", get=activity.show),
        admin_route(deployment, "/activity/new", get=activity.show_new, is_presence=False),
        admin_route(deployment, "/activity/export", get=activity.export),
        admin_route(deployment, "/activity/{sequence}/proof", get=activity.download_proof),
    ]
