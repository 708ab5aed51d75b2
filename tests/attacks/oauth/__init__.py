"""Attacks on the authorization server: endpoints, tokens, exchange, background requests, and Auth0's interface."""
