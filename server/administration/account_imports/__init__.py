"""Import accounts that people connected elsewhere: a reader for each kind of file, and `transfers` for all.

Files are only read. A token must have one owner: stop the program that used it before, since most providers end a grant
if its refresh token is used twice. An account without a refresh token in the source is reported and left out.
"""
