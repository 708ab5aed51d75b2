"""The sandbox's Drive: a few files per person. Independent of tokens and HTTP."""

from __future__ import annotations

from dataclasses import dataclass

from providers.simulator.accounts import PEOPLE

GOOGLE = "application/vnd.google-apps."
DOC = "1DocSandboxHandbook"
SHEET = "1SheetSandboxBudget"
NOTES = "1TextSandboxNotes"
PICTURE = "1PictureSandbox"
BIG = "1TextSandboxTooLarge"
FOLDER = "1FolderSandbox"
SHORTCUT = "1ShortcutSandbox"


@dataclass(frozen=True, slots=True)
class SimulatedFile:
    """A file, changed `days` ago. For Google's own kinds, `content` is the export."""

    id: str
    name: str
    mime: str
    content: bytes
    days: int
    parent: str = "root"
    target: str | None = None
    size: int | None = None  # if it is stated to differ from the content's

    @property
    def is_google(self) -> bool:
        return self.mime.startswith(GOOGLE)


def _files(name: str) -> tuple[SimulatedFile, ...]:
    return (
        SimulatedFile(
            DOC, "Team handbook", f"{GOOGLE}document", "\ufeffBe kind.\r\nShip small.\r\n".encode(), 3, FOLDER
        ),
        SimulatedFile(SHEET, "Budget", f"{GOOGLE}spreadsheet", b"month,euro\r\nJanuary,120\r\n", 5),
        SimulatedFile(NOTES, f"{name}'s notes.md", "text/markdown", "# Notes\n\nCafé \\ 'Rosé'.\n".encode(), 1),
        SimulatedFile(PICTURE, "Garden.png", "image/png", b"\x89PNG\r\n\x1a\n\x00\x00", 8),
        SimulatedFile(BIG, "access.log", "text/plain", b"x", 9, size=50_000_000),
        SimulatedFile(FOLDER, "Work", f"{GOOGLE}folder", b"", 20),
        SimulatedFile(SHORTCUT, "Handbook", f"{GOOGLE}shortcut", b"", 21, target=DOC),
    )


class Drives:
    """Every person's files."""

    def __init__(self) -> None:
        self._drives = {person.email: _files(person.display_name) for person in PEOPLE.values()}

    def of(self, email: str) -> tuple[SimulatedFile, ...]:
        """This person's files, the newest first."""
        return tuple(sorted(self._drives[email], key=lambda file: file.days))

    def find(self, email: str, identifier: str) -> SimulatedFile | None:
        return next((file for file in self._drives[email] if file.id == identifier), None)
