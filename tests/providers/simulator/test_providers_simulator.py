"""The whole life of a connection at both faces of the sandbox: consent, code, calls, refresh, narrowing, revocation."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

import pytest
import pytest_asyncio

from providers.api.api import TokenRejected, UpstreamAPI, UpstreamRefused
from providers.definitions.catalog import Catalog, ProviderOverrides, load_catalog
from providers.oauth.client import OAuthUpstream
from providers.outbound.addresses import AddressPolicy
from providers.outbound.client import Outbound
from providers.simulator.local_server import Simulator, running_simulator
from providers.simulator.person import consent
from providers.tools.builtin import builtin_tools
from vault.upstream import NotSent, Refusal, RevokeOutcome, Rotation, Silent, TokenAnswer

AUTH = "https://www.googleapis.com/auth/"
REDIRECT = "http://127.0.0.1:8765/connect/callback/x"
VERIFIER = "v" * 43
TOOLS = {tool.name: tool for tool in builtin_tools()}


@dataclass
class Sandbox:
    """The simulator, and our access to it."""

    simulator: Simulator
    catalog: Catalog
    outbound: Outbound

    def upstream(self, name: str) -> OAuthUpstream:
        return OAuthUpstream(self.catalog.provider(name), self.outbound)

    async def connect(self, name: str, *scopes: str, ticked: frozenset[str] | None = None) -> TokenAnswer:
        """A person follows our link and agrees; then we redeem the code."""
        upstream = self.upstream(name)
        url = upstream.authorization_url(
            redirect_uri=REDIRECT, state="s", scopes=frozenset(scopes), code_verifier=VERIFIER
        )
        back = parse_qs(urlsplit(await consent(url, account="alice", scopes=ticked)).query)
        assert back["state"] == ["s"]
        return await upstream.redeem(code=back["code"][0], redirect_uri=REDIRECT, code_verifier=VERIFIER)

    async def run(self, tool_name: str, token: str, account: str, **arguments: object) -> Mapping[str, object]:
        tool = TOOLS[tool_name]
        provider = self.catalog.provider(tool.provider or "")
        api = UpstreamAPI(
            provider,
            self.outbound,
            token=token,
            scopes=tool.scopes,
            account=account,
            now=int(self.simulator.now()),
        )
        output = await tool.call(api, tool.input.model_validate(arguments), _quiet)
        assert str(output)
        return output.model_dump()


async def _quiet(done: int, total: int | None, message: str) -> None:
    pass


@pytest_asyncio.fixture
async def sandbox() -> AsyncGenerator[Sandbox]:
    async with running_simulator() as simulator, Outbound(AddressPolicy(allow_loopback=True)) as outbound:
        overrides: dict[str, ProviderOverrides] = {}
        for name, section in simulator.settings().items():
            overrides[name] = ProviderOverrides(**section)  # pyright: ignore[reportArgumentType]
        yield Sandbox(simulator, load_catalog(overrides=overrides), outbound)


async def test_a_slack_account_from_consent_to_revocation(sandbox: Sandbox) -> None:
    answer = await sandbox.connect("slack", "chat:write", "channels:read", "channels:history")
    assert answer.account is not None and answer.refresh_token is not None
    assert answer.scopes == {"chat:write", "channels:read", "channels:history"}
    account = answer.account.id
    assert account.count(":") == 1 and "alice" in answer.account.label

    channels = await sandbox.run("slack_channels", answer.access_token, account)
    names = {channel["id"]: channel["name"] for channel in channels["channels"]}
    assert names["C0SBGENERAL"] == "general" and "incidents" not in names.values()
    posted = await sandbox.run("slack_post", answer.access_token, account, channel="#general", text="Hello")
    history = await sandbox.run("slack_history", answer.access_token, account, channel="C0SBGENERAL")
    newest = history["messages"][0]
    assert (newest["text"], newest["ts"]) == ("Hello", posted["ts"])
    with pytest.raises(UpstreamRefused, match="channel_not_found"):
        await sandbox.run("slack_post", answer.access_token, account, channel="C999", text="x")

    upstream = sandbox.upstream("slack")
    sandbox.simulator.control("expire")
    with pytest.raises(TokenRejected):
        await sandbox.run("slack_post", answer.access_token, account, channel="#general", text="late")
    rotated = await upstream.refresh(answer.refresh_token)
    assert isinstance(rotated, Rotation) and rotated.answer.refresh_token is not None
    await sandbox.run("slack_post", rotated.answer.access_token, account, channel="#general", text="again")
    spent = await upstream.refresh(answer.refresh_token)
    assert isinstance(spent, Refusal) and spent.ends_grant
    assert [post["text"] for post in sandbox.simulator.books()["posts"]] == ["Hello", "again"]


async def test_a_revoked_slack_account_is_dead_at_slack(sandbox: Sandbox) -> None:
    answer = await sandbox.connect("slack", "chat:write", "channels:read")
    upstream = sandbox.upstream("slack")
    outcome = await upstream.revoke(refresh_token=answer.refresh_token, access_token=answer.access_token)
    assert outcome is RevokeOutcome.REVOKED
    assert answer.refresh_token is not None
    after = await upstream.refresh(answer.refresh_token)
    assert isinstance(after, Refusal) and after.ends_grant
    with pytest.raises(TokenRejected):
        await sandbox.run("slack_channels", answer.access_token, "T:U")


async def test_a_google_account_from_consent_to_revocation(sandbox: Sandbox) -> None:
    _, scopes = sandbox.catalog.resolve("google-calendar")
    answer = await sandbox.connect("google-calendar", *scopes)
    assert answer.account is not None and answer.account.label.startswith("alice@")
    assert answer.scopes is not None and scopes <= answer.scopes
    assert answer.scopes - scopes <= sandbox.catalog.provider("google").policy().always_granted
    account, refresh_token = answer.account.id, answer.refresh_token
    assert refresh_token is not None

    created = await sandbox.run(
        "calendar_create",
        answer.access_token,
        account,
        summary="Lunch",
        start="2030-01-31T12:00:00+01:00",
        end="2030-01-31T13:00:00+01:00",
    )
    upstream = sandbox.upstream("google")
    readonly = f"{AUTH}calendar.events.readonly"
    narrow = await upstream.refresh(refresh_token, frozenset({readonly}))
    assert isinstance(narrow, Rotation)
    assert narrow.answer.scopes is not None and narrow.answer.scopes - {"openid", f"{AUTH}userinfo.email"} == {readonly}
    listed = await sandbox.run(
        "calendar_list", narrow.answer.access_token, account, time_min="2030-01-31T00:00:00Z", limit=5
    )
    assert created["id"] in [event["id"] for event in listed["events"]]
    with pytest.raises(UpstreamRefused, match="granted"):
        await sandbox.run(
            "calendar_create", narrow.answer.access_token, account, summary="x", start="2030-01-31", end="2030-02-01"
        )
    wider = await upstream.refresh(refresh_token, frozenset({f"{AUTH}calendar"}))
    assert isinstance(wider, Refusal) and not wider.ends_grant

    assert await upstream.revoke(refresh_token=refresh_token, access_token=None) is RevokeOutcome.REVOKED
    assert await upstream.revoke(refresh_token=refresh_token, access_token=None) is RevokeOutcome.REVOKED
    after = await upstream.refresh(refresh_token)
    assert isinstance(after, Refusal) and after.ends_grant


async def test_what_the_person_unticks_at_google_is_not_granted(sandbox: Sandbox) -> None:
    readonly = f"{AUTH}calendar.events.readonly"
    answer = await sandbox.connect("google", f"{AUTH}calendar.events", readonly, ticked=frozenset({readonly}))
    assert answer.scopes is not None
    assert readonly in answer.scopes and f"{AUTH}calendar.events" not in answer.scopes


@pytest.mark.parametrize(
    ("kind", "meaning"),
    [("drop_before", Silent), ("drop_after", Silent), ("html", Silent), ("cut", Silent), ("huge", Silent)],
)
async def test_a_misbehaving_token_endpoint_is_read_for_what_it_is(
    sandbox: Sandbox, kind: str, meaning: type[Silent | NotSent]
) -> None:
    answer = await sandbox.connect("google", f"{AUTH}calendar.events")
    assert answer.refresh_token is not None
    sandbox.simulator.fault("google.token.refresh", kind)
    upstream = sandbox.upstream("google")
    assert isinstance(await upstream.refresh(answer.refresh_token), meaning)
    assert isinstance(await upstream.refresh(answer.refresh_token), Rotation)
