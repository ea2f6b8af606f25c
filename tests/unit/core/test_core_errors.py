"""The exception tree: who is whose child, and that nothing is lost at a process border."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest

from microsnoop.core import errors
from microsnoop.core.codes import RejectCode
from microsnoop.core.errors import (
    ConfigError,
    CorrectionError,
    EncoderError,
    InputError,
    JointError,
    MicrosnoopError,
    MissingDependency,
    RowRejected,
    RunError,
    RunLocked,
    StaleOutput,
    StorageFull,
)
from microsnoop.core.optional import require

HINTED = [
    ConfigError,
    InputError,
    EncoderError,
    MissingDependency,
    RunError,
    RunLocked,
    StaleOutput,
    StorageFull,
    MicrosnoopError,
]


def across_a_process_border(error: BaseException) -> Any:
    return ForkingPickler.loads(ForkingPickler.dumps(error))


def rebuilt_from_reduce(error: BaseException) -> Any:
    rebuild, arguments, *state = error.__reduce__()  # type: ignore[misc]
    again = rebuild(*arguments)
    if state:
        again.__setstate__(state[0])
    return again


CROSSINGS = [across_a_process_border, rebuilt_from_reduce, copy.copy, copy.deepcopy]


@pytest.mark.parametrize(
    ("error", "parent"),
    [
        (ConfigError, ValueError),
        (InputError, ValueError),
        (partial(CorrectionError, "too_few_controls"), ValueError),
        (MissingDependency, ImportError),
        (RunLocked, RunError),
        (StaleOutput, RunError),
        (StorageFull, RunError),
    ],
)
def test_errors_can_be_caught_as_their_parents(error: type[Exception], parent: type[Exception]) -> None:
    with pytest.raises(parent):
        raise error("x")


def test_every_error_of_the_module_is_in_the_tree() -> None:
    defined = [
        item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, Exception)
    ]
    assert set(defined) == {*HINTED, RowRejected, errors._CodedError, CorrectionError, JointError}
    assert all(issubclass(item, MicrosnoopError) for item in defined)


@pytest.mark.parametrize("kind", [CorrectionError, JointError])
@pytest.mark.parametrize("cross", CROSSINGS)
def test_an_error_with_a_code_keeps_it_and_its_hint(
    cross: Callable[[BaseException], Any], kind: type[CorrectionError] | type[JointError]
) -> None:
    again = cross(kind("no_knee", "what happened", hint="what to do"))
    assert type(again) is kind
    assert (again.code, again.message, again.hint) == ("no_knee", "what happened", "what to do")


def test_a_rejected_row_is_no_value_error() -> None:
    assert not issubclass(RowRejected, ValueError)  # `except ValueError` must not swallow a reject


@pytest.mark.parametrize("cross", CROSSINGS)
@pytest.mark.parametrize("kind", HINTED)
def test_message_and_hint_survive(kind: type[MicrosnoopError], cross: Callable[[Any], Any]) -> None:
    again = cross(kind("what happened", hint="what to do"))
    assert type(again) is kind
    assert (str(again), again.message, again.hint) == ("what happened", "what happened", "what to do")


@pytest.mark.parametrize("cross", CROSSINGS)
@pytest.mark.parametrize("code", list(RejectCode))
def test_code_and_message_of_a_reject_survive(code: RejectCode, cross: Callable[[Any], Any]) -> None:
    again = cross(RowRejected(code, "img_1: 3 × 2 px"))
    assert type(again) is RowRejected
    assert again.code is code
    assert (str(again), again.message, again.hint) == ("img_1: 3 × 2 px", "img_1: 3 × 2 px", "")


def test_the_hint_is_optional_and_keyword_only() -> None:
    assert MicrosnoopError("x").hint == ""
    with pytest.raises(TypeError):
        MicrosnoopError("x", "y")  # type: ignore[misc]


def test_require_returns_the_module_itself() -> None:
    import json.decoder

    assert require("json.decoder", extra="cloud") is json.decoder


@pytest.mark.parametrize("name", ["no_such_package_anywhere", "json.no_such_submodule"])
def test_require_refuses_with_the_line_that_installs(name: str) -> None:
    with pytest.raises(MissingDependency, match=f"needs the package '{name}'") as caught:
        require(name, extra="cloud")
    assert caught.value.hint == "pip install 'microsnoop-platform[cloud]'"
    assert isinstance(caught.value.__cause__, ImportError)


def test_require_lets_other_failures_of_an_import_through(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "breaks_on_import_xyz.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ZeroDivisionError):
        require("breaks_on_import_xyz", extra="cloud")
