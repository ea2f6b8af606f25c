"""Why a whole slide, or one of its tiles, cannot be used, and what is notable about one that can.

Source: slides spec, sections 1 to 4. A bad slide becomes a row of the rejects; it never ends a run.
"""

from __future__ import annotations

from enum import StrEnum

from microsnoop.core.errors import MicrosnoopError


class SlideCode(StrEnum):
    """Reasons that programs can go by."""

    DECODE_ERROR = "decode_error"
    UNTILED = "untiled"
    MPP_MISSING = "mpp_missing"
    ANISOTROPIC = "anisotropic"
    NO_TISSUE = "no_tissue"
    TOO_FEW_TILES = "too_few_tiles"
    TOO_COARSE = "too_coarse"  # the slide was not scanned at the magnification that is asked


class SlideFlag(StrEnum):
    """What is worth knowing about a slide that was read all the same."""

    MPP_GUESSED = "mpp_guessed"
    MPP_CONFLICT = "mpp_conflict"
    WEAK_CONTRAST = "weak_contrast"
    WHOLE_SLIDE = "whole_slide"
    BAD_TILES = "bad_tiles"


class SlideError(MicrosnoopError, ValueError):
    """A slide cannot be read, or gives no tiles; ``code`` (one of :class:`SlideCode`) names the reason."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = SlideCode(code)

    def __reduce__(self) -> tuple[type[SlideError], tuple[str, str, str]]:
        # exceptions with extra arguments do not survive a process border by default
        return (SlideError, (self.code.value, self.message, self.hint))
