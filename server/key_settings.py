"""Where the key-encryption key comes from, and a second source while keys move from one to the other."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from server.provider_settings import Section


class KeyPlace(Section):
    """One source of the key-encryption key."""

    source: Literal[
        "file", "environment", "passphrase", "aws_kms", "google_kms", "azure_key_vault", "hashicorp_vault", "pkcs11"
    ] = Field(
        default="file",
        description="file | environment | passphrase | aws_kms | google_kms | azure_key_vault | hashicorp_vault | "
        "pkcs11",
    )
    file: Path | None = Field(default=None, description="Key file; default master.key in the data directory")
    passphrase_file: Path | None = Field(default=None, description="File that holds the passphrase")
    key: str | None = Field(
        default=None,
        description="Key at the service: AWS ID, ARN, or alias; Google resource name; Azure address; name of the "
        "transit key; PKCS #11 label",
    )
    address: str | None = Field(default=None, description="Address of the service; required for `hashicorp_vault`")
    token_file: Path | None = Field(
        default=None, description="File with the token for `hashicorp_vault`. Default: the variable `VAULT_TOKEN`"
    )
    module: Path | None = Field(default=None, description="PKCS #11 library of the device")
    token: str | None = Field(default=None, description="Label of the PKCS #11 token")
    pin_file: Path | None = Field(
        default=None, description="File with its user PIN. Default: the variable `TOKEN_VAULT_PIN`"
    )


class KeySettings(KeyPlace):
    """Where the master key comes from, by `source`.

    `file`: `file`; not readable by others, not a symbolic link. `environment`: `TOKEN_VAULT_KEY` (`openssl rand -base64
    32`). `passphrase`: `passphrase_file` or `TOKEN_VAULT_PASSPHRASE`. `aws_kms`: symmetric key `key`; boto3's usual
    credentials with `kms:Encrypt` and `kms:Decrypt`. `google_kms`: symmetric key `key`
    (`projects/.../cryptoKeys/NAME`); Google's default credentials. `azure_key_vault`: RSA key `key`
    (`https://VAULT.vault.azure.net/keys/NAME`); `DefaultAzureCredential`. `hashicorp_vault`: transit key `key` (or
    `MOUNT/NAME`) of HashiCorp Vault or OpenBao at `address`. `pkcs11`: AES key with the label `key` in `token` of the
    library `module`.
    """

    also: KeyPlace | None = Field(
        default=None,
        description="A second source (same settings) that can also open keys, for moving to another source",
    )
