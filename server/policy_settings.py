"""The settings of the operator's own rules about what agents may do."""

from __future__ import annotations

from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator

from server.provider_settings import Section


class PolicySettings(Section):
    """Cedar rules that forbid uses of accounts or make the vault ask the person about them."""

    folder: Path | None = Field(default=None, description="Folder with the rules (`*.cedar`), reread when they change")
    shadow_folder: Path | None = Field(
        default=None, description="Folder with trial rules: decisions that would differ are counted, not applied"
    )
    time_zone: str = Field(default="UTC", description="Time zone of `context.hour` and `context.weekday`")

    @field_validator("time_zone")
    @classmethod
    def _is_known(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("use a name such as Europe/Berlin") from None
        return name

    @property
    def has_rules(self) -> bool:
        """Whether there are any rules, active or on trial."""
        return self.folder is not None or self.shadow_folder is not None
