"""Checkpoints outside the host, what they reveal, and a proof that a third party checks with the documented script."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import shutil
import sqlite3
import sys
from base64 import b64decode
from pathlib import Path

import pytest
from typer.testing import Result

from tests.support.commands import content, run
from tests.support.doubles.time_stamp_authority import running_authority
from tests.support.doubles.witness import running_witness
from tests.support.processes import ROOT, Place

SCRIPT = ROOT / "docs" / "guides" / "examples" / "check_activity_proof.py"
STATE = ("vault.sqlite", "vault.sqlite-wal", "vault.sqlite-shm")


@pytest.fixture
def folder(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for copies of checkpoints."""
    made = tmp_path / "elsewhere"
    made.mkdir()
    monkeypatch.setenv("TOKEN_VAULT_CHECKPOINTS__DIRECTORY", str(made))
    return made


async def happen(place: Place, count: int = 1) -> None:
    """Record this many events, each by a command that costs little."""
    for _ in range(count):
        await content(place, "groups", "create", secrets.token_hex(8))


async def check_proof(*arguments: str) -> tuple[int, str]:
    """Run the documented script in a process without the vault's modules; return its output."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", str(SCRIPT), *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    return process.returncode or 0, (out + err).decode()


async def key_of(place: Place) -> str:
    keys = await content(place, "activity", "keys")
    assert isinstance(keys, list)
    return str(keys[-1]["key"])  # pyright: ignore


def change(place: Place, sql: str) -> None:
    with contextlib.closing(sqlite3.connect(place.data / "vault.sqlite")) as database:
        database.execute(sql)
        database.commit()


def proof_failure(result: Result) -> dict[str, object]:
    assert result.exit_code == 1, result.output
    return dict(json.loads(result.stdout))


def test_the_script_of_the_documentation_is_short_and_knows_nothing_of_ours() -> None:
    text = SCRIPT.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 100
    assert not any(name in text for name in ("import vault", "from vault", "import server", "from server"))


async def test_a_stranger_checks_a_proof_with_the_documented_script(place: Place, tmp_path: Path) -> None:
    await happen(place, 3)
    proof, key = tmp_path / "event.tlog-proof", await key_of(place)
    said = await content(place, "activity", "prove", "2", "--output", str(proof))
    assert (said["sequence"], said["index"]) == (2, 1)  # pyright: ignore
    code, text = await check_proof(str(proof), key)
    assert code == 0, text
    assert "Proved: event 2 of " in text
    assert "group.created" in text

    lines = proof.read_text(encoding="utf-8").split("\n")
    leaf = bytearray(b64decode(lines[1].removeprefix("extra ")))
    leaf[-3] ^= 1
    from base64 import b64encode

    for number, other in ((1, f"extra {b64encode(leaf).decode()}"), (2, "index 0"), (3, lines[4]), (0, "other")):
        forged = tmp_path / "forged.tlog-proof"
        forged.write_text("\n".join([*lines[:number], other, *lines[number + 1 :]]), encoding="utf-8")
        code, text = await check_proof(str(forged), key)
        assert code == 1
        assert "NOT PROVED" in text
    name, number, value = key.split("+", 2)
    for wrong in (f"other.example+{number}+{value}", f"{name}+00000000+{value}"):
        assert (await check_proof(str(proof), wrong))[0] == 1


async def test_the_documented_script_says_what_is_wrong_with_what_it_got(place: Place, tmp_path: Path) -> None:
    await happen(place)
    proof, key = tmp_path / "event.tlog-proof", await key_of(place)
    await content(place, "activity", "prove", "1", "--output", str(proof))
    line = (await run(place, "activity", "keys")).stdout.strip().split("\n")[-1]
    assert line.endswith(f"  {key}")
    assert (await check_proof(str(proof), line))[0] == 0
    (tmp_path / "empty").touch()
    (tmp_path / "binary").write_bytes(b"\xff\x00")
    name = key.split("+")[0]
    for told, *arguments in (
        ("python check_activity_proof.py PROOF KEY [WITNESS_KEY]", str(proof)),
        ("No such file", str(tmp_path / "missing"), key),
        ("the file isn't a proof", str(SCRIPT), key),
        ("the file isn't a proof", str(tmp_path / "empty"), key),
        ("the file isn't a proof", str(tmp_path / "binary"), key),
        ("from another log", str(proof), "other.example+00000000+AAAA"),
        ("the key isn't a verifier key", str(proof), name),
        ("the key isn't a verifier key", str(proof), " "),
        ("the key isn't a verifier key", str(proof), key, "witness"),
    ):
        code, said = await check_proof(*arguments)
        assert code == 1, arguments
        assert told in said
        assert "Traceback" not in said


async def test_a_proof_names_its_event_and_refuses_one_that_isnt_there(place: Place) -> None:
    await happen(place, 2)
    shown = await run(place, "activity", "prove", "1")
    assert shown.stdout.startswith("c2sp.org/tlog-proof@v1\nextra ")
    assert (await content(place, "activity", "prove", "1"))["events"] == 2  # pyright: ignore
    missing = await run(place, "activity", "prove", "40")
    assert missing.exit_code == 1
    assert "there is no event 40 yet" in missing.stderr


async def go_on_from_a_copy(place: Place, older: Path) -> object:
    """Record two events, copy the vault, and record three more; return the second checkpoint's output."""
    await happen(place, 2)
    await content(place, "activity", "checkpoint")
    shutil.copytree(place.data, older)
    await happen(place, 3)
    return await content(place, "activity", "checkpoint")


def put_back(place: Place, older: Path) -> None:
    shutil.rmtree(place.data)
    shutil.copytree(older, place.data)


async def test_a_checkpoint_in_a_folder_finds_what_the_key_itself_did(
    place: Place, folder: Path, tmp_path: Path
) -> None:
    """The database and the key store go back together, so nothing inside the vault shows it."""
    older = tmp_path / "older"
    made = await go_on_from_a_copy(place, older)
    assert made["destinations"] == [{"destination": f"folder {folder}", "failure": None}]  # pyright: ignore
    assert len(list(folder.rglob("*.checkpoint"))) == 2
    whole = await run(place, "activity", "verify")
    assert whole.exit_code == 0, whole.output
    assert f"Events up to 5 match the checkpoint in folder {folder}" in whole.stdout

    put_back(place, older)
    assert (await run(place, "activity", "verify", "--local")).exit_code == 0  # nothing local shows it
    found = proof_failure(await run(place, "activity", "verify", "--json"))
    assert found["sequence"] == 3
    assert "vouches for events up to 5" in str(found["sentence"])
    await happen(place, 4)  # it continues, beyond its former length
    found = proof_failure(await run(place, "activity", "verify", "--json"))
    assert found["sequence"] == 3
    assert "the checkpoint of events up to 2 fits" in str(found["sentence"])
    refused = await run(place, "activity", "verify", "--local", "--checkpoint", str(max(folder.rglob("*.checkpoint"))))
    assert refused.exit_code == 1
    min(folder.rglob("*.checkpoint")).write_text("nothing", encoding="utf-8")  # an unreadable checkpoint proves nothing
    assert proof_failure(await run(place, "activity", "verify", "--json"))["sequence"] == 1


async def test_after_a_restore_older_checkpoints_verify_up_to_it(place: Place, folder: Path, tmp_path: Path) -> None:
    await happen(place, 2)
    await content(place, "activity", "checkpoint")
    file = tmp_path / "vault.backup"
    assert (await run(place, "backup", str(file))).exit_code == 0
    await happen(place, 3)
    await content(place, "activity", "checkpoint")
    assert (await run(place, "restore", str(file), "--force")).exit_code == 0
    for _ in range(2):  # before and after the next log begins
        unsure = await run(place, "activity", "verify")  # anyone with the key can record a restore
        assert unsure.exit_code == 1
        assert "If you restored the vault, use --allow-restored" in unsure.stdout
        said = await content(place, "activity", "verify", "--allow-restored")
        assert said["whole"] is True  # pyright: ignore
        assert said["checkpoints_before_restore"][0]["events"] == 6  # pyright: ignore
        await content(place, "activity", "checkpoint")
    assert len({path.parent for path in folder.rglob("*.checkpoint")}) == 2
    shutil.copy(min(folder.rglob("*2.checkpoint")), tmp_path / "kept.checkpoint")
    kept = ("--allow-restored", "--checkpoint", str(tmp_path / "kept.checkpoint"))
    said = await content(place, "activity", "verify", *kept)
    assert {one["events"] for one in said["checkpoints"]} == {2, 4}  # pyright: ignore


async def test_a_recovered_database_says_from_where_to_where_it_went(
    place: Place, folder: Path, tmp_path: Path
) -> None:
    """The vault ran before someone noticed, so its events reuse numbers of earlier events."""
    older = tmp_path / "older"
    await go_on_from_a_copy(place, older)
    put_back(place, older)
    await happen(place, 4)
    found = proof_failure(await run(place, "activity", "verify", "--json"))
    assert "the checkpoint of events up to 2 fits" in str(found["sentence"])
    assert (await run(place, "quarantine", "--recovered-to", "90")).exit_code == 1
    assert (await run(place, "quarantine", "--accept")).exit_code == 0  # the default is the event before
    assert proof_failure(await run(place, "activity", "verify", "--allow-restored", "--json"))["sequence"] == 3
    assert (await run(place, "quarantine", "--accept", "--recovered-to", "2")).exit_code == 0
    for _ in range(2):  # before and after the next log begins
        told = await run(place, "activity", "verify")
        assert told.exit_code == 1, "an attacker with the key could say so, too"
        assert "The vault was recovered from event 5 to event 2, says event 8 of" in told.stdout
        said = await content(place, "activity", "verify", "--allow-restored")
        assert said["whole"] is True  # pyright: ignore
        (gone,) = said["checkpoints_before_restore"]  # pyright: ignore
        assert (gone["events"], gone["recovered_to"]) == (5, 2)
        await content(place, "activity", "checkpoint")
    change(place, "update events set kind = 'x' where sequence = 2")
    assert proof_failure(await run(place, "activity", "verify", "--allow-restored", "--json"))["sequence"] == 2


async def test_the_same_backup_is_restored_twice(place: Place, folder: Path, tmp_path: Path) -> None:
    await happen(place, 2)
    file = tmp_path / "vault.backup"
    assert (await run(place, "backup", str(file))).exit_code == 0
    for _ in range(2):
        assert (await run(place, "restore", str(file), "--force")).exit_code == 0
        await happen(place, 1)
        done = await run(place, "activity", "checkpoint")
        assert done.exit_code == 0, done.output
    assert len({path.parent for path in folder.rglob("*.checkpoint")}) == 2
    said = await content(place, "activity", "verify", "--allow-restored")
    assert said["whole"] is True  # pyright: ignore
    (kept,) = max((path.parent for path in folder.rglob("*.checkpoint")), key=lambda one: one.stat().st_mtime).iterdir()
    kept.write_text(kept.read_text(encoding="utf-8").replace("\n", "\nA", 2), encoding="utf-8")
    change(place, "delete from event_deliveries")
    refused = await run(place, "activity", "checkpoint")
    assert refused.exit_code == 1
    assert "has a different checkpoint of" in refused.stdout


async def test_a_proof_outlives_the_person_and_names_nobody(place: Place, tmp_path: Path) -> None:
    await content(place, "users", "add", "zelda", "--password-stdin", feed="a long enough password")
    removed = await run(place, "users", "remove", "zelda")
    assert removed.exit_code == 0, removed.output
    proof = tmp_path / "event.tlog-proof"
    await content(place, "activity", "prove", "1", "--output", str(proof))
    code, text = await check_proof(str(proof), await key_of(place))
    assert code == 0, text
    assert "user.created" in text
    assert "zelda" not in text
    assert (await run(place, "activity", "verify")).exit_code == 0


async def test_an_altered_event_is_named_by_the_command_and_nothing_is_signed_over_it(
    place: Place, folder: Path
) -> None:
    await happen(place, 4)
    await content(place, "activity", "checkpoint")
    change(place, "update events set outcome = 'forged' where sequence = 3")
    assert proof_failure(await run(place, "activity", "verify", "--json"))["sequence"] == 3
    refused = await run(place, "activity", "checkpoint")
    assert refused.exit_code == 1
    assert "tampered with at event" in refused.stderr
    assert len(list(folder.rglob("*.checkpoint"))) == 1


async def test_a_swapped_forged_or_foreign_checkpoint_is_a_problem(place: Place, folder: Path, tmp_path: Path) -> None:
    await happen(place, 2)
    await content(place, "activity", "checkpoint")
    await happen(place)
    await content(place, "activity", "checkpoint")
    first, second = sorted(folder.rglob("*.checkpoint"))
    kept = second.read_text(encoding="utf-8")
    origin = kept.split("\n")[0]
    for text, why in (
        (first.read_text(encoding="utf-8"), "its name says 3 events, but it covers 2"),
        (kept.replace("\n3\n", "\n4\n"), "is wrong"),
        (kept.replace(origin, "other.example/activity/00000000"), "another log"),
        ("nothing", "isn't a signed note"),
    ):
        second.write_text(text, encoding="utf-8")
        said = await run(place, "activity", "verify")
        assert said.exit_code == 1
        assert why in said.stdout
    second.write_text(kept, encoding="utf-8")
    assert (await run(place, "activity", "verify")).exit_code == 0
    shutil.rmtree(folder)
    folder.mkdir()
    gone = await run(place, "activity", "verify")
    assert gone.exit_code == 1
    assert "are gone" in gone.stdout


async def test_a_log_without_its_keys_or_its_newest_checkpoint_is_a_problem(place: Place, folder: Path) -> None:
    await happen(place, 1)
    await content(place, "activity", "checkpoint")
    await happen(place, 1)
    await content(place, "activity", "checkpoint")
    assert (await run(place, "activity", "verify")).exit_code == 0
    newest = max(folder.rglob("*.checkpoint"))
    newest.rename(folder / "aside")
    gone = await run(place, "activity", "verify")
    assert gone.exit_code == 1
    assert "the checkpoint of 2 events that was delivered is gone" in gone.stdout
    (folder / "aside").rename(newest)
    with contextlib.closing(sqlite3.connect(place.data / "keys.sqlite")) as database:
        database.execute("delete from ring where purpose = 'activity-log'")
        database.commit()
    without = await run(place, "activity", "verify")
    assert without.exit_code == 1
    assert "there is no log to compare the checkpoints with" in without.stdout
    assert (await run(place, "activity", "verify", "--local")).exit_code == 0
    await key_of(place)  # another log begins
    other = await run(place, "activity", "verify")
    assert other.exit_code == 1
    assert "checkpoints of a log that this vault has no key for" in other.stdout


async def test_a_folder_that_cant_be_used_is_said_and_tried_again(place: Place, folder: Path) -> None:
    await happen(place)
    folder.rmdir()
    checked = await run(place, "activity", "checkpoint", "--check")
    assert checked.exit_code == 1
    failed = await run(place, "activity", "checkpoint")
    assert failed.exit_code == 1
    assert "isn't a folder: create it, or mount it" in failed.stdout
    told = [one for one in json.loads((await run(place, "doctor", "--json")).stdout) if one["check"] == "activity"]
    assert [one["verdict"] for one in told] == ["ok", "problem"]
    assert f"folder {folder} doesn't get the signed checkpoints" in told[1]["sentence"]
    folder.mkdir()
    assert (await run(place, "activity", "checkpoint", "--check")).exit_code == 0
    assert list(folder.iterdir()) == []
    values = "set origin = 'another', held_until"
    change(place, f"update event_deliveries {values} = 99999999999 where destination = 'turn'")
    busy = await run(place, "activity", "checkpoint")
    assert busy.exit_code == 1
    assert "another process is sending checkpoints" in busy.stdout
    change(place, f"update event_deliveries {values} = null where destination = 'turn'")
    assert (await run(place, "activity", "checkpoint")).exit_code == 0
    assert len(list(folder.rglob("*.checkpoint"))) == 1


async def test_a_witness_cosigns_and_finds_a_history_that_went_back(
    place: Place, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_witness() as witness:
        monkeypatch.setenv("TOKEN_VAULT_CHECKPOINTS__WITNESS_URL", witness.url)
        monkeypatch.setenv("TOKEN_VAULT_CHECKPOINTS__WITNESS_KEY", witness.verifier)
        await happen(place, 2)
        unknown = await run(place, "activity", "checkpoint")
        assert unknown.exit_code == 1
        assert "doesn't know this log" in unknown.stdout
        witness.trust(await key_of(place))
        assert (await run(place, "activity", "checkpoint")).exit_code == 0
        older = tmp_path / "older"
        shutil.copytree(place.data, older)
        await happen(place, 3)
        signed = await run(place, "activity", "checkpoint")
        assert signed.exit_code == 0, signed.output
        assert f"— {witness.verifier.split('+')[0]} " in signed.stdout
        assert (await run(place, "activity", "verify")).exit_code == 0

        proof = tmp_path / "event.tlog-proof"
        await content(place, "activity", "prove", "4", "--output", str(proof))
        code, text = await check_proof(str(proof), await key_of(place), witness.verifier)
        assert code == 0, text
        assert "Witnessed at 2027-01-15T08:00:00+00:00" in text

        shutil.rmtree(place.data)
        shutil.copytree(older, place.data)
        shutil.rmtree(folder)  # even without the copies
        folder.mkdir()
        found = proof_failure(await run(place, "activity", "verify", "--json"))
        assert found["sequence"] == 3
        assert "has seen events up to 5" in str(found["sentence"])
        await happen(place, 4)
        forked = await run(place, "activity", "checkpoint")
        assert forked.exit_code == 1
        assert "it has seen a different history of 5 events" in forked.stdout
        assert proof_failure(await run(place, "activity", "verify", "--json"))["whole"] is False


@pytest.mark.parametrize("notes", ["kept", "older", "gone"])
async def test_a_witness_finds_a_rewritten_history_whatever_checkpoints_the_vault_still_has(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notes: str
) -> None:
    """A different history of the same length, with its tree, next to the first history's checkpoints."""
    async with running_witness() as witness:
        monkeypatch.setenv("TOKEN_VAULT_CHECKPOINTS__WITNESS_URL", witness.url)
        monkeypatch.setenv("TOKEN_VAULT_CHECKPOINTS__WITNESS_KEY", witness.verifier)
        witness.trust(await key_of(place))
        await happen(place, 1)
        assert (await run(place, "activity", "checkpoint")).exit_code == 0
        older = tmp_path / "older"
        shutil.copytree(place.data, older)
        await happen(place, 2)
        assert (await run(place, "activity", "checkpoint")).exit_code == 0
        if notes != "kept":  # the twin: with the true history, the remaining notes don't matter
            size = 3 if notes == "older" else 0
            change(place, f"delete from event_notes where size >= {size}")
        whole = await run(place, "activity", "verify")
        assert whole.exit_code == 0, whole.output
        assert f"Events up to 3 match the checkpoint in witness {witness.verifier.split('+')[0]}" in whole.stdout

        with contextlib.closing(sqlite3.connect(place.data / "vault.sqlite")) as database:
            kept = database.execute("select * from event_notes").fetchall()
        shutil.rmtree(place.data)
        shutil.copytree(older, place.data)
        await content(place, "users", "add", "zelda", "--password-stdin", feed="a long enough password")
        await happen(place, 2)
        await content(place, "activity", "prove", "1")
        (place.data / "last-seen.json").unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(place.data / "vault.sqlite")) as database:
            database.execute("delete from event_notes")
            for row in kept:
                database.execute(f"insert into event_notes values ({', '.join('?' * len(row))})", row)
            database.commit()
        assert proof_failure(await run(place, "activity", "verify", "--json"))["whole"] is False


async def test_checkpoints_are_stamped_and_the_time_is_verified(
    place: Place, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_authority(tmp_path / "authority") as authority:
        monkeypatch.setenv("TOKEN_VAULT_CHECKPOINTS__TIMESTAMP_URL", authority.url)
        monkeypatch.setenv("TOKEN_VAULT_CHECKPOINTS__TIMESTAMP_CA_FILE", str(authority.root))
        await happen(place, 2)
        checked = await run(place, "activity", "checkpoint", "--check")
        assert checked.exit_code == 0, checked.output
        assert "leads to timestamp_ca_file" in " ".join(checked.stdout.split())
        assert (await run(place, "activity", "checkpoint")).exit_code == 0
        (note,), (stamp,) = folder.rglob("*.checkpoint"), folder.rglob("*.tsr")
        said = await content(place, "activity", "verify")
        assert said["checkpoints"][0]["stamped_at"] is not None  # pyright: ignore
        command = ["openssl", "ts", "-verify", "-data", str(note), "-in", str(stamp), "-CAfile", str(authority.root)]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
        assert await process.wait() == 0

        old = stamp.read_bytes()
        await happen(place)
        authority.answers = old  # a stamp for another checkpoint, with another nonce
        failed = await run(place, "activity", "checkpoint")
        assert failed.exit_code == 1
        assert "isn't valid" in failed.stdout
        assert len(list(folder.rglob("*.checkpoint"))) == 2  # the copy doesn't wait for the stamp
        newest = max(folder.rglob("*.checkpoint"))
        assert "The checkpoint of 3 events" in (await run(place, "activity", "verify")).stdout
        authority.answers = None
        assert (await run(place, "activity", "checkpoint")).exit_code == 0  # the copy gets the stamp later
        stamped = await run(place, "activity", "verify")
        assert stamped.exit_code == 0, stamped.output
        assert "has no time stamp" not in stamped.stdout
        newest.with_suffix(".tsr").write_bytes(old)
        verified = await run(place, "activity", "verify")
        assert verified.exit_code == 1
        assert "isn't valid" in verified.stdout


async def test_a_new_key_of_the_log_is_told_and_proves_too(place: Place, tmp_path: Path) -> None:
    await happen(place)
    old = await key_of(place)
    made = await content(place, "activity", "rotate-key")
    keys = await content(place, "activity", "keys")
    assert [one["signs"] for one in keys] == [True, True]  # pyright: ignore
    assert keys[-1]["key"] == made["key"] != old  # pyright: ignore
    proof = tmp_path / "event.tlog-proof"
    await content(place, "activity", "prove", "2", "--output", str(proof))
    for key in (old, str(made["key"])):  # pyright: ignore
        code, text = await check_proof(str(proof), key)
        assert code == 0, text
        assert "activity.key_rotated" in text
