"""The actions of an admin, which the pages, the commands, and the Admin API share.

`actor` identifies who acts; each change checks that they still may, and is recorded with their name.
"""
