"""A strict upstream for tests, demo and sandbox: OAuth and APIs like Slack's and Google's, faults, and token counts.

It shares no code with the rest of the project, so that agreement with it means something.
"""

from providers.simulator.local_server import Simulator, running_simulator
from providers.simulator.person import consent

__all__ = ["Simulator", "consent", "running_simulator"]
