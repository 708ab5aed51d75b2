"""Import accounts that people connected elsewhere: a reader for each kind of file, and `transfers` for all.

Files are only read. A token must have one owner: whatever used it before stops first, since most providers end a grant
whose refresh token comes twice. An account whose source gives no refresh token is named and left out.
"""
