"""The first hour of a new user, played from the guides: `python -m tests.first_hour`.

It clones this checkout, types what stands in the fenced blocks of docs/, and prints the time of each step. It needs
Linux (its own network and mounts) and the package index for `pip install`.
"""
