"""Third-party programs as clients of the vault, and third-party servers as its providers: SDKs, OAuth servers."""
