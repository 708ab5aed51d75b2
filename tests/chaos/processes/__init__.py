"""Processes that the scenarios start, stop and kill: workers, mortal ones, and the nursery that forks them."""
