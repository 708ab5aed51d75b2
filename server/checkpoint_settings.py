"""The settings for signed checkpoints of the activity: how often they are made, and where they go."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from server.provider_settings import Section


class CheckpointSettings(Section):
    """Signed checkpoints of the activity, and the destinations outside this host that receive them."""

    every: int = Field(
        default=3600, ge=60, le=86400, description="Seconds between checkpoints, if there are new events"
    )
    directory: Path | None = Field(default=None, description="Folder that receives a copy, on another host's volume")
    bucket: str | None = Field(default=None, description="S3-compatible bucket with object lock that receives a copy")
    bucket_prefix: str = Field(default="token-vault/", description="Prefix of its keys there")
    bucket_region: str | None = Field(default=None, description="Region of the bucket. Default: determined by boto3")
    bucket_endpoint: str | None = Field(default=None, description="Address of the service, if not AWS")
    bucket_days: int = Field(default=400, ge=1, le=36500, description="Days during which a copy there can't be deleted")
    bucket_lock: Literal["compliance", "governance"] = Field(
        default="compliance", description="Object lock mode. Under `governance`, administrators may still delete"
    )
    timestamp_url: str | None = Field(default=None, description="Time-stamping authority (RFC 3161)")
    timestamp_ca_file: Path | None = Field(
        default=None, description="PEM file with the root certificate of its time stamps. Required with `timestamp_url`"
    )
    timestamp_policy: str = Field(default="", description="Policy object identifier that its time stamps must have")
    witness_url: str | None = Field(
        default=None, description="Submission prefix of a witness (C2SP tlog-witness) that cosigns"
    )
    witness_key: str = Field(
        default="", description="Verifier key of the witness, `NAME+ID+KEY`. Required with `witness_url`"
    )

    @field_validator("witness_key")
    @classmethod
    def _cosigns(cls, value: str) -> str:
        from vault.audit.notes import COSIGNATURE, NoteRefused, Verifier

        if not value:
            return value
        try:
            found = Verifier.parse(value)
        except NoteRefused as error:
            raise ValueError(error.description) from error
        if found.kind != COSIGNATURE:
            raise ValueError("this key doesn't cosign: use the witness's key of type 04")
        return value

    @model_validator(mode="after")
    def _are_complete(self) -> Self:
        if self.timestamp_url is not None and self.timestamp_ca_file is None:
            raise ValueError("timestamp_url needs timestamp_ca_file: time stamps are verified")
        if self.witness_url is not None and not self.witness_key:
            raise ValueError("witness_url needs witness_key: cosignatures are verified")
        return self
