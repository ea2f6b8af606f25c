"""Hand-crafted features as another row source: the embedding pipeline with a measuring stage for its encoder.

The encoder name ``features`` in an ``EmbedConfig`` brings the features of ``ops.features`` in place of a
network. Reading, windows, resuming, rejects, verification and export are those of every run: baselines are
measured on exactly the pixels that the encoders see, and counted in the same way.

``ops.features`` brings scikit-image and scipy.stats: it is imported where features are really measured.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from microsnoop.core.schema import ERROR_FIELDS, PIXEL_FIELDS, ROW_FIELDS, RejectCode, Stage, require_columns
from microsnoop.models.card import EncoderBundle, EncoderCard, sha256
from microsnoop.pipelines.stages import not_finite, pixel_sample, result_table

FEATURES = "features"


def features_bundle(n_channels: int) -> EncoderBundle:
    """Return the card under which features stand in a run; there are no weights."""
    from microsnoop.ops.features import PLANE_NAMES, VERSION

    card = EncoderCard(
        name=FEATURES,
        architecture=f"features-{VERSION}",
        trained=False,
        description="Hand-crafted intensity and texture features of each plane, correlations of channels.",
        licence="Apache-2.0",
        dim=len(PLANE_NAMES) + n_channels - 1,
        bf16=False,
        weights_sha256=sha256(
            f"{VERSION} {PLANE_NAMES}".encode()
        ),  # of the definition: it decides the numbers
        notes=f"definition {VERSION}; the input side does not matter: planes are measured at their own size",
    )
    return EncoderBundle(card, b"")


def measure_samples(samples: pa.Table, *, channels: Sequence[str]) -> pa.Table:
    """Measure one block of samples; as many rows leave as came, in the same order.

    ::

        in    obs_id, .., pixels, dtype, offset, span, ..    or a reject, which passes through
        out   obs_id, .., vectors (C·D)                      or the reason why there is none
    """
    from microsnoop.ops.features import sample_features

    names = [name for fields in (ROW_FIELDS, PIXEL_FIELDS, ERROR_FIELDS) for name, _ in fields]
    require_columns(samples.column_names, stage="measure_samples", needed=names)
    stages, codes, messages = (samples[name].to_pylist() for name in ("stage", "code", "message"))
    rows = samples.to_pylist()
    vectors = np.full((len(rows), len(channels), features_bundle(len(channels)).card.dim), np.nan, np.float32)
    good = [i for i, code in enumerate(codes) if code is None]
    for i in good:
        sample = pixel_sample(rows[i], len(channels))
        measured = sample_features(sample.planes, sample.scaling.offset, sample.scaling.span)
        vectors[i] = measured.reshape(len(channels), -1)
    bad = not_finite(vectors, rows, channels)
    for i in good:
        if bad[i]:
            stages[i], codes[i] = Stage.EMBED, RejectCode.BAD_EMBEDDING
            messages[i] = f"{next((uri for uri in rows[i]['uris'] if uri), '')}: a feature is not finite"
    return result_table(samples, vectors.reshape(len(rows), -1), stages, codes, messages)
