"""Tests with published clients of Auth0's wire, unmodified, and the programs that run them."""
