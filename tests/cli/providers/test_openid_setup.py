"""`openid setup` finds the issuer, prints the redirect URI, asks who may sign in, and admits no one by default."""

from __future__ import annotations

import json
import stat
import time
import tomllib
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from server.settings import load_settings
from tests.support.commands import content, run, run_on_terminal
from tests.support.doubles.openid_double import CLIENT_ID, OpenIDDouble, running_openid
from tests.support.processes import Place

SECRET = "0123456789abcdef-of-the-test"


@pytest.fixture
def place(place: Place) -> Place:
    with (place.data / "config.toml").open("a", encoding="utf-8") as config:
        config.write("[sandbox]\nloopback_openid = true\n")
    return place


@pytest.fixture
async def issuer() -> AsyncGenerator[OpenIDDouble]:
    async with running_openid(lambda: int(time.time())) as double:
        yield double


def words(issuer: OpenIDDouble, *more: str) -> tuple[str, ...]:
    return ("openid", "setup", "corp", "--issuer", issuer.url, "--client-id", CLIENT_ID, "--client-secret-stdin", *more)


async def test_it_prints_what_to_enter_there_and_changes_nothing(place: Place, issuer: OpenIDDouble) -> None:
    before = (place.data / "config.toml").read_bytes()
    shown = await run(place, "openid", "setup", "corp", "--issuer", issuer.url, "--show")
    assert shown.exit_code == 0, shown.output
    assert f"{place.url}/sign-in/openid/corp/callback" in shown.stdout
    found = await content(place, "openid", "setup", "corp", "--issuer", issuer.url, "--show")
    assert isinstance(found, dict)
    assert found["redirect_uri"] == f"{place.url}/sign-in/openid/corp/callback"
    assert found["authorization_endpoint"] == f"{issuer.url}/authorize"
    assert found["config"] is None
    assert (place.data / "config.toml").read_bytes() == before


@pytest.mark.parametrize(
    ("said", "create_users", "domains", "newcomers"),
    [
        ((), False, (), "nobody"),
        (("--domain", "Company.example", "--domain", "@sub.company.example"), False,
         ("company.example", "sub.company.example"), "company.example, sub.company.example"),
        (("--everybody",), True, (), "everybody"),
    ],
)  # fmt: skip
async def test_who_may_sign_in_is_what_was_said_and_nobody_by_default(
    place: Place,
    issuer: OpenIDDouble,
    said: tuple[str, ...],
    create_users: bool,
    domains: tuple[str, ...],
    newcomers: str,
) -> None:
    found = await content(place, *words(issuer, *said), feed=SECRET + "\n")
    assert isinstance(found, dict)
    assert found["newcomers"] == newcomers
    written = load_settings(data=place.data).sign_in.openid["corp"]
    assert (written.create_users, written.domains) == (create_users, domains)
    assert (written.issuer, written.client_id, written.secret("corp")) == (issuer.url, CLIENT_ID, SECRET)
    listed = await content(place, "openid", "list")
    assert isinstance(listed, list)
    assert [one["newcomers"] for one in listed] == [newcomers]
    notes = [one for one in await _doctor(place) if one["check"] == "sign_in"]
    assert bool(notes) is create_users


async def _doctor(place: Place) -> list[dict[str, object]]:
    result = await run(place, "doctor", "--json")
    content = json.loads(result.stdout)
    return content["findings"] if isinstance(content, dict) else content


async def test_the_secret_is_in_a_file_of_its_own_and_everything_is_taken_back(
    place: Place, issuer: OpenIDDouble
) -> None:
    before = (place.data / "config.toml").read_bytes()
    found = await content(place, *words(issuer, "--domain", "company.example"), feed=SECRET + "\n")
    assert isinstance(found, dict)
    secret = Path(str(found["secret_file"]))
    assert secret.read_text(encoding="utf-8").strip() == SECRET
    for path in (secret, place.data / "config.toml"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert SECRET not in (place.data / "config.toml").read_text(encoding="utf-8")
    section = tomllib.loads((place.data / "config.toml").read_text(encoding="utf-8"))["sign_in"]["openid"]["corp"]
    assert section["domains"] == ["company.example"]
    undone = await run(place, "openid", "setup", "corp", "--undo")
    assert undone.exit_code == 0, undone.output
    assert (place.data / "config.toml").read_bytes() == before
    assert not secret.exists()


async def test_a_later_setup_says_anew_who_may_sign_in(place: Place, issuer: OpenIDDouble) -> None:
    await content(place, *words(issuer, "--everybody"), feed=SECRET + "\n")
    again = ("openid", "setup", "corp", "--client-id", CLIENT_ID, "--public")  # the issuer is already known
    found = await content(place, *again)
    assert isinstance(found, dict)
    assert (found["newcomers"], found["issuer"]) == ("nobody", issuer.url)
    assert not list(place.data.glob("*corp.secret"))


@pytest.mark.parametrize(
    ("more", "refusal"),
    [
        (("--domain", "company"), "isn't a domain"),
        (("--domain", "straße.example"), "isn't a domain"),
        (("--domain", "a.example", "--everybody"), "use either --everybody or --domain"),
    ],
)
async def test_what_says_nobody_or_two_things_is_refused(
    place: Place, issuer: OpenIDDouble, more: tuple[str, ...], refusal: str
) -> None:
    before = (place.data / "config.toml").read_bytes()
    result = await run(place, *words(issuer, *more), feed=SECRET + "\n")
    assert result.exit_code == 1
    assert refusal in result.stderr
    assert (place.data / "config.toml").read_bytes() == before


async def test_without_a_terminal_each_missing_answer_is_named(place: Place, issuer: OpenIDDouble) -> None:
    for more, option in (
        (("corp",), "--issuer"),
        (("corp", "--issuer", issuer.url), "--client-id"),
        (("corp", "--issuer", issuer.url, "--client-id", "x"), "--client-secret-stdin"),
        (("Corp", "--issuer", issuer.url), "lowercase letters"),
    ):
        result = await run(place, "openid", "setup", *more)
        assert (result.exit_code, option in result.stderr) == (1, True), result.output


async def test_an_issuer_that_calls_itself_something_else_is_refused(place: Place, issuer: OpenIDDouble) -> None:
    issuer.change_metadata = lambda metadata: metadata | {"issuer": f"{issuer.url}/"}
    result = await run(place, *words(issuer), feed=SECRET + "\n")
    assert result.exit_code == 1
    assert "exactly this issuer name" in result.stderr
    issuer.reset()
    assert (await run(place, *words(issuer), feed=SECRET + "\n")).exit_code == 0  # the twin


async def test_a_person_at_a_terminal_is_asked_who_may_sign_in(place: Place, issuer: OpenIDDouble) -> None:
    questions = ("Issuer", "Client ID", "Client secret", "[nobody]")
    answers = list(zip(questions, (issuer.url, CLIENT_ID, SECRET, "company.example"), strict=True))
    code, screen = await run_on_terminal(place, "openid", "setup", "corp", answers=answers)
    assert (code, "can sign in: company.example." in screen) == (0, True), screen
    assert SECRET not in screen
    assert load_settings(data=place.data).sign_in.openid["corp"].domains == ("company.example",)
