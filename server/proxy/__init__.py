"""The proxy: clients call a provider's API through the vault, with a handle instead of its credential."""

from server.proxy.endpoint import Proxy

__all__ = ["Proxy"]
