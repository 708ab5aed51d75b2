"""SCIM 2.0: a company's directory creates, changes, and disables people and groups."""
