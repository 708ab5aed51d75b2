"""Copies of checkpoints in an S3-compatible bucket with object lock (moto). Run by `make keyservices`."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from server.checkpoint_settings import CheckpointSettings
from server.checkpoints.copies import BucketCopies, DestinationFailed
from tests.keyservices.keys_at_services import packages, program, run_service
from tests.support.commands import content, run
from tests.support.processes import Place, free_port
from tests.vault.audit.test_audit_log import PLACE, fill, start_log
from vault.audit.log import SignedCheckpoint, issue
from vault.keys.key_ring import KeyRing
from vault.storage.database import Database

__all__ = ["packages"]

pytestmark = pytest.mark.filterwarnings("ignore")  # of other people's packages


@pytest.fixture(scope="module")
def service() -> Generator[tuple[str, Any]]:
    """The URL of an S3 service with the bucket `locked` and one without object lock, and a client for it."""
    import boto3

    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")):
            patch.setenv(name, value)
        patch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
        address = f"http://127.0.0.1:{free_port()}"
        with run_service(program("moto_server"), "-H", "127.0.0.1", "-p", address.rpartition(":")[2], until=address):
            client = boto3.client("s3", region_name="eu-west-1", endpoint_url=address)
            place = {"LocationConstraint": "eu-west-1"}
            client.create_bucket(Bucket="locked", CreateBucketConfiguration=place, ObjectLockEnabledForBucket=True)
            client.create_bucket(Bucket="open", CreateBucketConfiguration=place)
            yield address, client


def copies(address: str, bucket: str = "locked") -> BucketCopies:
    settings = CheckpointSettings(bucket=bucket, bucket_region="eu-west-1", bucket_endpoint=address, bucket_days=30)
    return BucketCopies(bucket, settings)


async def sign_checkpoint(database: Database) -> SignedCheckpoint:
    made = await issue(database, await start_log(database), now=database.now())
    assert made is not None
    return made


async def test_a_copy_is_kept_once_and_nobody_deletes_it(
    service: tuple[str, Any], database: Database, key_ring: KeyRing
) -> None:
    address, client = service
    bucket = copies(address)
    assert "30 days (compliance)" in await bucket.check()
    await fill(database, 2)
    first = await sign_checkpoint(database)
    await bucket.keep(first)
    await bucket.keep(first)
    await fill(database, 1)
    await bucket.keep(await sign_checkpoint(database))
    assert await bucket.list_sizes(first.head.origin) == [2, 3]
    assert await bucket.load(first.head.origin, 2) == (str(first.note), None)
    key = f"token-vault/{first.head.origin}/0000000000000002.checkpoint"
    (version,) = client.list_object_versions(Bucket="locked", Prefix=key)["Versions"]
    kept = client.head_object(Bucket="locked", Key=key)
    assert kept["ObjectLockMode"] == "COMPLIANCE"
    assert kept["ObjectLockRetainUntilDate"].timestamp() == pytest.approx(first.created_at + 30 * 86400, abs=1)
    with pytest.raises(client.exceptions.ClientError):
        client.delete_object(Bucket="locked", Key=key, VersionId=version["VersionId"])
    assert await bucket.list_replaced(first.head.origin) == []
    client.delete_object(Bucket="locked", Key=key)  # a delete marker, which object lock doesn't prevent
    client.put_object(Bucket="locked", Key=key.replace("2.checkpoint", "3.checkpoint"), Body=b"other")
    assert await bucket.list_sizes(first.head.origin) == [2, 3]
    assert await bucket.load(first.head.origin, 2) == (str(first.note), None)
    assert (await bucket.load(first.head.origin, 3))[0].startswith(first.head.origin)
    assert await bucket.list_replaced(first.head.origin) == [
        "0000000000000002.checkpoint",
        "0000000000000003.checkpoint",
    ]
    assert first.head.origin in await bucket.list_origins(PLACE)
    with pytest.raises(DestinationFailed, match="no longer has the checkpoint of 9 events"):
        await bucket.load(first.head.origin, 9)


async def test_a_bucket_without_object_lock_or_none_at_all_is_said(service: tuple[str, Any]) -> None:
    for name in ("open", "missing"):
        with pytest.raises(DestinationFailed, match=f"bucket {name}"):
            await copies(service[0], name).check()
    nowhere = CheckpointSettings(bucket="locked", bucket_region="eu-west-1", bucket_endpoint="http://127.0.0.1:9")
    with pytest.raises(DestinationFailed, match="can't be reached"):
        await BucketCopies("locked", nowhere).check()


async def test_the_copies_in_a_bucket_find_a_database_that_went_back(
    service: tuple[str, Any], tmp_path: Path, prepared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    place = Place(tmp_path / "data", free_port())
    await asyncio.to_thread(shutil.copytree, prepared_data, place.data)
    place.data.chmod(0o700)
    place.configure()
    values = {"BUCKET": "locked", "BUCKET_REGION": "eu-west-1", "BUCKET_ENDPOINT": service[0]}
    for name, value in values.items():
        monkeypatch.setenv(f"TOKEN_VAULT_CHECKPOINTS__{name}", value)
    await content(place, "keys", "rotate-signing")
    assert (await run(place, "activity", "checkpoint")).exit_code == 0
    shutil.copytree(place.data, tmp_path / "older")
    await content(place, "keys", "rotate-signing")
    assert (await run(place, "activity", "checkpoint")).exit_code == 0
    whole = await run(place, "activity", "verify")
    assert whole.exit_code == 0, whole.output
    assert "Events up to 2 match the checkpoint in bucket locked" in whole.stdout
    folder = f"token-vault/{(await content(place, 'activity', 'checkpoint'))['origin']}/"  # pyright: ignore
    for one in service[1].list_objects_v2(Bucket="locked", Prefix=folder)["Contents"]:
        service[1].delete_object(Bucket="locked", Key=one["Key"])
    hidden = await run(place, "activity", "verify")
    assert hidden.exit_code == 1
    assert "Events up to 2 match the checkpoint in bucket locked" in hidden.stdout
    assert "2 files were deleted or overwritten" in hidden.stdout
    shutil.rmtree(place.data)
    shutil.copytree(tmp_path / "older", place.data)
    found = await run(place, "activity", "verify")
    assert found.exit_code == 1
    assert "tampered with at event 2" in found.stdout
