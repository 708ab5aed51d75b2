"""Client ID metadata documents that change: after a consent, while an agent has permissions, while a page is open.

A separate vault fetches documents from this machine. All agents are authorized first; then every document changes, and
one wait lets the vault's copies expire.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import httpx2
import pytest
from joserfc.jwk import ECKey

from tests.attacks.attack_races import POST, is_done
from tests.attacks.portal.attack_people import let_in
from tests.attacks.target import EXCHANGE, REDIRECT, Agent, Target, new_key, query_of, running_target
from tests.support.doubles.scripted_server import Arrival, Reply, ScriptedServer, json_reply, scripted_server
from tests.support.rooms.oauth_world import sign_jwt

EVIL = "https://evil.example/callback"
FRESH = 60  # minimum seconds that the vault caches a document
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
SETTINGS = "[sandbox]\nloopback_client_metadata = true\n"

pytestmark = pytest.mark.timeout(400)  # setup takes a minute or two

LOOKS_DIFFERENT: dict[str, dict[str, object]] = {
    "another name": {"client_name": "Payroll"},
    "a name with a Cyrillic letter": {"client_name": "Re\u0430der"},
    "one more redirect": {"redirect_uris": [REDIRECT, EVIL]},
    "another website": {"client_uri": "https://evil.example/"},
    "a key": {"token_endpoint_auth_method": "private_key_jwt"},
}
NO_CLIENT: dict[str, dict[str, object] | Reply] = {
    "the id of another": {"client_id": "https://agent.example/client.json"},
    "a secret": {"client_secret": "public"},
    "a method with a secret": {"token_endpoint_auth_method": "client_secret_post"},
    "no name": {"client_name": ""},
    "a javascript redirect": {"redirect_uris": [REDIRECT, "javascript:alert(1)"]},
    "nothing": Reply(404),
    "a way to another": Reply(302, headers={"Location": "/same.json"}),
    "a page": Reply(200, b"<html>", {"Content-Type": "text/html"}),
}
OTHERS: dict[str, dict[str, object]] = {
    "same": {},
    "replaced": {"redirect_uris": [EVIL]},
    "looked at": {"client_name": "Payroll"},
    "exchanging": {"grant_types": ["authorization_code", "refresh_token", EXCHANGE]},
    "keyed": {},  # with another key
}


@dataclass
class Site:
    """Documents, and the agents that they describe."""

    target: Target
    server: ScriptedServer
    documents: dict[str, dict[str, object] | Reply] = field(default_factory=dict)
    agents: dict[str, Agent] = field(default_factory=dict)
    old_key: ECKey = field(default_factory=new_key)
    new_key: ECKey = field(default_factory=new_key)
    page: httpx2.Response | None = None

    def address(self, what: str) -> str:
        return f"{self.server.url}/{what.replace(' ', '-')}.json"

    def publish(self, what: str, changes: dict[str, object] | Reply) -> None:
        good = {"client_id": self.address(what), "client_name": "Reader", "redirect_uris": [REDIRECT]}
        self.documents[what.replace(" ", "-")] = changes if isinstance(changes, Reply) else good | changes

    def answer(self, arrival: Arrival) -> Reply:
        found = self.documents.get(arrival.path[1:].removesuffix(".json"), Reply(404))
        return found if isinstance(found, Reply) else json_reply(found, headers={"Cache-Control": "no-store"})

    async def ask(self, what: str, **changes: str | None) -> httpx2.Response:
        """Send an authorization request from alice's browser: answered with a code, a consent page, or an error."""
        return await self.target.alice.http.get(self.target.authorize_url(self.address(what), "A" * 43, **changes))

    def keys(self, key: ECKey) -> dict[str, object]:
        public = {**key.as_dict(private=False), "kid": "k"}
        return {"token_endpoint_auth_method": "private_key_jwt", "jwks": {"keys": [public]}}

    def assertion(self, what: str, key: ECKey) -> dict[str, str]:
        now, client = int(time.time()), self.address(what)
        claims = {"iss": client, "sub": client, "aud": self.target.url, "iat": now, "exp": now + 50}
        made = sign_jwt({"alg": "ES256", "kid": "k"}, claims | {"jti": new_key().thumbprint()}, key)
        return {"client_assertion_type": ASSERTION, "client_assertion": made}

    async def refresh(self, what: str, proof: dict[str, str]) -> httpx2.Response:
        refresh = self.agents[what].refresh or ""
        form = {"grant_type": "refresh_token", "refresh_token": refresh, "client_id": self.address(what)}
        return await self.target.token(form | proof)


async def _keyed_agent(site: Site) -> Agent:
    """An agent that signed in with the old key."""
    client = site.address("keyed")
    code, verifier = await site.target.code(client)
    answer = await site.target.redeem(client, code, verifier, **site.assertion("keyed", site.old_key))
    assert answer.status_code == 200, answer.text
    return Agent(client, answer.json()["access_token"], answer.json()["refresh_token"])


@pytest.fixture(scope="session")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Site]:
    async with (
        running_target(tmp_path_factory.mktemp("documents"), more=SETTINGS) as target,
        scripted_server(lambda arrival: found.answer(arrival)) as server,
    ):
        found = Site(target, server)
        changes = {**LOOKS_DIFFERENT, **NO_CLIENT, **OTHERS}
        for what in changes:
            found.publish(what, found.keys(found.old_key) if what == "keyed" else {})
            if what == "keyed":
                found.agents[what] = await _keyed_agent(found)
            elif what == "looked at":
                found.page = await target.alice.open(target.authorize_url(found.address(what), "A" * 43))
            else:
                found.agents[what] = await let_in(target, target.alice, found.address(what), redirect=REDIRECT)
        for what, change in changes.items():
            keyed = found.keys(found.new_key) if what in {"a key", "keyed"} else {}
            found.publish(what, change if isinstance(change, Reply) else change | keyed)
        await asyncio.sleep(FRESH + 2)
        yield found


def is_asked(answer: httpx2.Response) -> bool:
    return answer.status_code == 303 and answer.headers["location"].startswith("/consent")


async def test_a_document_that_stays_as_it_was_is_not_asked_about_again(site: Site) -> None:
    """The twin of all other tests here."""
    assert query_of((await site.ask("same")).headers["location"])["code"]
    assert is_done(await site.target.call(site.agents["same"], "slack_post", POST))


@pytest.mark.parametrize("what", LOOKS_DIFFERENT)
async def test_an_earlier_yes_does_not_count_for_a_document_with(site: Site, what: str) -> None:
    assert is_asked(await site.ask(what))
    silent = await site.ask(what, prompt="none")
    assert "error=consent_required" in silent.headers["location"]


@pytest.mark.parametrize("what", NO_CLIENT)
async def test_nobody_is_led_away_for_a_document_that_became(site: Site, what: str) -> None:
    answer = await site.ask(what)
    assert answer.status_code == 400, (answer.status_code, answer.headers.get("location"))
    assert "location" not in answer.headers


async def test_a_redirect_that_was_added_gets_no_code_of_an_earlier_yes(site: Site) -> None:
    assert is_asked(await site.ask("one more redirect", redirect_uri=EVIL))
    assert (await site.ask("another name", redirect_uri=EVIL)).status_code == 400  # not its redirect


async def test_a_redirect_that_was_taken_away_gets_nothing_more(site: Site) -> None:
    answer = await site.ask("replaced")
    assert (answer.status_code, "location" in answer.headers) == (400, False)
    assert is_asked(await site.ask("replaced", redirect_uri=EVIL))
    refused = await site.ask("replaced", prompt="none", redirect_uri=EVIL)
    assert "error=consent_required" in refused.headers["location"]


async def test_a_page_that_a_person_looked_at_gives_nothing_to_the_new_name(site: Site) -> None:
    assert site.page is not None
    assert is_asked(await site.ask("looked at"))  # any request makes the vault fetch the new document
    answer = await site.target.alice.submit(site.page, form="/consent", button=("decision", "allow"))
    assert "code=" not in answer.headers.get("location", "")
    assert "Payroll" in answer.text


async def test_a_client_that_got_a_key_is_nobody_without_it(site: Site) -> None:
    assert is_asked(await site.ask("a key"))
    refused = await site.refresh("a key", {})
    assert (refused.status_code, refused.json()["error"]) == (401, "invalid_client")
    assert (await site.refresh("a key", site.assertion("a key", site.old_key))).status_code == 401
    assert (await site.refresh("a key", site.assertion("a key", site.new_key))).status_code == 200


async def test_a_key_that_was_taken_away_proves_nothing_more(site: Site) -> None:
    form = {"token": site.agents["keyed"].token, "client_id": site.address("keyed")}
    for proof in ({}, site.assertion("keyed", site.old_key)):
        refused = await site.refresh("keyed", proof)
        assert (refused.status_code, refused.json()["error"]) == (401, "invalid_client")
        assert (await site.target.http.post("/revoke", data=form | proof)).status_code == 401
    assert (await site.target.mcp(site.agents["keyed"], "tools/list")).status_code == 200  # nothing was ended
    assert (await site.refresh("keyed", site.assertion("keyed", site.new_key))).status_code == 200


async def test_a_grant_type_that_was_added_widens_no_token(site: Site) -> None:
    assert (await site.ask("exchanging", prompt="none")).status_code == 303
    agent = site.agents["exchanging"]
    form = {"grant_type": EXCHANGE, "client_id": agent.client_id, "subject_token": agent.token}
    form |= {"subject_token_type": "urn:ietf:params:oauth:token-type:access_token", "audience": "slack"}
    refused = await site.target.token(form | {"scope": "chat:write"})
    assert refused.status_code == 400, refused.text
    renewed = await site.target.token(
        {"grant_type": "refresh_token", "refresh_token": agent.refresh or "", "client_id": agent.client_id}
        | {"scope": "tools exchange"}
    )
    assert "exchange" not in renewed.json().get("scope", "").split(), renewed.text
