"""One obstacle or remark of the check."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """`reason` says what does not fit, `remedy` what to do. Not `fatal`: a remark, the wheel may be installed."""

    reason: str
    remedy: str = ""
    fatal: bool = True

    def lines(self) -> list[str]:
        """The finding for a person."""
        return [("" if self.fatal else "note: ") + self.reason, *([f"  remedy: {self.remedy}"] if self.remedy else [])]
