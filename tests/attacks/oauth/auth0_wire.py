"""Applications that use Auth0's interface, at their own vault, because that interface is off by default."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

import httpx2

from providers.simulator.person import consent
from tests.attacks.administration.attack_administration import someone
from tests.attacks.target import LOOPBACK, REDIRECT, Agent, Target, query_of
from tests.support.person import Person

FEDERATED = "urn:auth0:params:oauth:grant-type:token-exchange:federated-connection-access-token"
REFRESH = "urn:ietf:params:oauth:token-type:refresh_token"
ACCESS = "urn:ietf:params:oauth:token-type:access_token"
ME = "/me/v1/connected-accounts"
READ, CREATE, DELETE = (f"{verb}:me:connected_accounts" for verb in ("read", "create", "delete"))


async def signed_in(target: Target, person: Person, client: str = "app") -> Agent:
    redirect = LOOPBACK if client == "spa" else REDIRECT
    return await target.agent(person, client=client, scope="openid offline_access", redirect_uri=redirect)


async def ask(target: Target, content: Mapping[str, object]) -> httpx2.Response:
    """Call the token endpoint with JSON."""
    answer = await target.http.post("/oauth/token", json=dict(content))
    assert answer.status_code < 500, answer.text[:300]
    return answer


async def me_token(target: Target, agent: Agent, client: str = "app", **changes: object) -> httpx2.Response:
    asked = {"grant_type": "refresh_token", **target.clients[client], "refresh_token": agent.refresh}
    return await ask(target, asked | {"audience": f"{target.url}/me/"} | changes)


async def me(target: Target, method: str, path: str, token: str | None, **options: object) -> httpx2.Response:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    answer = await target.http.request(method, f"{ME}/{path}", headers=headers, **options)
    assert answer.status_code < 500, answer.text[:300]
    return answer


async def account_token(target: Target, agent: Agent, client: str = "app", **changes: object) -> httpx2.Response:
    asked: dict[str, object] = {
        "grant_type": FEDERATED,
        **target.clients[client],
        "subject_token": agent.refresh,
        "subject_token_type": REFRESH,
        "connection": "sign-in-with-slack",
        **changes,
    }
    return await ask(target, {name: one for name, one in asked.items() if one is not None})


async def start(target: Target, token: str, **changes: object) -> httpx2.Response:
    body = {"connection": "sign-in-with-slack", "redirect_uri": REDIRECT, "state": "s", **changes}
    return await me(target, "POST", "connect", token, json=body)


async def go(target: Target, person: Person, started: httpx2.Response, *, account: str = "alice") -> str:
    """Take the person's browser from the application to the provider and back; return the code."""
    content = started.json()
    page = await person.open(content["connect_uri"] + "?" + urlencode(content["connect_params"]))
    answer = await person.submit(page, {"account": "new"}, form="/connect/", button=("decision", "allow"))
    back = await person.open(await consent(answer.headers["location"], account=account))
    return query_of(back.headers["location"])["connect_code"]


async def connect_person(target: Target, *, account: str = "alice") -> tuple[Person, Agent, str, str]:
    """Add a person whose application has a Slack account; return its My Account API token, and the account's id."""
    _, person = await someone(target)
    agent = await signed_in(target, person)
    token = str((await me_token(target, agent)).json()["access_token"])
    started = await start(target, token)
    assert started.status_code == 201, started.text
    code = await go(target, person, started, account=account)
    body = {"auth_session": started.json()["auth_session"], "connect_code": code, "redirect_uri": REDIRECT}
    done = await me(target, "POST", "complete", token, json=body)
    assert done.status_code == 201, done.text
    return person, agent, token, str(done.json()["id"])
