"""Faults under load, with real processes and the simulator's books: `python -m tests.chaos`.

Each module with a coroutine `figures(scale)` is a scenario; it yields one `Figure` per promise.
`docs/evidence/reliability.md` has the measured figures. The suite runs the same scenarios at the small scale.
"""
