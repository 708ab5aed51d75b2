"""The room that these tests share."""

from tests.support.rooms.signal_room import place

__all__ = ["place"]
