"""A shop that sends background requests (OpenID CIBA), and the person it asks."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import urlencode

import httpx2

from tests.attacks.administration.attack_administration import someone
from tests.attacks.target import Target
from tests.support.person import Person

CIBA = "urn:openid:params:grant-type:ciba"
WAITS = {"authorization_pending", "slow_down"}
QUESTION = re.compile(r'href="/approvals/(r[\w-]+)"')


@dataclass
class Shop:
    """A client that an operator allowed to ask, and its own person, because requests are limited per person."""

    target: Target
    client: Mapping[str, str] = field(repr=False)
    person: Person
    person_id: str

    async def post(self, *, http: httpx2.AsyncClient | None = None, **changes: str | None) -> httpx2.Response:
        form: dict[str, str | None] = {**self.client, "scope": "openid tools", "login_hint": self.person_id}
        sent = {name: value for name, value in (form | changes).items() if value is not None}
        answer = await (http or self.target.http).post("/bc-authorize", data=sent)
        assert answer.status_code < 500, answer.text[:300]
        return answer

    async def ask(self, **changes: str | None) -> str:
        answer = await self.post(**changes)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["auth_req_id"])

    async def poll(self, auth_req_id: str, *, http: httpx2.AsyncClient | None = None, **changes: str | None):
        form: dict[str, str | None] = {"grant_type": CIBA, **self.client, "auth_req_id": auth_req_id, **changes}
        sent = {name: value for name, value in form.items() if value is not None}
        answer = await (http or self.target.http).post("/token", data=sent)
        assert answer.status_code < 500, answer.text[:300]
        return answer

    async def question(self) -> str:
        """The id of the one open request, from the person's page."""
        (found,) = set(QUESTION.findall((await self.person.open("/approvals")).text))
        return str(found)

    async def answer(self, decision: str = "allow") -> httpx2.Response:
        page = await self.person.open(f"/approvals/{await self.question()}")
        answer = await self.person.submit(page, form="/approvals/", button=("decision", decision))
        assert answer.status_code == 200, answer.text[:300]
        return answer

    async def ask_and_approve(self, **changes: str | None) -> str:
        auth_req_id = await self.ask(**changes)
        assert "Approved" in (await self.answer()).text
        return auth_req_id

    async def is_waiting(self, auth_req_id: str) -> bool:
        return error(await self.poll(auth_req_id)) in WAITS


def error(answer: httpx2.Response) -> str:
    return str(answer.json().get("error", "")) if answer.content else ""


async def post(
    http: httpx2.AsyncClient, path: str, fields: Sequence[tuple[str, str]], headers: Mapping[str, str]
) -> httpx2.Response:
    """Post a form with fields in this order, some possibly twice."""
    sent = {"content-type": "application/x-www-form-urlencoded", **headers}
    return await http.post(path, content=urlencode(fields), headers=sent)


async def client(target: Target, name: str, *words: str) -> dict[str, str]:
    """A client that may ask. The attacks share it, so no attack may end it."""
    if not isinstance(found := target.kept.get(f"ciba {name}"), dict):
        command = ("clients", "add", name, "--confidential", "--ciba", *words, "--json")
        made = json.loads(await target.command(*command))
        found = {part: str(made[part]) for part in ("client_id", "client_secret")}
        target.kept[f"ciba {name}"] = found
    return {str(part): str(value) for part, value in found.items()}


async def shop(target: Target) -> Shop:
    """The honest client and a new person."""
    person_id, person = await someone(target)
    return Shop(target, await client(target, "Shop", "--ciba-details", "payment"), person, person_id)


async def rival(one: Shop) -> Shop:
    """Another client that may ask the same person."""
    return replace(one, client=await client(one.target, "Rival shop"))
