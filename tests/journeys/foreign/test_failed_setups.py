"""What a third-party server's setup opened is closed if the setup fails; otherwise the tests after it fail, too."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from server.settings import SettingsRefused
from tests.journeys.foreign.test_foreign_django import DJANGO
from tests.support.foreign.emulated_services import open_emulated
from tests.support.foreign.foreign_place import open_place
from tests.support.harness import running_vault


def open_sockets() -> set[str]:
    """The sockets of this process by their inodes."""
    found: set[str] = set()
    for one in Path("/proc/self/fd").iterdir():
        try:
            target = str(one.readlink())
        except FileNotFoundError:  # opened by the listing itself
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


@pytest.mark.parametrize(
    ("setup", "error"),
    [
        (lambda folder: open_place(folder / "missing", DJANGO), FileNotFoundError),
        (lambda folder: open_emulated(folder / "missing"), FileNotFoundError),
        (lambda folder: running_vault(folder, overrides={"unknown": {}}), SettingsRefused),
    ],
    ids=["place", "emulated", "vault"],
)
async def test_a_setup_that_fails_leaves_no_socket(
    tmp_path: Path, setup: Callable[[Path], AbstractAsyncContextManager[object]], error: type[Exception]
) -> None:
    before = open_sockets()
    with pytest.raises(error) as failed:
        async with setup(tmp_path):
            pass
    assert open_sockets() <= before, failed.value  # the traceback still references what the setup opened
