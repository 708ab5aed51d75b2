"""The proxy: clients call a provider's own API through the vault, with a handle in place of the provider's
credential."""

from server.proxy.endpoint import Proxy

__all__ = ["Proxy"]
