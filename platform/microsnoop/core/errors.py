"""The exception tree.

::

    MicrosnoopError
    ├── ConfigError          a setting is wrong                          (also a ValueError)
    ├── InputError           the list of inputs cannot be used           (also a ValueError)
    ├── RowRejected          one record or sample cannot be embedded     (becomes a row of the rejects table)
    ├── CorrectionError      a batch correction would be wrong here      (also a ValueError; carries a code)
    ├── JointError           two modalities cannot be analysed together  (also a ValueError; carries a code)
    ├── EncoderError         an encoder cannot be found, read or trusted
    ├── MissingDependency    an optional package is not installed        (also an ImportError)
    └── RunError             a run directory or a running job failed
        ├── RunLocked        another process is writing there
        ├── StaleOutput      what is there was made with other settings, weights or inputs
        └── StorageFull      no space left while writing

Every error carries ``hint``: what the reader can do about it, in one sentence.
"""

from __future__ import annotations

from microsnoop.core.codes import RejectCode


class MicrosnoopError(Exception):
    """Base of all errors this project raises on purpose."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(MicrosnoopError, ValueError):
    """A setting is unknown, out of range, or contradicts another one."""


class InputError(MicrosnoopError, ValueError):
    """The list of inputs cannot be used as a whole: empty, duplicated ids, unreadable table."""


class RowRejected(MicrosnoopError):
    """One record or sample cannot be embedded; the run goes on and the row is written to the rejects."""

    def __init__(self, code: RejectCode, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type[RowRejected], tuple[RejectCode, str]]:
        # exceptions with keyword-only or extra arguments do not survive a process border by default
        return (RowRejected, (self.code, self.message))


class _CodedError(MicrosnoopError, ValueError):
    """An error whose reason has a name that programs can go by."""

    def __init__(self, code: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code

    def __reduce__(self) -> tuple[type[_CodedError], tuple[str, str], dict[str, str]]:
        return (type(self), (self.code, self.message), {"hint": self.hint})


class CorrectionError(_CodedError):
    """A batch correction cannot be fitted or applied without giving wrong numbers; ``code`` names the reason."""


class JointError(_CodedError):
    """Two modalities cannot be analysed together, or the result would be wrong; ``code`` names the reason."""


class EncoderError(MicrosnoopError):
    """An encoder is unknown, its weights are damaged, or it breaks its contract."""


class MissingDependency(MicrosnoopError, ImportError):
    """An optional package is needed and not installed."""


class RunError(MicrosnoopError):
    """A run directory cannot be used, or a running job failed."""


class RunLocked(RunError):
    """Another process holds the run directory."""


class StaleOutput(RunError):
    """The run directory holds rows made with other settings, weights or inputs (code ``stale_output``)."""


class StorageFull(RunError):
    """The disk filled up; everything written before is safe."""
