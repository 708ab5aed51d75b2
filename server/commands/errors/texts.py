"""The meaning of each error code, and what to do, for `token-vault errors` and docs/reference/errors.md.

Codes are stable, texts can change. "Check first" means that a write might have been carried out.
"""

from __future__ import annotations

from typing import Final

VAULT: Final[dict[str, str]] = {
    "connection_required, delegation_required": (
        "No usable account, scope, or permission for this agent. Open the link."
    ),
    "approval_required": "The person must approve the call. Open the link, then repeat the call once.",
    "tool_not_offered": "The tool is outside the agent's tool set.",
    "policy_refused": "The rule named in the text, or `exchange.policy_url`, forbids it.",
    "upstream_unauthorized": "The service refused this call (401), but not the key: it may not allow the call.",
    "account_required": "There are several accounts. Call again with `account`.",
    "invalid_scope": "Scopes are unknown, or outside `providers.NAME.scopes`.",
    "invalid_grant": ("The agent's access ended, or a refresh token is unknown, expired, or repeated. Sign in again."),
    "invalid_target": "The grant isn't for this resource, or no token can be limited to the item.",
    "invalid_token": "A handle is unknown, expired, or lacks its DPoP proof. Exchange again.",
    "temporarily_unavailable": "Wait for the time in the text. Don't reconnect.",
    "ciphertext_rejected": "A stored secret can't be opened. Reconnect; if many fail, restore the key store.",
    "value_unstorable": "Send text without control characters, and smaller numbers.",
    "key_unavailable, storage_unavailable": "The key or database is missing, unreadable, or from another vault.",
    "chain_broken": "The activity was changed in the database.",
    "change_refused, request_refused": "The cause is a code of the Admin API.",
    (
        "client_exists, name_refused, name_taken, group_name_refused, group_name_taken, user_name_taken, "
        "identity_taken, password_refused, local_client_refused"
    ): "Choose another. A password has 15 to 1024 characters and isn't a known bad one.",
    "sign_in_refused, sign_in_throttled, openid_refused, passkey_refused": (
        "Credentials are wrong, there were too many attempts, or the check that the log names failed."
    ),
    "session_ended, step_up_required": ("The sign-in ended, or isn't recent or strong enough (`sign_in.passkey_for`)."),
    "passkey_taken, too_many_passkeys": "Add another passkey, or remove one.",
    "transition_refused, connect_refused, approve_refused, page_refused, conflict": (
        "It was already used, has expired, or belongs to someone else. Start again."
    ),
    "backup_refused": "The file isn't a backup, is damaged or of another vault, or would overwrite something.",
    "pages_elsewhere": "Another program uses the port. End it, or change `server.port`.",
    "remote_refused, remote_unreachable, remote_grant_over, sign_in_needed": "From `stdio --url`: see the text.",
}
TOOLS: Final[dict[str, str]] = {
    "invalid_arguments": "The arguments don't fit the schema. Nothing was done.",
    "unknown_tool": "Use `find_tools`.",
    "declined, approval_refused": (
        "The person declined the link, or refused this call. Don't ask again at once. Nothing was done."
    ),
    "provider_not_configured": "The provider has no client ID here.",
    "call_not_allowed": "No scope or request rule covers the call. Nothing was done.",
    "insufficient_scope": "The MCP server requires a permission that it doesn't publish. Ask its operator.",
    "tool_held": "The MCP server changed this tool. An admin must review it.",
    "upstream_unauthorized": "Even a new token is refused. Reconnect the account.",
    "rate_limited": "Wait as long as the text says. Nothing was done.",
    "upstream_unavailable, timeout": "There was no usable answer, or none in 15 seconds. Check first.",
    "internal_error": "Look up the text's ID in the log.",
}
PROXY: Final[dict[str, str]] = {
    "unknown_target": (
        "Not `/proxy/CONNECTION/API/PATH`, or not the handle's account or API. Use `api_base_url` of the exchange."
    ),
    "ambiguous_path, ambiguous_parameter, ambiguous_header, invalid_query, invalid_body": (
        "Two servers could read the call differently."
    ),
    "credential_refused, cookie_refused, method_override, header_refused, body_refused": "Leave it out.",
    "origin_refused": "Register the page's origin at the client.",
    "upgrade_refused": "Upgrades, such as WebSocket, don't work.",
    "call_not_allowed": "In your own provider file, add a request rule.",
    "unknown_parameter": (
        "No rule knows it, and the rule is `exact` or the token can do more than the handle. In your own provider "
        "file, add it to `query` or `body`."
    ),
    "scope_missing": "Exchange again with one of `scopes`.",
    "unsupported_body": "Send JSON or a form, uncompressed, without files.",
    "body_too_large": "The body is over `proxy.body_limit`, or too large to check (`proxy.read_limit`).",
    "too_many_calls": "Wait for `Retry-After`.",
    "rate_limited": "Over `proxy.per_agent_hourly`. Wait for `Retry-After`.",
    "token_renewed": "Nothing was done. Send the call again.",
    "upstream_unauthorized": "Even a new token is refused. Reconnect the account.",
    "upstream_unavailable": "There was no usable answer. Check first.",
    "answer_too_large, answer_unreadable, redirect_refused": (
        "Over `proxy.answer_limit`, in an unknown encoding, or a redirect elsewhere. Check first."
    ),
    "timeout": "Over `proxy.deadline`. Check first.",
    "internal_error": "Look up the text's ID in the log.",
}
RUN: Final[dict[str, str]] = {
    "unauthorized_client": (
        "With `--url`: the client isn't registered for token exchange, or a setting that the text names excludes it."
    ),
    "insufficient_scope, invalid_token": "With `--url`: start the program again, and sign in.",
    "account_required": "Pass `--account` with the name of one account.",
    "call_not_allowed": "No API of a connected account is at this path.",
    "unknown_target": "The account's API is at another host.",
    "invalid_request, invalid_body": "The two versions of Token Vault differ, or the call is damaged or too long.",
    "pages_elsewhere": "Another program uses the vault's port, so there is no link for your permission. End it.",
    "vault_unreachable": "The vault at `--url` didn't answer. Check first.",
}
ADMIN: Final[dict[str, str]] = {
    "invalid_request, unsupported_body, body_too_large, method_not_allowed": (
        "Follow the OpenAPI document; `errors` points at each wrong value."
    ),
    "invalid_token, key_not_proved": "Send a token for the Admin API, and a new proof of its DPoP key.",
    "no_token": "No access token was sent, or no directory token has this name.",
    "insufficient_scope": "The token lacks the scope that the text names. Authorize again with it.",
    "sign_in_again": "A change needs a recent sign-in. Authorize with the `max_age` of the text.",
    "forbidden, not_admin, owner_only, not_yourself": "Ask someone with the role that the text names to do it.",
    "too_many_requests": "Wait for `Retry-After`.",
    (
        "not_found, no_api, no_client, no_company_permission, no_connection, no_endpoint, no_event, no_group, "
        "no_import, no_permission, no_person, no_provider, no_receipt, no_request, no_server, no_standing, "
        "no_such_access"
    ): "Nothing has this ID or name, or it was removed. List what there is.",
    "event_unsigned, no_checkpoint": (
        "It isn't signed yet. Wait for `Retry-After`, or run `token-vault activity checkpoint` on the host."
    ),
    "no_rules": "Set `policy.folder`, or for `shadow`, `policy.shadow_folder`, to a folder with rules.",
    "event_before_tree, event_pruned": "This event can't be proved: it is older than the tree, or was pruned.",
    "chain_broken": "The activity was changed in the database. Run `token-vault activity verify` on the host.",
    "conflict": "This `Idempotency-Key` belongs to another registration. Use a new one.",
    "changed, changed_meanwhile, import_changed, registration_changed, person_changed": (
        "It has changed since you read it. Read it again, then decide."
    ),
    "access_over, endpoint_disabled, asker_gone": "It ended, or is off. Start again, or enable it.",
    "agent_refused, api_refused, ask_refused, endpoint_refused, group_refused, import_refused, person_refused, "
    "server_refused": "The text names the wrong value and what is allowed.",
    "import_unreadable, unreadable": "The file or stored secret can't be read. Provide it again.",
    "connected": "The account exists. To replace its credential, send `replaces`.",
    "credential": "The credential has the wrong format, or its service refuses it. The text explains which.",
    "input_missing, registration_refused, secret_elsewhere": (
        "The provider's registration lacks a value, or has a wrong one."
    ),
    "in_settings, named_by_setting": "A setting decides this. Change the settings file.",
    "named_by_rule": "A rule names it. Change the rule first.",
    "group_managed, member_by_request, not_member": (
        "A directory or an access request decides who is in this group. Change it there."
    ),
    "last_admin, last_owner": "Give someone else the role first.",
    "still_connected": "Accounts are connected. End them with `token-vault panic --provider NAME`.",
    "inputs_in_use": "Other inputs would send tokens to another address. End the grants first, or use the settings.",
    "still_connecting, still_ending": "An account is being connected, or grants are being ended. Wait, then try again.",
    "grant_held, nothing_to_retry, nothing_to_settle": (
        "This grant can't be ended that way: it is in use, over, or the provider's to end."
    ),
    "not_given, not_yours_to_give, nothing_to_read": "Only its owner can give an account, and only some accounts.",
    "not_approver": "The people that the request names must answer.",
    "not_ended": "The agent's assertions are already accepted. Nothing to do.",
    "own_account": "Allow it on the agent's page: it is your own account.",
    (
        "nothing_more, request_agent, request_days, request_limit, request_open, request_reason, request_rules, "
        "request_scopes, requests_off"
    ): "The access request can't be made or answered this way; see the text.",
    "token_name": "Use up to 60 letters, digits, and `. _ -`.",
}
OAUTH: Final[dict[str, str]] = {
    (
        "invalid_request, unauthorized_client, unsupported_grant_type, unsupported_response_type, "
        "request_not_supported, request_uri_not_supported"
    ): "Correct the parameter or token, or register the grant type. `request_uri` comes from `/par`.",
    "invalid_client": "Register again, or correct the secret.",
    "invalid_grant, invalid_token": (
        "Unknown, expired, used, revoked, or for another client or audience. Sign in again."
    ),
    "invalid_scope": "No scope can be granted; see `missing_scope`.",
    "invalid_target": (
        "The resource is unknown, or not open to this client. At an exchange: no account, or there are several."
    ),
    "invalid_request_uri": "The pushed request is unknown, used, over a minute old, or another client's.",
    "login_required, consent_required": "`prompt=none`, but the person must sign in or be asked.",
    "access_denied": "The person refused, or registration is closed.",
    "authorization_pending, slow_down, expired_token": ("Poll after `interval`; poll 5 seconds slower; ask again."),
    "unknown_user_id, expired_login_hint_token, invalid_binding_message, invalid_authorization_details": (
        "From `/bc-authorize`: the hint matches no one, or see the text for what is allowed."
    ),
    "missing_user_code, invalid_user_code": (
        "This client must send the code that the person has set on the Approvals page."
    ),
    "invalid_redirect_uri, invalid_client_metadata": "Use https, loopback, or an allowed scheme and host.",
    "invalid_dpop_proof": "The proof is missing, too old, already used, or for another request.",
    "federated_connection_refresh_token_not_found, user_not_found": (
        "On Auth0's interface: no account for this client, or none that `login_hint` names. Open `connect_uri`."
    ),
    "insufficient_scope": "The token lacks `tools`, `openid`, or a scope of the Admin API.",
    "insufficient_user_authentication": "Authorize with `max_age` (RFC 9470).",
    "temporarily_unavailable": "Wait for `Retry-After`.",
    "server_error": "Look up the text's ID in the log.",
}
RPC: Final[dict[str, str]] = {
    "-32042": "MCP 2025-11-25: the person must open the link in `data`.",
    "-32053": (
        "The vault can't reach its storage; nothing was sent. 503 with `Retry-After` and `data.retry_after`; in a "
        "stream, on stdio, and over SSE a tool error."
    ),
    "-32054": "The token isn't accepted: `data` has `error`, `error_description`, and `sign_in`.",
    "-32602": "The tool is unknown.",
    "-32603": "Status 500. Look up the message's ID in the log.",
    "-32600": "Not one JSON-RPC message, or its ID is in use.",
    "-32700": "Not JSON.",
}
SURFACES: Final = {
    "the vault": VAULT,
    "tools": TOOLS,
    "the proxy": PROXY,
    "run": RUN,
    "Admin API": ADMIN,
    "OAuth": OAUTH,
    "JSON-RPC": RPC,
}


def meanings_of(code: str) -> dict[str, str]:
    """The meaning of a code at each surface that uses it."""
    return {
        surface: text
        for surface, table in SURFACES.items()
        for codes, text in table.items()
        if code in codes.split(", ")
    }


def all_codes() -> list[str]:
    """All codes with an explanation."""
    return sorted({code for table in SURFACES.values() for codes in table for code in codes.split(", ")})
