"""Auth0's interface: paths, grants, My Account API."""
