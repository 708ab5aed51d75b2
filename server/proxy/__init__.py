"""The proxy: clients call a provider's own API through us, with a handle where the provider wants its credential."""

from server.proxy.endpoint import Proxy

__all__ = ["Proxy"]
