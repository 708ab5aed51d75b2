"""AWS KMS wraps the master key (`Encrypt` and `Decrypt` of a symmetric key). boto3 finds credentials as usual."""

from __future__ import annotations

from typing import Protocol, TypedDict

from vault.keys.sources.service import CONTEXT, PATIENCE, load
from vault.refusals import KeyUnavailable

_CONTEXT = {"purpose": CONTEXT}
_OTHER_KEY = frozenset({"InvalidCiphertextException", "IncorrectKeyException"})


class _EncryptAnswer(TypedDict):
    CiphertextBlob: bytes


class _DecryptAnswer(TypedDict):
    Plaintext: bytes


class _KmsClient(Protocol):
    def encrypt(self, *, KeyId: str, Plaintext: bytes, EncryptionContext: dict[str, str]) -> _EncryptAnswer: ...  # noqa: N803 -- boto3's
    def decrypt(self, *, KeyId: str, CiphertextBlob: bytes, EncryptionContext: dict[str, str]) -> _DecryptAnswer: ...  # noqa: N803 -- boto3's


class AwsKms:
    """`key`: ID, ARN, or alias. An ARN contains the region; otherwise boto3 finds it. `address`: another endpoint."""

    kind = "aws_kms"

    def __init__(self, key: str, *, address: str | None) -> None:
        self._key = key
        self._address = address
        self._client: _KmsClient | None = None

    def describe(self) -> str:
        """The name of the key."""
        return f"AWS KMS {self._key}"

    def wrap(self, key: bytes) -> bytes:
        """Encrypt under the KMS key. Raises KeyUnavailable."""
        errors = load("botocore.exceptions", source=self.kind)
        try:
            return self._open().encrypt(KeyId=self._key, Plaintext=key, EncryptionContext=_CONTEXT)["CiphertextBlob"]
        except (errors.BotoCoreError, errors.ClientError) as error:
            raise self._unavailable(error) from error

    def unwrap(self, wrapped: bytes) -> bytes | None:
        """Decrypt, under this key alone. Raises KeyUnavailable."""
        errors = load("botocore.exceptions", source=self.kind)
        try:
            answer = self._open().decrypt(KeyId=self._key, CiphertextBlob=wrapped, EncryptionContext=_CONTEXT)
        except errors.ClientError as error:
            if error.response["Error"]["Code"] in _OTHER_KEY:
                return None
            raise self._unavailable(error) from error
        except errors.BotoCoreError as error:
            raise self._unavailable(error) from error
        return answer["Plaintext"]

    def _open(self) -> _KmsClient:
        if self._client is None:
            boto3 = load("boto3", source=self.kind)
            config = load("botocore.config", source=self.kind).Config(
                connect_timeout=PATIENCE, read_timeout=PATIENCE, retries={"max_attempts": 3}
            )
            match self._key.split(":"):
                case ["arn", _, _, region, _, *_]:
                    pass
                case _:
                    region = None
            made: _KmsClient = boto3.client("kms", region_name=region, endpoint_url=self._address, config=config)
            self._client = made
        return self._client

    def _unavailable(self, error: Exception) -> KeyUnavailable:
        return KeyUnavailable(
            f"AWS KMS can't use {self._key} ({type(error).__name__}): check keys.key, the region, and that the "
            "credentials allow kms:Encrypt and kms:Decrypt",
            detail=str(error),
        )
