"""The command line of token exchange: clients with keys, lists and policies, and APIs with their clients."""

from __future__ import annotations

from pathlib import Path

import pytest
from joserfc.jwk import ECKey, RSAKey

from server.app import open_deployment
from server.oauth.clients.rules import BACKCHANNEL_GRANT
from server.oauth.exchange import release, workers
from server.oauth.rules import TOKEN_EXCHANGE
from server.settings import load_settings
from tests.support.commands import content, run
from tests.support.inspection import read_events
from tests.support.processes import Place
from vault import clients
from vault.records import Client, Event

REDIRECT = ("--redirect-uri", "https://app.example/cb")
API = "https://api.example/v1"


async def read_client(place: Place, client_id: str) -> Client:
    async with open_deployment(load_settings(data=place.data), data=place.data) as deployment:
        found = await clients.get_client(deployment.database, client_id)
    assert found is not None
    return found


async def events(place: Place, kind: str) -> list[Event]:
    async with open_deployment(load_settings(data=place.data), data=place.data) as deployment:
        return [one for one in await read_events(deployment) if one.kind == kind]


async def add_client(place: Place, *options: str) -> dict[str, object]:
    made = await content(place, "clients", "add", "Backend", *options)
    assert isinstance(made, dict)
    return made


async def test_a_client_may_exchange_when_an_operator_says_so(place: Place) -> None:
    plain = await add_client(place, *REDIRECT, "--confidential")
    assert TOKEN_EXCHANGE not in plain["grant_types"]
    backend = await add_client(place, *REDIRECT, "--confidential", "--exchange", "--origin", "https://spa.example")
    assert TOKEN_EXCHANGE in backend["grant_types"]
    assert (await read_client(place, str(backend["client_id"]))).metadata["origins"] == ["https://spa.example"]


async def test_a_client_without_redirects_needs_the_grant_and_a_proof(place: Place) -> None:
    alone = await add_client(place, "--exchange", "--confidential")
    assert alone["grant_types"] == [TOKEN_EXCHANGE]
    for options in ((), ("--confidential",), ("--exchange",)):
        refused = await run(place, "clients", "add", "Backend", *options)
        assert (refused.exit_code, refused.stdout) == (1, "")


async def test_how_a_client_asks_people_is_set_and_contradictions_are_named(place: Place, tmp_path: Path) -> None:
    key, pem = ECKey.generate_key("P-256"), tmp_path / "shop.pem"
    pem.write_bytes(key.as_pem(private=False))
    told = (
        "--ciba-push",
        "--ciba-notify",
        "https://shop.example/told",
        "--ciba-user-code",
        "--ciba-details",
        "payment",
    )
    made = await add_client(place, "--key", str(pem), *told, "--ciba-sign", "ES256")
    assert made["grant_types"] == [BACKCHANNEL_GRANT]
    assert made["ciba"] == {
        "notify": "https://shop.example/told",
        "push": True,
        "details_types": ["payment"],
        "signing_alg": "ES256",
        "user_code": True,
    }
    for option, wrong in (
        ("--ciba-notify:", ("--confidential", "--ciba-push")),
        ("--ciba-notify:", ("--confidential", "--ciba-notify", "http://shop.example/")),
        ("--ciba-sign:", ("--confidential", "--ciba-sign", "ES256")),
        ("--ciba-sign:", ("--key", str(pem), "--ciba-sign", "none")),
    ):
        refused = await run(place, "clients", "add", "Backend", *wrong)
        assert (refused.exit_code, refused.stdout) == (1, "")
        assert option in refused.stderr


async def test_a_worker_has_a_key_and_all_three_lists(place: Place, tmp_path: Path) -> None:
    key, pem = ECKey.generate_key("P-256"), tmp_path / "worker.pem"
    pem.write_bytes(key.as_pem(private=False))
    lists = (
        "--worker-address", "10.1.0.0/16", "--worker-address", "192.0.2.1", "--worker-connection", "slack",
        "--worker-scope", "chat:write",
    )  # fmt: skip
    made = await add_client(place, "--key", str(pem), *lists)
    assert made["auth_method"] == "private_key_jwt"
    assert made["worker"] == {
        "addresses": ["10.1.0.0/16", "192.0.2.1"],
        "connections": ["slack"],
        "scopes": ["chat:write"],
    }
    client = await read_client(place, str(made["client_id"]))
    rules = workers.rules_of(client)
    assert rules is not None
    assert rules.admits("10.1.2.3")
    assert not rules.admits("10.2.0.1")
    shown = await run(place, "clients", "show", client.id)
    assert "chat:write" in shown.stdout
    alias = [one.replace("slack", "google-calendar") for one in lists]
    calendars = await add_client(place, "--key", str(pem), *alias)
    assert calendars["worker"]["connections"] == ["google"]
    wrong = (
        lists,  # no key
        ("--key", str(pem), *lists[:4]),
        ("--key", str(pem), *lists, "--worker-address", "everywhere"),
        ("--key", str(pem), *lists, "--worker-scope", "made:up"),
    )
    for options in wrong:
        refused = await run(place, "clients", "add", "Backend", *options)
        assert (refused.exit_code, refused.stdout) == (1, "")


@pytest.mark.parametrize("form", ["pem", "jwk", "jwks", "rsa"])
async def test_a_key_comes_as_pem_or_jwk_and_never_private(place: Place, tmp_path: Path, form: str) -> None:
    import json

    key = RSAKey.generate_key(2048) if form == "rsa" else ECKey.generate_key("P-256")
    for private in (False, True):
        path = tmp_path / f"{form}-{private}"
        members = key.as_dict(private=private)
        if form in {"pem", "rsa"}:
            path.write_bytes(key.as_pem(private=private))
        else:
            path.write_text(json.dumps(members if form == "jwk" else {"keys": [members]}))
        result = await run(place, "clients", "add", "Signer", *REDIRECT, "--key", str(path), "--json")
        assert result.exit_code == (1 if private else 0), result.output
    (tmp_path / "junk").write_text("nothing")
    for path in ("junk", "absent"):
        assert (await run(place, "clients", "add", "Signer", *REDIRECT, "--key", str(tmp_path / path))).exit_code == 1


async def test_release_policies_are_set_and_the_full_one_only_for_one_provider(place: Place) -> None:
    for policy, code in (("proxy", 0), ("narrowed", 0), ("full", 1), ("all", 1)):
        result = await run(place, "clients", "add", "B", *REDIRECT, "--confidential", "--exchange", "--release", policy)
        assert result.exit_code == code, result.output
    client_id = str((await add_client(place, *REDIRECT, "--confidential", "--exchange"))["client_id"])
    changed = await content(place, "clients", "release", client_id, "slack", "full")
    assert changed["release"] == {"slack": "full"}
    both = await content(place, "clients", "release", client_id, "google-calendar", "proxy")
    assert both["release"] == {"slack": "full", "google": "proxy"}
    client = await read_client(place, client_id)
    assert release.policy_of(client, provider="slack", connection_id="c") is release.ReleasePolicy.FULL
    assert next(dict(one.details) for one in await events(place, "release.changed")) == {
        "target": "slack",
        "release": "full",
        "narrowing": "none",
    }
    assert (await run(place, "clients", "release", client_id, "slack", "some")).exit_code == 1
    public = str((await add_client(place, *REDIRECT, "--exchange"))["client_id"])
    assert (await run(place, "clients", "release", public, "slack", "full")).exit_code == 1
    assert (await run(place, "clients", "release", public, "slack", "proxy")).exit_code == 0


async def test_apis_are_added_listed_shown_and_removed(place: Place) -> None:
    server = str((await add_client(place, "--exchange", "--confidential"))["client_id"])
    made = await content(place, "apis", "add", API, "--client", server, "--scope", "read", "--scope", "write")
    assert isinstance(made, dict)
    assert (made["resource"], made["clients"], made["scopes"]) == (API, [server], ["read", "write"])
    again = await content(place, "apis", "add", API, "--name", "Invoices")
    assert (again["name"], again["clients"], again["scopes"]) == ("Invoices", [server], ["read", "write"])
    assert await content(place, "apis", "list") == [again]
    assert await content(place, "apis", "show", API) == again
    await content(place, "apis", "remove", API, "--client", server)
    assert (await content(place, "apis", "show", API))["clients"] == []
    await content(place, "apis", "remove", API)
    assert await content(place, "apis", "list") == []
    for command in (("show", API), ("remove", API)):
        assert (await run(place, "apis", *command)).exit_code == 1


async def test_what_cannot_be_an_api_is_refused(place: Place) -> None:
    public = str((await add_client(place, *REDIRECT, "--exchange"))["client_id"])
    settings = load_settings(data=place.data)
    wrong = (
        ("api.example",),
        (f"{API}#part",),
        (f"{settings.public_url}/mcp",),
        (API, "--scope", "exchange"),
        (API, "--scope", "two words"),
        (API, "--client", public),
        (API, "--client", "nobody"),
    )
    for options in wrong:
        refused = await run(place, "apis", "add", *options)
        assert (refused.exit_code, refused.stdout) == (1, ""), options
    assert (await run(place, "apis", "add", API, "--scope", "read")).exit_code == 0


async def test_a_person_is_linked_to_an_identity_elsewhere(place: Place) -> None:
    password = "a long enough password for this test\n"
    for name in ("alice", "bob"):
        await content(place, "users", "add", name, "--password-stdin", feed=password)
    identity = ("--issuer", "https://idp.example", "--subject", "employee-1")
    for _ in range(2):
        linked = await content(place, "users", "link", "alice", *identity)
        assert linked["name"] == "alice"
    refused = await run(place, "users", "link", "bob", *identity)
    assert refused.exit_code == 1
    assert len(await events(place, "user.linked")) == 2
