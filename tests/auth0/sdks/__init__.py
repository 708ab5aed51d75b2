"""Tests with published, unmodified clients of Auth0's interface, and the programs that run them."""
