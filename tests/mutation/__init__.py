"""`make mutate`: a sample of the mutants that cosmic-ray can make of `vault/`, `server/oauth/`, and `server/proxy/`.

A full run takes days. A run with coverage shows which tests reach which line. Each mutant then meets the tests of its
line, in forks of one process that has imported all tests.
"""
