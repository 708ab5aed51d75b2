"""The certified relying-party library openid-client signs someone in at our authorization server."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support.foreign.foreign import drive_program, newcomer, node
from tests.support.harness import running_vault
from tests.support.inspection import read_events
from vault import users

pytestmark = pytest.mark.group("node")

REDIRECT = "http://127.0.0.1:33418/callback"


@pytest.mark.client("openid-client", "/token", "discovery to revocation")
async def test_openid_client_registers_signs_in_checks_refreshes_and_revokes(tmp_path: Path) -> None:
    """The library checks `iss`, `state`, `nonce`, signature, audience and `at_hash` by itself, and fails otherwise."""
    node()
    async with running_vault(tmp_path / "data") as vault, newcomer(vault) as somebody:
        program = ("relying_party.mjs", vault.url, REDIRECT)
        async with drive_program(*program, folder=tmp_path, authorize=somebody.authorize) as party:
            told = await party.answer()
        user = await users.find_user(vault.deployment.database, somebody.name)
        assert user is not None
        seen = await read_events(vault.deployment, user_id=user.id)
    assert told["claims"]["sub"] == user.id
    assert told["userinfo"] == {"sub": user.id, "preferred_username": user.name}
    assert set(told["scope"].split()) == {"openid", "tools", "offline_access"}
    assert told["rotated"]
    assert told["live"]["active"]
    assert told["live"]["sub"] == user.id
    assert told["revoked"] == {"active": False}
    assert told["afterReplay"] == {"active": False}  # whoever stole the code gains nothing
    assert told["refusals"] == {
        "otherState": 'unexpected "state" response parameter value',
        "otherNonce": 'unexpected ID Token "nonce" claim value',
        "refreshedAgain": "invalid_grant",
        "userinfoAgain": "invalid_token",
        "replayed": "invalid_grant",
    }
    # The second request showed the sign-in page again, the third one didn't.
    first, again, later = told["claims"]["auth_time"], *told["signedIn"]
    assert first <= again
    assert again == later
    assert somebody.sign_ins == 5
    assert [event.kind for event in seen].count("session.started") == 2


async def test_openid_client_pushes_proves_keys_and_signs_in_on_a_device(tmp_path: Path) -> None:
    """The library does pushed requests, DPoP, signed client assertions, and the device grant."""
    node()
    async with running_vault(tmp_path / "data") as vault, newcomer(vault) as somebody:

        async def authorize(url: str) -> str:
            code = parse_qs(urlsplit(url).query).get("user_code")
            if code is None:
                return await somebody.authorize(url)
            page = await somebody.browser.submit(
                await somebody.browser.open("/device"), {"user_code": code[0]}, form="/device"
            )
            await somebody.browser.submit(page, form="/consent", button=("decision", "allow"))
            return url

        async with drive_program(
            "openid_flows.mjs", vault.url, REDIRECT, folder=tmp_path, authorize=authorize
        ) as party:
            told = await party.answer()
        user = await users.find_user(vault.deployment.database, somebody.name)
    assert user is not None
    pushed = ["client_id", "request_uri"]
    assert told["par"] == {"parameters": pushed, "kind": "bearer", "sub": user.id, "refreshed": "bearer"}
    assert told["dpop"] == {"parameters": pushed, "kind": "dpop", "sub": user.id, "refreshed": "dpop"}
    assert told["privateKey"] == told["par"]
    assert told["device"] == {"kind": "bearer", "sub": user.id}
