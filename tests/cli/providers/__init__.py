"""Tests of setting up providers, OpenID Connect, and what doctor says of them."""
