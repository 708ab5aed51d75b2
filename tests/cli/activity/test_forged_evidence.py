"""Signatures of a witness and time stamps that don't hold, each with its twin."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable
from pathlib import Path

import pytest

from server.app import open_deployment
from server.checkpoints.copies import DestinationFailed
from server.checkpoints.time_stamps import TimeStampAuthority
from server.settings import load_settings
from tests.cli.activity.test_activity_proof import happen, key_of
from tests.support.commands import run
from tests.support.doubles.time_stamp_authority import POLICY, running_authority
from tests.support.doubles.witness import Witness, running_witness
from tests.support.processes import Place


def forge(line: str) -> str:
    """The same key, with another signature."""
    dash, name, value = line.strip().split(" ")
    content = bytearray(b64decode(value))
    content[-1] ^= 1
    return f"{dash} {name} {b64encode(content).decode()}\n"


def backdate(line: str) -> str:
    """The same signature, with another time."""
    dash, name, value = line.strip().split(" ")
    content = bytearray(b64decode(value))
    content[11] ^= 1  # after the key's ID, the time has 8 bytes
    return f"{dash} {name} {b64encode(content).decode()}\n"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (forge, "isn't a valid signature"),
        (backdate, "isn't a valid signature"),
        (lambda _: "", "without its signature"),
        (lambda _: Witness().cosign("another\n", at=1_800_000_000), "without its signature"),
        (lambda _: "no signature", "isn't a valid signature"),
    ],
    ids=["forged", "backdated", "none", "of another key", "no line"],
)
async def test_a_checkpoint_gets_no_cosignature_that_its_witness_didnt_make(
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[str], str],
    says: str,
) -> None:
    async with running_witness() as witness:
        monkeypatch.setenv("TOKEN_VAULT_CHECKPOINTS__WITNESS_URL", witness.url)
        monkeypatch.setenv("TOKEN_VAULT_CHECKPOINTS__WITNESS_KEY", witness.verifier)
        witness.trust(await key_of(place))
        await happen(place)
        honest, witness.spoil = witness.spoil, spoil
        refused = await run(place, "activity", "checkpoint")
        assert refused.exit_code == 1
        assert says in refused.stdout
        proof = (await run(place, "activity", "prove", "1")).stdout
        assert "— witness.test/one" not in proof
        witness.spoil = honest
        assert (await run(place, "activity", "checkpoint")).exit_code == 0
        assert "— witness.test/one" in (await run(place, "activity", "prove", "1")).stdout


async def test_a_stamp_answers_its_own_request_and_has_the_wanted_policy(place: Place, tmp_path: Path) -> None:
    async with (
        running_authority(tmp_path / "authority") as tsa,
        open_deployment(load_settings(None, data=place.data), data=place.data) as deployment,
    ):
        any_policy = TimeStampAuthority(tsa.url, deployment.http, ca_file=tsa.root, policy="")
        earlier = await any_policy.stamp(b"a checkpoint")
        assert any_policy.stamped_at(b"a checkpoint", earlier)
        tsa.answers = earlier  # of the same content, so only the nonce shows that it is an old one
        with pytest.raises(DestinationFailed, match="isn't valid"):
            await any_policy.stamp(b"a checkpoint")
        tsa.answers = None
        await TimeStampAuthority(tsa.url, deployment.http, ca_file=tsa.root, policy=POLICY).stamp(b"a checkpoint")
        other = TimeStampAuthority(tsa.url, deployment.http, ca_file=tsa.root, policy="1.2.3.4.2")
        with pytest.raises(DestinationFailed, match="isn't valid"):
            await other.stamp(b"a checkpoint")
