"""The first hour of a new user, played from the guides: `python -m tests.first_hour`.

It clones this checkout, types the commands in the fenced blocks of docs/, and prints the time of each step. It needs
Linux (separate network and mounts) and the package index for `pip install`.
"""
