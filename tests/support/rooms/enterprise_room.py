"""A vault that trusts a company's identity provider, whose assertions can be wrong in one claim."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
from joserfc.jwk import ECKey, RSAKey

from server.oauth.enterprise.assertions import JWT_BEARER, TYPE
from tests.support.doubles.openid_double import OpenIDDouble, running_openid
from tests.support.rooms.exchange_room import Caller, ExchangeRoom, exchange_room
from tests.support.rooms.oauth_world import sign_jwt
from vault import company_permissions, users
from vault.company_permissions import CompanyPermission
from vault.records import User

SUBJECT = "employee-1"
RULES: Mapping[str, object] = {
    "everyone": {"agents": ["Invoices"], "accounts": {"slack": ["read"]}},
    "engineering": {"agents": ["Invoices"], "groups": ["engineering"], "scopes": ["tools", "exchange"]},
    "writers": {"agents": ["Invoices"], "groups": ["writers"], "accounts": {"slack": ["all"]}, "ask_writes": True},
    "secret": {"agents": ["Secret agent"], "groups": ["secret service"]},
}


def issuer_of(company: str) -> str:
    """The issuer of one of `OTHERS`."""
    return f"https://{company}.example"


# Further companies with the same keys, by what differs. Their issuers exist in the settings only.
OTHERS: Mapping[str, Mapping[str, object]] = {
    "tenant": {"tenant": "t-1"},
    "second": {"issuer": issuer_of("tenant"), "tenant": "t-2", "identity_issuer": f"{issuer_of('tenant')}/t-2"},
    "stepped": {"max_age": 600, "acr": ["phr", "phrh"]},
    "matching": {"domains": ["acme.example"]},
    "creating": {"create_people": True},
    "joining": {"create_people": True, "domains": ["acme.example"]},
    "public": {"public_clients": True},
    "directed": {"directory_claim": "oid"},
}


@dataclass
class Company:
    """The vault, the identity provider, the agent, and an employee who is linked."""

    place: ExchangeRoom
    idp: OpenIDDouble
    caller: Caller
    user: User
    subject: str = SUBJECT

    def now(self) -> int:
        return self.place.now()

    async def permission(self) -> CompanyPermission:
        """What the company lets the agent do for the employee."""
        found = await company_permissions.get(
            self.place.deployment.database, user_id=self.user.id, client_id=self.caller.client.id, company="acme"
        )
        assert found is not None
        return found

    def claims(self, **changes: object) -> dict[str, object]:
        """Honest claims with changes; None omits one."""
        now = self.now()
        claims: dict[str, object] = {
            "iss": self.idp.url,
            "sub": self.subject,
            "aud": self.place.url,
            "client_id": self.caller.client.id,
            "jti": secrets.token_urlsafe(12),
            "iat": now,
            "exp": now + 300,
            "resource": f"{self.place.url}/mcp",
            "scope": "tools connections",
            "groups": ["staff"],
        }
        return {name: value for name, value in (claims | changes).items() if value is not None}

    def assertion(
        self, *, header: Mapping[str, object] | None = None, key: RSAKey | ECKey | None = None, **changes: object
    ) -> str:
        own = self.idp.key
        assert isinstance(own, RSAKey | ECKey)
        head: dict[str, object] = {"alg": "RS256", "kid": own.kid, "typ": TYPE} | dict(header or {})
        return sign_jwt(
            {name: value for name, value in head.items() if value is not None}, self.claims(**changes), key or own
        )

    async def ask(
        self,
        assertion: str | None = None,
        /,
        *,
        caller: Caller | None = None,
        headers: Mapping[str, str] | None = None,
        **more: str | None,
    ) -> httpx2.Response:
        """The token request; None omits a parameter."""
        form: dict[str, str | None] = {
            "grant_type": JWT_BEARER,
            "assertion": self.assertion() if assertion is None else assertion,
            **(caller or self.caller).credentials,
        }
        sent = {name: value for name, value in (form | more).items() if value is not None}
        return await self.place.http.post("/token", data=sent, headers=dict(headers or {}))


@asynccontextmanager
async def running_company(
    folder: Path, *, database_url: str | None = None, rules: Mapping[str, object] = RULES, **settings: object
) -> AsyncGenerator[Company]:
    moment = [0]
    async with running_openid(lambda: moment[0]) as idp:
        acme = {"issuer": idp.url, "title": "Acme", "allow": rules}
        others = {
            name: {"issuer": issuer_of(name), "jwks_uri": f"{idp.url}/jwks", "allow": rules, **more}
            for name, more in OTHERS.items()
        }
        async with exchange_room(
            folder,
            database_url=database_url,
            enterprise={"acme": acme | settings, **others},
            sandbox={"loopback_openid": True, "loopback_client_metadata": True},
        ) as place:
            user = await place.user()
            async with place.deployment.transaction() as transaction:
                for issuer in (idp.url, *map(issuer_of, ("tenant", "stepped", "public"))):
                    await users.link_identity(
                        transaction, issuer=issuer, subject=SUBJECT, user_id=user.id, now=place.now()
                    )
            yield Company(place, idp, await place.caller(), user)
