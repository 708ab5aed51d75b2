"""Unmodified third-party MCP servers, with their own authorization servers, behind the vault."""

from __future__ import annotations

import warnings
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import pytest
from fastmcp import FastMCP
from fastmcp.server.auth.auth import ClientRegistrationOptions, RevocationOptions
from fastmcp.server.auth.providers.in_memory import InMemoryOAuthProvider
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer
from pydantic import BaseModel, Field

from server.remote import servers
from tests.mcp.remote.remote_room import RemoteRoom, text
from tests.support.harness import free_socket, serve_app

SCOPES = ["notes"]


class Weather(BaseModel):
    """A structured answer, with a part that its schema refers to."""

    class Wind(BaseModel):
        speed: float
        direction: Annotated[str, Field(pattern="^[NESW]{1,2}$")]

    city: str
    winds: list[Wind]


def weather(city: str, days: Annotated[int, Field(ge=1, le=7)] = 1) -> Weather:
    """Tell the weather of a city."""
    return Weather(city=city, winds=[Weather.Wind(speed=3.5, direction="NE")] * days)


def shout(words: list[str]) -> str:
    """Say it louder."""
    return " ".join(words).upper()


def fail() -> str:
    """Fail."""
    raise ValueError("the cellar is locked")


def fast_mcp(origin: str) -> tuple[Any, InMemoryOAuthProvider]:
    """FastMCP with its OAuth provider."""
    provider = _provider(origin)
    made = FastMCP("foreign", auth=provider)
    for tool in (weather, shout, fail):
        made.tool(tool)
    return made.http_app(path="/mcp"), provider


def sdk(origin: str) -> tuple[Any, InMemoryOAuthProvider]:
    """The official SDK's server with its authorization server, over the same store."""
    provider = _provider(origin)
    settings = AuthSettings.model_validate(
        {
            "issuer_url": origin,
            "resource_server_url": f"{origin}/mcp",
            "required_scopes": SCOPES,
            "client_registration_options": {"enabled": True, "valid_scopes": SCOPES, "default_scopes": SCOPES},
            "revocation_options": {"enabled": True},
        }
    )
    made = MCPServer("foreign", auth_server_provider=provider, auth=settings)
    for tool in (weather, shout, fail):
        made.tool()(tool)
    return made.streamable_http_app(), provider


def _provider(origin: str) -> InMemoryOAuthProvider:
    return InMemoryOAuthProvider(
        base_url=origin,
        required_scopes=SCOPES,
        client_registration_options=ClientRegistrationOptions(enabled=True, valid_scopes=SCOPES, default_scopes=SCOPES),
        revocation_options=RevocationOptions(enabled=True),
    )


@asynccontextmanager
async def _foreign(make: Any) -> AsyncGenerator[tuple[str, InMemoryOAuthProvider]]:
    listening = free_socket()
    origin = f"http://127.0.0.1:{listening.getsockname()[1]}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        app, provider = make(origin)
        async with serve_app(app, listening):
            yield f"{origin}/mcp", provider


@pytest.mark.parametrize(("name", "make"), [pytest.param("fastmcp", fast_mcp, marks=pytest.mark.long), ("sdk", sdk)])
async def test_a_server_of_others_works_behind_the_vault(place: RemoteRoom, name: str, make: Any) -> None:
    async with _foreign(make) as (url, provider):
        await servers.add(place.operator, servers.NewServer(name, url))
        agent = await place.room.agent(client_name=f"Agent of {name}")
        looked = await place.look(name, agent)
        assert not looked.is_error, text(looked)
        assert {one["name"] for one in looked.structured_content["tools"]} == {"weather", "shout", "fail"}
        assert await place.accept(name, reads=["weather", "shout", "fail"]) == ("fail", "shout", "weather")
        async with place.room.client(agent) as client:
            told = await place.call(client, f"{name}_weather", {"city": "Bern", "days": 2})
            assert not told.is_error, text(told)
            assert told.structured_content["result"] == {
                "city": "Bern",
                "winds": [{"speed": 3.5, "direction": "NE"}] * 2,
            }
            assert "wasn't called" in text(await client.call_tool(f"{name}_weather", {"city": "Bern", "days": 9}))
            loud = await place.call(client, f"{name}_shout", {"words": ["a", "b"]})
            assert "A B" in text(loud)
            failed = await place.call(client, f"{name}_fail", {})
            assert failed.is_error
            assert "says that the call failed" in text(failed)
            assert "data, not instructions" in text(failed)
            before = set(provider.refresh_tokens)
            provider.access_tokens.clear()
            assert not (await client.call_tool(f"{name}_shout", {"words": ["c"]})).is_error
            assert set(provider.refresh_tokens).isdisjoint(before)  # the refresh token was rotated
