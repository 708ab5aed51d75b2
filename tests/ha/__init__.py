"""PostgreSQL as its users run it, on loopback: Patroni, etcd, HAProxy and PgBouncer, with the documentation's files.

`python -m tests.ha` starts them, and replicas of the vault behind them, and breaks them.
See docs/evidence/reliability.md.
"""
