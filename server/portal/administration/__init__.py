"""Administration: what an administrator does for everyone in the browser.

`room` guards every page; `providers`, `people`, `agents`, and `vault_pages` are its pages.
"""
