"""`token-vault run` removes from a program's environment only the variables that open the vault's own secrets."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from server.programs.environment import ProgramPlace, environment_of, own_bundles
from server.programs.own_variables import OwnVariables
from server.settings import Settings

PLACE = ProgramPlace("http://run:pass@127.0.0.1:1", Path("/bundle"), Path("/authority"), Path("/aws"), "placeholder")
AWS = {"AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN"}
USES: Mapping[str, tuple[Mapping[str, object], set[str]]] = {
    "aws": ({"keys": {"source": "aws_kms", "key": "k"}}, AWS),
    "also": ({"keys": {"also": {"source": "aws_kms", "key": "k"}}}, AWS),
    "bucket": ({"checkpoints": {"bucket": "copies"}}, AWS),
    "azure": (
        {"keys": {"source": "azure_key_vault", "key": "k"}},
        {"AZURE_CLIENT_SECRET", "AZURE_PASSWORD", "IDENTITY_HEADER"},
    ),
    "google": ({"keys": {"source": "google_kms", "key": "k"}}, {"GOOGLE_APPLICATION_CREDENTIALS"}),
    "telemetry": ({"telemetry": {"otlp_endpoint": "http://127.0.0.1:4318"}}, {"OTEL_EXPORTER_OTLP_HEADERS"}),
    "referred": (
        {"providers": {"asana": {"client_id": "ours", "client_secret": "env://ASANA_SECRET"}}},
        {"ASANA_SECRET"},
    ),
}


def left_of(names: Collection[str], settings: Mapping[str, object], *, providers: Collection[str] = ()) -> set[str]:
    """Which of these variables the program still has, with the person's value."""
    own = OwnVariables(Settings.model_validate(settings))
    made = environment_of(dict.fromkeys(names, "of-the-person"), PLACE, providers, own=own)
    return {name for name in names if made.get(name) == "of-the-person"}


@pytest.mark.parametrize(
    "name",
    [
        *("TOKEN_VAULT_KEY", "token_vault_keys__file", "VAULT_TOKEN", "BAO_TOKEN", "CREDENTIALS_DIRECTORY"),
        *("OP_SERVICE_ACCOUNT_TOKEN", "OP_CONNECT_TOKEN", "OP_SESSION_my", "BWS_ACCESS_TOKEN"),
        *("PGPASSWORD", "PGPASSFILE", "PGSERVICEFILE", "PGSSLKEY", "PGSSLPASSWORD"),
    ],
)
def test_what_opens_the_vaults_own_secrets_is_always_removed(name: str) -> None:
    assert left_of({name, "PGHOST", "OPERATOR"}, {}) == {"PGHOST", "OPERATOR"}


@pytest.mark.parametrize("use", USES)
def test_what_the_settings_use_is_removed_only_then(use: str) -> None:
    settings, names = USES[use]
    assert left_of(names | {"OTHER"}, settings) == {"OTHER"}
    assert left_of(names | {"OTHER"}, {}) == names | {"OTHER"}


def test_the_persons_own_authorities_stay_beside_ours(tmp_path: Path) -> None:
    certificate = "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n"
    (tmp_path / "folder").mkdir()
    for name, text in {"corp.pem": "corp", "folder/a": "a", "folder/b": "b", "folder/link": "b"}.items():
        (tmp_path / name).write_text(certificate.format(text))
    (tmp_path / "empty").write_text("none")
    given = {"NODE_EXTRA_CA_CERTS": "corp.pem", "REQUESTS_CA_BUNDLE": "folder", "PIP_CERT": "empty", "DENO_CERT": "no"}
    found = own_bundles({name: str(tmp_path / file) for name, file in given.items()})
    assert found == {
        "NODE_EXTRA_CA_CERTS": certificate.format("corp"),
        "REQUESTS_CA_BUNDLE": certificate.format("a") + "\n" + certificate.format("b"),
    }
    place = replace(PLACE, bundles={"NODE_EXTRA_CA_CERTS": Path("/of-the-person")})
    made = environment_of({}, place, (), own=())
    assert (made["NODE_EXTRA_CA_CERTS"], made["DENO_CERT"]) == ("/of-the-person", "/authority")


def test_aws_tools_find_no_other_profile_and_no_other_address() -> None:
    names = {"AWS_DEFAULT_PROFILE", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION"}
    assert left_of(names, {}, providers=["aws"]) == {"AWS_DEFAULT_REGION"}
    assert left_of(names, {}) == names
