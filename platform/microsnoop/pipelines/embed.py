"""The embedding run: records -> samples -> vectors -> Parquet, resumable, every row accounted for.

The chain is :func:`embed_stream`; everything around it makes sure that what is already written is not computed
again and that what is written belongs together.
"""

from __future__ import annotations

import functools
import logging
import platform as host_platform
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from microsnoop.core.config import EmbedConfig
from microsnoop.core.errors import ConfigError
from microsnoop.io.manifest import InputList, read_records
from microsnoop.io.sources import refreshed
from microsnoop.io.store import RunStore, now
from microsnoop.models.card import EncoderBundle, EncoderCard
from microsnoop.models.device import count_gpus, resolve_device
from microsnoop.models.embedder import EmbedderOptions
from microsnoop.models.registry import load_encoder
from microsnoop.models.segmenters import check_segmenter
from microsnoop.pipelines.actors import EmbedActor
from microsnoop.pipelines.blocks import split_large
from microsnoop.pipelines.cluster import Resources, as_dataset, cluster, cluster_resources, local_resources
from microsnoop.pipelines.fields import ReadJob
from microsnoop.pipelines.measure import FEATURES, features_bundle, measure_samples
from microsnoop.pipelines.plan import ExecutionPlan, Probe, input_side, make_plan, probe
from microsnoop.pipelines.progress import Reporter, Summary
from microsnoop.pipelines.resume import Identity, check_same_run, copy_valid_rows, pending_records
from microsnoop.pipelines.session import Session
from microsnoop.pipelines.stages import read_samples

if TYPE_CHECKING:
    from ray.data import Dataset

log = logging.getLogger(__name__)

_COPYING = "copying"  # status of a fork until all valid rows are taken over


@dataclass(frozen=True)
class PreparedRun:
    """What is known before any pixel is read: the plan a user may look at first."""

    inputs: InputList
    bundle: EncoderBundle
    probed: Probe
    plan: ExecutionPlan
    identity: Identity
    job: ReadJob
    options: EmbedderOptions


def embed_stream(records: pa.Table, *, run: PreparedRun) -> Iterator[pa.Table]:
    """Run the chain on a connected cluster and yield results (``schema.result_schema``) as they come.

    ::

        records                          image_id, uris, index, boxes              one row an image
        -> read_samples    (tasks)       + obs_id, box, pixels in the file's dtype one row a sample
        -> EmbedActor      (actors)      - pixels, + vectors (C·D)                 one row a sample
    """
    samples = as_dataset(records, rows_per_block=run.plan.records_per_block).map_batches(
        functools.partial(read_samples, job=run.job),
        batch_format="pyarrow",
        batch_size=None,
        zero_copy_batch=True,
    )
    results = _measured(samples, run) if run.bundle.card.name == FEATURES else _encoded(samples, run)
    yield from results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


def _encoded(samples: Dataset, run: PreparedRun) -> Dataset:
    import ray.data

    return samples.map_batches(
        EmbedActor,
        fn_constructor_args=(run.bundle, run.plan.device, run.options, run.job.channels),
        batch_format="pyarrow",
        batch_size=None,
        zero_copy_batch=True,
        num_gpus=run.plan.num_gpus_per_actor or None,
        compute=ray.data.ActorPoolStrategy(size=run.plan.actors),
    )


def _measured(samples: Dataset, run: PreparedRun) -> Dataset:
    """Hand-crafted features instead of an encoder: plain tasks, no device."""
    return samples.map_batches(
        functools.partial(measure_samples, channels=run.job.channels),
        batch_format="pyarrow",
        batch_size=None,
        zero_copy_batch=True,
    )


def prepare(cfg: EmbedConfig, *, resources: Resources | None = None) -> PreparedRun:
    """Check inputs, encoder and settings, and make the plan. Starts nothing and writes nothing.

    Parameters
    ----------
    resources
        What there is to plan with; this machine by default.

    Raises
    ------
    InputError, ConfigError, EncoderError
        Whatever cannot work, said before any work is done.
    """
    resources = resources or local_resources(gpus=count_gpus())
    inputs = read_records(cfg.input)
    if cfg.mode == "crop" and "mask_uri" not in inputs.records.column_names:
        check_segmenter(cfg.segment.method, cfg.segment.model)
    bundle = None if cfg.encoder == FEATURES else load_encoder(cfg.encoder, pooling=cfg.pooling)
    probed = probe(inputs.records, cfg)
    bundle = bundle or features_bundle(len(probed.channels))
    inputs = split_large(inputs, cfg, input_px=input_side(cfg, bundle.card))
    store = RunStore(Path(cfg.run_dir))
    plan = make_plan(
        cfg,
        bundle.card,
        device=_device(cfg, resources),
        resources=resources,
        records=inputs.records,
        probed=probed,
        precision=store.identity["precision"] if store.exists else None,
    )
    identity = Identity.of(cfg, bundle.card, probed.channels, plan.device.precision)
    job = ReadJob(cfg, probed.channels, identity.input_px, identity.processing_key, session=uuid.uuid4().hex)
    return PreparedRun(inputs, bundle, probed, plan, identity, job, embedder_options(cfg, bundle.card))


def embed(
    cfg: EmbedConfig,
    *,
    on_progress: Reporter | None = None,
    on_plan: Callable[[PreparedRun], None] | None = None,
    fork_from: str | None = None,
    verbose: bool = False,
) -> Summary:
    """Embed all inputs of ``cfg`` into ``cfg.run_dir``, computing only what is missing there.

    Parameters
    ----------
    on_progress, on_plan
        Called with the state of the run after every block, and once with the plan.
    fork_from
        Another run directory: its rows that are still valid (same source, settings and weights) are copied
        first. For a changed input list, where only the new images should be computed.
    verbose
        Let Ray's own messages through.

    Returns
    -------
    Summary. After a KeyboardInterrupt its status is ``interrupted``: everything computed is written, and the
    same call goes on from there.

    Raises
    ------
    StaleOutput
        ``cfg.run_dir`` was made with other settings, weights or inputs; the message names the difference.
    RunLocked, StorageFull, RunError, InputError, ConfigError, EncoderError
    """
    with ExitStack() as stack:
        resources = None
        if cfg.execution.address is not None:  # what can be planned depends on what the cluster has
            stack.enter_context(cluster(cfg.execution.address, verbose=verbose))
            resources = cluster_resources()
        prepared = prepare(cfg, resources=resources)
        if on_plan is not None:
            on_plan(prepared)
        store = RunStore(Path(cfg.run_dir))
        stack.enter_context(store.lock())
        _begin(store, cfg, prepared, fork_from)
        session = Session(
            store, prepared.identity, prepared.plan, execution=cfg.execution, on_progress=on_progress
        )
        pending = pending_records(store, prepared.inputs.records)
        if pending.num_rows:
            stack.enter_context(
                cluster(cfg.execution.address, memory_bytes=prepared.plan.memory_bytes, verbose=verbose)
            )
        n_units = prepared.inputs.records.num_rows
        return session.compute(pending, n_units=n_units, stream=functools.partial(embed_stream, run=prepared))


def retire_rejects(run: Path) -> tuple[EmbedConfig, int]:
    """Prepare a run for computing its rejected rows again: files may have been repaired meanwhile.

    Returns
    -------
    The configuration to run again, and the number of rows that are missing now. Only the states of the
    rejected images' files are taken anew; should another input have changed, the run refuses to go on.

    Raises
    ------
    RunLocked, RunError
    """
    store = RunStore(run)
    cfg = EmbedConfig.model_validate({**store.info["config"], "run_dir": str(run)})
    with store.lock():
        rejected = set(store.reject_table(("image_id",))["image_id"].to_pylist())
        count = store.retire_rejects()
        if count:
            store.write_inputs(refreshed(store.records, rejected), None)
    return cfg, count


def embedder_options(cfg: EmbedConfig, card: EncoderCard) -> EmbedderOptions:
    """Return the embedder's settings; ``clip: encoder`` becomes the range the encoder was trained with."""
    clip = card.value_range if cfg.normalise.clip == "encoder" else cfg.normalise.clip
    if "pad_before_normalize" in cfg.compat or not isinstance(clip, tuple):
        clip = None
    return EmbedderOptions(
        input_px=input_side(cfg, card),
        clip=clip,
        antialias=cfg.antialias,
        reflect=cfg.normalise.pad == "reflect",
        l2=cfg.l2,
    )


def _begin(store: RunStore, cfg: EmbedConfig, prepared: PreparedRun, fork_from: str | None) -> None:
    """Check that the directory belongs to this run, or found it; inputs are refreshed (metadata may change)."""
    records = prepared.inputs.records
    if store.exists and store.info["status"] == _COPYING:
        store.discard_parts()  # a fork that was cut off: copy again
    elif store.exists:
        check_same_run(store, prepared.identity, records)
        store.write_inputs(records, prepared.inputs.cells)
        return
    store.write_inputs(records, prepared.inputs.cells)
    info = {
        "status": _COPYING if fork_from else "running",
        "created": now(),
        "forked_from": fork_from,
        "config": cfg.model_dump(mode="json"),
        "identity": prepared.identity.to_json(),
        "encoder": prepared.bundle.card.model_dump(mode="json"),
        "versions": versions(),
        "notes": list(prepared.inputs.notes),
        "sessions": [],
    }
    store.write_info(info)
    if fork_from is not None:
        copied = copy_valid_rows(RunStore(Path(fork_from)), store, records, prepared.identity)
        log.info("%d valid rows taken over from %s", copied, fork_from)
        store.write_info({**info, "status": "running"})


def versions() -> dict[str, str]:
    """Return the versions of what shapes the numbers."""
    names = ("microsnoop-platform", "torch", "ray", "numpy", "pyarrow", "tifffile", "pillow", "imagecodecs")
    return {"python": host_platform.python_version(), **{name: metadata.version(name) for name in names}}


def _device(cfg: EmbedConfig, resources: Resources) -> str:
    if resources.local:
        return resolve_device(cfg.execution.device)
    if cfg.execution.device == "auto":
        return "cuda" if resources.gpus else "cpu"
    if cfg.execution.device == "cuda" and not resources.gpus:
        raise ConfigError("the cluster has no GPU", hint="use device: auto or cpu")
    return cfg.execution.device
