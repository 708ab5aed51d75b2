"""Statements of one transaction take turns on its connection, and none follows a failed one."""

from __future__ import annotations

from typing import Generic, TypeVar

from vault.refusals import StorageUnavailable

C = TypeVar("C")  # the driver's connection


class StatementTurns(Generic[C]):
    """The connection of one transaction, until it is finished or a statement fails."""

    def __init__(self, connection: C) -> None:
        self._connection: C | None = connection
        self.failed = False

    def _enter(self) -> C:
        """The connection, for one statement; set `failed` to False when that succeeded. Raises StorageUnavailable."""
        if self._connection is None:
            raise StorageUnavailable("the transaction is over")
        if self.failed:
            raise StorageUnavailable(
                "the transaction failed before", detail="the transaction continued after a refused statement"
            )
        self.failed = True  # until the statement has succeeded; a cancelled one has not
        return self._connection

    def finish(self) -> None:
        """No statement may follow."""
        self._connection = None
