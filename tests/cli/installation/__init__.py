"""Tests of what is shipped and how it is installed: wheel, bundle, releases, other systems, shared machines."""
