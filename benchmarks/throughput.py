"""How much of the encoder's own speed does the pipeline keep?

    python benchmarks/throughput.py [--planes 2000] [--device cuda] [--encoder snoop-trial]

One run, one machine, the same real planes (224 × 224 px, 16 bit, cut from examples/nuclei):

* **bare loop**: one process, planes decoded, scaled and in memory before the clock starts; plain torch, the same
  network, device, precision and batch. Timed in two halves, before and after the pipeline, because machines drift.
* **pipeline**: ``microsnoop embed`` on the same planes as TIFF files: read, decode, scale, embed, write Parquet.
  Its clock starts with the first finished block; start-up is printed apart.

Also: bf16 against fp32 in the bare loop, speed and cosine of every row, and the peak memory of all processes.
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from peak_memory import peak_memory_of_this_process

from microsnoop.core.config import EmbedConfig
from microsnoop.io.images import read_image
from microsnoop.io.verify import verify
from microsnoop.models.card import EncoderBundle
from microsnoop.models.device import default_batch_planes, has_fast_bf16, resolve_device
from microsnoop.models.registry import build_encoder, load_encoder
from microsnoop.ops.intensity import normalise, plane_scaling
from microsnoop.pipelines.cluster import usable_cpus
from microsnoop.pipelines.embed import embed

SIDE_PX = 224
FIELDS = Path(__file__).parents[1] / "examples" / "nuclei" / "images"


def write_planes(folder: Path, count: int) -> list[NDArray[np.uint16]]:
    """Cut ``count`` random windows out of the real fields and write each as a TIFF file."""
    fields = [read_image(str(path)).planes[0] for path in sorted(FIELDS.glob("*.tif"))]
    rng = np.random.default_rng(0)
    planes = []
    for i in range(count):
        field = fields[i % len(fields)]
        y, x = rng.integers(0, field.shape[0] - SIDE_PX, 2)
        planes.append(field[y : y + SIDE_PX, x : x + SIDE_PX])
        tifffile.imwrite(folder / f"plane{i:06d}.tif", planes[-1], compression="zlib", predictor=True)
    return planes


def bare_loop(
    bundle: EncoderBundle, planes: NDArray[np.float32], *, device: str, precision: str, batch: int
) -> tuple[NDArray[np.float32], float]:
    """Embed planes (N, S, S) that are in memory; return unit vectors (N, D) and planes per second."""
    module = build_encoder(bundle).to(device, memory_format=torch.channels_last)
    inputs = torch.from_numpy(planes)[:, None].to(device).contiguous(memory_format=torch.channels_last)
    context = (
        torch.autocast(device, dtype=torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()
    )
    parts = []
    with torch.inference_mode(), context:
        module(inputs[:batch])  # warm up
        _synchronise(device)
        begin = time.monotonic()
        for start in range(0, len(inputs), batch):
            parts.append(module(inputs[start : start + batch]))
        _synchronise(device)
        seconds = time.monotonic() - begin
    vectors = torch.cat(parts).float()
    return (vectors / vectors.norm(dim=1, keepdim=True)).cpu().numpy(), len(planes) / seconds


def _synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Run everything and print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--planes", type=int, default=2000)
    parser.add_argument("--encoder", default="snoop-trial")
    parser.add_argument(
        "--pooling", default="paper", choices=["paper", "encoder"],
        help="the published embedding, which every precision keeps, or the encoder's own (default: paper)",
    )  # fmt: skip
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"])
    parser.add_argument("--batch", type=int, help="planes at once (default: by device)")
    parser.add_argument(
        "--bf16-planes", type=int, help="rows compared in bf16 (default: all, or 64 where bf16 is slow)"
    )
    args = parser.parse_args()

    device = resolve_device(args.device)
    batch = args.batch or default_batch_planes(device, SIDE_PX)
    torch.set_num_threads(usable_cpus())
    bundle = load_encoder(args.encoder, pooling=args.pooling)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "planes"
        folder.mkdir()
        raw = write_planes(folder, args.planes)
        clip = bundle.card.value_range
        planes = np.stack([normalise(p[None], plane_scaling(p[None]), clip=clip)[0] for p in raw])
        del raw
        half = len(planes) // 2
        bare = {"device": device, "precision": "fp32", "batch": batch}
        vectors_first, first = bare_loop(bundle, planes[:half], **bare)
        cfg = EmbedConfig.model_validate(
            {
                "input": {"folder": str(folder)},
                "run_dir": str(Path(temporary) / "run"),
                "encoder": args.encoder,
                "pooling": args.pooling,
                "input_px": SIDE_PX,
                "execution": {"device": device, "precision": "fp32", "batch_planes": batch},
            }
        )
        with peak_memory_of_this_process() as memory:
            own = torch.from_numpy(
                planes
            ).nbytes  # held by this process for the bare loop, not by the pipeline
            summary = embed(cfg)
        checked = verify(cfg.run_dir)
        assert checked.ok, checked.problems
        vectors_second, second = bare_loop(bundle, planes[half:], **bare)
        fp32 = len(planes) / (half / first + (len(planes) - half) / second)
        reference = np.concatenate([vectors_first, vectors_second])
        n_bf16 = min(args.bf16_planes or (len(planes) if has_fast_bf16(device) else 64), len(planes))
        reduced, bf16 = bare_loop(
            bundle, planes[:n_bf16], device=device, precision="bf16", batch=min(batch, n_bf16)
        )
    cosine = (reference[:n_bf16] * reduced).sum(axis=1)
    start_up = summary.seconds - (summary.computed / summary.planes_per_s)
    encoder = f"encoder {args.encoder} ({args.pooling} pooling)"
    print(f"\n{len(planes):,} real planes of {SIDE_PX} px, {encoder}, {device}, batch {batch}")
    print(f"{platform.processor() or platform.machine()}, {usable_cpus()} cores, torch {torch.__version__}")
    print("\n| what | planes/s |\n|---|---|")
    print(f"| bare torch loop, fp32 (halves: {first:.2f}, {second:.2f}) | {fp32:.2f} |")
    print(f"| pipeline, fp32, files to Parquet | {summary.planes_per_s:.2f} |")
    print(
        f"| bare torch loop, bf16 ({n_bf16} planes{'' if has_fast_bf16(device) else ', emulated here'}) | {bf16:.2f} |"
    )
    print(f"\npipeline ÷ bare loop: {summary.planes_per_s / fp32:.3f} (start-up apart: {start_up:.1f} s)")
    print(
        f"bf16 ÷ fp32: {bf16 / fp32:.2f}; cosine(bf16, fp32): minimum {cosine.min():.6f} over {n_bf16} rows"
    )
    print(f"peak memory of the pipeline's processes: {(memory.peak_bytes - own) / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
