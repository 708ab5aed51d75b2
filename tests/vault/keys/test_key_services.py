"""Key services: what the vault asks them and when, and what it reports if settings or packages are missing."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.conftest import KeySettings
from vault.keys.sources import SOURCES, key_source
from vault.keys.sources.service import ServiceKeySource
from vault.refusals import KeyUnavailable

NEEDED = {
    "aws_kms": ("key",),
    "google_kms": ("key",),
    "azure_key_vault": ("key",),
    "hashicorp_vault": ("address", "key"),
    "pkcs11": ("key", "module", "token"),
}
WHOLE = KeySettings(key="name", address="http://127.0.0.1:1", module=Path("/none.so"), token="label")


@dataclass
class ServiceDouble:
    """Wraps by reversing bytes, for one caller."""

    mark: bytes = b"a"
    asked: list[str] = field(default_factory=list[str])
    kind: str = "double"

    def describe(self) -> str:
        return f"double {self.mark.decode()}"

    def wrap(self, key: bytes) -> bytes:
        self.asked.append("wrap")
        return self.mark + key[::-1]

    def unwrap(self, wrapped: bytes) -> bytes | None:
        self.asked.append("unwrap")
        return wrapped[1:][::-1] if wrapped.startswith(self.mark) else None


async def test_a_service_is_asked_once_for_a_new_key_and_once_to_open_it() -> None:
    service = ServiceDouble()
    made = await ServiceKeySource(service).create(())
    opened = await ServiceKeySource(service).open(made.record)
    assert opened is not None
    for _ in range(10):
        assert opened.unwrap(made.key.wrap(b"k" * 32, b"c"), b"c") == b"k" * 32
    assert service.asked == ["wrap", "unwrap"]


async def test_a_service_opens_only_what_is_its_own_and_whole() -> None:
    service = ServiceDouble()
    made = await ServiceKeySource(service).create(())
    assert made.wrapped is not None
    assert await ServiceKeySource(ServiceDouble(mark=b"b")).open(made.record) is None
    for changed in (
        {"wrapped": made.wrapped[:-1]},
        {"wrapped": None},
        {"wrapped": made.wrapped[:-1] + bytes([made.wrapped[-1] ^ 1])},
        {"id": made.record.id.replace("double", "other")},
        {"id": "double-0123456789abcdef"},
    ):
        assert await ServiceKeySource(service).open(replace(made.record, **changed)) is None, changed
    assert await ServiceKeySource(service).open(made.record)


@pytest.mark.parametrize(("source", "setting"), [(name, one) for name, found in NEEDED.items() for one in found])
def test_a_missing_setting_of_a_service_is_named(tmp_path: Path, source: str, setting: str) -> None:
    settings = replace(WHOLE, source=source)
    key_source(settings, data=tmp_path)
    with pytest.raises(KeyUnavailable, match=rf"{source}.*set keys\.{setting}"):
        key_source(replace(settings, **{setting: None}), data=tmp_path)


@pytest.mark.parametrize(
    ("source", "package"),
    [
        ("aws_kms", "botocore.exceptions"),
        ("google_kms", "google.api_core.exceptions"),
        ("azure_key_vault", "azure.keyvault.keys.crypto"),
        ("hashicorp_vault", "hvac.exceptions"),
        ("pkcs11", "pkcs11"),
    ],
)
async def test_a_missing_package_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for name in ("azure.core.exceptions",) if source == "azure_key_vault" else ():
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(KeyUnavailable, match=rf"mcp-token-vault\[{source.replace('_', '-')}\]"):
        await key_source(replace(WHOLE, source=source), data=tmp_path).create(())


def test_no_package_of_a_service_is_loaded_before_it_is_needed(tmp_path: Path) -> None:
    for source in SOURCES:
        key_source(replace(WHOLE, source=source), data=tmp_path)
    assert not {"boto3", "hvac", "pkcs11", "azure.keyvault.keys", "google.cloud.kms_v1"} & set(sys.modules)


def test_a_service_is_named_and_what_to_do_about_its_key() -> None:
    source = ServiceKeySource(ServiceDouble())
    assert source.describe() == "double a"
    assert source.fix == "name the key that wrapped it in keys.key and keys.address (now: double a)"
