"""Third-party clients of Auth0's interface, unmodified, over TLS; one brings another issuer's token."""

from __future__ import annotations

from pathlib import Path

import pytest
from joserfc.jwk import OKPKey

from tests.auth0.application import CALLBACK, SECRET
from tests.auth0.sdks.sdk_talk import PYTHON, talk
from tests.auth0.tenant import API, GRANTS, signed_in, tenant
from tests.conftest import unavailable
from tests.support.doubles.openid_double import running_openid
from tests.support.harness import PASSWORD
from tests.support.person import Person
from tests.support.rooms.oauth_world import sign_jwt
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
            settings = {
                "CLIENT_SECRET": SECRET,
                "REDIRECT": CALLBACK,
                "API": API,
                "REFRESH_TOKEN": (await signed_in(place, person, mcs))["refresh_token"],
                "OKTA_TOKEN": sign_jwt({"alg": "RS256", "kid": issuer.key.kid}, claims, issuer.key),
            }

            async def answer(line: str) -> str:
                return await place.allow(person, line)

            found = await talk(place, PROGRAM, settings, answer)
    assert found["mcs"][0] == "challenge"
    assert found["mcs"][1].startswith("xox")
    assert found["acgs"]["access_token"] == found["mcs"][1]
    assert found["okta"]["linking"] is True
    assert found["okta"]["linked"] == found["okta"]["again"]
    assert {"channels:read", "chat:write"} <= set(found["okta"]["scope"].split())
