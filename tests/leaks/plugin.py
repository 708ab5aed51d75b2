"""`make leaks`: run the suite with a watch in each of its processes. A test that leaks is an error.

    pytest -p tests.leaks.plugin

Of PostgreSQL, the log is searched, in which the suite's own server writes each statement and parameter. Secrets made in
separate processes (`serve`, `stdio`, commands) are unknown here; their output is searched for the test's own
secrets.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.leaks.server_files import ServerFiles, data_of, make_talkative
from tests.leaks.watch import Watch

WATCH = Watch()
_REST = ExitStack()
_FOLDERS: set[Path] = set()


def pytest_sessionstart() -> None:
    """Start watching before the first fixture."""
    _REST.enter_context(WATCH.install())


def pytest_sessionfinish() -> None:
    """Put everything back."""
    _REST.close()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Watch new record classes before each test, because modules are loaded late."""
    WATCH.watch_reprs()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """Watch the log records of setup, call, and teardown."""
    with WATCH.watch_logs():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> Generator[None, object, object]:
    """Let the suite's PostgreSQL server log all statements, unless TEST_DATABASE_URL names another one."""
    made = yield
    if fixturedef.argname == "postgres_server" and "TEST_DATABASE_URL" not in os.environ:
        asyncio.run(make_talkative(str(made)))
        WATCH.servers.append(ServerFiles(data_of(str(made)), is_only_log=True))
    return made


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    """Search while databases are open, so that their write-ahead logs still exist."""
    for value in getattr(item, "funcargs", {}).values():
        if isinstance(value, Path):
            _FOLDERS.add(value)
    for phase, kind, text in item._report_sections:
        if kind == "stderr":
            WATCH.text(f"standard error of {phase}", text)
    found = WATCH.look(sorted(_FOLDERS | WATCH.folders))
    yield
    if found:
        pytest.fail("secrets leaked:\n" + "\n".join(sorted({str(one) for one in found})), pytrace=False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was searched in this process."""
    searched = ", ".join(f"{count} x {name}" for name, count in sorted(WATCH.looked_at.items()))
    terminalreporter.write_line(f"leaks: {len(WATCH.canaries)} secrets looked for in {searched or 'workers'}")
