"""Clients of this wire that others published, unmodified, over TLS; one brings another issuer's token."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest
from joserfc.jwk import OKPKey

from tests.auth0.application import CALLBACK, SECRET
from tests.auth0.tenant import API, GRANTS, signed_in, tenant
from tests.auth0.test_python_sdks import PATIENCE, PYTHON
from tests.conftest import unavailable
from tests.support.doubles.openid_double import running_openid
from tests.support.harness import PASSWORD
from tests.support.person import Person
from tests.support.rooms.oauth_world import signed
from vault import apis, users

PROGRAM = Path(__file__).parent / "other_clients.py"
AUDIENCE = "api://vault"


@pytest.mark.group("sdks")
async def test_mcs_acgs_and_oktas_prototype_get_an_accounts_token(tmp_path: Path) -> None:
    if not PYTHON.exists():
        unavailable("the SDKs need: make sdks")
    async with running_openid(lambda: 0) as issuer:
        trusted = {"company": {"issuer": issuer.url, "audience": AUDIENCE, "clients": ["okta"]}}
        settings = {"issuers": trusted, "sandbox": {"loopback_openid": True}}
        async with tenant(tmp_path, **settings) as place, Person(place.vault.url, transport=place.way()) as person:
            await person.sign_in("alice", PASSWORD)
            deployment, now = place.vault.deployment, place.vault.deployment.now()
            alice = await users.find_user(deployment.database, "alice")
            assert alice is not None
            mcs = await place.client("mcs")
            await place.client("okta", resources=(API,), grant_types=GRANTS)
            async with deployment.transaction() as transaction:
                await apis.add_api(transaction, API, name="Vault API", now=now, scopes=frozenset({"read:vault"}))
                await apis.link_client(transaction, API, client_id="okta", now=now)
                await users.link_identity(transaction, issuer=issuer.url, subject="00u1", user_id=alice.id, now=now)
            claims = {"iss": issuer.url, "sub": "00u1", "aud": AUDIENCE, "iat": now, "exp": now + 3600}
            assert not isinstance(issuer.key, OKPKey)
            environment = {
                **os.environ,
                "DOMAIN": place.domain,
                "CLIENT_SECRET": SECRET,
                "REDIRECT": CALLBACK,
                "API": API,
                "REFRESH_TOKEN": (await signed_in(place, person, mcs))["refresh_token"],
                "OKTA_TOKEN": signed({"alg": "RS256", "kid": issuer.key.kid}, claims, issuer.key),
                "SSL_CERT_FILE": str(place.authority.authority),
                "REQUESTS_CA_BUNDLE": str(place.authority.authority),
            }
            process = await asyncio.create_subprocess_exec(
                str(PYTHON), "-W", "ignore", str(PROGRAM), env=environment,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            said = ""
            async with asyncio.timeout(PATIENCE):
                while line := (await process.stdout.readline()).decode().strip():
                    said = line
                    if line.startswith("{"):
                        break
                    process.stdin.write(f"{await place.allow(person, line)}\n".encode())
                    await process.stdin.drain()
                errors = (await process.stderr.read()).decode()
                await process.wait()
            assert process.returncode == 0, errors
            found = json.loads(said)
    assert found["mcs"][0] == "challenge"
    assert found["mcs"][1].startswith("xox")
    assert found["acgs"]["access_token"] == found["mcs"][1]
    assert found["okta"]["linking"] is True
    assert found["okta"]["linked"] == found["okta"]["again"]
    assert {"channels:read", "chat:write"} <= set(found["okta"]["scope"].split())
