"""What an administrator does, once for the pages, the commands, and the Admin API: each calls these functions.

`actor` says who acts; a change checks that they still may, and is recorded with their name.
"""
