"""One OAuth server that can behave like many: each *mode* is a known difference among providers.

Written from the specifications and the services' documentation, never from the project's own provider files, so that
agreement with it means something. Its addresses are `/families/{mode}/...`.
"""
