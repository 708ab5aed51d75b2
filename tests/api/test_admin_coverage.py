"""The Admin API does what commands and administration pages do, except what is named here with its reason."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Final

from server.api.table import OPERATIONS
from server.portal.administration.routes import admin_routes
from server.settings import Settings
from tests.generating.documentation import commands

HOST: Final = "it starts something, or reads or writes files, keys, or settings, on the vault's host"
ELSEWHERE: Final = (
    "it changes another system's streams, with a token from the host's settings, and leaves no event here"
)
PERSON: Final = "only the person decides"
OUTSIDE: Final = "whoever verifies the vault's records must not take the vault's own answer"
SENDS: Final = "it sends something at once to places outside the vault, where nobody can delete it"
PUBLIC: Final = "anyone can read the keys at /.well-known/receipt-keys.json"
NOT_IN_THE_API: Final = {
    **dict.fromkeys(
        (
            *("serve", "stdio", "run", "demo", "init", "version", "client-config", "errors", "bench", "try-exchange"),
            *("backup", "restore", "export", "quarantine", "sign-in"),
            *(f"import {one}" for one in ("auth0", "better-auth", "composio", "contextforge", "csv", "nango")),
            "import token-vault",
            *("keys add", "keys rotate", "keys retire", "activity rotate-key"),
            *("openid list", "openid setup"),
            *("providers check", "providers schema", "providers new", "tools check", "tools schema"),
            *("policy check", "policy schema", "policy test", "policy replay"),
        ),
        HOST,
    ),
    **dict.fromkeys(
        (f"signals streams {one}" for one in ("list", "create", "update", "status", "verify", "remove")), ELSEWHERE
    ),
    **dict.fromkeys(("connections connect", "approvals approve", "approvals refuse"), PERSON),
    **dict.fromkeys(("activity verify", "receipts verify"), OUTSIDE),
    "activity checkpoint": SENDS,
    "receipts keys": PUBLIC,
}
BY_COMMAND: Final[dict[str, tuple[str, ...]]] = {
    "doctor": ("get_health",),
    "status": ("get_health",),
    "explain": ("explain_account_use",),
    "apply": ("apply_declaration",),
    "policy explain": ("explain_policy",),
    "panic": ("show_panic", "end_all_access"),
    "activity": ("list_events",),
    "activity export": ("export_events",),
    "activity prove": ("get_event_proof", "get_checkpoint"),
    "activity keys": ("list_activity_keys",),
    "users add": ("add_person",),
    "users list": ("list_people", "get_person"),
    "users role": ("change_person",),
    "users disable": ("change_person",),
    "users enable": ("change_person",),
    "users remove": ("delete_person", "list_deletions"),
    "users link": ("link_identity",),
    "groups list": ("list_groups",),
    "groups show": ("get_group",),
    "groups create": ("create_group",),
    "groups delete": ("delete_group",),
    "groups add": ("add_group_member",),
    "groups remove": ("remove_group_member",),
    "groups manage": ("add_group_manager", "remove_group_manager"),
    "groups give": ("give_connection",),
    "groups rule": ("change_group_connection",),
    "groups accounts": ("list_group_connections",),
    "groups disconnect": ("end_group_connection",),
    "scim token": ("make_directory_token",),
    "scim list": ("list_directory_tokens",),
    "scim end": ("end_directory_token",),
    "scim adopt": ("let_directory_manage",),
    "clients list": ("list_agents",),
    "clients show": ("get_agent", "list_agent_people"),
    "clients remove": ("remove_agent",),
    "clients add": ("register_agent",),
    "clients release": ("change_agent",),
    "apis add": ("save_api",),
    "apis list": ("list_apis",),
    "apis show": ("get_api",),
    "apis remove": ("remove_api",),
    "connections list": ("list_connections",),
    "connections disconnect": ("disconnect",),
    "approvals list": ("list_approvals", "list_standing_approvals"),
    "approvals revoke": ("end_standing_approval",),
    "requests list": ("list_access_requests", "get_access_request"),
    "requests approve": ("answer_access_request",),
    "requests deny": ("answer_access_request",),
    "requests end": ("end_access_request",),
    "delegations list": ("list_permissions",),
    "delegations ask": ("ask_more",),
    "delegations revoke": ("revoke_permission",),
    "providers setup": ("save_registration", "remove_registration"),
    "providers list": ("list_providers",),
    "providers show": ("get_provider",),
    "providers test": ("test_provider",),
    "mcp add": ("add_mcp_server",),
    "mcp list": ("list_mcp_servers",),
    "mcp review": ("review_mcp_server",),
    "mcp accept": ("decide_mcp_tools",),
    "mcp disable": ("change_mcp_server",),
    "mcp enable": ("change_mcp_server",),
    "mcp remove": ("remove_mcp_server",),
    "enterprise list": ("list_companies",),
    "enterprise permissions": ("list_company_permissions",),
    "enterprise end": ("end_company_permission",),
    "enterprise resume": ("resume_company_permission",),
    "enterprise explain": ("explain_company_assertion",),
    "tools list": ("list_tools",),
    "tools sets": ("list_tool_sets",),
    "tools import openapi": ("import_api",),
    "tools import graphql": ("import_api",),
    "tools imports list": ("list_imported_apis",),
    "tools imports show": ("review_imported_api",),
    "tools imports decide": ("decide_imported_tools",),
    "tools imports discard": ("discard_import",),
    "tools imports remove": ("remove_imported_api",),
    "keys list": ("list_keys",),
    "keys rotate-signing": ("rotate_signing_key",),
    "webhooks list": ("list_webhooks",),
    "webhooks add": ("add_webhook",),
    "webhooks test": ("test_webhook",),
    "webhooks rotate": ("rotate_webhook_secret",),
    "webhooks disable": ("change_webhook",),
    "webhooks enable": ("change_webhook",),
    "webhooks remove": ("remove_webhook",),
    "webhooks failed": ("list_webhook_failures",),
    "webhooks resend": ("resend_webhook",),
    "receipts list": ("list_receipts", "list_outstanding"),
    "receipts show": ("get_receipt",),
    "receipts agents": ("list_agent_receipts",),
    "receipts retry": ("retry",),
    "receipts settle": ("settle",),
}
# by the path below /administration: its page, and the changes that its form makes
BY_PAGE: Final[dict[str, tuple[str, ...]]] = {
    "": ("get_health",),
    "/providers": ("list_providers",),
    "/providers/{provider}": ("get_provider", "save_registration"),
    "/providers/{provider}/test": ("test_provider",),
    "/providers/{provider}/remove": ("remove_registration",),
    "/people": ("list_people",),
    "/people/new": ("add_person",),
    "/people/{user}": ("get_person",),
    "/people/{user}/link": ("make_sign_in_link",),
    "/people/{user}/disable": ("change_person",),
    "/people/{user}/enable": ("change_person",),
    "/people/{user}/admin": ("change_person",),
    "/people/{user}/not-admin": ("change_person",),
    "/people/{user}/role": ("change_person",),
    "/people/{user}/connect": ("list_providers",),
    "/people/{user}/connect/{provider}": ("enter_credential",),
    "/people/{user}/delete": ("delete_person",),
    "/groups": ("list_groups", "create_group", "list_directory_tokens"),
    "/groups/directory": ("make_directory_token",),
    "/groups/directory/end": ("end_directory_token",),
    "/groups/{group}": ("get_group", "list_group_connections"),
    "/groups/{group}/add": ("add_group_member",),
    "/groups/{group}/remove": ("remove_group_member",),
    "/groups/{group}/give": ("give_connection",),
    "/groups/{group}/rule": ("change_group_connection",),
    "/groups/{group}/disconnect": ("end_group_connection",),
    "/groups/{group}/delete": ("delete_group",),
    "/agents": ("list_agents",),
    "/agents/{client:path}/cut-off": ("remove_agent",),
    "/agents/{client:path}": ("get_agent", "list_agent_people"),
    "/settings": ("list_settings",),
    "/tools": ("list_tools", "list_tool_sets"),
    "/tools/servers": ("list_mcp_servers", "add_mcp_server"),
    "/tools/servers/{server}": ("review_mcp_server",),
    "/tools/servers/{server}/accept": ("decide_mcp_tools",),
    "/tools/servers/{server}/disable": ("change_mcp_server",),
    "/tools/servers/{server}/enable": ("change_mcp_server",),
    "/tools/servers/{server}/disconnect": ("disconnect_mcp_server",),
    "/tools/servers/{server}/remove": ("remove_mcp_server",),
    "/tools/imports": ("list_imported_apis",),
    "/tools/imports/{api}": ("review_imported_api",),
    "/tools/imports/{api}/accept": ("decide_imported_tools",),
    "/tools/imports/{api}/discard": ("discard_import",),
    "/tools/imports/{api}/remove": ("remove_imported_api",),
    "/policies": ("list_settings",),
    "/revocations": ("list_outstanding",),
    "/revocations/agents/{id}/receipt": ("get_agent_receipt",),
    "/revocations/{id}/receipt": ("get_receipt",),
    "/revocations/{id}/retry": ("retry",),
    "/revocations/{id}/settle": ("settle",),
    "/keys": ("list_keys",),
    "/keys/rotate": ("rotate_signing_key",),
    "/webhooks": ("list_webhooks", "add_webhook"),
    "/webhooks/{endpoint}": ("list_webhooks", "list_webhook_failures"),
    "/webhooks/{endpoint}/test": ("test_webhook",),
    "/webhooks/{endpoint}/rotate": ("rotate_webhook_secret",),
    "/webhooks/{endpoint}/disable": ("change_webhook",),
    "/webhooks/{endpoint}/enable": ("change_webhook",),
    "/webhooks/{endpoint}/resend": ("resend_webhook",),
    "/webhooks/{endpoint}/remove": ("remove_webhook",),
    "/activity": ("list_events",),
    "/activity/new": ("list_events",),
    "/activity/export": ("export_events",),
    "/activity/{sequence}/proof": ("get_event_proof",),
}


def operations() -> set[str]:
    return {one.name for _, group in OPERATIONS for one in group}


def test_every_command_is_an_operation_or_has_a_reason() -> None:
    assert set(commands()) == BY_COMMAND.keys() | NOT_IN_THE_API.keys()
    assert not BY_COMMAND.keys() & NOT_IN_THE_API.keys()
    named = {name for names in BY_COMMAND.values() for name in names}
    assert named <= operations(), named - operations()


def test_every_page_of_administration_is_an_operation() -> None:
    place = SimpleNamespace(settings=Settings(), public_url="https://vault", issuer="https://vault")
    pages = {one.path.removeprefix("/administration") for one in admin_routes(place)}  # pyright: ignore[reportArgumentType]
    assert pages == BY_PAGE.keys()
    named = {name for names in BY_PAGE.values() for name in names}
    assert named <= operations(), named - operations()
