"""Settings: the file, overrides from the environment, one-line refusals, and that values reach the vault."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from providers.definitions.catalog import ProviderFileRefused
from server.app import open_deployment
from server.settings import Settings, SettingsRefused, load_settings
from tests.conftest import Store
from vault.refusals import StorageUnavailable


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("TOKEN_VAULT_"):
            monkeypatch.delenv(name)


def write_config(folder: Path, content: str) -> Path:
    path = folder / "config.toml"
    path.write_text(content, encoding="utf-8")
    return path


def test_no_settings_at_all_are_enough() -> None:
    settings = load_settings()
    assert settings.public_url == "http://localhost:8765"
    assert (settings.server.host, settings.registration_mode, settings.database_url()) == (
        "127.0.0.1",
        "open",
        "sqlite:",
    )


def test_the_environment_stands_above_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_config(tmp_path, '[server]\nport = 9000\nhost = "127.0.0.2"\n[providers.slack]\nclient_id = "file"\n')
    monkeypatch.setenv("TOKEN_VAULT_SERVER__PORT", "9001")
    monkeypatch.setenv("TOKEN_VAULT_PROVIDERS__SLACK__CLIENT_SECRET", "s3cr3t")
    monkeypatch.setenv("TOKEN_VAULT_CONFIG", str(path))
    settings = load_settings()
    assert (settings.server.port, settings.server.host) == (9001, "127.0.0.2")
    assert settings.providers["slack"].client_id == "file"
    assert settings.providers["slack"].secret("slack") == "s3cr3t"
    assert "s3cr3t" not in repr(settings)


def test_the_data_directory_may_hold_the_file(tmp_path: Path) -> None:
    write_config(tmp_path, "[server]\nport = 9000\n")
    assert load_settings(data=tmp_path).server.port == 9000


def test_each_secret_can_come_from_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("from the file\n", encoding="utf-8")
    given = load_settings(overrides={"providers": {"slack": {"client_secret_file": str(secret)}}})
    assert given.providers["slack"].secret("slack") == "from the file"
    both = load_settings(overrides={"providers": {"slack": {"client_secret_file": str(secret), "client_secret": "x"}}})
    with pytest.raises(SettingsRefused, match=r"client_secret and providers\.slack\.client_secret_file are both set"):
        both.providers["slack"].secret("slack")
    missing = load_settings(overrides={"database": {"url_file": str(tmp_path / "nowhere")}})
    with pytest.raises(SettingsRefused, match=r"database\.url_file: can't read"):
        missing.database_url()


EMPTY: Mapping[str, Callable[[Settings], object]] = {
    "providers.slack.client_secret": lambda found: found.providers["slack"].secret("slack"),
    "signals.transmitters.idp.revocation_token": lambda found: found.signals.check_secrets(),
    "signals.transmitters.idp.push_token": lambda found: found.signals.check_secrets(),
    "signals.providers.github.secret": lambda found: found.signals.check_secrets(),
    "mail.password": lambda found: found.mail.secret(),
    "exchange.policy_token": lambda found: found.exchange.policy_secret(),
    "database.url": lambda found: found.database_url(),
}


@pytest.mark.parametrize("name", EMPTY)
@pytest.mark.parametrize("empty", ["", " \n"])
def test_an_empty_secret_is_refused_wherever_it_comes_from(tmp_path: Path, name: str, empty: str) -> None:
    file = tmp_path / "secret"
    file.write_text(empty, encoding="utf-8")
    for changed, words in ((name, f"^{name}: the value is empty"), (f"{name}_file", f"^{name}_file: .* is empty")):
        given = _with(changed, str(file) if changed.endswith("_file") else empty)
        with pytest.raises(SettingsRefused, match=f"{words}: set it, or remove it$"):
            EMPTY[name](load_settings(overrides=given))
    file.write_text("there is one\n", encoding="utf-8")
    EMPTY[name](load_settings(overrides=_with(f"{name}_file", str(file))))


def _with(name: str, value: str) -> dict[str, object]:
    *folders, last = name.split(".")
    found: dict[str, object] = {last: value}
    if "idp" in folders:
        found["issuer"] = "https://idp.example"
    for folder in reversed(folders):
        found = {folder: found}
    return found


async def test_nothing_starts_with_a_secret_of_signals_that_is_empty(tmp_path: Path) -> None:
    empty = _with("signals.providers.github.secret", "")
    with pytest.raises(SettingsRefused, match=r"^signals\.providers\.github\.secret: the value is empty"):
        async with open_deployment(load_settings(overrides=empty), data=tmp_path):
            pytest.fail("it started")
    async with open_deployment(load_settings(overrides=_with("signals.providers.github.secret", "s")), data=tmp_path):
        pass


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[server]\nprot = 1\n", r"server\.prot: no such setting"),
        ("[srever]\nport = 1\n", "srever: no such setting"),
        ("[server]\nport = 70000\n", r"server\.port: "),
        ("[server\n", "is not valid TOML"),
        ('[server]\npublic_url = "http://vault.example.com"\n', "plain http works on loopback only"),
        ('[server]\npublic_url = "https://vault.example.com/path"\n', "an origin without a path"),
        ('[server]\npublic_url = "javascript:alert(1)"\n', "https://host"),
        (
            '[server]\npublic_url = "https://vault.example.com"\n[sandbox]\nloopback_upstreams = true\n',
            "sandbox.loopback_upstreams requires a loopback public_url",
        ),
        ("[tokens]\naccess_lifetime = 86401\n", r"tokens\.access_lifetime"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(tmp_path: Path, content: str, words: str) -> None:
    with pytest.raises(SettingsRefused, match=words) as refused:
        load_settings(write_config(tmp_path, content))
    assert "\n" not in str(refused.value)


def test_the_same_settings_spelled_right_are_accepted(tmp_path: Path) -> None:
    path = write_config(
        tmp_path,
        '[server]\nport = 1\npublic_url = "http://localhost:1"\n[sandbox]\nloopback_upstreams = true\n'
        "[tokens]\naccess_lifetime = 3600\n",
    )
    assert load_settings(path).sandbox.loopback_upstreams


def test_a_misspelled_environment_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_VAULT_SERVR__PORT", "1")
    with pytest.raises(SettingsRefused, match="TOKEN_VAULT_SERVR__PORT: no setting section 'servr'"):
        load_settings()


def test_a_list_in_the_environment_must_be_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_VAULT_PROVIDER_FOLDERS", "/x")
    with pytest.raises(SettingsRefused, match=r"provider_folders.*as JSON") as refused:
        load_settings()
    assert "\n" not in str(refused.value)
    monkeypatch.setenv("TOKEN_VAULT_PROVIDER_FOLDERS", '["/x"]')
    assert load_settings().provider_folders == (Path("/x"),)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsRefused, match="doesn't exist: create it, or correct --config"):
        load_settings(tmp_path / "nowhere.toml")


async def test_the_operators_limit_of_scopes_reaches_the_exchange(sqlite_store: Store) -> None:
    limited = load_settings(overrides={"providers": {"slack": {"scopes": ["channels:read"]}}})
    async with open_deployment(limited, data=sqlite_store.data) as deployment:
        assert deployment.vault.policies["slack"].operator_scopes == {"channels:read"}
        assert deployment.vault.policies["google"].operator_scopes is None


async def test_a_setting_of_an_unknown_provider_stops_the_start(tmp_path: Path) -> None:
    unknown = load_settings(overrides={"providers": {"slak": {"client_id": "x"}}})
    with pytest.raises(ProviderFileRefused, match=r"providers\.slak: no provider file of that name"):
        async with open_deployment(unknown, data=tmp_path):
            raise AssertionError("it opened")


async def test_an_unreachable_database_stops_the_start_with_one_line(tmp_path: Path) -> None:
    away = load_settings(overrides={"database": {"url": "postgresql://nobody:hidden@127.0.0.1:1/none"}})
    with pytest.raises(StorageUnavailable) as refused:
        async with open_deployment(away, data=tmp_path):
            raise AssertionError("it opened")
    assert "\n" not in str(refused.value)
    assert "hidden" not in str(refused.value)
