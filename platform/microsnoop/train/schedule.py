"""Which phase a step belongs to, and its learning rate."""

from __future__ import annotations

import math

from microsnoop.core.pretrain_config import PhaseConfig, PretrainConfig

_REFERENCE_INPUTS = 256


def phase_at(cfg: PretrainConfig, step: int) -> PhaseConfig:
    """Return the phase of a step, counted from 0."""
    for phase in cfg.phases:
        if step < phase.steps:
            return phase
        step -= phase.steps
    raise ValueError(f"the run has {cfg.total_steps} steps, step {cfg.total_steps + step} is beyond its end")


def learning_rate(cfg: PretrainConfig, step: int) -> float:
    """Linear warm-up, then cosine over all phases; ∝ sqrt(inputs a step) (Microsnoop spec, section 5)."""
    inputs = phase_at(cfg, step).batch * cfg.views_per_tile
    peak = cfg.optimiser.peak_lr * math.sqrt(inputs / _REFERENCE_INPUTS)
    warmup = cfg.optimiser.warmup * cfg.total_steps
    if step < warmup:
        return peak * (step + 1) / max(1.0, warmup)
    progress = (step - warmup) / max(1.0, cfg.total_steps - warmup)
    low = min(peak, cfg.optimiser.final_lr)
    return low + (peak - low) * 0.5 * (1 + math.cos(math.pi * progress))


def ema_decay(cfg: PretrainConfig, step: int) -> float:
    """Return the decay of the running mean of the weights: short-sighted at first."""
    return min(cfg.optimiser.ema, (1 + step) / (10 + step))
