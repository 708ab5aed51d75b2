"""The meaning of each provider error while an account is being connected, and who can fix it and how. Texts only.

The first sentence is for the person at the browser; the part for the operator names the exact value or command. Errors
that a provider shows on its own page never reach the vault: see docs/operate/troubleshooting.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_AGAIN: Final = "Nothing was connected; start again."
_ASK: Final = "Ask an admin"
_SETUP: Final = (
    f"{_ASK} to enter it again under Administration, Providers, or with: token-vault providers setup {{name}}"
)
_REDIRECT: Final = (
    f"This vault's redirect URL isn't registered there. {_ASK} to add exactly {{redirect}} to the app at {{title}}."
)
_SCOPES: Final = (
    f"The app there isn't allowed to request these scopes. {_ASK} to add them to the app at {{title}}: "
    "token-vault providers setup {name} lists them."
)
_OLD_CODE: Final = f"It rejected its own code, or the code was too old or already used. {_AGAIN}"
_BUSY: Final = "It's busy. Try again in a few minutes."
_PROBLEM: Final = "It has a problem. Try again in a few minutes."
_PKCE: Final = (
    "It rejected this vault's PKCE proof. Start again. If this keeps happening, ask an admin to turn on PKCE in the "
    "app at {title}, or to set a client secret: token-vault providers setup {name}"
)

FIXES: Final[Mapping[str, str]] = {
    # caused by the person, or by an administrator of their organization
    "access_denied": (
        f"You, or an administrator there, didn't agree. {_AGAIN} If {{title}} said that the app is being tested, "
        "ask an admin to add your account to the app's test users."
    ),
    "user_denied": f"You didn't agree. {_AGAIN}",
    "admin_policy_enforced": "An administrator of your organization doesn't allow this app. Ask them to allow it.",
    "org_internal": "The app is for one organization only. Choose an account that belongs to it.",
    "invalid_team_for_non_distributed_app": (
        f"The app belongs to another workspace and isn't distributed. {_ASK} to create the app in your workspace, or "
        "to activate public distribution for it."
    ),
    # our registration there
    "invalid_client": f"It rejects this vault's client ID or secret. {_SETUP}",
    "invalid_client_id": f"It doesn't know this vault's client ID. {_SETUP}",
    "bad_client_secret": f"It rejects this vault's client secret. {_SETUP}",
    "bad_redirect_uri": _REDIRECT,
    "redirect_uri_mismatch": _REDIRECT,
    "unauthorized_client": (
        f"The app there isn't allowed to do this. {_ASK} to check that it has the right type (at Google: Web "
        "application), and that the client ID belongs to it."
    ),
    "org_not_allowed": f"Your organization there doesn't allow this app. {_AGAIN}",
    "invalid_scope": _SCOPES,
    "invalid_scope_requested": _SCOPES,
    "no_scopes": _SCOPES,
    "invalid_code_verifier": _PKCE,
    "oauth_authorization_url_mismatch": (
        f"The consent and the code came from different addresses. {_ASK} to remove `authorize_url` and `token_url` "
        "from [providers.{name}]."
    ),
    # the code
    "invalid_grant": _OLD_CODE,
    "invalid_code": _OLD_CODE,
    "code_already_used": _OLD_CODE,
    "code_expired": _OLD_CODE,
    "account_unknown": f"It didn't say which account this is. {_AGAIN}",
    # the provider itself
    "server_error": _PROBLEM,
    "internal_error": _PROBLEM,
    "fatal_error": _PROBLEM,
    "temporarily_unavailable": _BUSY,
    "ratelimited": _BUSY,
    "not_configured": f"This vault isn't registered there. {_SETUP}",
    "secret_unavailable": (
        f"This vault can't read its client secret. {_ASK} to run token-vault doctor, which says why. {_AGAIN}"
    ),
}
_UNKNOWN: Final = "Nothing was connected. Try again. If this keeps happening, ask an admin to check the activity log."


_NO_REFRESH: Final[Mapping[str, str]] = {
    "slack": (
        "Token rotation is off in the app at {title}, so this token never expires, even if someone steals it. "
        f"{_ASK} to turn on Token rotation there, under OAuth & Permissions; then connect again."
    ),
}
_ONLY_ACCESS: Final = (
    "{title} gave no refresh token, so this connection ends when its access token expires. Reconnect it then."
)


def no_refresh_token(name: str, *, title: str) -> str:
    """The text for a provider that returned no refresh token, with what to do about it."""
    return _NO_REFRESH.get(name, _ONLY_ACCESS).replace("{title}", title)


def fix_for(code: str, *, name: str, title: str, redirect: str) -> str:
    """What to do about this error code from the provider `name`; a general sentence for an unknown code."""
    text = FIXES.get(code, _UNKNOWN)
    return text.replace("{title}", title).replace("{redirect}", redirect).replace("{name}", name)
