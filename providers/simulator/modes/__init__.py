"""How services differ, as data: each *mode* is a way in which OAuth providers are known to behave.

Written from the services' documentation, never from the provider files.
`families` serves a mode, `state` keeps its tokens.
"""

from providers.simulator.modes.model import Mode, Operation, RevocationMode, Shape
from providers.simulator.modes.table import MODES, SERVED, mode_of

__all__ = ["MODES", "SERVED", "Mode", "Operation", "RevocationMode", "Shape", "mode_of"]
