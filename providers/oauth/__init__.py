"""Speaking OAuth to providers."""
