"""`openid setup | list`: sign-in through the company's OpenID Connect provider, and who can use it."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from server.terminal.context import Setup, command, fail, note, say
from server.terminal.registration_options import ClientIdOption, SecretInputOption, ShowOption

if TYPE_CHECKING:
    from server.openid_settings import OpenIDSettings
    from server.setup.provider_registration import Files
    from server.setup.settings_file import Setting
    from server.sign_in.openid import OpenIDProvider

app = typer.Typer(no_args_is_help=True, help="Sign-in through an OpenID Connect provider.")
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,30}")
NOBODY, DOMAINS, EVERYBODY = "nobody", "domains", "everybody"


@command(app, "list")
def list_openid(setup: Setup) -> None:
    """List the OpenID Connect providers for sign-in, and who can sign in with each."""
    settings = setup.settings()
    rows = [
        {
            "name": name,
            "issuer": one.issuer,
            "newcomers": _newcomers(one),
            "redirect_uri": f"{settings.public_url}/sign-in/openid/{name}/callback",
        }
        for name, one in settings.sign_in.openid.items()
    ]
    setup.show(
        rows,
        columns=("name", "issuer", "newcomers", "redirect_uri"),
        empty="No OpenID Connect provider is set up. Run token-vault openid setup NAME",
    )


def _newcomers(one: OpenIDSettings) -> str:
    return EVERYBODY if one.create_users else ", ".join(one.domains) or NOBODY


@command(app, "setup")
def set_up_openid(
    setup: Setup,
    name: Annotated[str, typer.Argument(help="Its name in the settings.", show_default=False)],
    *,
    issuer: Annotated[str | None, typer.Option("--issuer", help="Its issuer, https://...", show_default=False)] = None,
    title: Annotated[
        str | None, typer.Option("--title", help="Label of its button on the sign-in page.", show_default=False)
    ] = None,
    client_id: ClientIdOption = None,
    client_secret_stdin: SecretInputOption = False,
    public: Annotated[bool, typer.Option("--public", help="Register as a public client, without a secret.")] = False,
    domain: Annotated[
        list[str] | None,
        typer.Option(
            "--domain",
            help="Admit verified email addresses in this domain. Repeat for several.",
            show_default=False,
        ),
    ] = None,
    everybody: Annotated[bool, typer.Option("--everybody", help="Admit everyone with an account there.")] = False,
    show: ShowOption = False,
    undo: Annotated[bool, typer.Option("--undo", help="Undo the last setup of this name.")] = False,
) -> None:
    """Print what to enter at an OpenID Connect provider for sign-in, and ask for its values."""
    if _NAME.fullmatch(name) is None:
        fail("use lowercase letters, digits, and _ in the name, and start it with a letter")
    files = _files(setup, name)
    if undo:
        from server.commands.providers.setup import undo_setup

        undo_setup(setup, files)
        return
    known = setup.settings().sign_in.openid.get(name)
    issuer = _ask(issuer or (known.issuer if known is not None else None), "Issuer", "--issuer")
    provider = _find_provider(setup, issuer)
    redirect_uri = f"{setup.settings().public_url}/sign-in/openid/{name}/callback"
    if not setup.as_json:
        _print(provider, redirect_uri)
    row: dict[str, object] = {
        "name": name,
        "issuer": provider.server.issuer,
        "authorization_endpoint": provider.server.authorize_url,
        "redirect_uri": redirect_uri,
        "scopes": ["openid", "profile", "email"],
        "config": None,
        "secret_file": None,
        "newcomers": None,
    }
    if not show:
        chosen = _ask(client_id, "Client ID", "--client-id, or --show to print only")
        secret = None if public else _secret(from_stdin=client_secret_stdin)
        create_users, domains = _who(domain, everybody=everybody)
        values: dict[str, Setting] = {
            "issuer": provider.server.issuer,
            "client_id": chosen,
            "title": title or (known.title if known is not None else name.capitalize()),
            "create_users": create_users,
            "domains": domains or None,
        }
        from server.commands.providers.setup import write_setup

        write_setup(setup, files, values, secret)
        row |= {
            "config": str(files.config),
            "secret_file": None if secret is None else str(files.secret),
            "newcomers": _newcomers(setup.settings().sign_in.openid[name]),
        }
    if setup.as_json:
        setup.show_json(row)
    elif not show:
        say(f"Saved to {files.config}{'' if public else f' and {files.secret}'}.")
        say(f"People without an account here who can sign in: {row['newcomers']}.")
        if row["newcomers"] == NOBODY:
            say("Link existing users: token-vault users link NAME --issuer ISSUER --subject SUBJECT")
        say("Restart `token-vault serve`.")
        note(f"To undo: token-vault openid setup {name} --undo")


def _files(setup: Setup, name: str) -> Files:
    from server.setup.provider_registration import SIGN_IN, SIGN_IN_KEYS, Files

    data = setup.directory()
    config = (setup.config or data / "config.toml").expanduser().absolute()
    return Files(config=config, data=data, provider=name, section=SIGN_IN, keys=SIGN_IN_KEYS)


def _find_provider(setup: Setup, issuer: str) -> OpenIDProvider:
    from providers.outbound.addresses import AddressPolicy
    from providers.outbound.client import Outbound
    from server.sign_in.openid import OpenIDRefused, find_provider

    allow_loopback = setup.settings().sandbox.loopback_openid

    async def ask() -> OpenIDProvider:
        async with Outbound(AddressPolicy(allow_loopback=allow_loopback)) as http:
            return await find_provider(http, issuer, allow_loopback=allow_loopback)

    try:
        return setup.run(ask())
    except OpenIDRefused as error:
        fail(f"{issuer} doesn't publish an OpenID Connect configuration with exactly this issuer name ({error.detail})")


def _print(provider: OpenIDProvider, redirect_uri: str) -> None:
    say(f"1. At {provider.server.issuer}, register a web application that uses the authorization code flow.")
    say(f"2. Enter exactly this redirect URL: {redirect_uri}")
    say("3. Allow the scopes openid and profile, and also email if you limit sign-in to a domain.")
    say("4. Copy the client ID and client secret.")


def _ask(given: str | None, question: str, option: str) -> str:
    from server.terminal.questions import ask

    def problem_of(text: str) -> str | None:
        is_good = bool(text) and text.isprintable()
        return None if is_good else f"the {question[0].lower()}{question[1:]} is empty or contains invisible characters"

    if given is None:
        if not sys.stdin.isatty():
            fail(f"can't ask without a terminal; pass {option}")
        return ask(question, problem_of=problem_of)
    problem = problem_of(given.strip())
    return given.strip() if problem is None else fail(problem)


def _secret(*, from_stdin: bool) -> str:
    from server.setup.provider_consoles import secret_problem
    from server.terminal.questions import ask

    if not from_stdin and not sys.stdin.isatty():
        fail("can't ask without a terminal; pass --client-secret-stdin, or --public for a client without a secret")
    if not from_stdin:
        return ask("Client secret", problem_of=secret_problem, is_secret=True)
    given = sys.stdin.readline().strip()
    problem = secret_problem(given)
    return given if problem is None else fail(problem)


def _who(domains: list[str] | None, *, everybody: bool) -> tuple[bool, list[str]]:
    """Whether everyone may sign in, or else the domains that may. The operator must choose one of them."""
    from server.terminal.questions import ask

    if everybody and domains:
        fail("use either --everybody or --domain")
    if not everybody and domains is None and sys.stdin.isatty():
        note("Who gets an account here at their first sign-in? With `everybody`, anyone who can register there does.")
        question = f"{NOBODY}, {EVERYBODY}, or domains separated by spaces"
        words = ask(question, problem_of=_who_problem, default=NOBODY).lower().split()
        everybody, domains = words == [EVERYBODY], [] if words in ([NOBODY], [EVERYBODY]) else words
    problem = _who_problem(" ".join(domains or ()))
    return (everybody, _domains(domains or ())) if problem is None else fail(problem)


def _who_problem(text: str) -> str | None:
    """The problem with an answer to the question of who can sign in."""
    from server.provider_settings import is_domain

    if text.lower() in {NOBODY, EVERYBODY}:
        return None
    wrong = next((one for one in _domains(text.split()) if not is_domain(one)), None)
    return None if wrong is None else f"{wrong!r} isn't a domain; use the form company.example"


def _domains(given: Sequence[str]) -> list[str]:
    return sorted({one.strip().lower().removeprefix("@") for one in given})
