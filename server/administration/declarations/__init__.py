"""The parts of applying a declaration."""
