"""RFC 8705: a provider recognizes this vault by a client certificate at its token and revocation endpoints."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from providers.credentials.placement import authorize_request
from providers.definitions.catalog import ProviderFileRefused, ProviderOverrides, load_catalog
from providers.definitions.discovery import find_endpoints, read_configuration
from providers.definitions.model import Provider
from providers.oauth.client import OAuthUpstream
from providers.outbound.addresses import AddressPolicy
from providers.outbound.client import Outbound
from providers.outbound.messages import NotReached, OutboundRequest
from server.doctor.findings import Verdict
from server.doctor.providers import check_provider
from server.settings import SettingsRefused, load_settings
from server.sign_in.discovery import endpoints_of_issuers
from tests.support.certificates import ClientCertificate, issue
from tests.support.doubles.scripted_server import Arrival, Reply, ScriptedServer, json_reply, scripted_server
from tests.support.harness import running_vault
from tests.support.network.tls import Authority, make_authority
from vault.upstream import NotSent, Refusal, RevokeOutcome, Rotation, Silent

TOKENS = {"access_token": "at-1", "token_type": "Bearer", "expires_in": 3600}


@dataclass
class Bank:
    """An authorization server for clients with and without certificates, on two ports, and the clients it accepts."""

    demanding: ScriptedServer
    plain: ScriptedServer
    authority: Authority
    ours: ClientCertificate
    anothers: ClientCertificate
    folder: Path

    def file(self, issued: ClientCertificate, name: str = "client") -> Path:
        path = self.folder / f"{name}.pem"
        path.write_text(issued.pem + issued.private(), encoding="ascii")
        path.chmod(0o600)
        return path

    def metadata(self, **more: object) -> dict[str, object]:
        at, there = f"https://localhost:{self.plain.port}", f"https://localhost:{self.demanding.port}"
        return {
            "issuer": at,
            "authorization_endpoint": f"{at}/authorize",
            "token_endpoint": f"{at}/token",
            "userinfo_endpoint": f"{at}/me",
            "revocation_endpoint": f"{at}/revoke",
            "token_endpoint_auth_methods_supported": ["client_secret_post", "tls_client_auth"],
            "mtls_endpoint_aliases": {
                "token_endpoint": f"{there}/token",
                "revocation_endpoint": f"{there}/revoke",
                "userinfo_endpoint": f"{there}/me",
            },
            "scopes_supported": ["openid", "accounts"],
            **more,
        }

    def provider(self, **changes: object) -> Provider:
        """A provider on the port that demands a certificate, described in settings alone."""
        there = f"https://localhost:{self.demanding.port}"
        values: dict[str, object] = {
            "client_id": "vault",
            "authorize_url": f"{there}/authorize",
            "token_url": f"{there}/token",
            "revoke_url": f"{there}/revoke",
            "userinfo_url": f"{there}/me",
            "scopes": frozenset({"accounts"}),
            "apis": {"main": f"{there}/v1"},
            "reach": self.reach,
            **changes,
        }
        return load_catalog(overrides={"bank": ProviderOverrides(**values)}).provider("bank")  # type: ignore[arg-type]

    @property
    def reach(self) -> AddressPolicy:
        return AddressPolicy(allow_loopback=True, ca_file=str(self.authority.authority))

    def answer(self, arrival: Arrival) -> Reply:
        if arrival.path.startswith("/.well-known/"):
            return json_reply(self.metadata())
        if arrival.path == "/me":
            return json_reply({"sub": "7", "id": "7", "email": "acme@bank.example"})
        if arrival.path not in {"/token", "/revoke"}:
            return json_reply({}, status=404 if arrival.path == "/absent" else 200)
        by_secret = arrival.form.get("client_secret") == "s3cret"
        ours = ssl.PEM_cert_to_DER_cert(self.ours.pem)
        if arrival.form.get("client_id") != "vault" or not (by_secret or arrival.certificate == ours):
            return json_reply({"error": "invalid_client"}, status=401)
        if arrival.form.get("code", "").startswith("token-vault-doctor"):
            return json_reply({"error": "invalid_grant"}, status=400)
        return json_reply({} if arrival.path == "/revoke" else TOKENS)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def bank(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Bank]:
    folder = tmp_path_factory.mktemp("bank")
    authority, ours, anothers = make_authority(folder, "localhost"), issue(), issue()
    demanding = authority.server()
    demanding.verify_mode = ssl.CERT_REQUIRED
    demanding.maximum_version = ssl.TLSVersion.TLSv1_2  # refuses a certificate during the handshake
    demanding.load_verify_locations(cadata=ours.pem + anothers.pem)
    async with AsyncExitStack() as stack:
        one, two = [
            await stack.enter_async_context(scripted_server(lambda _: json_reply({}), tls=tls))
            for tls in (demanding, authority.server())
        ]
        opened = Bank(one, two, authority, ours, anothers, folder)
        one.answer = two.answer = opened.answer
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def outbound() -> AsyncGenerator[Outbound]:
    async with Outbound(AddressPolicy(allow_loopback=True)) as opened:
        yield opened


async def test_a_certificate_takes_the_secret_s_place_at_the_endpoints_for_it(bank: Bank, tmp_path: Path) -> None:
    registered: dict[str, object] = {
        "issuer": f"https://localhost:{bank.plain.port}",
        "client_id": "vault",
        "ca_file": str(bank.authority.authority),
        "scopes": ["accounts"],
    }
    by_certificate = {**registered, "client_certificate_file": str(bank.file(bank.ours))}
    for settings, there, elsewhere in (
        (by_certificate, bank.demanding, bank.plain),
        ({**registered, "client_secret": "s3cret"}, bank.plain, bank.demanding),
    ):
        before = len(there.arrivals), len(elsewhere.arrivals)
        data = tmp_path / str(there.port)
        data.mkdir()
        async with running_vault(data, providers={"bank": settings}) as vault:
            upstream = vault.deployment.vault.upstreams["bank"]
            answer = await upstream.redeem(code="c", redirect_uri="https://v.example/cb", code_verifier="v" * 43)
            assert answer.account is not None
            assert answer.account.id == "7"
            assert isinstance(await upstream.refresh("r"), Rotation)
            assert await upstream.revoke(refresh_token="r", access_token=None) is RevokeOutcome.REVOKED
            found = await check_provider(vault.deployment, vault.deployment.catalog.provider("bank"))
            assert not [one for one in found if one.verdict is Verdict.PROBLEM], found
            said = "certificate" if settings is by_certificate else "secret"
            assert any(one.sentence.endswith(f"accepts our client ID and {said}") for one in found)
        arrived = [one for one in there.arrivals[before[0] :] if one.path in {"/token", "/revoke", "/me"}]
        assert [one.path for one in arrived][:4] == ["/token", "/me", "/token", "/revoke"]
        assert {one.path for one in elsewhere.arrivals[before[1] :]} <= {
            "/.well-known/openid-configuration",
            "/authorize",
        }
        for one in arrived:
            assert (one.certificate is not None) == (settings is by_certificate)
            if one.path != "/me" and one.method == "POST":
                assert ("client_secret" in one.form) == (settings is not by_certificate)
                assert "authorization" not in one.headers


@pytest.mark.parametrize(
    ("shown", "outcome"),
    [
        ("ours", None),
        ("none", NotSent("TLS failed")),
        ("unknown", NotSent("TLS failed")),
        ("another's", "invalid_client"),
        ("expired", NotSent("this vault's client certificate has expired")),
        ("early", NotSent("this vault's client certificate isn't valid yet")),
        ("gone", NotSent("this vault's client certificate can't be read")),
        ("without key", NotSent("this vault's client certificate can't be read")),
    ],
)
async def test_no_other_certificate_gets_a_token(
    bank: Bank, outbound: Outbound, shown: str, outcome: NotSent | str | None
) -> None:
    others = {"unknown": issue(), "expired": issue(days=-1), "early": issue(after_days=1)}
    chosen = {"another's": bank.anothers, **others}.get(shown, bank.ours)
    file = bank.file(chosen, "shown")
    provider = bank.provider(certificate_file=str(file))
    if shown == "none":
        provider = bank.provider(client_secret="s3cret")
    if shown == "gone":
        file.unlink()
    if shown == "without key":
        file.write_text(bank.ours.pem, encoding="ascii")
    before = len(bank.demanding.arrivals)
    got = await OAuthUpstream(provider, outbound).refresh("r")
    match outcome:
        case None:
            assert isinstance(got, Rotation)
        case str():
            assert isinstance(got, Refusal)
            assert got.code == outcome
        case _:
            assert isinstance(got, NotSent)
            reasons = {outcome.reason, "couldn't connect"} if outcome.reason == "TLS failed" else {outcome.reason}
            assert got.reason in reasons
            assert len(bank.demanding.arrivals) == before


@pytest.mark.parametrize("is_known", [True, False])
async def test_a_certificate_refused_after_the_handshake_loses_no_refresh_token(
    bank: Bank, outbound: Outbound, *, is_known: bool
) -> None:
    tls = bank.authority.server()
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    tls.load_verify_locations(cadata=bank.ours.pem)
    async with scripted_server(bank.answer, tls=tls) as server:
        file = bank.file(bank.ours if is_known else bank.anothers, "modern")
        provider = bank.provider(certificate_file=str(file), token_url=f"https://localhost:{server.port}/token")
        got = await OAuthUpstream(provider, outbound).refresh("r")
        assert len(server.arrivals) == int(is_known)
    if is_known:
        assert isinstance(got, Rotation)
    else:  # no answer if the connection was reset before the reason could be read
        assert isinstance(got, NotSent | Silent)
        assert got.reason in {"our client certificate was refused", "connection broke", "answer was cut"}


async def test_a_renewed_certificate_counts_at_once(bank: Bank, outbound: Outbound) -> None:
    file = bank.file(bank.anothers, "renewed")
    upstream = OAuthUpstream(bank.provider(certificate_file=str(file)), outbound)
    assert isinstance(await upstream.refresh("r"), Refusal)
    bank.file(bank.ours, "renewed")
    assert isinstance(await upstream.refresh("r"), Rotation)


async def test_tokens_that_are_bound_to_the_certificate_are_sent_with_it_alone(bank: Bank, outbound: Outbound) -> None:
    file, metadata = bank.file(bank.ours, "bound"), bank.metadata(tls_client_certificate_bound_access_tokens=True)
    for has_certificate in (True, False):
        endpoints = read_configuration("i", metadata, has_certificate=has_certificate)
        proof = {"certificate_file": str(file)} if has_certificate else {"client_secret": "s3cret"}
        provider = bank.provider(endpoints=endpoints, authorize_url=None, token_url=None, revoke_url=None, **proof)
        request = OutboundRequest("GET", f"https://localhost:{bank.demanding.port}/v1/x", policy=bank.reach)
        made = authorize_request(provider, request, "at-1")
        assert (made.identity is not None, provider.is_composed) == (has_certificate, has_certificate)
        if has_certificate:
            assert (await outbound.send(made)).status == 200
        else:
            with pytest.raises(NotReached):
                await outbound.send(made)


async def test_doctor_tells_when_a_certificate_ends(bank: Bank, tmp_path: Path) -> None:
    file = bank.file(bank.ours, "watched")
    there = f"https://localhost:{bank.demanding.port}"
    settings: Mapping[str, object] = {
        "client_id": "vault",
        "client_certificate_file": str(file),
        "ca_file": str(bank.authority.authority),
        "authorize_url": f"{there}/authorize",
        "token_url": f"{there}/token",
        "userinfo_url": f"{there}/me",
        "scopes": ["accounts"],
    }
    async with running_vault(tmp_path, providers={"bank": settings}) as vault:
        provider = vault.deployment.catalog.provider("bank")
        for certificate, verdict, said in (
            (bank.ours, Verdict.OK, "is valid until"),
            (issue(days=5), Verdict.NOTE, "expires on"),
            (issue(days=-1), Verdict.PROBLEM, "expired on"),
            (issue(after_days=2), Verdict.PROBLEM, "only valid from"),
            (None, Verdict.PROBLEM, "can't read"),
        ):
            if certificate is None:
                file.unlink()
            else:
                bank.file(certificate, "watched")
            found = [one for one in await check_provider(vault.deployment, provider) if one.check == "bank.certificate"]
            assert [(one.verdict, said in one.sentence) for one in found] == [(verdict, True)], found
            assert bool(found[0].fix) == (verdict is not Verdict.OK)


def test_a_file_that_is_no_certificate_with_its_key_is_refused_at_start(bank: Bank, tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text(bank.ours.pem + bank.anothers.private(), encoding="ascii")
    for file, is_good in ((broken, False), (tmp_path / "absent.pem", False), (bank.file(bank.ours), True)):
        settings = load_settings(overrides={"providers": {"corp": {"client_certificate_file": str(file)}}})
        if is_good:
            assert settings.providers["corp"].certificate("corp") == str(file)
            continue
        with pytest.raises(SettingsRefused, match=r"providers\.corp\.client_certificate_file"):
            settings.providers["corp"].certificate("corp")
    with pytest.raises(ProviderFileRefused, match="has no OAuth"):
        load_catalog(overrides={"sendgrid": ProviderOverrides(certificate_file="x")})
    assert load_catalog(overrides={"sendgrid": ProviderOverrides()}).provider("sendgrid").registration.is_on


async def test_endpoints_are_remembered_for_clients_with_or_without_a_certificate(
    bank: Bank, outbound: Outbound, tmp_path: Path
) -> None:
    issuer, token = f"https://localhost:{bank.plain.port}", "token_endpoint"
    found = await find_endpoints(issuer, outbound, policy=bank.reach, has_certificate=True)
    assert found.token_url == bank.metadata()["mtls_endpoint_aliases"][token]  # type: ignore[index]
    registered: dict[str, object] = {"issuer": issuer, "ca_file": str(bank.authority.authority)}
    more: dict[str, object] = {**registered, "client_certificate_file": str(bank.file(bank.ours))}

    async def endpoints(values: dict[str, object]) -> str:
        settings = load_settings(
            overrides={"sandbox": {"loopback_upstreams": True}, "providers": {"bank": values}},
        )
        return (await endpoints_of_issuers(settings, data=tmp_path, outbound=outbound))["bank"].token_url

    usual = bank.plain.answer
    assert await endpoints(more) == found.token_url
    try:
        bank.plain.answer = lambda _: json_reply({}, status=503)
        assert await endpoints(more) == found.token_url
        with pytest.raises(SettingsRefused, match="bank"):
            await endpoints(registered)
    finally:
        bank.plain.answer = usual
    assert await endpoints(registered) == bank.metadata()[token]
