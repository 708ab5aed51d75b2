"""Tests of how stdio and serve start."""
