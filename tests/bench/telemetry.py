"""What telemetry costs a tool call: off, as metrics for Prometheus, and as metrics and traces by OTLP; one run.

    python -m tests.bench.telemetry [--rounds N] [--calls N]

While it is off, a call still enters its spans, and nobody listens: their number times the time of one, measured here.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import timeit
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.bench.__main__ import CORES, Contender, free_port, measure, start, wait_for
from tests.bench.tables import print_ratios
from vault.spans import span

WANTED = 1.05
SPANS = 6  # of a tool call: the call, the exchange, the request to the provider, and three of storage
PROMETHEUS = "TOKEN_VAULT_TELEMETRY__PROMETHEUS"
OTLP = "TOKEN_VAULT_TELEMETRY__OTLP_ENDPOINT"


def start_vault(folder: Path, name: str, upstream: int, settings: Mapping[str, str]) -> Contender:
    """A vault with these settings in its environment."""
    port, before = free_port(), dict(os.environ)
    os.environ.update(settings)
    process = start("tests.bench.observed", str(port), str(upstream), str(folder / name), core=CORES[0])
    for variable in settings:
        del os.environ[variable]
    assert before == dict(os.environ)
    assert process.stdout is not None
    token = process.stdout.readline().strip()
    if not token:
        raise SystemExit(f"the vault with {settings} did not start")
    return Contender(name, process, port, token)


async def compare(contenders: Sequence[Contender], *, rounds: int, calls: int) -> dict[str, list[tuple[float, float]]]:
    """CPU us per call of the first and of each other, by round; the first round only warms up."""
    found: dict[str, list[tuple[float, float]]] = {one.name: [] for one in contenders[1:]}
    for number in range(-1, rounds):
        turn = contenders[:: 1 if number % 2 else -1]
        used = {one.name: (await measure(one, 400 if number < 0 else calls))[0] for one in turn}
        if number >= 0:
            for name, pairs in found.items():
                pairs.append((used[contenders[0].name], used[name]))
    return found


def enter_a_span() -> None:
    with span("storage", operation="read") as shown:
        shown.note(status="ok")


def main() -> None:
    """Start, compare, end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=1000)
    options = parser.parse_args()
    os.sched_setaffinity(0, {CORES[-1]})
    each = min(timeit.repeat(enter_a_span, number=100_000, repeat=5)) / 100_000 * 1e6
    upstream = free_port()
    running = [start("tests.bench.upstream", str(upstream), core=CORES[-1])]
    try:
        with tempfile.TemporaryDirectory() as name:
            wait_for(upstream, running[0])
            folder, settings = (
                Path(name),
                {
                    "off": {},
                    "off again": {},
                    "metrics for Prometheus": {PROMETHEUS: f"127.0.0.1:{free_port()}"},
                    "metrics and traces by OTLP": {OTLP: f"http://127.0.0.1:{upstream}"},
                },
            )
            contenders = []
            for what, variables in settings.items():
                contenders.append(start_vault(folder, what, upstream, variables))
                running.append(contenders[-1].process)
                wait_for(contenders[-1].port, contenders[-1].process)
            found = asyncio.run(compare(contenders, rounds=options.rounds, calls=options.calls))
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(timeout=30)
    print_ratios(
        "Telemetry: CPU us per tool call",
        {name: (pairs, WANTED) for name, pairs in found.items()},
        columns=("off", "this"),
    )
    print(f"\nOff: {SPANS} spans of {each:.2f} us each, {SPANS * each:.1f} us of a call")


if __name__ == "__main__":
    main()
