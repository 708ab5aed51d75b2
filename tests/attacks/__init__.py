"""Attacks on a running vault, black box: plain HTTP and raw sockets, one named test for each, driven by `make attack`.

Not a part of `make test`: its files are named `attack_*.py`, which only `tests.attacks.__main__` collects.
"""
