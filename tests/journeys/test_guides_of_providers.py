"""The guides for Slack, Google, and proxies are followed word by word against the sandbox; what they name exists."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from providers.simulator.local_server import Simulator, running_simulator
from providers.simulator.person import consent
from server.connecting.provider_errors import FIXES
from server.settings import Settings, load_settings
from server.setup.provider_consoles import GUIDED
from tests.generating.documentation import DOCS, leaves, section
from tests.support.commands import run
from tests.support.person import Person
from tests.support.processes import Place, free_port

GUIDES = ("get-started/slack.md", "get-started/google.md", "operate/tls-proxy.md")
IDS = {"slack": "1234567890.1234567890", "google": "1234-abcd.apps.googleusercontent.com"}


def _blocks(page: str, kind: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{kind}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def _lines(page: str, title: str) -> list[str]:
    """The commands of one section, in order."""
    text = (DOCS / page).read_text(encoding="utf-8")
    (found,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL)
    blocks = re.findall(r"^```sh\n(.*?)^```", found, flags=re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


@dataclass
class Desk:
    """A new user's machine: a data directory, the consoles' answers, and what the guide has them type."""

    place: Place
    simulator: Simulator

    async def follow(self, line: str, *, ids: Mapping[str, str], secret: str = "") -> str:
        """Type one command of a guide, and replace its example ids with the simulator's."""
        words, _, source = line.partition("<")
        assert source.strip() in {"", "client-secret"}
        program, *typed = shlex.split(words)
        assert program == "token-vault"
        result = await run(self.place, *typed, feed=f"{secret}\n" if source else None)
        assert result.exit_code == 0, f"{line}: {result.output}"
        config = self.place.data / "config.toml"
        for example, answer in ids.items():  # the simulator's ids don't have the formats that setup requires
            config.write_text(config.read_text(encoding="utf-8").replace(example, answer), encoding="utf-8")
        return result.stdout

    async def connect(self, link: str, *, says: str) -> None:
        """Open the printed link in a browser and consent, here and at the provider."""
        async with Person(self.place.url) as person:
            page = await person.open(link)
            away = page if "location" in page.headers else await person.submit(page, form="/connections/connect")
            done = await person.open(await consent(away.headers["location"]))
            assert says in done.text, done.text


@pytest.fixture
async def desk(tmp_path: Path, prepared_data: Path) -> AsyncGenerator[Desk]:
    data = tmp_path / "data"
    shutil.copytree(prepared_data, data)
    data.chmod(0o700)
    async with running_simulator() as simulator:
        place = Place(data, free_port())
        # the stand-ins' URLs: the only thing that a new user of the live services wouldn't have
        addresses = {
            name: {key: value for key, value in section.items() if not key.startswith("client_")}
            for name, section in simulator.settings().items()
        }
        place.configure({"providers": addresses})
        yield Desk(place, simulator)


async def test_the_slack_guide_leads_to_a_connection_on_this_machine(desk: Desk) -> None:
    asked, scripted, serve, connect = _lines("get-started/slack.md", "On this machine")
    assert asked == "token-vault providers setup slack"
    shown = await desk.follow(f"{asked} --show", ids={})
    redirect = f"{desk.place.url}/connect/callback/slack"
    assert redirect in shown
    desk.simulator.control("client", client_id="public-client", redirect_uris=[redirect])
    await desk.follow(scripted, ids={IDS["slack"]: "public-client"})
    assert serve == "token-vault serve"
    async with desk.place.serve():
        link = (await desk.follow(connect, ids={})).strip()
        await desk.connect(link, says="Slack is connected")
    redemption = desk.simulator.books()["redemptions"][-1]
    assert (redemption["client_auth"], redemption["sent_verifier"]) == ("none", True)
    listed = await run(desk.place, "connections", "list", "--json")
    assert '"ends_at"' in listed.stdout and '"ends_at": null' not in listed.stdout


async def test_the_slack_guide_with_an_https_address_writes_what_it_says_and_takes_it_back(desk: Desk) -> None:
    config = desk.place.data / "config.toml"
    (with_address,) = (block for block in _blocks("get-started/slack.md", "toml") if "public_url" in block)
    config.write_text(with_address, encoding="utf-8")
    before = config.read_bytes()
    (line,) = _lines("get-started/slack.md", "With an https address")
    await desk.follow(line, ids={}, secret="the-secret-of-the-test")
    (written,) = (block for block in _blocks("get-started/slack.md", "toml") if "[providers.slack]" in block)
    expected = written.replace("/path/to/data/", f"{desk.place.data}/")
    assert config.read_text(encoding="utf-8") == before.decode() + "\n" + expected
    (undo,) = _lines("get-started/slack.md", "What is written")
    await desk.follow(undo, ids={})
    assert config.read_bytes() == before


@pytest.mark.moving_clock  # a separate program connects
async def test_the_google_guide_leads_to_a_connection_and_to_its_publication(desk: Desk) -> None:
    asked, scripted, serve, connect = _lines("get-started/google.md", "Steps")
    assert asked == "token-vault providers setup google"
    shown = await desk.follow(f"{asked} --show", ids={})
    redirect = f"{desk.place.url}/connect/callback/google"
    assert redirect in shown
    desk.simulator.control("client", redirect_uris=[redirect])
    ids = {IDS["google"]: "sandbox-client"}
    await desk.follow(scripted, ids=ids, secret="sandbox-secret")
    (written,) = (block for block in _blocks("get-started/google.md", "toml") if "[providers.google]" in block)
    section_now = load_settings(data=desk.place.data).providers["google"]
    for line in (
        written.replace("/path/to/data/", f"{desk.place.data}/").replace(IDS["google"], "sandbox-client").splitlines()
    ):
        assert line in (desk.place.data / "config.toml").read_text(encoding="utf-8").splitlines()
    assert section_now.testing
    assert serve == "token-vault serve"
    async with desk.place.serve():
        link = (await desk.follow(connect, ids={})).strip()
        await desk.connect(link, says="Google is connected")
    assert '"status": "expiring"' in (await run(desk.place, "connections", "list", "--json")).stdout
    (publish,) = _lines("get-started/google.md", "Seven days")
    await desk.follow(publish, ids=ids, secret="sandbox-secret")
    assert not load_settings(data=desk.place.data).providers["google"].testing
    (undo,) = _lines("get-started/google.md", "What is written")
    await desk.follow(undo, ids={})
    assert load_settings(data=desk.place.data).providers["google"].client_id is None


@pytest.mark.parametrize("page", GUIDES)
def test_every_block_of_settings_is_accepted(page: str, tmp_path: Path) -> None:
    blocks = _blocks(page, "toml")
    assert blocks
    for block in blocks:
        file = tmp_path / "config.toml"
        file.write_text(block, encoding="utf-8")
        load_settings(file)


@pytest.mark.parametrize("page", GUIDES)
def test_every_setting_that_a_guide_names_exists(page: str) -> None:
    real = {".".join(path) for path, _ in leaves(Settings)}
    text = re.sub(r"```.*?```", "", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    named = {span.split(" = ")[0] for span in re.findall(r"`([^`\n]*)`", text)}
    found = {name for name in named if name.split(".")[0] in Settings.model_fields and "." in name}
    assert {re.sub(r"^providers\.[a-z]+\.", "providers.NAME.", name) for name in found} <= real
    assert found or page == "get-started/google.md"


@pytest.mark.parametrize("provider", GUIDED)
def test_every_error_of_a_guide_is_one_that_is_known(provider: str) -> None:
    said = section(DOCS / f"get-started/{provider}.md", f"When {provider.title()} says no").text
    lines = re.findall(r"(?m)^- (`[^:]+`): (.*)$", said)
    named = {code for codes, _ in lines for code in re.findall(r"`([^`]+)`", codes)}
    assert named and named <= set(FIXES)
    assert len(lines) == said.count("\n- ") and all(fix for _, fix in lines)


def test_the_line_of_the_proxy_guide_about_a_move_is_the_one_that_is_said() -> None:
    (example,) = _blocks("operate/tls-proxy.md", "text")
    source = (DOCS.parent / "server" / "lifecycle" / "address_change.py").read_text(encoding="utf-8")
    assert "The public URL changed from {before} to {now}. Update the redirect URL at" in source
    assert re.fullmatch(
        r"The public URL changed from \S+ to (\S+)\. "
        r"Update the redirect URL at Google to \1/connect/callback/google\.\n",
        example,
    )
