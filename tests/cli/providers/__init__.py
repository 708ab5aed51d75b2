"""Tests of the setup of providers and OpenID Connect, and of what doctor reports about them."""
