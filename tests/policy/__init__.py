"""The operator's own rules: what they say of a call, on every surface, and in the commands that try them."""
