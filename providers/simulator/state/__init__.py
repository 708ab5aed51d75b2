"""What a running simulator keeps: clock, books, faults, tokens, and the records of each face. It knows no face's wire.

`sandbox` builds all of it and clears it.
"""
