"""Tests of the commands and the installation."""
