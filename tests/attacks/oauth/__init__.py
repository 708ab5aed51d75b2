"""Attacks on the authorization server: endpoints, tokens, exchange, requests in the background, and Auth0's wire."""
