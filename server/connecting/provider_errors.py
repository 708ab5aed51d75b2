"""What each provider error means while an account is being connected, and who can fix it how. Texts only.

The first sentence is for the person at the browser; the operator's part names the exact value or command. Errors that a
provider shows on its own page never get here: see docs/operate/troubleshooting.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_AGAIN: Final = "Nothing was connected; you can start again."
_OPERATOR: Final = "Whoever runs this vault"
_SETUP: Final = f"{_OPERATOR} registers it with: token-vault providers setup {{name}}"
_CLIENT: Final = f"{_OPERATOR} corrects them with: token-vault providers setup {{name}}"
_REDIRECT: Final = (
    "The redirect address of this vault is not registered there. "
    f"{_OPERATOR} adds exactly {{redirect}} to the app at {{title}}."
)
_SCOPES: Final = (
    f"Our app there may not ask for these scopes. {_OPERATOR} adds them to the app at {{title}}: "
    "token-vault providers setup {name} lists them."
)
_OLD_CODE: Final = f"It did not accept its own code, or the code was too old or used already. {_AGAIN}"
_BUSY: Final = "It is busy. Try again in a few minutes."
_PKCE: Final = (
    "It did not accept the proof (PKCE) that this vault sent. Start again; if it stays, "
    f"{_OPERATOR.lower()} turns PKCE on in the app at {{title}}, or sets a client secret: "
    "token-vault providers setup {name}"
)

MENDS: Final[Mapping[str, str]] = {
    # caused by the person, or by an administrator of their organization
    "access_denied": (
        f"You, or an administrator there, did not agree. {_AGAIN} If {{title}} said that the app is being tested, "
        f"{_OPERATOR.lower()} adds your account to the app's test users."
    ),
    "user_denied": f"You did not agree. {_AGAIN}",
    "admin_policy_enforced": "An administrator of your organisation does not allow this app. Ask them to allow it.",
    "org_internal": "The app serves one organisation only, and this account is not of it. Choose an account that is.",
    "invalid_team_for_non_distributed_app": (
        f"The app belongs to another workspace and is not distributed. {_OPERATOR} makes the app in your workspace, or "
        "activates public distribution for it."
    ),
    # our registration there
    "invalid_client": f"It does not accept our client id or secret. {_CLIENT}",
    "invalid_client_id": f"It does not know our client id. {_CLIENT}",
    "bad_client_secret": f"It does not accept our client secret. {_CLIENT}",
    "bad_redirect_uri": _REDIRECT,
    "redirect_uri_mismatch": _REDIRECT,
    "unauthorized_client": (
        f"Our app there is not allowed to do this. {_OPERATOR} checks that it is of the right type (at Google: Web "
        "application), and that the client id belongs to it."
    ),
    "org_not_allowed": f"Your organisation there does not allow this app. {_AGAIN}",
    "invalid_scope": _SCOPES,
    "invalid_scope_requested": _SCOPES,
    "no_scopes": _SCOPES,
    "invalid_code_verifier": _PKCE,
    "oauth_authorization_url_mismatch": (
        f"The consent and the code came from different addresses. {_OPERATOR} removes `authorize_url` and `token_url` "
        "of [providers.{name}]."
    ),
    # the code
    "invalid_grant": _OLD_CODE,
    "invalid_code": _OLD_CODE,
    "code_already_used": _OLD_CODE,
    "code_expired": _OLD_CODE,
    "account_unknown": f"It did not say which account this is. {_AGAIN}",
    # the provider itself
    "server_error": "It has a problem. Try again in a few minutes.",
    "internal_error": "It has a problem. Try again in a few minutes.",
    "fatal_error": "It has a problem. Try again in a few minutes.",
    "temporarily_unavailable": _BUSY,
    "ratelimited": _BUSY,
    "not_configured": f"This vault is not registered there. {_SETUP}",
}
_UNKNOWN: Final = "Nothing was connected. Try again; if it stays, ask the operator to look at the activity."


_NO_REFRESH: Final[Mapping[str, str]] = {
    "slack": (
        "Token rotation is off in the app at {title}: this token does not end, whoever gets hold of it. "
        f"{_OPERATOR} turns Token rotation on there, under OAuth & Permissions; then connect again."
    ),
}
_ONLY_ACCESS: Final = (
    "{title} gave no refresh token, so this connection ends with its access token: connect again then."
)


def no_refresh_token(name: str, *, title: str) -> str:
    """What it means that this provider gave no refresh token, and what to do about it."""
    return _NO_REFRESH.get(name, _ONLY_ACCESS).replace("{title}", title)


def mend_for(code: str, *, name: str, title: str, redirect: str) -> str:
    """What to do about this error code of the provider `name`; a general sentence for an unknown code."""
    text = MENDS.get(code, _UNKNOWN)
    return text.replace("{title}", title).replace("{redirect}", redirect).replace("{name}", name)
