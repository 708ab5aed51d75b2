"""A strict upstream for tests, demo and sandbox: OAuth and APIs like Slack's and Google's, faults, counts of tokens.

It shares no code with the rest of the project, so that agreement with it means something.
"""

from providers.simulator.person import consent
from providers.simulator.running import Simulator, running_simulator

__all__ = ["Simulator", "consent", "running_simulator"]
