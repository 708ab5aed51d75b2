"""`make fuzz`: run each target under atheris for some seconds, each in its own process.

    python -m tests.fuzz [--seconds 60] [TARGET ...]

Interesting inputs are kept in .fuzz/TARGET for the next run; an input that fails stays there as `crash-...`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

CORPUS = Path(__file__).parents[2] / ".fuzz"
MEMORY = 4096  # MB
SLOWEST = 10  # seconds for one input


def fuzz(name: str, seconds: int) -> None:
    """Run one target in this process, and exit."""
    import atheris

    with atheris.instrument_imports(include=["server", "providers", "vault"]):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[name]
    corpus = CORPUS / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    bounds = [f"-max_total_time={seconds}", f"-timeout={SLOWEST}", f"-rss_limit_mb={MEMORY}", "-max_len=4096"]
    atheris.Setup([name, str(corpus), f"-artifact_prefix={corpus}/", "-print_final_stats=1", *bounds], target.run)
    atheris.Fuzz()


def main() -> None:
    """Run the targets one after another, and print a table of results."""
    parser = argparse.ArgumentParser(prog="make fuzz")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("targets", nargs="*")
    given = parser.parse_args()
    if given.one:
        fuzz(given.one, given.seconds)
        return
    from tests.fuzz.targets import TARGETS

    failed: list[str] = []
    for name in given.targets or TARGETS:
        command = [sys.executable, "-m", "tests.fuzz", "--one", name, "--seconds", str(given.seconds)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        runs = [line.split(":")[-1].strip() for line in done.stderr.splitlines() if "number_of_executed_units" in line]
        print(
            f"{name:20} {runs[0] if runs else '?':>10} inputs  {'held' if done.returncode == 0 else 'FAILED'}",
            flush=True,
        )
        if done.returncode != 0:
            failed.append(name)
            print(done.stderr[-4000:] + done.stdout[-1000:])
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
