"""`bench`: every figure is there and plausible, and nothing of the measured vault is left behind."""

from __future__ import annotations

import tempfile
from pathlib import Path

import asyncpg
import pytest

from server.sizing.load import LoadFailed, answering_provider, drive
from tests.conftest import Store
from tests.support.commands import content, run
from tests.support.processes import Place


def check(found: dict[str, dict[str, float]]) -> None:
    for kind in ("calls", "exchanges", "handles"):
        rate = found[kind]
        assert rate["per_second"] > 1, kind
        assert rate["cpu_us"] > 10, kind
        assert rate["per_core"] == pytest.approx(1e6 / rate["cpu_us"], rel=0.05)
        assert rate["p99_ms"] >= rate["p50_ms"] > 0
    assert found["read"]["p50_ms"] > 0
    assert found["commit"]["p99_ms"] >= found["commit"]["p50_ms"] > 0
    assert found["seals_per_second"] > 100
    assert found["opens_per_second"] > 100
    assert found["memory_mb"] > 10


@pytest.mark.long
async def test_it_measures_sqlite_and_leaves_nothing(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = sorted(place.data.iterdir())
    found = await content(place, "bench", "--seconds", "1")
    assert found["database"] == "SQLite"
    check(found)
    assert not list(tmp_path.glob("token-vault-bench-*"))
    assert sorted(place.data.iterdir()) == before


@pytest.mark.long
async def test_it_measures_a_database_of_its_own_on_postgresql_and_drops_it(postgres_store: Store) -> None:
    found = await content(postgres_store, "bench", "--seconds", "1", "--database", postgres_store.url)
    assert found["database"] == "PostgreSQL"
    check(found)
    connection = await asyncpg.connect(postgres_store.url)
    try:
        names = [row["datname"] for row in await connection.fetch("select datname from pg_database")]
    finally:
        await connection.close()
    assert not [name for name in names if name.startswith("token_vault_bench")]


@pytest.mark.parametrize(
    ("url", "words"),
    [("sqlite:", "PostgreSQL server"), ("postgresql://nobody@127.0.0.1:1/none", "can't reach")],
)
async def test_a_database_that_cannot_be_measured_is_refused(place: Place, url: str, words: str) -> None:
    refused = await run(place, "bench", "--database", url)
    assert refused.exit_code == 1
    assert words in refused.stderr


async def test_the_load_counts_no_answer_that_is_wrong() -> None:
    async with answering_provider() as port:
        request = b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n"
        assert (await drive(port, request, seconds=0.05, wanted=b'"ok":true')).latencies
        with pytest.raises(LoadFailed, match="HTTP 200"):
            await drive(port, request, seconds=0.05, wanted=b"something else")
