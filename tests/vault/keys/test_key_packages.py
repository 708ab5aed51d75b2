"""How the vault calls the packages of key services, which are doubles here because the suite doesn't install them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from vault.keys.sources.aws_kms import AwsKms
from vault.keys.sources.azure_key_vault import AzureKey
from vault.keys.sources.google_kms import GoogleKms
from vault.keys.sources.hashicorp_vault import TransitEngine
from vault.keys.sources.pkcs11 import Pkcs11Key
from vault.refusals import KeyUnavailable

KEY = bytes(range(32))
PURPOSE = "token-vault master key"
Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Make a package with these members importable."""

    def install_module(name: str, **members: object) -> None:
        parts = name.split(".")
        for at in range(1, len(parts) + 1):
            path = ".".join(parts[:at])
            if path not in sys.modules or path == name:
                monkeypatch.setitem(sys.modules, path, ModuleType(path))
        vars(sys.modules[name]).update(members)

    return install_module


@dataclass
class Service:
    """Wraps by reversing bytes, only for its own purpose, and fails when told to."""

    asked: list[Mapping[str, object]] = field(default_factory=list[Mapping[str, object]])
    failure: Exception | None = None

    def reverse(self, content: bytes, **request: object) -> bytes:
        self.asked.append(request)
        if self.failure is not None:
            raise self.failure
        return content[::-1]


class PackageFailure(Exception):
    """An error of a package."""


class OtherKeyError(PackageFailure):
    """The package's error for bytes that another key encrypted."""


class ClientError(Exception):
    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.response = {"Error": {"Code": code}}


@pytest.mark.parametrize(
    ("key", "region"), [("arn:aws:kms:eu-west-1:1:key/k", "eu-west-1"), ("alias/vault", None), ("arn:aws:kms:x", None)]
)
def test_aws_is_asked_with_the_purpose_at_the_region_of_the_key(install: Install, key: str, region: str | None) -> None:
    service, opened = Service(), list[tuple[object, ...]]()

    def client(name: str, *, region_name: str | None, endpoint_url: str | None, config: Mapping[str, object]) -> object:
        opened.append((name, region_name, endpoint_url, config["retries"]))
        return SimpleNamespace(
            encrypt=lambda Plaintext, **more: {"CiphertextBlob": service.reverse(Plaintext, **more)},  # noqa: N803
            decrypt=lambda CiphertextBlob, **more: {"Plaintext": service.reverse(CiphertextBlob, **more)},  # noqa: N803
        )

    install("boto3", client=client)
    install("botocore.config", Config=lambda **given: given)
    install("botocore.exceptions", BotoCoreError=PackageFailure, ClientError=ClientError)
    kms = AwsKms(key, address="http://127.0.0.1:1")
    assert kms.unwrap(kms.wrap(KEY)) == KEY
    assert opened == [("kms", region, "http://127.0.0.1:1", {"max_attempts": 3})]
    assert service.asked == [{"KeyId": key, "EncryptionContext": {"purpose": PURPOSE}}] * 2
    for code in ("InvalidCiphertextException", "IncorrectKeyException"):
        service.failure = ClientError(code)
        assert kms.unwrap(b"other") is None
        with pytest.raises(KeyUnavailable):
            kms.wrap(KEY)
    for failure in (ClientError("AccessDeniedException"), PackageFailure("no network")):
        service.failure = failure
        with pytest.raises(KeyUnavailable, match="kms:Encrypt"):
            kms.unwrap(b"other")
    service.failure = PackageFailure("no network")
    with pytest.raises(KeyUnavailable, match=kms.describe().removeprefix("AWS KMS ")):
        kms.wrap(KEY)


class AzureError(Exception):
    def __init__(self, status_code: int) -> None:
        super().__init__(status_code)
        self.status_code = status_code


def test_azure_is_asked_for_the_version_that_wrapped(install: Install) -> None:
    service, address, asked = Service(), "https://v.vault.azure.net/keys/k", list[str]()

    def client(key: str, credential: object, **patience: float) -> object:
        asked.append(key)
        version = key if key != address else f"{address}/v2"
        return SimpleNamespace(
            wrap_key=lambda how, content: SimpleNamespace(
                key_id=version, encrypted_key=service.reverse(content, how=how)
            ),
            unwrap_key=lambda how, content: SimpleNamespace(key=service.reverse(content, how=how)),
        )

    install("azure.identity", DefaultAzureCredential=object)
    install("azure.core.exceptions", AzureError=AzureError)
    ways = SimpleNamespace(rsa_oaep_256="RSA-OAEP-256")
    install("azure.keyvault.keys.crypto", CryptographyClient=client, KeyWrapAlgorithm=ways)
    key = AzureKey(address + "/")
    wrapped = key.wrap(KEY)
    assert wrapped == f"{address}/v2".encode() + b"\0" + KEY[::-1]
    assert key.unwrap(wrapped) == KEY
    assert key.unwrap(wrapped.replace(b"/v2", b"")) == KEY
    assert asked == [address, f"{address}/v2", address]
    assert service.asked == [{"how": "RSA-OAEP-256"}] * 3
    for other in (b"https://evil.example/keys/k/v2\0x", f"{address}2/v\0x".encode(), b""):
        assert key.unwrap(other) is None
    assert len(asked) == 3, "nobody else is asked"
    service.failure = AzureError(400)
    assert key.unwrap(wrapped) is None
    with pytest.raises(KeyUnavailable):
        key.wrap(KEY)
    service.failure = AzureError(403)
    with pytest.raises(KeyUnavailable, match="may get, wrap, and unwrap"):
        key.unwrap(wrapped)


@pytest.mark.parametrize("address", [None, "http://127.0.0.1:1", "https://kms.example"])
def test_google_is_asked_with_the_purpose_at_the_address(install: Install, address: str | None) -> None:
    service, opened = Service(), list[object]()
    places = "google.cloud.kms_v1.services.key_management_service"

    def client(*, transport: object) -> object:
        opened.append(transport)
        return SimpleNamespace(
            encrypt=lambda request, timeout: SimpleNamespace(
                ciphertext=service.reverse(request.pop("plaintext"), **request)
            ),
            decrypt=lambda request, timeout: SimpleNamespace(
                plaintext=service.reverse(request.pop("ciphertext"), **request)
            ),
        )

    install(places, KeyManagementServiceClient=client)
    install(f"{places}.transports.rest", KeyManagementServiceRestTransport=lambda **given: given)
    install("google.auth.credentials", AnonymousCredentials=lambda: "anonymous")
    install("google.auth.exceptions", GoogleAuthError=ZeroDivisionError)
    install("google.api_core.exceptions", GoogleAPIError=PackageFailure, InvalidArgument=OtherKeyError)
    kms = GoogleKms("projects/p", address=address)
    assert kms.unwrap(kms.wrap(KEY)) == KEY
    assert (
        opened
        == {
            None: ["rest"],
            "http://127.0.0.1:1": [{"host": "127.0.0.1:1", "url_scheme": "http", "credentials": "anonymous"}],
            "https://kms.example": [{"host": "kms.example", "url_scheme": "https", "credentials": None}],
        }[address]
    )
    assert service.asked == [{"name": "projects/p", "additional_authenticated_data": PURPOSE.encode()}] * 2
    service.failure = OtherKeyError()
    assert kms.unwrap(b"other") is None
    for failure in (PackageFailure(), ZeroDivisionError(), OSError()):
        service.failure = failure
        for use in (kms.wrap, kms.unwrap):
            with pytest.raises(KeyUnavailable, match="Encrypter/Decrypter"):
                use(KEY)


@pytest.mark.parametrize(("key", "mount", "name"), [("k", "transit", "k"), ("own/k", "own", "k")])
def test_a_transit_engine_is_asked_with_the_token_of_the_moment(
    install: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: str, mount: str, name: str
) -> None:
    service, opened = Service(), list[tuple[object, ...]]()

    def encrypt(*, plaintext: str, **more: object) -> object:
        return {"data": {"ciphertext": service.reverse(plaintext.encode(), **more).decode()}}

    def decrypt(*, ciphertext: str, **more: object) -> object:
        return {"data": {"plaintext": service.reverse(ciphertext.encode(), **more).decode()}}

    def client(*, url: str, token: str, timeout: float, namespace: str | None) -> object:
        opened.append((url, token, namespace))
        return SimpleNamespace(
            secrets=SimpleNamespace(transit=SimpleNamespace(encrypt_data=encrypt, decrypt_data=decrypt))
        )

    install("hvac.exceptions", VaultError=PackageFailure, InvalidRequest=OtherKeyError)
    install("hvac", Client=client)
    monkeypatch.setenv("VAULT_NAMESPACE", "team")
    file = tmp_path / "token"
    engine = TransitEngine(key, address="http://127.0.0.1:1", token_file=file)
    for token in ("one", "two"):
        file.write_text(token + "\n", encoding="utf-8")
        file.chmod(0o600)
        assert engine.unwrap(engine.wrap(KEY)) == KEY
    assert opened == [("http://127.0.0.1:1", token, "team") for token in ("one", "one", "two", "two")]
    assert {one["mount_point"] for one in service.asked} == {mount}
    assert {one["name"] for one in service.asked} == {name}
    assert len({str(one["associated_data"]) for one in service.asked}) == 1
    service.failure = OtherKeyError()
    assert engine.unwrap(b"other") is None
    for failure in (PackageFailure(), OSError()):
        service.failure = failure
        for use in (engine.wrap, engine.unwrap):
            with pytest.raises(KeyUnavailable, match="transit key k"):
                use(KEY)
    file.write_text(" \n", encoding="utf-8")
    with pytest.raises(KeyUnavailable, match="set keys"):
        engine.wrap(KEY)


class Device:
    """A token that has keys by label, and records what it is asked for."""

    def __init__(self, service: Service, *, labels: list[str], pin: str) -> None:
        self.service, self.labels, self.pin = service, labels, pin

    def get_token(self, *, token_label: str) -> Device:
        assert token_label == "label"
        return self

    def open(self, *, user_pin: str) -> AbstractContextManager[Device]:
        if user_pin != self.pin:
            raise PackageFailure("wrong PIN")
        return nullcontext(self)

    def get_objects(self, wanted: Mapping[str, str]) -> list[object]:
        assert wanted["class"] == "secret"
        used = {
            name: lambda content, mechanism, mechanism_param, name=name: self.service.reverse(
                content, use=name, mechanism=mechanism, nonce=mechanism_param[0], purpose=mechanism_param[1]
            )
            for name in ("encrypt", "decrypt")
        }
        return [SimpleNamespace(**used) for label in self.labels if label == wanted["label"]]


def test_a_device_encrypts_with_its_key_and_a_new_nonce(
    install: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    service = Service()
    device = Device(service, labels=["name", "twice", "twice"], pin="1234")
    kinds = {
        "PKCS11Error": PackageFailure,
        "EncryptedDataInvalid": OtherKeyError,
        "EncryptedDataLenRange": OtherKeyError,
    }
    errors = {**kinds, "GeneralError": OtherKeyError}
    install(
        "pkcs11",
        lib=lambda module: device,
        GCMParams=lambda nonce, purpose: (nonce, purpose),
        Mechanism=SimpleNamespace(AES_GCM="gcm"),
        Attribute=SimpleNamespace(CLASS="class", LABEL="label"),
        ObjectClass=SimpleNamespace(SECRET_KEY="secret"),
        exceptions=SimpleNamespace(**errors),
    )
    install("pkcs11.exceptions", **errors)
    monkeypatch.setenv("TOKEN_VAULT_PIN", "1234")

    def key(name: str) -> Pkcs11Key:
        return Pkcs11Key(name, module=Path("/none.so"), token="label", pin_file=None)

    one, other = key("name").wrap(KEY), key("name").wrap(KEY)
    assert key("name").unwrap(one) == KEY
    assert one[12:] == other[12:] == KEY[::-1]
    assert one[:12] != other[:12]
    assert [(call["use"], call["mechanism"], call["purpose"]) for call in service.asked] == [
        (use, "gcm", PURPOSE.encode()) for use in ("encrypt", "encrypt", "decrypt")
    ]
    assert [call["nonce"] for call in service.asked] == [one[:12], other[:12], one[:12]]
    for name, count in (("missing", 0), ("twice", 2)):
        with pytest.raises(KeyUnavailable, match=f"has {count} secret keys"):
            key(name).wrap(KEY)
    service.failure = OtherKeyError()
    assert key("name").unwrap(one) is None
    for failure, pin, words in (
        (PackageFailure(), "1234", "keys.module"),
        (None, "9", "and the PIN"),
        (None, " ", "keys.pin_file"),
    ):
        service.failure = failure
        monkeypatch.setenv("TOKEN_VAULT_PIN", pin)
        with pytest.raises(KeyUnavailable, match=words):
            key("name").unwrap(one)
