"""The second stage of the embedding pipeline: processes that hold an encoder."""

from __future__ import annotations

import ctypes
import functools
import logging
import sys
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from microsnoop.core.errors import MicrosnoopError
from microsnoop.core.schema import ERROR_FIELDS, PIXEL_FIELDS, ROW_FIELDS, RejectCode, Stage, require_columns
from microsnoop.models.card import EncoderBundle
from microsnoop.models.device import DevicePlan
from microsnoop.models.embedder import Embedder, EmbedderOptions
from microsnoop.ops.modes import PixelSample
from microsnoop.pipelines.fields import Row
from microsnoop.pipelines.stages import not_finite, pixel_sample, result_table

log = logging.getLogger(__name__)


class EmbedActor:
    """Holds one encoder and turns samples into vectors; as many rows leave as came, in the same order.

    ::

        in    obs_id, .., pixels, dtype, offset, span, ..    or a reject, which passes through
        out   obs_id, .., vectors (C·D)                      or the reason why there is none
    """

    def __init__(
        self, bundle: EncoderBundle, plan: DevicePlan, options: EmbedderOptions, channels: Sequence[str]
    ) -> None:
        self._embedder = Embedder(bundle, plan, options)
        self._channels, self._n_channels = list(channels), len(channels)
        self._chunk_rows = max(1, 4 * plan.batch_planes // len(channels))

    def __call__(self, samples: pa.Table) -> pa.Table:
        """Embed one block."""
        names = [name for fields in (ROW_FIELDS, PIXEL_FIELDS, ERROR_FIELDS) for name, _ in fields]
        require_columns(samples.column_names, stage="EmbedActor", needed=names)
        codes: list[str | None] = samples["code"].to_pylist()
        messages: list[str | None] = samples["message"].to_pylist()
        stages: list[str | None] = samples["stage"].to_pylist()
        width = self._n_channels * self._embedder.card.dim
        vectors = np.full((samples.num_rows, width), np.nan, np.float32)
        good = [i for i, code in enumerate(codes) if code is None]
        for start in range(0, len(good), self._chunk_rows):
            chosen = good[start : start + self._chunk_rows]
            rows = samples.take(pa.array(chosen)).select([name for name, _ in (*ROW_FIELDS, *PIXEL_FIELDS)])
            embedded, failures = self._embed(rows.to_pylist())
            vectors[chosen] = embedded.reshape(len(chosen), width)
            for position, message in failures.items():
                row = chosen[position]
                source = next((uri for uri in samples["uris"][row].as_py() if uri), "")
                stages[row], codes[row] = Stage.EMBED, RejectCode.BAD_EMBEDDING
                messages[row] = f"{source}: {message}"
        give_back_memory()
        return result_table(samples, vectors, stages, codes, messages)

    def _embed(self, rows: list[Row]) -> tuple[NDArray[np.float32], dict[int, str]]:
        """Return vectors (n, C, D), NaN where a row failed, and the reasons by position."""
        samples = [pixel_sample(row, self._n_channels) for row in rows]
        failures: dict[int, str] = {}
        try:
            vectors = self._embedder.embed(samples)
        except MicrosnoopError:
            raise
        except Exception as error:
            log.warning("a batch of %d rows failed, trying row by row: %s", len(rows), error)
            vectors = self._one_by_one(samples, failures)
            if len(failures) == len(rows):  # then it is not the rows
                raise
        for i in np.flatnonzero(not_finite(vectors, rows, self._channels)):
            failures.setdefault(int(i), "the encoder's output has no length or is not finite")
        return vectors, failures

    def _one_by_one(self, samples: Sequence[PixelSample], failures: dict[int, str]) -> NDArray[np.float32]:
        vectors = np.full((len(samples), self._n_channels, self._embedder.card.dim), np.nan, np.float32)
        for i, sample in enumerate(samples):
            try:
                vectors[i] = self._embedder.embed([sample])[0]
            except Exception as error:  # noqa: BLE001  (one bad row must not take its batch with it)
                failures[i] = f"the encoder failed on this row: {type(error).__name__}: {error}"
        return vectors


def give_back_memory() -> None:
    """Return freed heap to the system, where the C library is glibc.

    Blocks come and go in many threads, and glibc keeps what they free: over a large field an actor grew to twice its
    size. Once a block costs milliseconds beside seconds of encoding.
    """
    _trim()(0)


@functools.lru_cache(maxsize=1)
def _trim() -> Callable[[int], object]:
    try:
        trim: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library or system
        return lambda _: None
    return trim if sys.platform == "linux" else lambda _: None
