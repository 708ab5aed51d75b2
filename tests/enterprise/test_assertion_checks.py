"""What the doctor finds about identity assertions that the vault asks for."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from providers.oauth.assertions import ID_JAG
from server.administration.assertion_checks import check_assertions
from server.deployment import Deployment
from server.doctor.findings import Finding, Verdict
from server.oauth.enterprise.assertions import JWT_BEARER, PROFILE
from tests.support.doubles.openid_double import OpenIDDouble, running_openid
from tests.support.harness import running_vault
from vault.audit import audit
from vault.records import Event

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"


@dataclass(frozen=True)
class Scene:
    """A vault whose identity provider and service are the same double; each test changes the double's metadata."""

    deployment: Deployment
    double: OpenIDDouble

    async def findings(self, **said: object) -> list[Finding]:
        self.double.change_metadata = lambda metadata: {**metadata, **said}
        return await check_assertions(self.deployment)


@pytest.fixture(scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Scene]:
    async with running_openid(lambda: 0) as double:
        settings: Mapping[str, object] = {
            "sign_in": {"openid": {"company": {"issuer": double.url, "client_id": "vault", "id_jag": True}}},
            "sandbox": {"loopback_openid": True},
        }
        linear = {
            "client_id": "vault",
            "client_secret": "a secret of the vault at linear",
            "id_jag": {"audience": double.url, "scopes": ["read"]},
            **{f"{name}_url": f"{double.url}/{name}" for name in ("authorize", "token", "revoke", "userinfo")},
            "apis": {"main": double.url},
        }
        folder: Path = tmp_path_factory.mktemp("checks")
        async with running_vault(folder / "data", providers={"linear": linear}, overrides=settings) as vault:
            yield Scene(vault.deployment, double)


def finding_lines(found: list[Finding]) -> str:
    return "\n".join(f"{one.check} {one.sentence} {one.fix}" for one in found)


async def test_what_metadata_leaves_out_is_no_finding(scene: Scene) -> None:
    found = await scene.findings()
    assert [one.verdict for one in found] == [Verdict.OK, Verdict.OK], finding_lines(found)
    found = await scene.findings(
        identity_chaining_requested_token_types_supported=[ID_JAG],
        authorization_grant_profiles_supported=[PROFILE],
        grant_types_supported=[EXCHANGE, JWT_BEARER],
        scopes_supported=["openid", "offline_access"],
    )
    assert [one.verdict for one in found] == [Verdict.OK, Verdict.OK], finding_lines(found)


@pytest.mark.parametrize(
    ("said", "check", "part"),
    [
        ({"identity_chaining_requested_token_types_supported": []}, "sign_in", "issues no identity assertions"),
        ({"grant_types_supported": [JWT_BEARER]}, "sign_in", "issues no identity assertions"),
        ({"scopes_supported": ["openid"]}, "sign_in", "no scope offline_access"),
        ({"authorization_grant_profiles_supported": []}, "linear", "accept identity assertions"),
        ({"grant_types_supported": [EXCHANGE]}, "linear", "accept identity assertions"),
        ({"token_endpoint": "https://elsewhere.example/token"}, "linear", "elsewhere.example"),
    ],
)
async def test_what_metadata_rules_out_is_noted(
    scene: Scene, said: Mapping[str, object], check: str, part: str
) -> None:
    found = [one for one in await scene.findings(**said) if one.verdict is Verdict.NOTE]
    assert len(found) == 1, finding_lines(found)
    assert found[0].check.startswith(check)
    assert part in found[0].sentence
    assert found[0].fix


async def test_an_identity_provider_that_cannot_be_read_is_a_problem(scene: Scene) -> None:
    scene.double.broken = "not found"
    try:
        found = await scene.findings()
    finally:
        scene.double.broken = ""
    assert [one.verdict for one in found] == [Verdict.PROBLEM, Verdict.OK], "a service may publish nothing"
    assert [one.verdict for one in await scene.findings()] == [Verdict.OK, Verdict.OK]


async def test_late_refusals_are_noted(scene: Scene) -> None:
    details: dict[str, object] = {
        "provider": "linear",
        "identity": "sign-in-company",
        "reason": "identity_access_denied",
    }
    async with scene.deployment.transaction() as transaction:
        event = Event("connection.unvouched", outcome="refused", details=details)
        await audit.append(transaction, event, now=scene.deployment.now())
    found = await scene.findings()
    assert [one.verdict for one in found] == [Verdict.OK, Verdict.OK, Verdict.NOTE]
    assert "doesn't vouch for them at linear (access_denied)" in found[-1].sentence
    with_time = scene.deployment.database
    with_time.clock_offset += 2 * 86400
    try:
        assert [one.verdict for one in await scene.findings()] == [Verdict.OK, Verdict.OK]
    finally:
        with_time.clock_offset -= 2 * 86400
