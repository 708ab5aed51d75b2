"""The operator's policy: rules in Cedar, a decision point elsewhere, or both. It can only take away, or ask the person.

`gate` answers each use of an account; `files`, `schema`, `facts` and `rules` are what it decides with. `cases`,
`replay` and `checks` are for the operator who writes the rules.
"""
