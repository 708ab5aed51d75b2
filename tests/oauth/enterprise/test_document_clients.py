"""Identity assertions from clients that identify themselves with a metadata document, with a key or bound to one."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import httpx2
import pytest
from joserfc.jwk import ECKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from server.oauth.enterprise.assertions import JWT_BEARER
from server.oauth.enterprise.refusals import REFUSALS
from tests.support.harness import free_socket, serve_app
from tests.support.rooms.enterprise_room import Company, issuer_of, running_company
from tests.support.rooms.oauth_world import REDIRECT, sign_jwt

KEY = ECKey.generate_key("P-256", {"kid": "agent-1"})


@dataclass
class Agents:
    """A company with two agents that have metadata documents: `secret.json` proves a key, `public.json` doesn't."""

    company: Company
    url: str
    documents: dict[str, dict[str, object]] = field(default_factory=dict[str, dict[str, object]])
    fetched: list[str] = field(default_factory=list[str])

    def client_id(self, name: str) -> str:
        return f"{self.url}/{name}.json"

    async def ask(self, name: str, assertion: str, *, key: ECKey | None = None, **headers: str) -> httpx2.Response:
        client_id = self.client_id(name)
        form = {"grant_type": JWT_BEARER, "assertion": assertion, "client_id": client_id}
        if key is not None:
            now = self.company.now()
            claims = {"iss": client_id, "sub": client_id, "aud": self.company.place.url, "exp": now + 60}
            form["client_assertion"] = sign_jwt(
                {"alg": "ES256", "kid": key.kid}, claims | {"jti": secrets.token_hex(8)}, key
            )
            form["client_assertion_type"] = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        return await self.company.place.http.post("/token", data=form, headers=headers)


@pytest.fixture(scope="module")
async def agents(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Agents]:
    listening = free_socket()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    documents: dict[str, dict[str, object]] = {}
    fetched: list[str] = []

    async def answer(request: Request) -> Response:
        fetched.append(request.path_params["name"])
        return JSONResponse(documents[request.path_params["name"]])

    for name, more in {
        "secret": {"token_endpoint_auth_method": "private_key_jwt", "jwks": {"keys": [KEY.as_dict(private=False)]}},
        "public": {"token_endpoint_auth_method": "none"},
    }.items():
        about = {"client_id": f"{url}/{name}.json", "client_name": "Document agent", "redirect_uris": [REDIRECT]}
        documents[f"{name}.json"] = about | more
    rules = {"documents": {"agents": [f"{url}/secret.json", f"{url}/public.json", "Document agent"]}}
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(serve_app(Starlette(routes=[Route("/{name}", answer)]), listening))
        data = tmp_path_factory.mktemp("documents") / "data"
        company = await stack.enter_async_context(running_company(data, rules=rules))
        yield Agents(company, url, documents, fetched)


async def test_a_document_client_with_a_key_gets_in(agents: Agents) -> None:
    named = {"client_id": agents.client_id("secret")}
    issued = await agents.ask("secret", agents.company.assertion(**named), key=KEY)
    assert issued.status_code == 200, issued.text
    other = ECKey.generate_key("P-256", {"kid": "agent-1"})
    for key in (other, None):
        refused = await agents.ask("secret", agents.company.assertion(**named), key=key)
        assert (refused.status_code, refused.json()["error"]) == (401, "invalid_client")


async def test_a_public_document_client_gets_in_bound_to_a_key(agents: Agents) -> None:
    company, named = agents.company, {"client_id": agents.client_id("public")}
    bare = await agents.ask("public", company.assertion(**named))
    assert bare.json()["error_description"] == REFUSALS["public"].description
    claims = {"jti": secrets.token_hex(8), "htm": "POST", "htu": f"{company.place.url}/token", "iat": company.now()}
    proof = sign_jwt({"typ": "dpop+jwt", "alg": "ES256", "jwk": KEY.as_dict(private=False)}, claims, KEY)
    bound = company.assertion(**named, cnf={"jkt": KEY.thumbprint()})
    issued = await agents.ask("public", bound, DPoP=proof)
    assert (issued.status_code, issued.json()["token_type"]) == (200, "DPoP")
    allowed = company.assertion(**named, iss=issuer_of("public"))
    assert (await agents.ask("public", allowed)).status_code == 200, "the operator's switch"


async def test_a_document_does_not_choose_the_name_that_a_rule_means(agents: Agents) -> None:
    """Anyone can publish a document with that name; only its address identifies it."""
    agents.documents["twin.json"] = agents.documents["secret.json"] | {"client_id": agents.client_id("twin")}
    named = {"client_id": agents.client_id("twin")}
    refused = await agents.ask("twin", agents.company.assertion(**named), key=KEY)
    assert refused.status_code == 401, "no rule names its address, so nothing is fetched from there"
    assert "twin.json" not in agents.fetched
    twin = {"client_id": agents.client_id("secret")}
    assert (await agents.ask("secret", agents.company.assertion(**twin), key=KEY)).status_code == 200
