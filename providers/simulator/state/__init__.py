"""The state of a running simulator: clock, books, faults, tokens, and the records of each face, independent of HTTP.
`sandbox` creates and clears it.
"""
