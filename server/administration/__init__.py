"""What an admin does, written once: the pages, the commands, and the Admin API call these functions.

`actor` says who acts; a change checks that they still may, and is recorded with their name.
"""
