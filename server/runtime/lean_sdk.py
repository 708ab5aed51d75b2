"""Loads only the parts of the MCP SDK that a server here uses, when it uses them.

Each import from `mcp` runs the `__init__` of its packages, which load the SDK's client and its server framework too.
With `load_lean` they run when one of their own names is first read. The models of the messages of each revision make
their validators when the first such message comes. Together that is a fifth of a start. The SDK could do the same
itself: `docs/development/upstream/mcp-late-imports.patch`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import version
from threading import RLock
from types import ModuleType
from typing import Final

TRIED: Final = "2.3."  # the releases whose modules were tried one by one; any other release is loaded unmodified
_PACKAGES: Final = frozenset({"mcp", "mcp.client", "mcp.server"})
_REVISIONS: Final = "mcp_types.methods"  # loads the models of each revision, all of which derive from one


def load_lean() -> None:
    """Do so from now on. Call it before the first import from the package; further calls change nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path) and version("mcp").startswith(TRIED):
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """Finds the packages where they are, with a loader that puts them off; prepares the models before they load."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder.find_spec`."""
        if fullname == _REVISIONS:
            from mcp_types._wire_base import WireModel

            WireModel.model_config["defer_build"] = True
        if fullname not in _PACKAGES:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _LateLoader(spec.loader)
        return spec


class _LateLoader(Loader):
    """Runs a package's code when a name is read that the package does not have yet (PEP 562)."""

    def __init__(self, own: Loader) -> None:
        self._own = own
        self._lock = RLock()
        self._is_run = False

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        def read(name: str) -> object:
            if name.startswith("__") and name != "__all__":  # the import system looks for some that packages lack
                raise AttributeError(name)
            with self._lock:
                if not self._is_run:
                    self._is_run = True
                    self._own.exec_module(module)
            try:
                return vars(module)[name]
            except KeyError:
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}") from None

        vars(module)["__getattr__"] = read
