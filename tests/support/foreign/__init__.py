"""Third-party programs and services, and what tests need to run them."""
