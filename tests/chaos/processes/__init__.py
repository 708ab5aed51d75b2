"""Processes that the scenarios start, stop, and kill: workers, processes that die, and the nursery that forks them."""
