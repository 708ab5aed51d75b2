"""A vault with a public address identifies itself to authorization servers with its own client metadata document."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
from starlette.applications import Starlette

from providers.definitions.remote import RemoteAuthorization
from providers.outbound.addresses import AddressPolicy
from providers.outbound.client import Outbound
from providers.remote.authorization import AuthorizationUnknown, FoundAuthorization, find_authorization
from server.app import open_deployment
from server.remote import documents, servers
from server.settings import load_settings
from tests.support.doubles.mcp_double import running_site
from vault import registrations
from vault.mcp.servers import add_server
from vault.registrations import EnteredRegistration

FACTS = RemoteAuthorization(
    "https://login.example/authorize", "https://login.example/token", "https://notes.example/mcp", scopes=("notes",)
)
FOUND = FoundAuthorization("https://login.example", FACTS, None, takes_documents=True, methods=("none",))


async def test_the_document_names_the_vault_and_the_redirect_of_one_server(tmp_path: Path) -> None:
    settings = load_settings(overrides={"server": {"public_url": "https://vault.example"}})
    async with open_deployment(settings, data=tmp_path / "vault") as deployment:
        client = await servers._client_at(deployment, FOUND, "notes")
        assert (client.client_id, client.client_auth) == ("https://vault.example/connect/client/notes", "none")
        with pytest.raises(AuthorizationUnknown, match="connect/callback/notes"):
            await servers._client_at(deployment, replace(FOUND, takes_documents=False), "notes")
        app = Starlette(routes=documents.routes(deployment))
        async with httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=app),
            base_url="https://vault.example",
            timeout=30,
        ) as http:
            assert (await http.get("/connect/client/notes")).status_code == 404
            now = deployment.now()
            async with deployment.transaction() as transaction:
                about = {"url": "https://notes.example/mcp", "title": "Notes", "facts": FACTS.facts()}
                await add_server(transaction, "notes", **about, by="", now=now)
                await registrations.save_registration(
                    transaction,
                    deployment.keys,
                    EnteredRegistration(client.client_id),
                    provider="notes",
                    by="",
                    now=now,
                )
            await deployment.live.refresh(deployment.database, deployment.keys)
            document = (await http.get("/connect/client/notes")).json()
            assert (await http.get("/connect/client/slack")).status_code == 404
    assert document["client_id"] == client.client_id
    assert document["redirect_uris"] == ["https://vault.example/connect/callback/notes"]
    assert document["token_endpoint_auth_method"] == "none"


@pytest.mark.parametrize(
    ("metadata", "is_document"),
    [
        ({"client_id_metadata_document_supported": True}, True),
        ({"client_id_metadata_document_supported": "true"}, False),
        ({}, False),
        ({"client_id_metadata_document_supported": True, "token_endpoint_auth_methods_supported": ["x"]}, False),
    ],
)
async def test_only_a_server_that_says_so_is_told_of_the_document(
    tmp_path: Path, metadata: dict[str, object], *, is_document: bool
) -> None:
    settings = load_settings(overrides={"server": {"public_url": "https://vault.example"}})
    policy = AddressPolicy(allow_loopback=True)
    async with (
        running_site() as site,
        Outbound(policy) as outbound,
        open_deployment(settings, data=tmp_path / "vault") as deployment,
    ):
        methods = {"token_endpoint_auth_methods_supported": ["none"], "registration_endpoint": None}
        double = site.add("notes", metadata=methods | metadata)
        found = await find_authorization(double.url, outbound, policy=policy)
        if is_document:
            client = await servers._client_at(deployment, found, "notes")
            assert client.client_id == "https://vault.example/connect/client/notes"
        else:
            with pytest.raises(AuthorizationUnknown, match="doesn't let clients register"):
                await servers._client_at(deployment, found, "notes")


async def test_a_vault_on_this_machine_has_no_document_that_others_could_read(tmp_path: Path) -> None:
    async with open_deployment(load_settings(), data=tmp_path / "vault") as deployment:
        with pytest.raises(AuthorizationUnknown, match="doesn't let clients register"):
            await servers._client_at(deployment, FOUND, "notes")
