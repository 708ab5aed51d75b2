"""The signed activity at a million events: `python -m tests.bench.million_activity [--events 100000 1000000]`.

Fill a SQLite database in a temporary folder for each size, then build the tree, sign and send a checkpoint, verify,
prove, and export, each in its own process. Linear costs grow with the number of events.
"""

from __future__ import annotations

import argparse
import logging
import secrets
import shutil
import tempfile
from pathlib import Path

from tests.bench.million import Where, fill_database, run_commands

CONNECTIONS = 2000  # events name these people


def measure(where: Where, folder: Path, *, events: int) -> None:
    """Run the commands around the tree; the first one builds it."""
    middle, end = str(events // 2), folder / "events.jsonl"
    run_commands(
        where,
        ("activity", "verify", "--local"),
        ("activity", "checkpoint"),
        ("activity", "checkpoint"),
        ("activity", "verify"),
        ("activity", "prove", middle, "--output", str(folder / "proof")),
        ("activity", "export", "--output", str(end)),
        ("activity", "export", "--after", str(events - 1000), "--output", str(folder / "tail.jsonl")),
        TOKEN_VAULT_CHECKPOINTS__DIRECTORY=str(folder / "checkpoints"),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.bench.million_activity")
    parser.add_argument("--events", type=int, nargs="+", default=[100_000, 1_000_000])
    chosen = parser.parse_args()
    logging.disable(logging.ERROR)
    for events in chosen.events:
        folder = Path(tempfile.mkdtemp(prefix=f"tvm{secrets.token_hex(2)}", dir="/tmp"))
        try:
            (folder / "checkpoints").mkdir()
            where = Where(folder / "vault", "sqlite:")
            fill_database(where, connections=CONNECTIONS, events=events)
            print(f"\n{events:,} events", flush=True)
            measure(where, folder, events=events)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
