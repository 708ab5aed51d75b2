"""A company's vault: an identity provider that vouches for its people, sends signals about them, and has a directory.

A second company at the same vault has its own keys and people. Each is an issuer on one scripted server.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
from joserfc.jwk import ECKey

from tests.attacks.administration.attack_admin_api import admin_token, call
from tests.attacks.administration.attack_administration import someone
from tests.attacks.target import REDIRECT, Agent, Target, new_key, running_target
from tests.support.doubles.scripted_server import Arrival, Reply, ScriptedServer, json_reply, scripted_server
from tests.support.person import Person
from tests.support.rooms.oauth_world import sign_jwt

BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
SCIM_PATCH = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
SCIM_USER = "urn:ietf:params:scim:schemas:core:2.0:User"
SCIM_GROUP = "urn:ietf:params:scim:schemas:core:2.0:Group"
CAEP = "https://schemas.openid.net/secevent/caep/event-type/"
RISC = "https://schemas.openid.net/secevent/risc/event-type/"
PUSH_TOKEN, REVOCATION_TOKEN = "the push token of strict", "the revocation token of acme"
GITHUB_SECRET, SLACK_SECRET, SQUARE_SECRET = "secret of github", "secret of slack", "secret of square"
ADMINS, AUDITORS = "Vault administrators", "Vault auditors"
_RULES = """
[enterprise.{name}.allow.everyone]
agents = ["Invoices"]
scopes = ["tools"]
accounts = {{ slack = ["read"] }}
[enterprise.{name}.allow.finance]
agents = ["Invoices"]
groups = ["Finance"]
scopes = ["tools", "connections"]
[enterprise.{name}.allow.secret]
agents = ["Secret agent"]
groups = ["Secret service"]
"""
_SETTINGS = """
[sandbox]
loopback_openid = true
[admin.group_roles]
"Vault administrators" = "administrator"
"Vault auditors" = "auditor"
[enterprise.acme]
issuer = "{idp}/acme"
jwks_uri = "{idp}/acme/jwks"
domains = ["acme.example"]
create_people = true
directory_claim = "oid"
[enterprise.globex]
issuer = "{idp}/globex"
jwks_uri = "{idp}/globex/jwks"
[signals.transmitters.acme]
issuer = "{idp}/acme"
jwks_uri = "{idp}/acme/jwks"
max_age = 3600
account_disabled = "disable"
revocation_token = "the revocation token of acme"
revokes = true
[signals.transmitters.globex]
issuer = "{idp}/globex"
jwks_uri = "{idp}/globex/jwks"
account_disabled = "disable"
revokes = true
[signals.transmitters.strict]
issuer = "{idp}/acme"
jwks_uri = "{idp}/acme/jwks"
push_token = "the push token of strict"
[signals.providers.github]
secret = "secret of github"
[signals.providers.slack]
secret = "secret of slack"
[signals.providers.square]
secret = "secret of square"
"""


@dataclass
class Employee:
    """A company's employee with a browser at this vault."""

    id: str
    subject: str
    browser: Person
    name: str = ""


@dataclass
class Company:
    """The vault, the companies' server, and their keys by name."""

    target: Target
    server: ScriptedServer
    keys: dict[str, ECKey]
    published: dict[str, list[dict[str, object]]]
    token: str = field(repr=False, default="")  # the directory's

    def issuer(self, name: str = "acme") -> str:
        return f"{self.server.url}/{name}"

    # for the Admin API, with all scopes of alice, who is the owner

    async def api(self, method: str, path: str, content: object = None, *, token: str | None = None) -> httpx2.Response:
        kept = self.target.kept.setdefault("admin token", {})
        assert isinstance(kept, dict)
        if token is None and kept.get("until", 0.0) < time.monotonic():
            kept |= {"until": time.monotonic() + 240, "token": await admin_token(self.target)}
        sent = token or str(kept["token"])
        more = {} if content is None else {"json": content}
        return await call(self.target, method, path, sent, **more)

    async def call_api(self, method: str, path: str, content: object = None) -> dict[str, object]:
        """Send a request that the Admin API must accept; return the answer."""
        answer = await self.api(method, path, content)
        assert answer.status_code in {200, 201, 204}, (path, answer.text[:300])
        return {} if answer.status_code == 204 else answer.json()

    async def facts(self, person_id: str) -> dict[str, object]:
        return await self.call_api("GET", f"/people/{person_id}")

    async def employee(self, company: str = "acme", *, subject: str | None = None, is_admin: bool = False) -> Employee:
        """Add a person who is linked to a subject of this company."""
        person_id, browser = await someone(self.target, is_admin=is_admin)
        subject = subject or secrets.token_hex(8)
        await self.call_api(
            "POST", f"/people/{person_id}/identities", {"issuer": self.issuer(company), "subject": subject}
        )
        return Employee(person_id, subject, browser, str((await self.facts(person_id))["name"]))

    async def group(self, *members: str, name: str | None = None) -> str:
        """Make a group of these people, as an admin."""
        made = await self.call_api("POST", "/groups", {"name": name or f"g{secrets.token_hex(4)}"})
        for one in members:
            await self.call_api("PUT", f"/groups/{made['id']}/people/{one}")
        return str(made["id"])

    # identity assertions

    def claims(self, subject: str, company: str = "acme", **changes: object) -> dict[str, object]:
        """Honest claims with changes; None omits a claim."""
        now = int(time.time())
        claims: dict[str, object] = {
            "iss": self.issuer(company),
            "sub": subject,
            "aud": self.target.url,
            "client_id": self.target.clients["Invoices"]["client_id"],
            "jti": secrets.token_urlsafe(12),
            "iat": now,
            "exp": now + 300,
            "resource": f"{self.target.url}/mcp",
            "scope": "tools connections",
        }
        return {name: one for name, one in (claims | changes).items() if one is not None}

    def sign(
        self,
        claims: Mapping[str, object],
        company: str = "acme",
        *,
        key: ECKey | None = None,
        header: Mapping[str, object] | None = None,
        typ: str = "oauth-id-jag+jwt",
    ) -> str:
        head = {"alg": "ES256", "typ": typ, "kid": company} | dict(header or {})
        return sign_jwt({name: one for name, one in head.items() if one is not None}, claims, key or self.keys[company])

    async def redeem(self, assertion: str, *, client: str = "Invoices", **form: str) -> httpx2.Response:
        asked = {"grant_type": BEARER, "assertion": assertion, **self.target.clients[client], **form}
        answer = await self.target.token(asked)
        assert answer.status_code < 500, answer.text[:300]
        return answer

    async def ask(self, subject: str, company: str = "acme", **changes: object) -> httpx2.Response:
        return await self.redeem(self.sign(self.claims(subject, company, **changes), company))

    # the directory

    async def scim(
        self, method: str, path: str, content: object = None, *, token: str | None = None, **headers: str
    ) -> httpx2.Response:
        sent = {"authorization": f"Bearer {self.token if token is None else token}"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        if content is not None:
            sent.setdefault("content-type", "application/scim+json")
        body = None if content is None else content if isinstance(content, bytes) else json.dumps(content).encode()
        answer = await self.target.http.request(method, f"/scim/v2{path}", headers=sent, content=body)
        assert answer.status_code < 500 or answer.status_code == 501, (method, path, answer.text[:300])
        return answer

    async def patch(self, path: str, *operations: object, **headers: str) -> httpx2.Response:
        return await self.scim("PATCH", path, {"schemas": [SCIM_PATCH], "Operations": list(operations)}, **headers)

    async def provision_person(self, user_name: str | None = None, **more: object) -> dict[str, object]:
        """Have the directory create a person."""
        name = user_name or f"s{secrets.token_hex(6)}"
        answer = await self.scim("POST", "/Users", {"schemas": [SCIM_USER], "userName": name, **more})
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def provisioned_group(self, *members: object, name: str | None = None) -> dict[str, object]:
        content: dict[str, object] = {"schemas": [SCIM_GROUP], "displayName": name or f"d{secrets.token_hex(6)}"}
        content["members"] = [{"value": one} for one in members]
        answer = await self.scim("POST", "/Groups", content)
        assert answer.status_code == 201, answer.text
        return answer.json()

    # signals

    def event(self, kind: str, subject: object, company: str = "acme", **changes: object) -> dict[str, object]:
        """Claims of a security event for this company's endpoint; None omits a claim."""
        now = int(time.time())
        found: dict[str, object] = {
            "iss": self.issuer(company),
            "aud": f"{self.target.url}/signals/{company}",
            "jti": secrets.token_urlsafe(12),
            "iat": now,
            "sub_id": subject,
            "events": {kind: {"event_timestamp": now}},
        }
        return {name: one for name, one in (found | changes).items() if one is not None}

    def subject_of(self, employee: Employee, company: str = "acme") -> dict[str, object]:
        return {"format": "iss_sub", "iss": self.issuer(company), "sub": employee.subject}

    async def push(self, token: str | bytes, door: str = "acme", **headers: str) -> httpx2.Response:
        sent = {"content-type": "application/secevent+jwt"} | headers
        return await self.target.http.post(f"/signals/{door}", content=token, headers=sent)

    async def tell(self, kind: str, subject: object, company: str = "acme", **changes: object) -> httpx2.Response:
        """Send an honest event."""
        return await self.push(
            self.sign(self.event(kind, subject, company, **changes), company, typ="secevent+jwt"), company
        )

    async def may_call(self, agent: Agent) -> bool:
        answer = await self.target.mcp(agent, "tools/list")
        assert answer.status_code in {200, 401, 403}, answer.text[:200]
        return answer.status_code == 200


async def is_signed_in(browser: Person) -> bool:
    return (await browser.http.get("/account")).status_code == 200


@asynccontextmanager
async def running_company(folder: Path, *, database: str | None = None) -> AsyncGenerator[Company]:
    keys = {name: new_key() for name in ("acme", "globex")}
    published = {name: [{**key.as_dict(private=False), "kid": name}] for name, key in keys.items()}

    def answer(arrival: Arrival) -> Reply:
        name = arrival.path.strip("/").partition("/")[0]
        return json_reply({"keys": published[name]}) if name in published else Reply(404)

    async with scripted_server(answer) as server:
        rules = "".join(_RULES.format(name=name) for name in keys)
        more = _SETTINGS.format(idp=server.url) + rules
        async with running_target(folder, database=database, more=more) as target:
            for name, words in {"Invoices": ("--confidential",), "Secret agent": ("--confidential",)}.items():
                made = json.loads(
                    await target.command("clients", "add", name, *words, "--redirect-uri", REDIRECT, "--json")
                )
                target.clients[name] = {key: str(made[key]) for key in ("client_id", "client_secret")}
            token = json.loads(await target.command("scim", "token", "acme", "--json"))["token"]
            yield Company(target, server, keys, published, token)
