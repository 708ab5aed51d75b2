"""The table of refusals: complete, with registered codes only, and texts for tools that state the fix and no secret."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator

import pytest

import server
import vault
from server import errors
from server.errors import PersonRefused, retry_after, wording_of, words_of
from server.oauth.wire import as_oauth_error
from vault.audit.audit import ChainBroken
from vault.clients import ClientExists
from vault.directory import UserNameTaken
from vault.groups import GroupNameRefused, GroupNameTaken
from vault.handles import HandleRefused
from vault.keys.passwords import PasswordRefused
from vault.keys.sealed_file import BackupRefused
from vault.records import Grant
from vault.refusals import (
    AccountRequired,
    ApprovalRequired,
    CallUnauthorized,
    CiphertextRejected,
    ConnectionRequired,
    DelegationRequired,
    GrantEnded,
    ItemRefused,
    KeyUnavailable,
    PolicyRefused,
    ScopeRefused,
    StorageBusy,
    StorageUnavailable,
    TemporarilyUnavailable,
    ToolNotOffered,
    TransitionRefused,
    ValueUnstorable,
    VaultError,
)
from vault.sign_in.passkeys import PasskeyTaken, TooManyPasskeys
from vault.storage.database import Conflict
from vault.tickets import TicketReplayed
from vault.tokens.token_rules import RepeatVerdict
from vault.tokens.tokens import RefreshTokenRefused, ResourceRefused, TokenReused
from vault.users import IdentityTaken, NameRefused, NameTaken

# RFC 6749 §4.1.2.1 and §5.2, RFC 6750 §3.1, RFC 7591 §3.2.2, RFC 8707 §2
REGISTERED = {
    "access_denied",
    "invalid_client_metadata",
    "invalid_grant",
    "invalid_request",
    "invalid_scope",
    "invalid_target",
    "invalid_token",
    "server_error",
    "temporarily_unavailable",
}
NONE = frozenset[str]()
GRANT = Grant("grant", "user", "client", NONE, "https://vault.example/mcp", "https://client.example/cb", created_at=0)


def refusals_of(kind: type[VaultError]) -> Iterator[type[VaultError]]:
    for child in kind.__subclasses__():
        yield child
        yield from refusals_of(child)


def every_refusal() -> set[type[VaultError]]:
    """All refusals, including those of modules that aren't imported here."""
    for package in (vault, server):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    return {kind for kind in refusals_of(VaultError) if kind.__module__.startswith(("vault.", "server."))}


def entry_of(kind: type[VaultError]) -> type[VaultError] | None:
    return next((base for base in kind.__mro__ if base in errors.TABLE), None)


def test_every_refusal_has_an_answer_of_its_own_or_of_its_kind() -> None:
    found = every_refusal()
    assert {TokenReused, NameTaken, ChainBroken} < found
    assert VaultError not in errors.TABLE, "an answer for everything would hide the missing ones"
    assert [kind.__name__ for kind in found if entry_of(kind) is None] == []
    assert set(errors.TABLE) <= found, "no entry for what does not exist"


def test_a_refusal_without_an_entry_would_be_noticed() -> None:
    class Unheard(VaultError):
        code = "unheard"

    class HeardOfGrant(GrantEnded):
        code = "heard"

    assert entry_of(Unheard) is None
    assert wording_of(Unheard("new")).answer.status == 500
    assert entry_of(HeardOfGrant) is GrantEnded


def test_the_table_speaks_registered_codes() -> None:
    assert {wording.answer.oauth_error for wording in errors.TABLE.values()} <= REGISTERED
    assert {wording.answer.status for wording in errors.TABLE.values()} <= {400, 401, 403, 409, 500, 503}


SECRET = "detail-for-the-log"
MADE: dict[type[VaultError], tuple[Callable[[], VaultError], str, str]] = {
    ConnectionRequired: (
        lambda: ConnectionRequired("Connect Slack first.", provider="slack", reason="missing", scopes=NONE),
        "invalid_target",
        "Connect Slack first.",
    ),
    ApprovalRequired: (
        lambda: ApprovalRequired(
            "Ask.", provider="slack", scopes=NONE, connection_id="c", account="a", label="a", can_ask=True
        ),
        "access_denied",
        "Ask.",
    ),
    ToolNotOffered: (
        lambda: ToolNotOffered("Choose a larger tool set.", tool_set="read-only"),
        "access_denied",
        "Choose a larger tool set.",
    ),
    PolicyRefused: (lambda: PolicyRefused("Not here."), "access_denied", "Not here."),
    DelegationRequired: (
        lambda: DelegationRequired("Allow it.", provider="slack", scopes=NONE, connection_id="c"),
        "access_denied",
        "Allow it.",
    ),
    AccountRequired: (
        lambda: AccountRequired("Which account?", provider="slack", accounts=("a", "b")),
        "invalid_target",
        "Which account? Accounts: a, b.",
    ),
    ItemRefused: (lambda: ItemRefused("not for this one thing"), "invalid_target", "Not for this one thing."),
    CallUnauthorized: (lambda: CallUnauthorized("mail refused it"), "access_denied", "Mail refused it."),
    ScopeRefused: (lambda: ScopeRefused("not these scopes", missing=NONE), "invalid_scope", "Not these scopes."),
    GrantEnded: (lambda: GrantEnded("the grant has ended"), "invalid_grant", "The grant has ended."),
    RefreshTokenRefused: (lambda: RefreshTokenRefused("not valid"), "invalid_grant", "Not valid."),
    TokenReused: (
        lambda: TokenReused("not valid", grant=GRANT, verdict=RepeatVerdict.LATE),
        "invalid_grant",
        "Not valid.",
    ),
    ResourceRefused: (lambda: ResourceRefused("another resource"), "invalid_target", "Another resource."),
    TemporarilyUnavailable: (
        lambda: TemporarilyUnavailable("Slack is slow.", retry_after=7),
        "temporarily_unavailable",
        "Slack is slow. Try again in 7 s.",
    ),
    StorageBusy: (
        lambda: StorageBusy("the database can't be reached", retry_after=1),
        "temporarily_unavailable",
        "The database can't be reached. Try again in 1 s.",
    ),
    CiphertextRejected: (lambda: CiphertextRejected("tag"), "server_error", "connect it again"),
    KeyUnavailable: (lambda: KeyUnavailable("no key in master.key"), "server_error", "ask its operator to fix this"),
    StorageUnavailable: (lambda: StorageUnavailable("no disk"), "temporarily_unavailable", "try again in a minute"),
    ValueUnstorable: (lambda: ValueUnstorable("a NUL"), "invalid_request", "and smaller numbers"),
    TransitionRefused: (lambda: TransitionRefused("this was used"), "invalid_grant", "This was used."),
    TicketReplayed: (lambda: TicketReplayed("this was used", outcome=None), "invalid_grant", "This was used."),
    Conflict: (lambda: Conflict("this already exists"), "temporarily_unavailable", "Nothing was done; try again."),
    ChainBroken: (lambda: ChainBroken(7), "server_error", "operator to look into it"),
    HandleRefused: (lambda: HandleRefused("expired"), "invalid_token", "Expired."),
    ClientExists: (lambda: ClientExists("a client exists"), "invalid_client_metadata", "A client exists."),
    NameRefused: (lambda: NameRefused("too long"), "invalid_request", "Too long."),
    NameTaken: (lambda: NameTaken("taken"), "invalid_request", "Taken."),
    GroupNameRefused: (lambda: GroupNameRefused("too long"), "invalid_request", "Too long."),
    GroupNameTaken: (lambda: GroupNameTaken("taken"), "invalid_request", "Taken."),
    UserNameTaken: (lambda: UserNameTaken("taken"), "invalid_request", "Taken."),
    IdentityTaken: (lambda: IdentityTaken("taken"), "invalid_request", "Taken."),
    PasskeyTaken: (lambda: PasskeyTaken("taken"), "invalid_request", "Taken."),
    TooManyPasskeys: (lambda: TooManyPasskeys("too many"), "invalid_request", "Too many."),
    PasswordRefused: (lambda: PasswordRefused("too short"), "invalid_request", "Too short."),
    BackupRefused: (lambda: BackupRefused("no backup"), "invalid_request", "No backup."),
    PersonRefused: (lambda: PersonRefused("not here"), "invalid_request", "Not here."),
}


@pytest.mark.parametrize("kind", MADE)
def test_tools_and_oauth_clients_read_what_to_do_and_never_the_detail(kind: type[VaultError]) -> None:
    make, code, text = MADE[kind]
    refusal = make()
    refusal.detail = SECRET
    told = as_oauth_error(refusal)
    assert (told.code, told.status) == (code, wording_of(refusal).answer.status)
    assert text in words_of(refusal)
    assert words_of(refusal)[0].isupper()
    assert words_of(refusal).endswith(".")
    assert SECRET not in words_of(refusal) + told.description
    assert ("Retry-After" in told.headers) == (told.status == 503) == (retry_after(refusal) is not None)


def test_every_kind_of_the_table_is_tried_here() -> None:
    assert set(errors.TABLE) <= set(MADE)


# At OAuth endpoints, at the proxy, on pages, and over MCP
WIRE: dict[type[VaultError], tuple[int, int, int, str]] = {
    ConnectionRequired: (400, 403, 400, "link"),
    DelegationRequired: (403, 403, 403, "link"),
    ApprovalRequired: (403, 403, 403, "approval"),
    ToolNotOffered: (403, 403, 403, "words"),
    PolicyRefused: (403, 403, 403, "words"),
    AccountRequired: (400, 400, 400, "account"),
    ItemRefused: (400, 400, 400, "words"),
    CallUnauthorized: (403, 502, 403, "words"),
    ScopeRefused: (400, 403, 400, "words"),
    GrantEnded: (400, 401, 400, "words"),
    TemporarilyUnavailable: (503, 503, 503, "words"),
    StorageBusy: (503, 503, 503, "away"),
    StorageUnavailable: (503, 503, 503, "away"),
    CiphertextRejected: (500, 500, 500, "words"),
    KeyUnavailable: (500, 500, 500, "words"),
    ValueUnstorable: (400, 400, 400, "words"),
    TransitionRefused: (400, 400, 409, "words"),
    ResourceRefused: (400, 400, 400, "words"),
    HandleRefused: (401, 401, 401, "words"),
    ClientExists: (400, 400, 400, "words"),
    NameRefused: (400, 400, 400, "words"),
    NameTaken: (409, 409, 409, "words"),
    GroupNameRefused: (400, 400, 400, "words"),
    GroupNameTaken: (409, 409, 409, "words"),
    UserNameTaken: (409, 409, 409, "words"),
    IdentityTaken: (409, 409, 409, "words"),
    PasskeyTaken: (409, 409, 409, "words"),
    TooManyPasskeys: (409, 409, 409, "words"),
    PasswordRefused: (400, 400, 400, "words"),
    Conflict: (503, 503, 503, "words"),
    ChainBroken: (500, 500, 500, "words"),
    BackupRefused: (400, 400, 400, "words"),
    PersonRefused: (400, 400, 400, "words"),
}


def test_each_surface_answers_with_the_status_that_its_callers_react_to() -> None:
    assert {
        kind: (wording.answer.status, wording.proxied_status, wording.paged_status, wording.form)
        for kind, wording in errors.TABLE.items()
    } == WIRE
