"""Programs on other machines: which hosts they call through this vault, and a handle for each call.

`token-vault run --url` asks with its agent's access token (`server.programs.remote_calls`). A handle for the proxy goes
out, as in a token exchange by a public client, and never a credential.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from time import monotonic
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from providers.definitions.model import Provider
from server.deployment import Deployment
from server.errors import status_of
from server.http.bodies import BodyTooLarge, read_body
from server.oauth import tokens
from server.oauth.dpop import sent_path
from server.proxy import refusals
from server.proxy.program_access import PermissionWait, ProgramAccess, WantedCall, stores_encoding
from server.proxy.program_hosts import hosts_of
from server.proxy.wire import ProxyRefused
from server.runtime.rate_limits import agent_place
from vault import clients
from vault.records import Principal
from vault.refusals import VaultError

HOSTS: Final = "/programs/hosts"
CALLS: Final = "/programs/calls"
_NEEDED: Final = "tools"
_LIMIT: Final = 64 * 1024  # bytes of a body
_MOST: Final = 1000  # agents whose handles are kept to be used again
_UNSTORED: Final = {"Cache-Control": "no-store"}


class RemoteRun(BaseModel):
    """What a run says about itself: the accounts that it may use where there are several."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_max_length=16_384)

    accounts: tuple[str, ...] = Field(default=(), max_length=50)


class RemoteCall(RemoteRun):
    """A call that a program is about to make."""

    method: str = Field(pattern=r"^[A-Z]{1,20}$")
    host: str = Field(max_length=253)
    port: int = Field(ge=1, le=65_535)
    path: str
    query: str = Field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class _Agent:
    principal: Principal
    name: str


class RemotePrograms:
    """Both endpoints, for agents with a token of the MCP endpoint."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._opened = OrderedDict[tuple[str, str, tuple[str, ...]], ProgramAccess]()

    def routes(self) -> list[BaseRoute]:
        return [Route(HOSTS, self.hosts, methods=["POST"]), Route(CALLS, self.call, methods=["POST"])]

    async def hosts(self, request: Request) -> Response:
        """Where the person's accounts are called, and what is wrong with the accounts that the run names."""
        try:
            agent = await self._agent(request)
            run = RemoteRun.model_validate_json(await _body(request))
        except (ProxyRefused, ValidationError) as error:
            return _refusal(error)
        found = await hosts_of(self._deployment, agent.principal)
        members = ("provider", "api", "scheme", "host", "port", "path")
        hosts = [{name: getattr(one, name) for name in members} for one in found]
        problem = await self._access(agent, run).unknown_account()
        return JSONResponse({"hosts": hosts, "problem": problem}, headers=_UNSTORED)

    async def call(self, request: Request) -> Response:
        """A handle for one call, or why there is none, with a link if the person can help."""
        try:
            agent = await self._agent(request)
            call = RemoteCall.model_validate_json(await _body(request))
        except (ProxyRefused, ValidationError) as error:
            return _refusal(error)
        hosts = await hosts_of(self._deployment, agent.principal)
        found = hosts.find(call.host, call.port, call.path)
        named = found or hosts.at(call.host, call.port)
        access = self._access(agent, call)
        try:
            chosen = await access.choose(found, WantedCall(call.method, call.path, call.query.encode("latin-1")))
            await access.check_place(chosen)
            handle = await access.handle(chosen)
        except (ProxyRefused, VaultError) as error:
            refused = error
            if isinstance(refused, VaultError):
                refused = await refusals.of_vault(self._deployment, refused, handle=None)
            provider = self._deployment.catalog.get(named[0].provider) if named else None
            return _refusal(self._count(agent, refused), provider=provider)
        answer = {
            "handle": handle,
            "connection_id": chosen.connection_id,
            "provider": chosen.address.provider,
            "api": chosen.address.api,
            "address": chosen.address.url,
            "path": chosen.address.path,
            "keeps_encoding": stores_encoding(self._deployment, chosen),
        }
        return JSONResponse(answer, headers=_UNSTORED)

    def _count(self, agent: _Agent, refused: ProxyRefused) -> ProxyRefused:
        """What the agent is told: a refused call counts for it, unless it waits for its person."""
        if "connect_uri" in refused.more:
            return refused
        who = agent.principal
        wait = self._deployment.budgets.spend(who.user_id, agent_place(who.client_id), now=monotonic())
        return refusals.too_often(wait, why="Too many calls of this agent are refused.") if wait else refused

    async def _agent(self, request: Request) -> _Agent:
        """Who asks. Raises ProxyRefused."""
        headers, scope = Headers(scope=request.scope), request.scope
        try:
            principal = await tokens.authenticate(
                self._deployment, headers, method=scope["method"], path=sent_path(scope), grant_later=False
            )
        except (tokens.TokenRefused, VaultError) as error:
            if isinstance(error, tokens.TokenRefused):
                raise ProxyRefused(
                    error.code, "Sign in again: the access token isn't valid.", kind="invalid_token"
                ) from error
            raise await refusals.of_vault(self._deployment, error, handle=None) from error
        if _NEEDED not in principal.scopes:
            raise ProxyRefused("insufficient_scope", f"The token lacks the scope {_NEEDED}.")
        client = await clients.get_client(self._deployment.database, principal.client_id)
        if client is None or (client.is_public and self._deployment.settings.exchange.confidential_only):
            raise ProxyRefused(
                "unauthorized_client",
                "This vault gives handles to confidential clients only (exchange.confidential_only).",
                kind="forbidden",
            )
        return _Agent(principal, client.name)

    def _access(self, agent: _Agent, run: RemoteRun) -> ProgramAccess:
        """What decides for this agent; its handles are used again while they live."""
        key = str(agent.principal.grant_id), agent.principal.client_id, run.accounts
        found = self._opened.pop(key, None)
        if found is None:
            asking = PermissionWait(lambda message, url: None, 0.0)  # the program's machine tells the person
            found = ProgramAccess(self._deployment, agent.principal, asking, agent=agent.name, accounts=run.accounts)
        self._opened[key] = found
        if len(self._opened) > _MOST:
            self._opened.popitem(last=False)  # its handles end by themselves
        return found


async def _body(request: Request) -> bytes:
    try:
        return await read_body(request.receive, limit=_LIMIT)
    except BodyTooLarge as error:
        raise ProxyRefused("invalid_body", "The request is too large.", kind="invalid_request") from error


def _refusal(error: ProxyRefused | ValidationError, *, provider: Provider | None = None) -> Response:
    """The refusal as the program gets it, in its provider's form."""
    if isinstance(error, ValidationError):
        error = ProxyRefused("invalid_request", "Send what this version of the vault knows: update Token Vault.")
    content = {
        "code": error.code,
        "text": error.description,
        "provider": "" if provider is None else provider.name,
        "headers": dict(error.headers),
        "body": refusals.content_of(error, provider),
        "link": error.more.get("connect_uri"),
    }
    is_unauthorized = error.status == status_of("invalid_token")
    challenge = {"WWW-Authenticate": 'Bearer error="invalid_token"'} if is_unauthorized else {}
    return JSONResponse(content, status_code=error.status, headers={**_UNSTORED, **challenge})
