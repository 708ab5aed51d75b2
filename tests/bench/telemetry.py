"""What telemetry costs a tool call: off, with Prometheus metrics, and with OTLP metrics and traces; one run.

    python -m tests.bench.telemetry [--rounds N] [--calls N]

While it is off, a call still enters its spans without a listener: their cost is their number times the time of one,
measured here.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import tempfile
import time
import timeit
from collections.abc import Mapping
from pathlib import Path

from tests.bench.calls import raw
from tests.bench.load import request_bytes
from tests.bench.rounds import Pair, Way, compare
from tests.bench.servers.contenders import (
    LOAD_CORE,
    SERVER_CORE,
    Contender,
    ending,
    free_port,
    start,
    start_upstream,
    wait_for,
)
from tests.bench.tables import print_ratios
from vault.spans import span

WANTED = 1.05
SPANS = 6  # spans of a tool call: the call, the exchange, the request to the provider, and three of storage
PROMETHEUS = "TOKEN_VAULT_TELEMETRY__PROMETHEUS"
OTLP = "TOKEN_VAULT_TELEMETRY__OTLP_ENDPOINT"


def start_with(
    name: str, settings: Mapping[str, str], folder: Path, upstream: int, running: list[subprocess.Popen[str]]
) -> Way:
    """Start a vault with these settings in its environment; return calls to it."""
    port = free_port()
    os.environ.update(settings)
    process = start(
        "tests.bench.servers.vault_with_telemetry", str(port), str(upstream), str(folder / name), core=SERVER_CORE
    )
    running.append(process)
    for variable in settings:
        del os.environ[variable]
    assert process.stdout is not None
    token = process.stdout.readline().strip()
    if not token:
        raise SystemExit(f"the vault with {settings} did not start")
    wait_for(port, process)
    return raw(Contender(name, process, port, token), lambda number: request_bytes(port, number, token=token))


def enter_a_span() -> None:
    with span("storage", operation="read") as shown:
        shown.note(status="ok")


def main() -> None:
    """Start, compare, and stop."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.telemetry", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=1000, help="calls per vault and round")
    options = parser.parse_args()
    os.sched_setaffinity(0, {LOAD_CORE})
    took = timeit.repeat(enter_a_span, number=100_000, repeat=5, timer=time.process_time)
    each = min(took) / 100_000 * 1e6
    with tempfile.TemporaryDirectory() as name, ending() as running:
        folder, upstream = Path(name), start_upstream(running)
        kinds: Mapping[str, Mapping[str, str]] = {
            "off": {},
            "off, a second process": {},
            "metrics for Prometheus": {PROMETHEUS: f"127.0.0.1:{free_port()}"},
            "metrics and traces by OTLP": {OTLP: f"http://127.0.0.1:{upstream}"},
        }
        off, *others = (start_with(kind, chosen, folder, upstream, running) for kind, chosen in kinds.items())
        pairs = {kind: Pair(off, way, WANTED) for kind, way in zip(list(kinds)[1:], others, strict=True)}
        found = asyncio.run(compare(pairs, rounds=options.rounds, calls=options.calls))
    print_ratios("Telemetry: CPU us per tool call", found, columns=("off", "this"))
    print(f"\nOff: {SPANS} spans of {each:.2f} us each, {SPANS * each:.1f} us of a call")


if __name__ == "__main__":
    main()
