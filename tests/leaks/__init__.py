"""Nothing leaks: each secret that a run makes is a canary, and what comes out of the vault is searched for all of them.

`canaries` knows the secrets and their written forms, `watch` collects what comes out, `plugin` does so for the whole
suite (`make leaks`), `injector` raises at the n-th await. `test_leaks.py` is the bounded part that the suite runs.
"""
