"""Secrets that settings only refer to: read where they are stored, when needed, with clear refusals if that fails."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio

from providers.oauth.client import OAuthUpstream
from providers.oauth.secret_references import ReferencedUpstream, SecretUnavailable
from providers.outbound.addresses import AddressPolicy
from providers.outbound.client import Outbound
from server.app import catalog_of_settings
from server.doctor.providers import check_provider
from server.secret_settings import SecretSettings
from server.secret_sources import SecretSources, is_reference, reference_problem
from server.settings import SettingsRefused, load_settings
from tests.support.doubles.scripted_server import (
    Arrival,
    Reply,
    ScriptedServer,
    json_reply,
    provider_at,
    scripted_server,
)
from tests.support.doubles.secret_services import (
    BAO_TOKEN,
    CONNECT_TOKEN,
    bws_script,
    command,
    connect,
    op_script,
    openbao,
)
from tests.support.harness import running_vault
from vault.upstream import NotSent, Rotation, UpstreamError

SECRET = "secret-canary"
ID = "be8e0ad8-d545-4017-a55a-b02f014d4158"


def sources(environment: dict[str, str] | None = None, **settings: object) -> SecretSources:
    return SecretSources(SecretSettings.model_validate(settings), environment=environment or {})


async def refusal(found: SecretSources, reference: str) -> str:
    with pytest.raises(SecretUnavailable) as refused:
        await found.read(reference)
    assert SECRET not in refused.value.description
    return refused.value.description


@pytest.mark.parametrize(
    ("well", "badly"),
    [
        ("op://Infra/Slack/credential", "op://Infra/Slack"),
        ("op://Infra/Slack/old/credential", "op://Infra//credential"),
        (f"bws://{ID}", "bws://slack"),
        ("bao://secret/slack/app#secret", "bao://secret/slack/app"),
        ("env://SLACK_SECRET", "env://SLACK-SECRET"),
        ("file:///run/secrets/slack", "file://slack"),
    ],
)
def test_a_reference_has_the_form_of_its_source(well: str, badly: str) -> None:
    assert is_reference(well)
    assert reference_problem(well) is None
    assert is_reference(badly)
    assert str(reference_problem(badly)).startswith("write it as ")
    assert not is_reference("xoxp-a-secret")


async def test_a_variable_and_a_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    found = sources({"SLACK": SECRET})
    assert await found.read("env://SLACK") == await found.read(f"file://{file}") == SECRET
    assert "no such variable" in await refusal(found, "env://OTHER")
    assert "no such file" in await refusal(found, f"file://{file}.gone")
    file.write_text("\n")
    assert "holds no secret" in await refusal(sources(), f"file://{file}")


async def test_a_secret_is_used_for_some_seconds_and_then_read_again(tmp_path: Path) -> None:
    file, now = tmp_path / "secret", [1000.0]
    reference = f"file://{file}"
    found = SecretSources(SecretSettings(cache=30), environment={}, clock=lambda: now[0])
    file.write_text("first")
    assert await found.read(reference) == "first"
    file.write_text("second")
    now[0] += 20
    assert await found.read(reference) == "first"
    now[0] += 20
    assert await found.read(reference) == "second"
    file.write_text("third")
    now[0] += 1
    assert await found.read(reference, is_fresh=True) == "third"


@pytest.mark.parametrize("cache", [0, 1])
async def test_a_secret_leaves_the_memory_after_its_seconds(cache: int) -> None:
    environment = {"SLACK": SECRET}
    found = SecretSources(SecretSettings(cache=cache), environment=environment)
    assert await found.read("env://SLACK") == SECRET
    environment.clear()
    assert (SECRET in str(vars(found))) is bool(cache)
    async with asyncio.timeout(30):
        while SECRET in str(vars(found)):
            await asyncio.sleep(0.05)


@pytest_asyncio.fixture
async def onepassword() -> AsyncGenerator[ScriptedServer]:
    fields: list[dict[str, object]] = [
        {"id": "f1", "label": "credential", "value": SECRET},
        {"id": "f2", "label": "retired", "value": "of-a-section", "section": {"id": "s1"}},
    ]
    async with scripted_server(connect(fields)) as server:
        yield server


async def test_a_connect_server_is_asked_by_names_and_by_ids(onepassword: ScriptedServer) -> None:
    found = sources(onepassword_url=onepassword.url, onepassword_token=CONNECT_TOKEN)
    assert await found.read("op://Infra/Slack/credential") == SECRET
    assert await found.read(f"op://{'v' * 26}/{'i' * 26}/f1") == SECRET
    assert await found.read("op://Infra/Slack/old/retired") == "of-a-section"
    for reference in ("op://Other/Slack/credential", "op://Infra/Other/credential", "op://Infra/Slack/other"):
        assert "correct the reference" in await refusal(found, reference)
    wrong = sources(onepassword_url=onepassword.url, onepassword_token="other")
    assert "denied access; check the token" in await refusal(wrong, "op://Infra/Slack/credential")
    without = sources(onepassword_url=onepassword.url)
    assert "set secrets.onepassword_token_file" in await refusal(without, "op://Infra/Slack/credential")
    away = sources(onepassword_url="http://127.0.0.1:1", onepassword_token=CONNECT_TOKEN)
    assert "doesn't answer" in await refusal(away, "op://Infra/Slack/credential")
    plain = sources(onepassword_url="http://connect.example", onepassword_token=CONNECT_TOKEN)
    assert "must be an https address" in await refusal(plain, "op://Infra/Slack/credential")


async def test_openbao_is_asked_for_a_field() -> None:
    async with scripted_server(openbao({"slack/app": {"secret": SECRET}})) as server:
        found = sources(openbao_url=server.url, openbao_token=BAO_TOKEN, openbao_namespace="team")
        assert await found.read("bao://secret/slack/app#secret") == SECRET
        assert server.arrivals[-1].headers["x-vault-namespace"] == "team"
        assert "no such text field" in await refusal(found, "bao://secret/slack/app#other")
        assert "no such secret" in await refusal(found, "bao://secret/slack/other#secret")
        assert "denied access" in await refusal(found, "bao://secret/denied/app#secret")
    assert "set secrets.openbao_url" in await refusal(sources(openbao_token="x"), "bao://secret/slack#secret")


async def test_the_commands_of_1password_and_bitwarden_read(tmp_path: Path) -> None:
    folder = command(tmp_path / "bin", "op", op_script("op://Infra/Slack/credential", SECRET))
    command(folder, "bws", bws_script(ID, SECRET))
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    found = sources(environment, onepassword_token="ops_canary", bitwarden_token="0.canary")
    assert await found.read("op://Infra/Slack/credential") == SECRET
    assert await found.read(f"bws://{ID}") == SECRET
    assert "op ended with 1" in await refusal(found, "op://Infra/Slack/other")
    assert "bws ended with 1" in await refusal(sources(environment), f"bws://{ID}")
    assert "install the command op" in await refusal(sources({"PATH": str(tmp_path)}), "op://Infra/Slack/credential")


# At use


def given_secret(arrival: Arrival) -> str:
    return base64.b64decode(arrival.headers["authorization"].removeprefix("Basic ")).decode().partition(":")[2]


def provider_answer(accepted: list[str]) -> object:
    """A token endpoint that accepts one client secret: the last one in the list."""

    def answer(arrival: Arrival) -> Reply:
        if given_secret(arrival) != accepted[-1]:
            return json_reply({"ok": False, "error": "bad_client_secret"})
        return json_reply({"ok": True, "access_token": "xoxp-2", "refresh_token": "r-2", "expires_in": 3600,
                           "token_type": "user", "authed_user": {"id": "U1", "access_token": "xoxp-2",
                           "refresh_token": "r-2", "expires_in": 3600, "scope": "chat:write", "token_type": "user"},
                           "team": {"id": "T1", "name": "Team"}})  # fmt: skip

    return answer


async def test_a_rotated_secret_is_picked_up_without_a_restart_and_an_unreadable_one_spends_nothing(
    tmp_path: Path,
) -> None:
    file, accepted = tmp_path / "secret", ["first"]
    file.write_text("first")
    async with (
        scripted_server(provider_answer(accepted)) as server,  # pyright: ignore[reportArgumentType] -- an Answer
        Outbound(AddressPolicy(allow_loopback=True)) as outbound,
    ):
        provider = provider_at("slack", server.url, secret=f"file://{file}")
        upstream = ReferencedUpstream(provider, lambda one: OAuthUpstream(one, outbound), sources(cache=3600))
        assert upstream.is_configured
        assert isinstance(await upstream.refresh("r-1"), Rotation)
        accepted.append("second")
        file.write_text("second")
        before = len(server.arrivals)
        assert isinstance(await upstream.refresh("r-2"), Rotation)
        sent = [given_secret(one) for one in server.arrivals[before:]]
        assert sent == ["first", "second"]
        accepted.append("third")
        file.unlink()
        before = len(server.arrivals)
        outcome = await upstream.refresh("r-3")
        assert isinstance(outcome, NotSent)
        assert outcome.lacks_secret
        assert "no such file" in outcome.reason
        with pytest.raises(UpstreamError, match="no such file"):
            await upstream.redeem(code="c", redirect_uri="http://localhost/callback", code_verifier="v" * 43)
        assert all(given_secret(one) != "third" for one in server.arrivals[before:])


async def test_doctor_reads_each_reference_and_settings_refuse_a_bad_one(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    settings = {
        "client_id": "ours",
        "authorize_url": "http://127.0.0.1:1/authorize",
        "token_url": "http://127.0.0.1:1/token",
        "revoke_url": "http://127.0.0.1:1/revoke",
        "userinfo_url": "http://127.0.0.1:1/userinfo",
        "apis": {"web": "http://127.0.0.1:1"},
    }
    slack = settings | {"client_secret": f"file://{file}"}
    async with running_vault(tmp_path / "data", providers={"slack": slack}) as vault:
        provider = vault.deployment.catalog.provider("slack")
        (found, *_) = await check_provider(vault.deployment, provider)
        assert (found.check, found.verdict.value) == ("slack.secret", "problem")
        assert "create it" in found.fix
        file.write_text(SECRET)
        (found, *_) = await check_provider(vault.deployment, provider)
        assert (found.check, found.verdict.value) == ("slack.secret", "ok")
    bad = load_settings(overrides={"providers": {"slack": settings | {"client_secret": "env://a-b"}}})
    with pytest.raises(SettingsRefused, match=r"providers.slack.client_secret: write it as env://VARIABLE"):
        await catalog_of_settings(bad, data=tmp_path)
