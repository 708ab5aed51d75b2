"""The table of all refusals: what each becomes on the wire, and the text that the caller gets.

`KINDS` maps the name of every kind of refusal to its HTTP status and its registered OAuth code. `TABLE` maps each
refusal of `vault`, which knows neither HTTP nor OAuth, to its form at OAuth endpoints, on pages, at the proxy, and over
MCP, with its sentence and next step. `server.connecting.agent_refusals` reads it for agents and adds the link for their
person.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from vault import clients, directory, groups, handles, refusals, users
from vault.audit import audit
from vault.keys import passwords, sealed_file
from vault.refusals import VaultError
from vault.sign_in import passkeys
from vault.storage import database
from vault.tokens import tokens


class PersonRefused(VaultError):
    """Base class of refusals to a person on a page or in a terminal; never raised itself.

    `kind` is one of `KINDS`. `retry_after`: seconds after which it should work; None if retrying doesn't help.
    """

    retry_after: int | None = None

    def __init__(self, description: str, *, kind: str = "invalid_request", detail: str = "") -> None:
        super().__init__(description, detail=detail)
        self.kind = kind

    @property
    def status(self) -> int:
        return status_of(self.kind)


class PagesElsewhere(PersonRefused):
    """The address of this vault's pages leads elsewhere, so no link to them is given out."""

    code = "pages_elsewhere"


@dataclass(frozen=True, slots=True)
class RefusalKind:
    """One kind of refusal on the wire. `oauth_error` is the registered code of an OAuth answer."""

    status: int
    oauth_error: str = "invalid_request"


KINDS: Final[dict[str, RefusalKind]] = {
    # Registered codes. RFC 6749 §4.1.2.1 and §5.2, RFC 8693 §2.2.2, RFC 8707 §2
    **{
        code: RefusalKind(400, code)
        for code in (
            "invalid_request",
            "invalid_grant",
            "invalid_scope",
            "invalid_target",
            "unauthorized_client",
            "unsupported_grant_type",
            "unsupported_response_type",
            *("authorization_pending", "slow_down", "expired_token"),  # RFC 8628 §3.5
            *("invalid_client_metadata", "invalid_redirect_uri"),  # RFC 7591 §3.2.2
            *("invalid_request_uri", "request_not_supported", "request_uri_not_supported"),  # RFC 9101 §7
            *("login_required", "consent_required"),  # OpenID Connect Core §3.1.2.6
            "invalid_dpop_proof",  # RFC 9449 §5
            *("unknown_user_id", "invalid_binding_message"),  # OpenID CIBA Core 1.0 §13
            *("missing_user_code", "invalid_user_code", "expired_login_hint_token"),  # likewise
            "invalid_authorization_details",  # RFC 9396 §5
        )
    },
    "invalid_client": RefusalKind(401, "invalid_client"),
    "access_denied": RefusalKind(403, "access_denied"),
    "server_error": RefusalKind(500, "server_error"),
    "temporarily_unavailable": RefusalKind(503, "temporarily_unavailable"),
    "invalid_token": RefusalKind(401, "invalid_token"),  # RFC 6750 §3.1
    "insufficient_scope": RefusalKind(403, "insufficient_scope"),
    # The same codes with another status
    "no_token": RefusalKind(401, ""),  # RFC 6750 §3.1: no error code where no token was sent
    "key_not_proved": RefusalKind(401, "invalid_dpop_proof"),  # RFC 9449 §7.1: at a protected resource
    "sign_in_again": RefusalKind(401, "insufficient_user_authentication"),  # RFC 9470 §3
    "refused_by_person": RefusalKind(400, "access_denied"),  # RFC 8628 §3.5
    "not_allowed_by_company": RefusalKind(400, "access_denied"),
    "authenticate_again": RefusalKind(400, "insufficient_user_authentication"),  # RFC 9470 §3, at /token
    "unknown_agent": RefusalKind(400, "invalid_client"),  # on the page of /authorize, where no client authenticates
    "too_many_requests": RefusalKind(429, "temporarily_unavailable"),
    "method_not_allowed": RefusalKind(405),
    "body_too_large": RefusalKind(413),
    # Auth0's protocol: clients branch on these codes
    "no_connected_account": RefusalKind(401, "federated_connection_refresh_token_not_found"),
    "no_such_account": RefusalKind(401, "user_not_found"),
    # Pages
    "not_signed_in": RefusalKind(401),
    "forbidden": RefusalKind(403),
    "not_found": RefusalKind(404),
    "conflict": RefusalKind(409),
    "gone": RefusalKind(410),
    "changed_meanwhile": RefusalKind(412),  # RFC 9110 §13.1.1: If-Match
    "unsupported_form": RefusalKind(415),
    "not_ready": RefusalKind(503),
    # Before a request is complete (`server.http.connections`)
    "unreadable_request": RefusalKind(400),
    "slow_request": RefusalKind(408),
    "long_request_line": RefusalKind(414),
    "long_header_section": RefusalKind(431),
    # Guards
    "origin_not_allowed": RefusalKind(403),
    "unknown_host": RefusalKind(421),
    # The proxy's own; their names are its codes
    **{
        code: RefusalKind(status)
        for status, codes in {
            400: ("ambiguous_path", "ambiguous_parameter", "ambiguous_header", "invalid_query", "invalid_body"),
            403: ("call_not_allowed", "scope_missing", "unknown_parameter", "origin_refused"),
            404: ("unknown_target",),
            415: ("unsupported_body",),
            429: ("rate_limited",),
            500: ("internal_error",),
            501: ("upgrade_refused",),
            502: ("upstream_unavailable", "upstream_unauthorized", "answer_too_large", "answer_unreadable"),
            503: ("token_renewed", "too_many_calls"),
            504: ("timeout",),
        }.items()
        for code in codes
    },
    **{
        code: RefusalKind(400)
        for code in ("method_override", "credential_refused", "cookie_refused", "header_refused", "body_refused")
    },
    "redirect_refused": RefusalKind(502),
}

# Codes of failed tool calls that are the vault's own
CALL_FAILURES: Final = frozenset(
    {
        *("call_not_allowed", "upstream_unauthorized", "insufficient_scope", "rate_limited", "upstream_unavailable"),
        *("tool_held", "timeout", "internal_error", "interrupted"),
    }
)


def failure_label(code: str) -> str:
    """The code of a failed tool call as a metric label; all codes that providers define share one label."""
    return code if code in CALL_FAILURES else "upstream_refused"


def status_of(kind: str) -> int:
    """The HTTP status of a kind of refusal."""
    return KINDS[kind].status


STORAGE_RETRY: Final = 5  # seconds until a caller should retry an unavailable database
CONFLICT_RETRY: Final = 1  # seconds until the other caller should be done

# How MCP reports it: as text, with a link, as a question about the account or the call, or as a 503.
McpForm = Literal["words", "link", "account", "approval", "away"]


@dataclass(frozen=True, slots=True)
class Wording:
    """What a refusal by the vault becomes for each kind of caller.

    `kind` is for OAuth endpoints; `proxied` (for the proxy, which providers' SDKs call) and `paged` (for pages)
    override it. `sentence` replaces the refusal's own description if callers must not see it; `next_step` can contain
    the placeholders `retry_after` and `accounts`.
    """

    kind: str
    form: McpForm = "words"
    proxied: str = ""
    paged: str = ""
    sentence: str = ""
    next_step: str = ""

    @property
    def answer(self) -> RefusalKind:
        return KINDS[self.kind]

    @property
    def proxied_status(self) -> int:
        return status_of(self.proxied or self.kind)

    @property
    def paged_status(self) -> int:
        return status_of(self.paged or self.kind)


UNLISTED: Final = Wording("server_error")
TABLE: Final[dict[type[VaultError], Wording]] = {
    refusals.ConnectionRequired: Wording("invalid_target", "link", proxied="forbidden"),
    refusals.DelegationRequired: Wording("access_denied", "link"),
    refusals.ApprovalRequired: Wording("access_denied", "approval"),
    refusals.AccountRequired: Wording("invalid_target", "account", next_step="Accounts: {accounts}."),
    refusals.ToolNotOffered: Wording("access_denied"),
    refusals.PolicyRefused: Wording("access_denied"),
    refusals.ItemRefused: Wording("invalid_target"),
    refusals.CallUnauthorized: Wording("access_denied", proxied="upstream_unauthorized"),
    refusals.ScopeRefused: Wording("invalid_scope", proxied="forbidden"),
    refusals.GrantEnded: Wording("invalid_grant", proxied="invalid_token"),
    refusals.TemporarilyUnavailable: Wording("temporarily_unavailable", next_step="Try again in {retry_after} s."),
    refusals.StorageBusy: Wording("temporarily_unavailable", "away", next_step="Try again in {retry_after} s."),
    refusals.CiphertextRejected: Wording(
        "server_error",
        sentence="This connection can't be opened.",
        next_step="Disconnect it and connect it again on the Accounts page.",
    ),
    refusals.KeyUnavailable: Wording(
        "server_error",
        sentence="The vault can't open its keys.",
        next_step="Nothing is lost; ask its operator to fix this.",
    ),
    refusals.StorageUnavailable: Wording(
        "temporarily_unavailable",
        "away",
        sentence="The vault can't reach its storage.",
        next_step="Nothing is lost; try again in a minute.",
    ),
    refusals.ValueUnstorable: Wording(
        "invalid_request", next_step="Send text without control characters, and smaller numbers."
    ),
    refusals.TransitionRefused: Wording("invalid_grant", paged="conflict"),
    tokens.ResourceRefused: Wording("invalid_target"),
    handles.HandleRefused: Wording("invalid_token"),
    clients.ClientExists: Wording("invalid_client_metadata"),
    users.NameRefused: Wording("invalid_request"),
    users.NameTaken: Wording("conflict"),
    users.IdentityTaken: Wording("conflict"),
    groups.GroupNameRefused: Wording("invalid_request"),
    groups.GroupNameTaken: Wording("conflict"),
    directory.UserNameTaken: Wording("conflict"),
    passkeys.PasskeyTaken: Wording("conflict"),
    passkeys.TooManyPasskeys: Wording("conflict"),
    passwords.PasswordRefused: Wording("invalid_request"),
    database.Conflict: Wording(
        "temporarily_unavailable",
        sentence="Something else changed the same data at the same time.",
        next_step="Nothing was done; try again.",
    ),
    audit.ChainBroken: Wording(
        "server_error",
        sentence="Someone tampered with the vault's activity record.",
        next_step="Ask its operator to look into it first.",
    ),
    sealed_file.BackupRefused: Wording("invalid_request"),
    PersonRefused: Wording("invalid_request"),
}


def wording_of(refusal: VaultError) -> Wording:
    """The table entry of a refusal: its own, or that of its nearest ancestor class."""
    return next((TABLE[kind] for kind in type(refusal).__mro__ if kind in TABLE), UNLISTED)


def retry_after(refusal: VaultError) -> int | None:
    """Seconds for `Retry-After` (RFC 9110 §10.2.3); None if retrying doesn't help."""
    match refusal:
        case refusals.TemporarilyUnavailable() | PersonRefused():
            return refusal.retry_after
        case refusals.ValueUnstorable():
            return None
        case refusals.StorageUnavailable():
            return STORAGE_RETRY
        case database.Conflict():
            return CONFLICT_RETRY
        case _:
            return None


def words_of(refusal: VaultError) -> str:
    """The text for a refusal: what happened, and the next step. Never includes `detail`."""
    wording = wording_of(refusal)
    if not wording.next_step:
        return wording.sentence or as_sentence(refusal.description)
    accounts = ", ".join(refusal.accounts) if isinstance(refusal, refusals.AccountRequired) else ""
    step = wording.next_step.format(retry_after=retry_after(refusal), accounts=accounts)
    return f"{wording.sentence or as_sentence(refusal.description)} {step}"


def as_sentence(text: str) -> str:
    """A description as a sentence; OAuth answers use a short form."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
