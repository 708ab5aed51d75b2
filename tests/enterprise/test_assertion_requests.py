"""Answers of identity providers and services to assertions, over HTTP: each false one is refused, with a twin."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field

import pytest

from providers.definitions.catalog import SHELF, read_provider
from providers.definitions.enterprise import Enterprise, IdJag
from providers.definitions.model import Hosts, Registration
from providers.oauth.assertions import ID_JAG, ID_TOKEN, AssertedAccess, IdentityProvider, IdentityUpstream
from providers.oauth.client import JWT_BEARER, OAuthUpstream
from providers.oauth.narrowing import EXCHANGE
from providers.outbound.addresses import AddressPolicy
from providers.outbound.client import Outbound
from tests.support.doubles.scripted_server import Arrival, Reply, ScriptedServer, json_reply, scripted_server
from vault.upstream import NotSent, RefreshOutcome, Refusal, RevokeOutcome, Rotation, Silent, UpstreamError

LOOPBACK = AddressPolicy(allow_loopback=True)
SUBJECT, CLIENT = "employee-1", "vault-at-idp"
READ = frozenset({"read"})


def id_token(**changes: object) -> str:
    """An ID token for the vault's client. Its signature was checked at sign-in, or it came from the token endpoint."""
    claims = {"iss": "", "sub": SUBJECT, "aud": CLIENT, "iat": 1000, "exp": 1300, **changes}
    parts = (json.dumps(part).encode() for part in ({"alg": "RS256"}, claims))
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts) + ".c2lnbmF0dXJl"


@dataclass
class Wire:
    """One server that is both identity provider (`/idp`) and service; `said` replaces answers by path."""

    server: ScriptedServer
    outbound: Outbound
    said: dict[str, Reply] = field(default_factory=dict[str, Reply])

    @property
    def issuer(self) -> str:
        return f"{self.server.url}/idp"

    def token(self, **changes: object) -> str:
        return id_token(**{"iss": self.issuer, **changes})

    def answer(self, arrival: Arrival) -> Reply:
        if arrival.path in self.said:
            return self.said[arrival.path]
        match arrival.path:
            case "/idp/.well-known/openid-configuration":
                return json_reply(
                    {
                        "issuer": self.issuer,
                        "token_endpoint": f"{self.issuer}/token",
                        "revocation_endpoint": f"{self.issuer}/revoke",
                    }
                )
            case "/idp/token" if arrival.form["grant_type"] == EXCHANGE:
                return json_reply(assertion_answer())
            case "/idp/token":
                return json_reply({"access_token": "opaque", "id_token": self.token(), "refresh_token": "next"})
            case "/token":
                return json_reply({"access_token": "of-service", "token_type": "Bearer", "expires_in": 600})
            case "/identity":
                return json_reply({"data": {"viewer": {"id": "u1", "email": "alice@acme.example"}}})
            case _:
                return json_reply({})

    @property
    def identity(self) -> IdentityUpstream:
        known = IdentityProvider("sign-in-acme", "Acme", self.issuer, CLIENT, client_secret="secret", reach=LOOPBACK)
        return IdentityUpstream(known, self.outbound)

    @property
    def access(self) -> AssertedAccess:
        provider = read_provider(SHELF / "linear.toml")
        facts = IdJag(audience="https://auth.linear.example", resource="https://api.linear.example", scopes=READ)
        provider = provider.model_copy(
            update={
                "hosts": Hosts(authorize_url=f"{self.server.url}/authorize", token_url=f"{self.server.url}/token"),
                "identity": provider.identity.model_copy(update={"url": f"{self.server.url}/identity"}),
                "enterprise": Enterprise(id_jag=facts),
            }
        ).with_registration(Registration("vault-at-linear", "other secret"))
        return AssertedAccess(self.identity, OAuthUpstream(provider, self.outbound), provider, SUBJECT)

    def form_sent_to(self, path: str) -> Mapping[str, str]:
        """The form of the only request to this path."""
        (found,) = [one for one in self.server.arrivals if one.path == path]
        return found.form

    @property
    def reached_service(self) -> bool:
        return any(one.path == "/token" for one in self.server.arrivals)


def assertion_answer(**changes: object) -> dict[str, object]:
    return {"issued_token_type": ID_JAG, "access_token": "an.id.jag", "token_type": "N_A", "scope": "read", **changes}


@pytest.fixture
async def wire() -> AsyncGenerator[Wire]:
    async with scripted_server(lambda _: Reply()) as server, Outbound(LOOPBACK) as outbound:
        made = Wire(server, outbound)
        server.answer = made.answer
        yield made


async def test_the_exchange_and_the_redemption_are_as_the_draft_says(wire: Wire) -> None:
    token = wire.token()
    outcome = await wire.access.refresh(token)
    assert isinstance(outcome, Rotation)
    assert (outcome.answer.access_token, outcome.answer.scopes) == ("of-service", READ)
    assert wire.form_sent_to("/idp/token") == {
        "grant_type": EXCHANGE,
        "requested_token_type": ID_JAG,
        "audience": "https://auth.linear.example",
        "resource": "https://api.linear.example",
        "scope": "read",
        "subject_token": token,
        "subject_token_type": ID_TOKEN,
    }
    assert wire.form_sent_to("/token") == {
        "grant_type": JWT_BEARER,
        "assertion": "an.id.jag",
        "client_id": "vault-at-linear",
        "client_secret": "other secret",
    }


async def test_a_refresh_token_of_the_service_is_left_out(wire: Wire) -> None:
    """ID-JAG -03 §4.4.3: the service shouldn't issue one, so that the company decides about each renewal."""
    wire.said["/token"] = json_reply({"access_token": "of-service", "refresh_token": "kept", "scope": "read"})
    outcome = await wire.access.refresh(wire.token())
    assert isinstance(outcome, Rotation)
    assert outcome.answer.refresh_token is None


@pytest.mark.parametrize(
    "claims",
    [{"sub": "employee-2"}, {"aud": "another-client"}, {"iss": "https://other.example"}, {"sub": None}],
    ids=["another person", "another client", "another issuer", "nobody"],
)
async def test_an_id_token_that_is_not_ours_is_not_sent(wire: Wire, claims: Mapping[str, object]) -> None:
    outcome = await wire.access.refresh(wire.token(**claims))
    assert isinstance(outcome, Refusal)
    assert (outcome.code, outcome.ends_grant) == ("identity_wrong_subject", True)
    assert wire.server.arrivals == []
    assert isinstance(await wire.access.refresh(wire.token()), Rotation)


async def test_what_is_no_identity_assertion_is_not_sent_to_the_service(wire: Wire) -> None:
    """RFC 8693 §2.2.1: an access token here would be the person's token for the identity provider."""
    access_token = "urn:ietf:params:oauth:token-type:access_token"
    wire.said["/idp/token"] = json_reply(assertion_answer(issued_token_type=access_token))
    outcome = await wire.access.refresh(wire.token())
    assert isinstance(outcome, Refusal)
    assert (outcome.code, outcome.ends_grant) == ("identity_wrong_token_type", False)
    assert not wire.reached_service
    del wire.said["/idp/token"]
    assert isinstance(await wire.access.refresh(wire.token()), Rotation)


@pytest.mark.parametrize(
    ("path", "reply", "code", "ends"),
    [
        ("/idp/token", json_reply({"error": "access_denied"}, status=400), "identity_access_denied", True),
        ("/idp/token", json_reply({"error": "invalid_target"}, status=400), "identity_invalid_target", True),
        ("/idp/token", json_reply({"error": "invalid_request"}, status=400), "identity_invalid_request", True),
        ("/idp/token", json_reply({"error": "invalid_client"}, status=401), "identity_invalid_client", False),
        ("/idp/token", json_reply({"error": "unauthorized_client"}, status=400), "identity_unauthorized_client", False),
        ("/token", json_reply({"error": "invalid_grant"}, status=400), "invalid_grant", True),
        ("/token", json_reply({"error": "invalid_scope"}, status=400), "invalid_scope", True),
        ("/token", json_reply({"error": "invalid_client"}, status=401), "invalid_client", False),
        ("/token", json_reply({"error": "unsupported_grant_type"}, status=400), "unsupported_grant_type", False),
    ],
)
async def test_a_refusal_says_who_refused_and_our_own_mistakes_end_nothing(
    wire: Wire, path: str, reply: Reply, code: str, ends: bool
) -> None:
    wire.said[path] = reply
    outcome = await wire.access.refresh(wire.token())
    assert isinstance(outcome, Refusal)
    assert (outcome.code, outcome.ends_grant) == (code, ends)


@pytest.mark.parametrize(
    ("path", "reply", "kind"),
    [
        ("/idp/token", Reply(503, headers={"Retry-After": "7"}), NotSent),
        ("/idp/token", Reply(close=True), Silent),
        ("/token", Reply(500), Silent),
        ("/idp/.well-known/openid-configuration", Reply(404), NotSent),
        ("/idp/.well-known/openid-configuration", json_reply({"issuer": "https://other.example"}), NotSent),
    ],
)
async def test_silence_ends_nothing(wire: Wire, path: str, reply: Reply, kind: type[RefreshOutcome]) -> None:
    wire.said[path] = reply
    assert isinstance(await wire.access.refresh(wire.token()), kind)


async def test_no_text_of_a_refusal_repeats_the_assertion_or_the_id_token(wire: Wire) -> None:
    token = wire.token()
    for path, secret in (("/idp/token", token), ("/token", "an.id.jag")):
        wire.said[path] = json_reply({"error": "invalid_grant", "error_description": f"no: {secret}"}, status=400)
        outcome = await wire.access.refresh(token)
        assert isinstance(outcome, Refusal)
        assert secret not in str(outcome)
        del wire.said[path]


async def test_connecting_names_the_account_or_says_why_not(wire: Wire) -> None:
    answer = await wire.access.connect(wire.token())
    assert answer.account is not None
    assert answer.account.label == "alice@acme.example"
    wire.said["/idp/token"] = json_reply({"error": "access_denied"}, status=400)
    with pytest.raises(UpstreamError, match="identity_access_denied"):
        await wire.access.connect(wire.token())
    wire.said["/idp/token"] = Reply(close=True)
    with pytest.raises(UpstreamError, match="temporarily_unavailable"):
        await wire.access.connect(wire.token())


async def test_a_refresh_at_the_identity_provider_brings_an_id_token_for_as_long_as_it_says(wire: Wire) -> None:
    outcome = await wire.identity.refresh("first")
    assert isinstance(outcome, Rotation)
    assert (outcome.answer.access_token, outcome.answer.refresh_token) == (wire.token(), "next")
    assert outcome.answer.expires_in == 300
    wire.said["/idp/token"] = json_reply({"access_token": "opaque", "refresh_token": "next"})
    outcome = await wire.identity.refresh("first")
    assert isinstance(outcome, Rotation), "the new refresh token is kept although no ID token came"
    assert (outcome.answer.access_token, outcome.answer.refresh_token) == ("", "next")


async def test_an_identity_provider_ends_a_refresh_token_where_it_has_an_address_for_that(wire: Wire) -> None:
    assert await wire.identity.revoke(refresh_token="first", access_token=None) is RevokeOutcome.REVOKED
    assert wire.form_sent_to("/idp/revoke")["token"] == "first"
    wire.said["/idp/.well-known/openid-configuration"] = json_reply(
        {"issuer": wire.issuer, "token_endpoint": f"{wire.issuer}/token"}
    )
    async with Outbound(LOOPBACK) as outbound:
        other = Wire(wire.server, outbound, wire.said).identity
        assert await other.revoke(refresh_token="first", access_token=None) is RevokeOutcome.UNSUPPORTED


async def test_nobody_goes_to_an_identity_provider_to_connect_it(wire: Wire) -> None:
    with pytest.raises(UpstreamError, match="sign in with Acme"):
        wire.identity.authorization_url(redirect_uri="", state="", scopes=READ, code_verifier="")
    with pytest.raises(UpstreamError, match="sign in with Acme"):
        await wire.identity.redeem()
    assert (await wire.identity.identify(wire.token(), {})).id == SUBJECT
    with pytest.raises(UpstreamError, match="account_unknown"):
        await wire.identity.identify("garbage", {})
    assert isinstance(await wire.identity.narrow(wire.token(), READ), Refusal)
    assert isinstance(await wire.identity.refresh("first", READ), Refusal)
