"""The operator's own rules: what they decide about a call, on every surface, and the commands that try them."""
