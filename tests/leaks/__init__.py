"""Tests against leaks: each secret of a run is a canary, and all output of the vault is searched for canaries.

`canaries` keeps the secrets and their written forms, `watch` collects the output, `plugin` does so for the whole suite
(`make leaks`), and `injector` raises at the n-th await. `server_files` reads what a PostgreSQL server writes.
`test_leaks.py` and `test_postgres_files.py` are the bounded part that the suite runs.
"""
