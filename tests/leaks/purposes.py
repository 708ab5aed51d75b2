"""Where a secret may appear: in the answer that returns it.

A secret's kind is the file that makes it with its size in bytes (`vault/handles.py 32`), or a word. No secret may be in
a file of the vault.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

IDENTIFIERS = frozenset({"vault/records.py"})  # ids of records: events and pages show them
TOKEN = r"/(oauth/)?token/?"
PAGE = (
    r"/(authorize|consent|connect|connections|device|sign-in|sign-out|first-run|approvals|account|agents|access-requests"
    r"|activity|notifications|administration)(/.*)?"
)
LINKING = r"/mcp/?|/sse|/messages/?|/proxy/.*|/programs/calls|/admin/v1/.*"  # answers with a link for the person


@dataclass(frozen=True)
class Purpose:
    """Secrets of this kind are returned in these parts of the answers from these paths."""

    kind: str
    part: str
    path: str
    why: str


PURPOSES = (
    Purpose("a signed token|vault/tokens/tokens.py 32|vault/handles.py 32", "body", TOKEN, "RFC 6749 §5.1"),
    Purpose("vault/handles.py 32", "body", "/programs/calls", "the handle of one call of `token-vault run`"),
    Purpose(
        "providers/simulator/.*|an upstream token|an entered key",
        "body",
        TOKEN,
        "the operator lets a client have upstream credentials",
    ),
    Purpose("server/oauth/clients/registration.py 32", "body", r"(/oidc)?/register(/.*)?", "RFC 7591 §3.2.1"),
    Purpose(
        "vault/sign_in/sessions.py 32|server/portal/requests.py 32",
        "set-cookie",
        PAGE + "|/v2/logout",
        "a browser's own cookie",
    ),
    Purpose(
        "server/sign_in/openid.py 32", "set-cookie|location", PAGE, "OpenID Connect Core §3.1.2.1: state and nonce"
    ),
    Purpose(
        "(a library|tests/.*|server/bridge/browser.py) 32",
        "location",
        PAGE,
        "RFC 6749 §4.1.2: the client's own state comes back",
    ),
    Purpose("server/connecting/provider_authorization.py 32", "location", PAGE, "RFC 6749 §4.1.1: state"),
    Purpose(
        "server/connecting/provider_authorization.py 32",
        "body",
        r"/(connect|connections)(/.*)?",
        "the page that sends the browser to the provider",
    ),
    Purpose(
        "vault/tickets.py 32", "location|body", PAGE, "the code for the client, and forms that belong to a request"
    ),
    Purpose("vault/tickets.py 32|a user code", "body", LINKING + "|" + TOKEN, "links for the person"),
    Purpose(
        "(vault/tickets.py|server/oauth/device.py) 32|a user code", "body", r"/device_authorization", "RFC 8628 §3.2"
    ),
    Purpose("a user code", "body|location", PAGE, "the person compares it"),
    Purpose("server/administration/agents.py 32", "body", r"/admin/v1/agents", "the secret of a new agent, shown once"),
    Purpose(
        "vault/directory.py 32",
        "body",
        r"/administration/groups|/admin/v1/directory-tokens",
        "the token of a company's directory, shown once to the admin who makes it",
    ),
    Purpose("vault/approvals/requests.py 32", "body", r"/bc-authorize", "CIBA Core §7.3: auth_req_id"),
    Purpose("vault/tickets.py 32", "body", r"/par", "RFC 9126 §2.2: request_uri"),
    Purpose(
        "(server/auth0/connect.py|vault/tickets.py) 32",
        "body",
        r"/me/v1/connected-accounts/connect",
        "the application's session, and the ticket for the person's browser",
    ),
    Purpose("vault/tickets.py 32", "location", r"/connected-accounts/connect", "to the page of that ticket"),
)


def may_be_told(kind: str, part: str, path: str) -> bool:
    """Whether this part of an answer (`body`, or a header's name) may contain such secrets."""
    return any(
        re.fullmatch(one.kind, kind) and re.fullmatch(one.part, part) and re.fullmatch(one.path, path)
        for one in PURPOSES
    )


def is_ours(path: Path) -> bool:
    """Whether the vault wrote the file; tests write other files."""
    return ".sqlite" in path.name or "journal" in path.name
