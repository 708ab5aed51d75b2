"""Modes of whole services, from their documentation (read 2026-11-25; none of it was run against the service)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from providers.simulator.modes.model import Mode, Operation, RevocationMode, Shape, lenient
from providers.simulator.rules import RotationRule

_DAY = 86400
_GOOGLE = "https://www.googleapis.com/auth/"
_GRAPH = "https://graph.microsoft.com"


def _names(*names: str) -> frozenset[str]:
    return frozenset(names)


_SERVICES: Mapping[str, Mode] = {
    # developers.google.com/identity/protocols/oauth2/web-server; operations from the Calendar API's discovery document.
    "google": Mode(
        "Google",
        lenient(refresh_idle=180 * _DAY, refresh_limit=100, revoke="grant"),
        client_auth=frozenset({"post"}),
        offline_parameter=("access_type", "offline"),
        revoking=RevocationMode(client_auth=frozenset(), unknown="refused"),
        covers={
            f"{_GOOGLE}calendar": _names(f"{_GOOGLE}calendar.readonly", f"{_GOOGLE}calendar.events"),
            f"{_GOOGLE}calendar.events": _names(f"{_GOOGLE}calendar.events.readonly"),
            f"{_GOOGLE}calendar.readonly": _names(f"{_GOOGLE}calendar.events.readonly"),
        },
        operations=(
            Operation("GET", "/calendars/{}/events", _names(f"{_GOOGLE}calendar.events.readonly")),
            Operation("POST", "/calendars/{}/events", _names(f"{_GOOGLE}calendar.events")),
        ),
    ),
    # learn.microsoft.com/entra/identity-platform: v2-oauth2-auth-code-flow, refresh-tokens. A used refresh token is not
    # revoked; each answer that was asked for offline_access brings another one. A token is for one resource.
    "microsoft": Mode(
        "Microsoft",
        lenient(
            rotation=RotationRule.GRACE,
            grace_seconds=90 * _DAY,
            grace_answer="sibling",
            refresh_idle=90 * _DAY,
            revoke="lies",
        ),
        client_auth=frozenset({"post"}),
        offline_scope="offline_access",
        one_resource=_GRAPH,
        shape=Shape(unsaid=frozenset({"offline_access"})),
        revoking=RevocationMode(exists=False),
        identity={"id": "{id}", "userPrincipalName": "{email}", "displayName": "{name}"},
        covers={
            "Mail.ReadWrite": _names("Mail.Read"),
            "Calendars.ReadWrite": _names("Calendars.Read"),
            "Files.ReadWrite": _names("Files.Read"),
        },
        operations=(
            Operation("GET", "/me/messages", _names("Mail.Read", "Mail.ReadWrite")),
            Operation("POST", "/me/sendMail", _names("Mail.Send")),
            Operation("GET", "/me/events", _names("Calendars.Read", "Calendars.ReadWrite")),
            Operation("POST", "/me/events", _names("Calendars.ReadWrite")),
        ),
    ),
    # dropbox.com/developers/documentation/http/documentation#oauth2-token; the SDKs' refresh with a list of scopes.
    "dropbox": Mode(
        "Dropbox",
        lenient(access_lifetime=14400, revoke="family"),
        offline_parameter=("token_access_type", "offline"),
        revoking=RevocationMode(
            token_in="bearer", client_auth=frozenset(), takes=frozenset({"access"}), unknown="refused"
        ),
        shape=Shape(extra={"uid": "12345"}),
        identity_method="POST",
        identity={"account_id": "dbid:{id}", "email": "{email}", "name.display_name": "{name}"},
        account=("dbid:{id}", "{email}"),
        covers={
            "files.content.write": _names("files.metadata.write"),
            "files.metadata.write": _names("files.metadata.read"),
            "files.content.read": _names("files.metadata.read"),
        },
        operations=(
            Operation("POST", "/files/list_folder", _names("files.metadata.read")),
            Operation("POST", "/files/delete_v2", _names("files.content.write")),
            Operation("POST", "/users/get_current_account", _names("account_info.read")),
        ),
    ),
    # developer.squareup.com/reference/square/o-auth-api/obtain-token and retrieve-token-status: JSON, scopes in an
    # array, no scopes in the answer. The code flow keeps its refresh token.
    "square": Mode(
        "Square",
        lenient(access_lifetime=30 * _DAY),
        body="json",
        client_auth=frozenset({"post"}),
        pkce="ignored",
        refresh_scope_parameter="scopes",
        refresh_scope_is_array=True,
        shape=Shape(expiry="iso", expiry_name="expires_at", scope="absent", extra={"merchant_id": "MLSANDBOX0001"}),
        status=True,
        identity={"merchant.id": "{id}", "merchant.business_name": "{name}"},
        account=("{id}", "{name}"),
        revoking=RevocationMode(name="access_token", format="json", client_auth=frozenset({"client_header"})),
        operations=(
            Operation("GET", "/v2/payments", _names("PAYMENTS_READ")),
            Operation("POST", "/v2/payments", _names("PAYMENTS_WRITE")),
            Operation("GET", "/v2/customers", _names("CUSTOMERS_READ")),
        ),
    ),
    # The same with PKCE and without a secret: each refresh token works once and ends 90 days after it was issued.
    "square-pkce": Mode(
        "Square with PKCE",
        lenient(rotation=RotationRule.STRICT, narrowing="ignored", access_lifetime=30 * _DAY, refresh_idle=90 * _DAY),
        body="json",
        client_auth=frozenset({"none"}),
        pkce="required",
        refresh_scope_parameter="scopes",
        refresh_scope_is_array=True,
        shape=Shape(expiry="iso", expiry_name="expires_at", scope="absent"),
        status=True,
        identity={"merchant.id": "{id}", "merchant.business_name": "{name}"},
        account=("{id}", "{name}"),
        revoking=RevocationMode(name="access_token", format="json", client_auth=frozenset({"client_header"})),
        operations=(
            Operation("GET", "/v2/payments", _names("PAYMENTS_READ")),
            Operation("POST", "/v2/payments", _names("PAYMENTS_WRITE")),
        ),
    ),
    # docs.github.com/apps: refreshing-user-access-tokens, rest/apps/apps. What a user token may do is set on the app; a
    # refresh ends the old refresh token and the old access tokens.
    "github-app": Mode(
        "GitHub App",
        lenient(
            rotation=RotationRule.STRICT,
            access_lifetime=28800,
            refresh_idle=183 * _DAY,
            narrowing="ignored",
            refresh_ends_access=True,
            revoke="grant",
        ),
        client_auth=frozenset({"post"}),
        fixed_scopes=_names("metadata:read", "contents:write", "issues:write", "pull_requests:write"),
        shape=Shape(errors_with_200=True, form_unless_asked=True, scope="absent"),
        error_codes={"invalid_grant": "bad_refresh_token", "invalid_client": "incorrect_client_credentials"},
        downscope="scoped",
        resources=True,
        revoking=RevocationMode(
            "DELETE", name="access_token", client_auth=frozenset({"basic"}), takes=frozenset({"access"})
        ),
        identity={"id": "#9{id}", "login": "{login}"},
        account=("9{id}", "{login}"),
        token_prefix="ghu_",
        covers={
            f"{name}:write": _names(f"{name}:read") for name in ("contents", "issues", "pull_requests", "metadata")
        },
        operations=(
            Operation("GET", "/user", frozenset()),
            Operation("GET", "/repos/{}/{}/issues", _names("issues:read")),
            Operation("POST", "/repos/{}/{}/issues", _names("issues:write")),
            Operation("GET", "/repos/{}/{}/contents/{}", _names("contents:read")),
            Operation("PUT", "/repos/{}/{}/contents/{}", _names("contents:write")),
        ),
    ),
    # docs.github.com/apps/oauth-apps: no refresh token, tokens stay until they are revoked, commas in the answer.
    "github-oauth": Mode(
        "GitHub OAuth app",
        lenient(access_lifetime=10**9),
        has_refresh=False,
        client_auth=frozenset({"post"}),
        shape=Shape(expiry="absent", separator=",", errors_with_200=True, form_unless_asked=True),
        revoking=RevocationMode(
            "DELETE", name="access_token", client_auth=frozenset({"basic"}), takes=frozenset({"access"})
        ),
        identity={"id": "#9{id}", "login": "{login}"},
        account=("9{id}", "{login}"),
        token_prefix="gho_",
    ),
    # developer.box.com/guides/authentication/tokens: downscope, refresh. A refresh token works once, within 60 days.
    "box": Mode(
        "Box",
        lenient(rotation=RotationRule.STRICT, refresh_idle=60 * _DAY, narrowing="ignored"),
        client_auth=frozenset({"post"}),
        downscope="exchange",
        resources=True,
        shape=Shape(scope="absent", extra={"restricted_to": []}),
        revoking=RevocationMode(client_auth=frozenset({"post"})),
        identity={"id": "{id}", "login": "{email}", "name": "{name}"},
        covers={
            "root_readwrite": _names(
                "root_readonly", "item_download", "item_upload", "item_delete", "item_rename", "item_share"
            ),
            "root_readonly": _names("base_explorer", "item_preview"),  # downloading needs an app that may also write
        },
        operations=(
            Operation("GET", "/2.0/folders/{}/items", _names("base_explorer", "root_readonly")),
            Operation("GET", "/2.0/files/{}/content", _names("item_download")),
            Operation("DELETE", "/2.0/files/{}", _names("item_delete")),
            Operation("DELETE", "/2.0/folders/{}", _names("root_readwrite")),
        ),
    ),
    # doorkeeper-gem/doorkeeper, lib/doorkeeper/oauth/refresh_token_request.rb: the new refresh token inherits the
    # narrower scope; docs.gitlab.com/api/oauth2: a refresh ends the access token and the refresh token before it.
    "gitlab": Mode(
        "GitLab",
        lenient(rotation=RotationRule.STRICT, access_lifetime=7200, narrowing="sticky", refresh_ends_access=True),
        identity={"id": "#9{id}", "username": "{login}"},
        covers={"api": _names("read_api", "read_user"), "read_api": _names("read_user")},
        operations=(
            Operation("GET", "/api/v4/projects", _names("read_api")),
            Operation("POST", "/api/v4/projects", _names("api")),
        ),
    ),
    # developers.notion.com/reference/create-a-token: JSON with Basic, a version header, no scopes.
    "notion": Mode(
        "Notion",
        lenient(rotation=RotationRule.STRICT, narrowing="ignored"),
        body="json",
        client_auth=frozenset({"basic"}),
        pkce="ignored",
        fixed_scopes=frozenset(),
        required_authorize={"owner": "user"},
        shape=Shape(scope="absent", expiry="absent", extra={"workspace_id": "ws-1"}),
        identity={"id": "{id}", "name": "{name}"},
    ),
    # developer.atlassian.com/cloud/oauth/getting-started/refresh-tokens.
    "atlassian": Mode(
        "Atlassian",
        lenient(
            rotation=RotationRule.REUSE_REVOKES_FAMILY,
            narrowing="ignored",
            refresh_idle=90 * _DAY,
            refresh_lifetime=365 * _DAY,
        ),
        body="json",
        client_auth=frozenset({"post"}),
        pkce="ignored",
        required_authorize={"audience": "api.atlassian.com", "prompt": "consent"},
        offline_scope="offline_access",
        revoking=RevocationMode(exists=False),
        identity={"account_id": "{id}", "email": "{email}"},
    ),
    # linear.app/developers/oauth-2-0-authentication: commas, tokens for a day.
    "linear": Mode(
        "Linear",
        lenient(rotation=RotationRule.GRACE, grace_seconds=1800, access_lifetime=_DAY, narrowing="ignored"),
        scope_separator=",",
        client_auth=frozenset({"post"}),
    ),
    # developers.tiktok.com: client_key, commas, a day-long rotating grant.
    "tiktok": Mode(
        "TikTok",
        lenient(rotation=RotationRule.STRICT, access_lifetime=7200, refresh_lifetime=180 * _DAY, narrowing="ignored"),
        names={"client_id": "client_key"},
        client_auth=frozenset({"post"}),
        scope_separator=",",
        shape=Shape(separator=","),
    ),
    # docs.x.com: PKCE and Basic are mandatory, offline.access brings the refresh token, a code lives 30 seconds.
    "x": Mode(
        "X",
        lenient(rotation=RotationRule.STRICT, access_lifetime=7200, narrowing="ignored", code_lifetime=30),
        pkce="required",
        client_auth=frozenset({"basic"}),
        offline_scope="offline.access",
    ),
    # help.salesforce.com, refresh token flow: no lifetime in the answer; reuse of a rotated token ends everything.
    "salesforce": Mode(
        "Salesforce",
        lenient(rotation=RotationRule.REUSE_REVOKES_FAMILY, narrowing="ignored"),
        offline_scope="refresh_token",
        shape=Shape(expiry="absent", extra={"instance_url": "https://eu7.example.com"}),
    ),
    # developer.zoom.us: Basic, single use.
    "zoom": Mode(
        "Zoom",
        lenient(rotation=RotationRule.STRICT, narrowing="ignored"),
        client_auth=frozenset({"basic"}),
        fixed_scopes=_names("user:read:user", "meeting:write:meeting"),
    ),
    # developers.hubspot.com: the refresh token stays; DELETE with the token in the path ends it.
    "hubspot": Mode(
        "HubSpot",
        lenient(access_lifetime=1800, narrowing="ignored", revoke="token"),
        client_auth=frozenset({"post"}),
        revoking=RevocationMode("DELETE", token_in="path", client_auth=frozenset(), takes=frozenset({"refresh"})),
    ),
}

SERVICES: Mapping[str, Mode] = {
    **_SERVICES,
    # The same with its own API: docs.github.com/rest: repos, issues, pagination.
    "github": replace(
        _SERVICES["github-app"],
        title="GitHub",
        api="github",
        operations=(
            Operation("GET", "/user", frozenset()),
            Operation("GET", "/user/repos", _names("metadata:read")),
            Operation("GET", "/rate_limit", frozenset()),
            Operation("GET", "/search/issues", _names("issues:read")),
            Operation("GET", "/repos/{}/{}/pulls", _names("pull_requests:read")),
            Operation("GET", "/repos/{}/{}/pulls/{}", _names("pull_requests:read")),
            Operation("GET", "/repos/{}/{}/contents/{}", _names("contents:read")),
            Operation("GET", "/repos/{}/{}/contents/{}/{}", _names("contents:read")),
            Operation("GET", "/repos/{}/{}/git/trees/{}", _names("contents:read")),
            Operation("GET", "/repos/{}/{}", _names("metadata:read")),
            Operation("GET", "/repos/{}/{}/issues", _names("issues:read")),
            Operation("POST", "/repos/{}/{}/issues", _names("issues:write")),
            Operation("GET", "/repos/{}/{}/issues/{}", _names("issues:read")),
            Operation("PATCH", "/repos/{}/{}/issues/{}", _names("issues:write")),
            Operation("GET", "/repos/{}/{}/issues/{}/comments", _names("issues:read")),
            Operation("POST", "/repos/{}/{}/issues/{}/comments", _names("issues:write")),
        ),
    ),
}
