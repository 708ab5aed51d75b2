"""`/v2/logout`, where Auth0's clients send the browser when a person logs out."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest

from tests.auth0.application import CALLBACK, Application

HOME = CALLBACK.removesuffix("/auth/callback")


def log_out(application: Application, *, back: str = HOME, client_id: str | None = None) -> str:
    return "/v2/logout?" + urlencode({"client_id": client_id or application.client.id, "returnTo": back})


async def test_a_person_who_says_so_is_signed_out_and_goes_back(application: Application) -> None:
    person = application.person
    page = await person.open(log_out(application, back=f"{HOME}/bye"))
    assert "Sign out of the vault, too?" in page.text
    assert f'href="{HOME}/bye"' in page.text, "or stays signed in"
    assert (await person.open("/connections")).status_code == 200, "asking changes nothing"
    answer = await person.submit(page, form="/v2/logout")
    assert answer.headers["location"] == f"{HOME}/bye"
    assert "/sign-in" in str((await person.open("/connections")).url)
    again = await person.http.get(log_out(application, back=f"{HOME}/bye"))
    assert (again.status_code, again.headers["location"]) == (303, f"{HOME}/bye"), "nobody is signed in"


@pytest.mark.parametrize(
    "changes",
    [
        {"back": "https://evil.example"},
        {"back": f"{HOME}.evil.example"},
        {"back": "https://app.example@evil.example"},
        {"back": f"{HOME}:8443"},
        {"back": "http://app.example"},
        {"back": "javascript:alert(1)"},
        {"back": "//app.example"},
        {"client_id": "unknown"},
    ],
)
async def test_nobody_is_sent_to_an_address_that_is_not_the_apps_own(
    application: Application, changes: dict[str, str]
) -> None:
    person = application.person
    refused = await person.http.get(log_out(application, **changes))
    assert (refused.status_code, refused.headers.get("location")) == (400, None)
    page = await person.open(log_out(application))
    changed = {"return_to": changes.get("back", HOME), "client_id": changes.get("client_id", application.client.id)}
    forged = await person.submit(page, changed, form="/v2/logout")
    assert (forged.status_code, forged.headers.get("location")) == (400, None)
    assert (await person.open("/connections")).status_code == 200, "and nobody is signed out"
    assert (await person.submit(page, form="/v2/logout")).headers["location"] == HOME


async def test_only_an_app_of_auth0s_wire_logs_out_there(application: Application) -> None:
    other = await application.room.agent(redirect_uris=(CALLBACK,))
    refused = await application.person.http.get(log_out(application, client_id=other.id))
    assert (refused.status_code, refused.headers.get("location")) == (400, None)
    assert (await application.person.http.get(log_out(application))).status_code == 200


async def test_without_an_address_the_sign_in_page_follows(application: Application) -> None:
    page = await application.person.open(f"/v2/logout?client_id={application.client.id}")
    answer = await application.person.submit(page, form="/v2/logout")
    assert answer.url.path == "/sign-in"


@pytest.mark.parametrize("native", ["com.example.app:/cb", "http://127.0.0.1/cb"])
async def test_an_app_that_is_native_too_logs_out_to_its_web_address(application: Application, native: str) -> None:
    both = await Application.register(application.room, application.http, redirect_uris=(native, CALLBACK))
    page = await both.person.open(log_out(both))
    assert (await both.person.submit(page, form="/v2/logout")).headers["location"] == HOME
    refused = await both.person.http.get(log_out(both, back="com.example.app:/cb"))
    assert (refused.status_code, refused.headers.get("location")) == (400, None)


async def test_a_null_character_is_refused_before_the_database_sees_it(application: Application) -> None:
    person = application.person
    for address in (log_out(application, client_id="\0"), "/connections/%00", "/agents/a%00b"):
        refused = await person.http.get(address)
        assert refused.status_code == 400
        assert "This address can&#39;t be read" in refused.text or "This address can't be read" in refused.text
    page = await person.open(log_out(application))
    refused = await person.submit(page, {"client_id": "\0"}, form="/v2/logout")
    assert refused.status_code == 400
    assert "bytes that aren" in refused.text
    assert (await person.submit(page, form="/v2/logout")).headers["location"] == HOME
