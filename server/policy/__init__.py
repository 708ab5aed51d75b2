"""The operator's policy: Cedar rules, an external decision point, or both. It can only forbid uses or ask the person.

`gate` decides about each use of an account, based on `files`, `schema`, `facts`, and `rules`. `cases`,
`replay` and `checks` are for the operator who writes the rules.
"""
