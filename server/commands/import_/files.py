"""`import SOURCE FILE`: accounts that people connected in another vault."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from providers.definitions.file_errors import reason_of
from server.terminal.context import Setup, command, fail, note

if TYPE_CHECKING:
    from server.administration.account_imports.accounts import ImportedAccount
    from server.administration.account_imports.transfers import ImportOutcome, ImportRules
    from server.deployment import Deployment

app = typer.Typer(no_args_is_help=True, help="Import accounts from another vault.")

COLUMNS = ("line", "user", "provider", "account", "outcome")
FileArgument = Annotated[Path, typer.Argument(help="The exported file. It's only read.", show_default=False)]
ApplyOption = Annotated[
    bool, typer.Option("--apply", help="Import the accounts. Otherwise only show what would be done.")
]
CreateOption = Annotated[
    bool, typer.Option("--create-people", help="Add people who aren't here, without a password (users link).")
]
PeopleOption = Annotated[
    Path | None,
    typer.Option("--people", help="CSV file with the columns source and user, which maps people.", show_default=False),
]
ProviderOption = Annotated[
    list[str] | None,
    typer.Option(
        "--provider", help="SOURCE=NAME: the source's name for a provider. Repeat for several.", show_default=False
    ),
]
ScopesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--scopes", help="PROVIDER='SCOPE ...': granted scopes, if the file doesn't list them. Repeat for several.",
        show_default=False,
    ),
]  # fmt: skip
SecretOption = Annotated[
    Path | None,
    typer.Option("--secret-file", help="File with AUTH_ENCRYPTION_SECRET, if it is set.", show_default=False),
]
KeyOption = Annotated[Path, typer.Option("--key", help="File with the age key, from age-keygen.", show_default=False)]
Reader = Callable[[Path], Sequence["ImportedAccount"]]
Names = Callable[["Deployment"], Mapping[str, str]]
Source = tuple[Reader, Names]  # reads the file, with its names for our providers


@dataclass(frozen=True, slots=True)
class _Choices:
    """The options of a source with names that differ from ours."""

    people: Path | None = None
    providers: Sequence[str] = ()
    scopes: Sequence[str] = ()
    creates_people: bool = False

    def rules(self, names: Mapping[str, str]) -> ImportRules:
        from server.administration.account_imports.transfers import ImportRules
        from vault.records import parse_scope

        return ImportRules(
            {**names, **_pairs("--provider", self.providers)},
            {} if self.people is None else _read_people(self.people),
            {name: parse_scope(text) for name, text in _pairs("--scopes", self.scopes).items()},
            self.creates_people,
        )


def _pairs(option: str, given: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in given:
        name, separator, value = one.partition("=")
        if not (name and separator and value.strip()):
            fail(f"{option} takes NAME=VALUE, not {one!r}")
        found[name] = value.strip()
    return found


def _read_people(file: Path) -> dict[str, str]:
    import csv

    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.DictReader(opened)
            if set(reader.fieldnames or ()) != {"source", "user"}:
                fail(f"{file}: the first line must name the columns source and user")
            return {row["source"]: row["user"] for row in reader if row["source"] and row["user"]}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return fail(f"can't read {file}: {error if isinstance(error, csv.Error) else reason_of(error)}")


@command(app, "csv")
def csv_(
    setup: Setup,
    file: Annotated[
        Path,
        typer.Argument(
            help="Columns: user, provider, account, refresh_token, scopes, and optionally label.", show_default=False
        ),
    ],
    *,
    apply: ApplyOption = False,
    create_people: CreateOption = False,
) -> None:
    """Import refresh tokens from a CSV file. First stop whatever uses them."""
    from server.administration.account_imports import csv_file

    _run(setup, file, csv_file.read, _Choices(creates_people=create_people), apply=apply)


def _command_of(name: str) -> Callable[[Callable[[], Source]], None]:
    """Register a source's command with the options that all sources share; its help is the docstring."""

    def register(load: Callable[[], Source]) -> None:
        def run(
            setup: Setup,
            file: FileArgument,
            *,
            apply: ApplyOption = False,
            create_people: CreateOption = False,
            people: PeopleOption = None,
            provider: ProviderOption = None,
            scopes: ScopesOption = None,
        ) -> None:
            read, names = load()
            choices = _Choices(people, provider or (), scopes or (), create_people)
            _run(setup, file, read, choices, apply=apply, names=names)

        run.__doc__ = load.__doc__
        command(app, name)(run)

    return register


@_command_of("auth0")
def auth0() -> Source:
    """Import Auth0 users' identities from its Management API, which omits tokens of connected accounts.

    FILE contains the users that `GET /api/v2/users` returns with the scope `read:user_idp_tokens`. Identities with
    a refresh token are imported. If you add a user's connected accounts (Token Vault) as `connected_accounts`, the
    command lists who must reconnect them. First stop the applications that renew these tokens; Auth0 doesn't.
    """
    from server.administration.account_imports import auth0 as source
    from server.auth0.names import CONNECTIONS

    def names(deployment: Deployment) -> Mapping[str, str]:
        return {**CONNECTIONS, **deployment.settings.auth0.connections}

    return source.read, names


@_command_of("nango")
def nango() -> Source:
    """Import Nango's connections, as its API returns them with credentials.

    FILE contains the answer to `GET /connections/{id}?provider_config_key=...&refresh_token=true` for each
    connection, as JSON lines. Then delete the connections there: Nango refreshes each once a day.
    """
    from server.administration.account_imports import nango as source

    return source.read, lambda _: source.NAMES


@_command_of("better-auth")
def better_auth() -> Source:
    """Import rows of Better Auth's account table, as JSON.

    FILE contains the result of `select json_agg(t) from (select a.*, u.email, u."emailVerified" from account a join
    "user" u on u.id = a."userId") t`. First decrypt tokens that `encryptOAuthTokens` encrypted. Then remove
    `getAccessToken` calls, or stop the app.
    """
    from server.administration.account_imports import better_auth as source

    return source.read, lambda _: source.NAMES


@command(app, "contextforge")
def contextforge(
    setup: Setup,
    file: Annotated[Path, typer.Argument(help="Its SQLite file, or rows as JSON. It's only read.", show_default=False)],
    *,
    apply: ApplyOption = False,
    secret_file: SecretOption = None,
    create_people: CreateOption = False,
    people: PeopleOption = None,
    provider: ProviderOption = None,
    scopes: ScopesOption = None,
) -> None:
    """Import the OAuth tokens of ContextForge's gateways.

    FILE is a copy of its SQLite file, or the result of `select json_agg(t) from (select o.*, g.name as gateway,
    g.oauth_config from oauth_tokens o join gateways g on g.id = o.gateway_id) t`; `--secret-file` contains
    `AUTH_ENCRYPTION_SECRET`. Then deactivate the gateways.
    """
    from server.administration.account_imports import contextforge as source

    try:
        secret = source.Secret("" if secret_file is None else secret_file.read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError) as error:
        fail(f"can't read {secret_file}: {reason_of(error)}")
    choices = _Choices(people, provider or (), scopes or (), create_people)
    _run(setup, file, lambda path: source.read(path, secret), choices, apply=apply)


@_command_of("composio")
def composio() -> Source:
    """Import Composio's connected accounts of your own OAuth apps.

    FILE contains the answer to `GET /api/v3/connected_accounts`, with "Mask Connected Account Secrets" off. Accounts
    of Composio's own OAuth apps can't be imported. Then disable the accounts there; deleting them revokes the tokens.
    """
    from server.administration.account_imports import composio as source

    return source.read, lambda _: source.NAMES


@command(app, "token-vault")
def token_vault(
    setup: Setup,
    file: FileArgument,
    *,
    key: KeyOption,
    apply: ApplyOption = False,
    create_people: CreateOption = False,
    people: PeopleOption = None,
) -> None:
    """Import the accounts that another Token Vault exported.

    First stop that vault.
    """
    from server.administration.account_imports import export_file

    choices = _Choices(people, creates_people=create_people)
    _run(setup, file, lambda path: export_file.read(path, identity=key.expanduser()), choices, apply=apply)


def _run(
    setup: Setup,
    file: Path,
    read: Reader,
    choices: _Choices,
    *,
    apply: bool,
    names: Names = lambda _: {},
) -> None:
    """Check the file's accounts, store them if `apply`, and report each."""

    rows = read(file.expanduser())

    async def work() -> tuple[list[ImportOutcome], str]:
        from server.administration.account_imports.transfers import ImportOutcome, judge, take_over
        from server.administration.actor import Actor

        async with setup.open() as deployment:
            actor = Actor(deployment, None, "command_line")
            outcomes: list[ImportOutcome] = []
            for number, one in enumerate(await judge(actor, rows, choices.rules(names(deployment))), start=1):
                outcome = one
                if apply and one.is_new and one.planned is not None:
                    outcome = ImportOutcome(one.row, await take_over(actor, one.row, one.planned), one.planned)
                    if number % 1000 == 0:
                        note(f"{number} of {len(rows)}")
                outcomes.append(outcome)
            return outcomes, deployment.url("/connections")

    outcomes, page = setup.run(work())
    setup.show([_report_row(one, apply=apply) for one in outcomes], columns=COLUMNS, empty="The file has no accounts.")
    done = sum(one.is_new for one in outcomes)
    refused = [one for one in outcomes if one.is_refused]
    if apply:
        note(f"{done} imported, {len(refused)} refused. Each refreshes at its first use.")
    else:
        note(f"{done} would be imported, {len(refused)} refused. To store them, run the same with --apply")
    if any(one.row.obstacle for one in refused):
        note(f"People must reconnect accounts without tokens here at {page}")
    if refused:
        raise typer.Exit(1)


def _report_row(one: ImportOutcome, *, apply: bool) -> dict[str, object]:
    planned = one.planned
    return {
        "line": one.row.line,
        "user": one.row.user if planned is None else planned.person,
        "provider": one.row.provider if planned is None else planned.provider.name,
        "account": one.row.label or one.row.account if planned is None else planned.account.label,
        "outcome": "imported" if apply and one.is_new else one.outcome,
        "new_user": planned is not None and planned.is_new_person and one.is_new,
        "left_out": [] if planned is None else sorted(planned.left_out),
    }
