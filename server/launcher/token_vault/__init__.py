"""The one name under which the program is installed: the command `token-vault` and `python -m token_vault`.

The code is in three folders, `server`, `providers`, and `vault`, and imports itself by these names. An installed wheel
contains them inside this package, so that site-packages gets no such general names. `claim_names` makes the three names
resolve to our own folders in this process, whatever the working directory or the environment contains.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

FOLDERS = frozenset({"server", "providers", "vault"})


class OwnFolders:
    """Finds the three packages in `root`, before any other finder is asked."""

    def __init__(self, root: Path) -> None:
        self._path = [str(root)]

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder.find_spec`."""
        return PathFinder.find_spec(fullname, self._path, target) if fullname in FOLDERS else None


def claim_names() -> None:
    """Make `server`, `providers` and `vault` resolve to this program's folders; further calls change nothing.

    Call it before the first import of one of them. Raises ImportError if the folders are missing.
    """
    if not any(isinstance(finder, OwnFolders) for finder in sys.meta_path):
        sys.meta_path.insert(0, OwnFolders(_root()))


def _root() -> Path:
    """The parent of the three folders: this package if installed from a wheel, otherwise a checkout on the path."""
    for root in (Path(__file__).resolve().parent, *(Path(entry).absolute() for entry in sys.path)):
        if (root / "server" / "cli.py").is_file() and (root / "vault" / "schema").is_dir():
            return root
    raise ImportError("the installation is incomplete: reinstall mcp-token-vault")


def main() -> None:
    """Run the program."""
    claim_names()
    from server.program import main as run  # only now do the names resolve to our folders

    run()
