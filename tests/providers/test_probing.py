"""Probes: what each answer of a provider says about a revoked token, and that none leaves a token behind."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

import pytest

from providers.definitions.catalog import ProviderOverrides, load_catalog
from providers.definitions.grant_facts import ProbeFacts
from providers.definitions.model import Provider, Registration
from providers.definitions.validation import problems_of
from providers.oauth.client import OAuthUpstream
from providers.outbound.addresses import AddressPolicy
from providers.outbound.client import Outbound
from tests.support.doubles.scripted_server import Arrival, Reply, ScriptedServer, json_reply, scripted_server
from vault.upstream import ProbeAnswer, ProbeOutcome, RevokeOutcome

DEAD, ALIVE, UNPROVEN, SILENT = ProbeOutcome.DEAD, ProbeOutcome.ALIVE, ProbeOutcome.UNPROVEN, ProbeOutcome.SILENT
ALIVE_ANSWER = {
    "sub": "1017",
    "email": "a@x.example",
    "ok": True,
    "team_id": "T",
    "user_id": "U",
    "id": 7,
    "login": "a",
}
REFUSED = Reply(401)
BAD_GRANT = json_reply({"error": "invalid_grant"}, status=400)
MINTED = json_reply({"access_token": "minted", "expires_in": 3600, "token_type": "Bearer"})


def get_provider(name: str) -> Provider:
    found = load_catalog().get(name)
    assert found is not None
    return found


@dataclass
class Place:
    """A provider at a scripted server, with its answers to the account's lookup, a refresh, and introspection."""

    server: ScriptedServer
    outbound: Outbound
    account: Reply = field(default_factory=lambda: json_reply(ALIVE_ANSWER))
    token: Reply = field(default_factory=lambda: MINTED)
    introspection: Reply = field(default_factory=lambda: json_reply({"active": True}))

    def answer(self, arrival: Arrival) -> Reply:
        match arrival.path:
            case "/account":
                return self.account
            case "/token":
                return self.token
            case "/introspect":
                return self.introspection
            case _:
                return json_reply({"ok": True})

    def upstream(self, name: str, *, secret: str | None = "our-secret") -> OAuthUpstream:
        found = get_provider(name)
        url, probe = self.server.url, found.revoke.probe
        if probe.url is not None:
            probe = probe.model_copy(update={"url": f"{url}/introspect"})
        changes: dict[str, Any] = {
            "hosts": found.hosts.model_copy(update={"token_url": f"{url}/token", "revoke_url": f"{url}/revoke"}),
            "identity": found.identity.model_copy(update={"url": f"{url}/account", "api": None, "path": None}),
            "revoke": found.revoke.model_copy(update={"probe": probe}),
        }
        registration = Registration("our-client", secret, reach=AddressPolicy(allow_loopback=True))
        return OAuthUpstream(found.model_copy(update=changes).with_registration(registration), self.outbound)

    async def probe(
        self,
        name: str,
        *,
        refresh: str | None = "r",
        access: str | None = "a",
        is_fresh: bool = True,
        is_revoked: bool = True,
    ) -> ProbeAnswer:
        return await self.upstream(name).probe(
            refresh_token=refresh, access_token=access, is_fresh=is_fresh, is_revoked=is_revoked
        )

    @property
    def paths(self) -> list[str]:
        return [one.path for one in self.server.arrivals]


@pytest.fixture
async def place() -> AsyncGenerator[Place]:
    async with (
        scripted_server(lambda _: Reply(404)) as server,
        Outbound(AddressPolicy(allow_loopback=True)) as outbound,
    ):
        made = Place(server, outbound)
        server.answer = made.answer
        yield made


@pytest.mark.parametrize(
    ("name", "reply", "expected"),
    [
        ("github", json_reply(ALIVE_ANSWER), ALIVE),
        ("github", REFUSED, DEAD),
        ("github", json_reply({"message": "Bad credentials"}, status=401), DEAD),
        ("github", json_reply({"message": "Not Found"}, status=404), SILENT),
        ("github", Reply(500), SILENT),
        ("github", Reply(close=True), SILENT),
        ("github", json_reply({}), SILENT),
        ("slack", json_reply({"ok": False, "error": "token_revoked"}), DEAD),
        ("slack", json_reply({"ok": False, "error": "internal_error"}), SILENT),
        ("facebook", json_reply({"error": {"code": 190, "message": "x"}}, status=400), DEAD),
        ("facebook", json_reply({"error": {"code": 4, "message": "x"}}, status=400), SILENT),
    ],
)
async def test_the_accounts_look_up_tells(place: Place, name: str, reply: Reply, expected: ProbeOutcome) -> None:
    place.account = reply
    found = await place.probe(name, refresh=None)
    assert (found.outcome, found.ways) == (expected, ("identity",))


async def test_a_refresh_token_is_proven_dead_only_with_the_whole_grant(place: Place) -> None:
    place.account = REFUSED
    assert (await place.probe("github")).outcome is DEAD, "there a revocation ends the whole grant"
    assert (await place.probe("slack")).outcome is UNPROVEN, "there it ends one token"
    assert (await place.probe("slack", refresh=None)).outcome is DEAD


async def test_an_expired_access_token_proves_nothing_of_the_rest(place: Place) -> None:
    place.account = REFUSED
    assert (await place.probe("github", is_fresh=False)).outcome is UNPROVEN
    assert (await place.probe("github", is_fresh=True)).outcome is DEAD


@pytest.mark.parametrize(("is_revoked", "expected"), [(True, DEAD), (False, UNPROVEN)])
async def test_a_dead_access_token_speaks_for_the_rest_only_after_a_revocation(
    place: Place, expected: ProbeOutcome, *, is_revoked: bool
) -> None:
    place.account, place.token = REFUSED, BAD_GRANT
    assert (await place.probe("github", is_revoked=is_revoked)).outcome is expected
    assert (await place.probe("google", is_revoked=is_revoked)).outcome is DEAD, "each token was asked about"


async def test_where_a_refresh_is_free_a_refused_one_is_the_proof(place: Place) -> None:
    place.account, place.token = REFUSED, BAD_GRANT
    found = await place.probe("google", is_fresh=False)
    assert (found.outcome, found.ways) == (DEAD, ("identity", "refresh"))
    assert "/revoke" not in place.paths


async def test_a_token_that_a_probe_was_given_is_revoked_at_once(place: Place) -> None:
    place.account = REFUSED
    found = await place.probe("google", is_fresh=False)
    assert (found.outcome, found.ways) == (ALIVE, ("identity", "refresh"))
    assert place.paths == ["/account", "/token", "/revoke"]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (json_reply({"error": "invalid_client"}, status=401), SILENT),
        (Reply(503), SILENT),
        (Reply(429), SILENT),
        (BAD_GRANT, DEAD),
    ],
)
async def test_only_a_refusal_of_the_grant_itself_counts(place: Place, reply: Reply, expected: ProbeOutcome) -> None:
    place.account, place.token = REFUSED, reply
    assert (await place.probe("google")).outcome is expected


async def test_no_refresh_is_tried_where_it_could_leave_a_token(place: Place) -> None:
    place.account = REFUSED
    for name in ("slack", "github", "linear", "microsoft"):
        await place.probe(name)
    assert "/token" not in place.paths


async def test_an_access_token_that_works_ends_the_asking(place: Place) -> None:
    assert (await place.probe("google")).outcome is ALIVE
    assert place.paths == ["/account"]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (json_reply({"active": False}), DEAD),
        (json_reply({"active": True}), ALIVE),
        (json_reply({"active": "false"}), SILENT),
        (json_reply({"active": False}, status=401), SILENT),
    ],
)
async def test_introspection_tells_of_each_token(place: Place, reply: Reply, expected: ProbeOutcome) -> None:
    place.introspection = reply
    found = await place.probe("keycloak")
    assert found.outcome is expected
    assert place.paths.count("/introspect") == (2 if expected is DEAD else 1)
    assert all("authorization" in one.headers or b"client_secret" in one.body for one in place.server.arrivals)


async def test_introspection_needs_our_secret(place: Place) -> None:
    place.introspection = json_reply({"active": False})
    public = place.upstream("keycloak", secret=None)
    assert (await public.probe(refresh_token="r", access_token="a", is_fresh=True, is_revoked=True)).outcome is UNPROVEN
    assert (await place.probe("keycloak")).outcome is DEAD


async def test_patience_that_a_probe_is_asked_for_is_passed_on(place: Place) -> None:
    place.account = Reply(429, headers={"Retry-After": "77"})
    assert (await place.probe("github")).retry_after == 77
    place.account = Reply(500)
    assert (await place.probe("github")).retry_after is None


async def test_a_file_without_a_way_is_unproven(place: Place) -> None:
    assert await place.probe("linear") == ProbeAnswer(UNPROVEN)
    assert place.paths == []
    assert await place.upstream("linear").revoke(refresh_token="r", access_token="a") is RevokeOutcome.REVOKED


def change_probe(name: str, **probe: str | None) -> Provider:
    found = get_provider(name)
    facts = found.revoke.probe.model_copy(update=probe)
    return found.model_copy(update={"revoke": found.revoke.model_copy(update={"probe": facts})})


@pytest.mark.parametrize(
    ("name", "probe", "field"),
    [
        ("slack", {"refresh_token": "refresh"}, "revoke.probe.refresh_token"),
        ("google", {"access_token": "introspection"}, "revoke.probe.url"),
        ("google", {"url": "https://x.example/introspect"}, "revoke.probe.url"),
        ("notion", {"access_token": "identity"}, "revoke.probe.access_token"),
    ],
)
def test_a_file_with_a_harmful_or_impossible_probe_is_refused(name: str, probe: dict[str, str], field: str) -> None:
    assert [one for one in problems_of(get_provider(name), stem=name) if one.startswith("revoke.probe")] == []
    found = [one for one in problems_of(change_probe(name, **probe), stem=name) if one.startswith("revoke.probe")]
    assert [one.partition(":")[0] for one in found] == [field]


def test_tokens_of_an_operators_own_server_are_not_shown_to_the_one_of_the_file() -> None:
    inputs = {"host": "id.example.com", "realm": "main"}
    kept = ProviderOverrides(inputs=inputs)
    assert load_catalog(overrides={"keycloak": kept}).provider("keycloak").revoke.probe.url is not None
    moved = ProviderOverrides(inputs=inputs, revoke_url="https://other.example/revoke")
    assert load_catalog(overrides={"keycloak": moved}).provider("keycloak").revoke.probe == ProbeFacts()
