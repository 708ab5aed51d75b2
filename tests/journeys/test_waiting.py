"""The suite's own waits are long enough for a busy machine, and records are read only after they are written."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
READER: Final = "tests/support/inspection.py"
LEAST: Final = 20  # seconds
CLIENTS: Final = re.compile(r"httpx2?\.(AsyncClient|Client|get|post|request|stream)")


def sources() -> Iterator[tuple[str, str]]:
    """Each module of the tests with its source."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        if "node_modules" not in path.parts:
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def impatient_clients(source: str) -> Iterator[int]:
    """Lines that create a client with the library's default timeout of five seconds."""
    for node in ast.walk(ast.parse(source)):
        is_client = isinstance(node, ast.Call) and CLIENTS.fullmatch(ast.unparse(node.func)) is not None
        if is_client and not any(one.arg in {"timeout", None} for one in node.keywords):
            yield node.lineno


def test_a_client_without_a_time_of_its_own_is_found() -> None:
    assert list(impatient_clients("httpx2.AsyncClient()\nhttpx2.AsyncClient(timeout=30)")) == [1]


def test_every_client_of_a_test_says_how_long_it_waits() -> None:
    found = [
        f"{name}:{line}" for name, source in sources() if CLIENTS.search(source) for line in impatient_clients(source)
    ]
    assert not found, "add timeout=30"


def impatient_waits(source: str) -> Iterator[int]:
    """Lines that give what must happen less than LEAST seconds."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and node.args and ast.unparse(node.func) == "asyncio.timeout":
            match node.args[0]:
                case ast.Constant(value=int() | float() as seconds) if seconds < LEAST:
                    yield node.lineno


def test_a_wait_without_time_for_a_busy_machine_is_found() -> None:
    assert list(impatient_waits("asyncio.timeout(5)\nasyncio.timeout(30)\nasyncio.timeout(None)")) == [1]


def test_every_wait_of_a_test_leaves_a_busy_machine_its_time() -> None:
    found = [
        f"{name}:{line}"
        for name, source in sources()
        if Path(name).name.startswith("test_") and "asyncio.timeout(" in source
        for line in impatient_waits(source)
    ]
    assert not found, "use asyncio.timeout(30)"


def test_events_of_a_running_vault_are_read_after_they_are_written() -> None:
    asked = re.compile(r"list_events\(\s*[\w.]*deployment\.database")
    found = [name for name, source in sources() if name != READER and asked.search(source)]
    assert not found, f"use read_events of {READER}"
