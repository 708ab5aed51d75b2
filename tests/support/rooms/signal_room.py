"""Fixtures: a vault that gets events from a company's transmitter, and whose people sign in at the company."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import httpx2
import pytest

from tests.support.doubles.openid_double import OpenIDDouble, running_openid
from tests.support.doubles.transmitter_double import Claims, Transmitter, running_transmitter
from tests.support.harness import PASSWORD, Tokens
from tests.support.person import Person
from tests.support.rooms.oauth_world import GENEROUS
from tests.support.rooms.portal_room import Room, running_room
from vault import users
from vault.records import User

SCOPE = "tools connections openid offline_access"
TOKEN = "the company's own bearer token"
TOKEN_FILE = "token"  # in the vault's folder


@dataclass
class LinkedPerson:
    """A person whom the company knows as `subject`, in a browser, with an agent."""

    user: User
    subject: str
    browser: Person
    tokens: Tokens


@dataclass
class SignalRoom:
    """The vault, the company's transmitter, and the company's sign-in."""

    room: Room
    transmitter: Transmitter
    openid: OpenIDDouble
    http: httpx2.AsyncClient

    async def link_person(self, *, email: str = "", is_admin: bool = False) -> LinkedPerson:
        """A new person with everything that a signal can end."""
        user = await self.room.vault.add_user(f"person-{secrets.token_hex(4)}", is_admin=is_admin)
        subject = secrets.token_hex(8)
        now = self.room.deployment.now()
        async with self.room.deployment.transaction() as transaction:
            await users.link_identity(transaction, issuer=self.openid.url, subject=subject, user_id=user.id, now=now)
            if email:
                await users.note_email(transaction, issuer=self.openid.url, subject=subject, email=email)
        browser = await self.room.signed_in(user)
        tokens = await self.room.vault.agent(browser, scope=SCOPE, name=user.name)
        return LinkedPerson(user, subject, browser, tokens)

    def subject(self, linked: LinkedPerson) -> Claims:
        return {"format": "iss_sub", "iss": self.openid.url, "sub": linked.subject}

    def claims(self, kind: str, subject: object, *, name: str = "company", **changes: object) -> Claims:
        return self.transmitter.claims(f"{self.room.url}/signals/{name}", kind, subject, **changes)

    async def push(self, token: str | bytes, *, name: str = "company", **headers: str) -> httpx2.Response:
        sent = {"content-type": "application/secevent+jwt"} | {k.replace("_", "-"): v for k, v in headers.items()}
        return await self.http.post(f"/signals/{name}", content=token, headers=sent)

    async def event(self, kind: str, subject: object, *, name: str = "company", **changes: object) -> httpx2.Response:
        """An honest event, pushed."""
        return await self.push(self.transmitter.sign(self.claims(kind, subject, name=name, **changes)), name=name)

    async def can_call(self, linked: LinkedPerson) -> bool:
        """Whether the agent's access token works now."""
        bearer = {"authorization": f"Bearer {linked.tokens.access_token}"}
        answer = await self.http.get("/userinfo", headers=bearer)
        assert answer.status_code in {200, 401}, answer.text
        return answer.status_code == 200

    async def can_refresh(self, linked: LinkedPerson) -> bool:
        """Whether the agent's refresh token works now; if so, the agent then has new tokens."""
        form = {"grant_type": "refresh_token", "client_id": linked.tokens.client_id}
        answer = await self.http.post("/token", data=form | {"refresh_token": linked.tokens.refresh_token or ""})
        if answer.status_code != 200:
            assert answer.json()["error"] == "invalid_grant", answer.text
            return False
        found = answer.json()
        linked.tokens = Tokens(
            linked.tokens.client_id, found["access_token"], found["refresh_token"], linked.tokens.scope
        )
        return True

    async def is_signed_in(self, linked: LinkedPerson) -> bool:
        answer = await linked.browser.http.get("/account")
        return answer.status_code == 200

    async def sign_in_again(self, linked: LinkedPerson) -> None:
        if not await self.is_signed_in(linked):
            page = await linked.browser.sign_in(linked.user.name, PASSWORD)
            assert page.status_code == 200, page.text

    async def kinds(self, linked: LinkedPerson) -> list[str]:
        return await self.room.kinds(linked.user)


@pytest.fixture(scope="package")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[SignalRoom]:
    """One vault for all test files; `company` has the defaults, each of the others one more setting."""
    async with (
        running_openid(lambda: int(time.time())) as openid,
        running_transmitter(lambda: int(time.time())) as transmitter,
    ):
        data = tmp_path_factory.mktemp("signals")
        secret, previous = data / "secret", data / "previous-secret"
        secret.write_text("the new secret\n")
        previous.write_text("the old secret\n")
        token = data / TOKEN_FILE
        token.write_text("a token in a file\n")
        company = {"issuer": transmitter.url, "identity_issuer": openid.url}
        overrides: dict[str, object] = {
            "signals": {
                "transmitters": {
                    "company": company,
                    "strict": company | {"account_disabled": "disable", "push_token": TOKEN},
                    "polled": company | {"poll_url": f"{transmitter.url}/poll", "poll_token": TOKEN},
                    "revoking": company | {"revocation_token": TOKEN, "revokes": True},
                    "provider": company | {"provider": "slack"},
                    "google": {
                        "issuer": transmitter.url,
                        "is_google": True,
                        "audiences": ["client-1", "client-2"],
                        "provider": "google",
                    },
                    "managed": company | {"management_token": TOKEN, "push_token": "for the pushes"},
                    "slow": company | {"per_minute": 1},
                    "filed": company | {"push_token_file": str(token), "revocation_token_file": str(token)},
                },
                "providers": {
                    "github": {"secret": "github's webhook secret"},
                    "slack": {"secret": "slack's signing secret"},
                    "slack-bot": {"secret_file": str(secret), "previous_secret_file": str(previous)},
                    "square": {"secret": "square's signature key", "url": "https://vault.example/webhooks/square"},
                },
            },
            "sign_in": {"openid": {"company": openid.settings()}},
            "sandbox": {"loopback_openid": True},
            **GENEROUS,
        }
        async with (
            running_room(data, overrides=overrides) as room,
            httpx2.AsyncClient(base_url=room.url, timeout=30) as http,
        ):
            transmitter.now = openid.now = room.deployment.now
            yield SignalRoom(room, transmitter, openid, http)
