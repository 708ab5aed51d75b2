"""Programs and services of others, and what it takes to run them in tests."""
