"""Other clients of this interface: mcs-auth-auth0, acgs-auth0, okta-ai-sdk-proto; for `test_other_clients.py`.

It prints a URL for the person's browser and reads the URL to which the browser was redirected. Its last line is the
result as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
from urllib.parse import parse_qs, urlsplit

from acgs_auth0.scope_policy import ConnectionScopeRule, MACIScopePolicy
from acgs_auth0.token_vault import ConstitutionalTokenVault, TokenVaultRequest
from mcs.auth.auth0 import Auth0Provider
from mcs.auth.challenge import AuthChallenge
from okta_ai_sdk.connected_accounts import (
    Auth0Config,
    CompleteLinkingAndGetTokenRequest,
    ConnectedAccountsClient,
    GetExternalProviderTokenRequest,
)

DOMAIN, REDIRECT, SECRET = os.environ["DOMAIN"], os.environ["REDIRECT"], os.environ["CLIENT_SECRET"]
OKTA_TOKEN, API = os.environ["OKTA_TOKEN"], os.environ["API"]
OUT = os.fdopen(os.dup(1), "w")


def browse(url: str) -> str:
    """Send the person's browser to this URL; return the code that comes back."""
    print(url, file=OUT, flush=True)
    return parse_qs(urlsplit(input()).query)["connect_code"][0]


class Connector:
    """The sign-in provider for mcs: the first call opens the browser, the next one returns the code."""

    callback_url = REDIRECT
    code = ""

    def authenticate(self, scope: str, *, url: str | None = None, **_: object) -> str:
        if url is not None:
            self.code = browse(url)
            raise AuthChallenge("open the address", url=url, scope=scope)
        return self.code or os.environ["REFRESH_TOKEN"]


def with_mcs() -> list[str]:
    provider = Auth0Provider(
        domain=DOMAIN,
        client_id="mcs",
        client_secret=SECRET,
        connection_scopes={"slack": ["chat:write", "channels:read"]},
        _auth=Connector(),
    )
    found: list[str] = []
    for _ in range(2):
        try:
            found.append(provider.get_token("slack"))
        except AuthChallenge:
            found.append("challenge")
    return found


def with_acgs() -> dict[str, object]:
    """Get a token for the account that the first client connected; this client checks scopes itself."""
    rule = ConnectionScopeRule("sign-in-with-slack", "EXECUTIVE", ["chat:write"])
    vault = ConstitutionalTokenVault(
        policy=MACIScopePolicy([rule]), auth0_domain=DOMAIN, auth0_client_id="mcs", auth0_client_secret=SECRET
    )
    asked = TokenVaultRequest("agent", "EXECUTIVE", rule.connection, ["chat:write"], os.environ["REFRESH_TOKEN"])
    return asyncio.run(vault.exchange(asked)).as_credentials()


def with_okta() -> dict[str, object]:
    base = f"https://{DOMAIN}"
    config = Auth0Config(
        token_endpoint=f"{base}/oauth/token",
        myaccount_connect_endpoint=f"{base}/me/v1/connected-accounts/connect",
        myaccount_complete_endpoint=f"{base}/me/v1/connected-accounts/complete",
        vault_audience=API,
        myaccount_audience=f"{base}/me/",
        vault_token_type="urn:company:okta-token",
        vault_scope="read:vault",
        vault_client_id="okta",
        vault_client_secret=SECRET,
        myaccount_client_id="okta",
        myaccount_client_secret=SECRET,
    )
    asked = {"okta_access_token": OKTA_TOKEN, "auth0_config": config, "connection": "sign-in-with-slack"}
    asked["redirect_uri"] = REDIRECT
    client = ConnectedAccountsClient()
    first = client.get_external_provider_token_from_vault(GetExternalProviderTokenRequest(**asked, state="s"))
    code = browse(str(first.authorization_url))
    session = {"auth_session": str(first.auth_session), "connect_code": code}
    linked = client.complete_linking_and_get_token_from_vault(CompleteLinkingAndGetTokenRequest(**asked, **session))
    again = client.get_external_provider_token_from_vault(GetExternalProviderTokenRequest(**asked))
    return {"linking": first.requires_linking, "linked": linked.token, "again": again.token, "scope": again.scope}


with contextlib.redirect_stdout(io.StringIO()):  # one of them prints what it does
    found = {"mcs": with_mcs(), "acgs": with_acgs(), "okta": with_okta()}
print(json.dumps(found), file=OUT, flush=True)
