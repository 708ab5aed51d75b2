"""Auth0's wire: paths, grants, My Account API."""
