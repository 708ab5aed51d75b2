"""Handles for the proxy, obtained as a confidential client does: token, permission on the page, exchange."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx2
from joserfc.jwk import ECKey

from tests.attacks.target import ACCESS, EXCHANGE, Agent, Target, new_key, proof
from tests.support.person import Person


@dataclass(frozen=True)
class Handle:
    """A handle and where its calls go."""

    target: Target
    base: str
    value: str = field(repr=False)

    @property
    def path(self) -> str:
        return self.base.removeprefix(self.target.url)

    async def call(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **options: object
    ) -> httpx2.Response:
        """Send a call with the handle; the path goes out exactly as written."""
        sent = {"authorization": f"Bearer {self.value}"} | dict(headers or {})
        return await self.target.http.request(method, self.base + path, headers=sent, **options)


async def ready(target: Target, provider: str, scope: str, *, person: Person | None = None) -> httpx2.Response:
    """Exchange the person's token (default: alice's) as `backend`, which is allowed to use the account first, once."""
    person = person or target.alice
    agent = target.kept.get(f"backend {id(person)}")
    if not isinstance(agent, Agent):
        agent = await target.agent(person, client="backend", scope="tools exchange offline_access")
        target.kept[f"backend {id(person)}"] = agent
    answer = await target.exchange("backend", agent.token, audience=provider, scope=scope)
    link = answer.json().get("connect_uri")
    if link:
        page = await person.open(link)
        page = await person.submit(page, form="/connect/", button=("decision", "allow"))
        assert page.status_code == 200, (page.status_code, page.headers.get("location"), page.text[:300])
        answer = await target.exchange("backend", agent.token, audience=provider, scope=scope)
    return answer


async def handle(target: Target, provider: str, scope: str, *, person: Person | None = None) -> Handle:
    """A handle of `backend` for the person's account."""
    answer = await ready(target, provider, scope, person=person)
    assert answer.status_code == 200, answer.text
    return Handle(target, answer.json()["api_base_url"], answer.json()["access_token"])


async def bound_handle(target: Target, provider: str, scope: str) -> tuple[Handle, ECKey, Agent]:
    """A handle for alice's account that needs the key."""
    assert (await ready(target, provider, scope)).status_code == 200
    agent, key = target.kept[f"backend {id(target.alice)}"], new_key()
    assert isinstance(agent, Agent)
    form = {"grant_type": EXCHANGE, **target.clients["backend"], "subject_token": agent.token}
    form |= {"subject_token_type": ACCESS, "audience": provider, "scope": scope}
    answer = await target.token(form, dpop=proof(key, "POST", f"{target.url}/token"))
    assert (answer.status_code, answer.json()["token_type"]) == (200, "DPoP"), answer.text
    return Handle(target, answer.json()["api_base_url"], answer.json()["access_token"]), key, agent
