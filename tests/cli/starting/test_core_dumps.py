"""A crash leaves no core dump, which would contain opened tokens and keys, unless the operator asks for one."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest

from tests.support.processes import Place, free_port

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems have a limit only")


@pytest.fixture
def dumps_here(tmp_path: Path) -> Generator[None]:
    """Make crashing processes leave a core dump, as on a developer's machine."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    try:
        crash = subprocess.Popen([sys.executable, "-c", "import os; os.abort()"], cwd=tmp_path)
        if end_of(crash) != os.CLD_DUMPED:
            pytest.skip("this system writes no core dumps at all")
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)
        for path in tmp_path.glob("core*"):
            path.unlink()


def end_of(process: subprocess.Popen[bytes]) -> int:
    """How the process ended: `CLD_KILLED` by a signal, `CLD_DUMPED` with a core dump."""
    ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    process.wait()
    assert ended is not None
    return ended.si_code


def crash_of(command: Sequence[str], place: Place, folder: Path, **more: str) -> int:
    """Crash a process as soon as it prints something."""
    environment = place.environment() | more
    with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert process.stderr.readline()
        process.send_signal(signal.SIGABRT)
        return end_of(process)


@pytest.mark.requirement("V-08")
@pytest.mark.parametrize("is_allowed", [False, True], ids=["default", "server.core_dumps"])
def test_a_crash_leaves_no_image_of_the_memory(tmp_path: Path, dumps_here: None, is_allowed: bool) -> None:
    place = Place(tmp_path / "data", free_port())
    place.data.mkdir(mode=0o700)
    place.configure()
    more = {"TOKEN_VAULT_SERVER__CORE_DUMPS": "true"} if is_allowed else {}
    ended = crash_of(place.arguments("serve"), place, tmp_path, **more)
    assert ended == (os.CLD_DUMPED if is_allowed else os.CLD_KILLED)
