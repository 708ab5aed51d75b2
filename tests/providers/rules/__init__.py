"""Request rules of single services, and where they come from."""
