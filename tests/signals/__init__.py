"""Tests of signals: what other systems tell this vault, and what it tells them."""
