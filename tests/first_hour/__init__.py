"""The first hour of a new user, played from the guides: from a clone to a posted message and a listed calendar.

`python -m tests.first_hour` clones this checkout, types what stands in the fenced blocks of docs/, and prints the time
of each step. It needs Linux (a network and mounts of its own, so that slack.com and googleapis.com can be stood in for)
and the package index for `pip install`.
"""
