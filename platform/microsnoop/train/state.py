"""All that a training run is at one step, and how it goes to disk and back: safetensors and JSON, nothing else."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from microsnoop.core.config import digest
from microsnoop.core.errors import RunError
from microsnoop.core.pretrain_config import PretrainConfig
from microsnoop.io.parts import write_atomic
from microsnoop.train.learner import Learner, new_learner
from microsnoop.train.schedule import ema_decay

WEIGHTS, META = "state.safetensors", "state.json"
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class TrainState:
    """Learner, running mean of its weights, optimiser, and the number of steps done."""

    def __init__(self, cfg: PretrainConfig, device: torch.device) -> None:
        self.cfg, self.device, self.step = cfg, device, 0
        self.learner = _channels_last(new_learner(cfg).to(device))
        self.mean: Learner = copy.deepcopy(self.learner).requires_grad_(False).eval()
        decayed = [p for p in self.learner.parameters() if p.ndim > 1]
        others = [p for p in self.learner.parameters() if p.ndim <= 1]  # biases and normalisations
        self.optimiser = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": cfg.optimiser.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            betas=cfg.optimiser.betas,
            fused=device.type == "cuda",
        )

    @torch.no_grad()
    def update_mean(self) -> None:
        """Move the running mean towards the weights; normalisation statistics are taken as they are."""
        decay = ema_decay(self.cfg, self.step)
        for mean, now in zip(self.mean.parameters(), self.learner.parameters(), strict=True):
            mean.lerp_(now, 1 - decay)
        for kept, buffer in zip(self.mean.buffers(), self.learner.buffers(), strict=True):
            kept.copy_(buffer)

    def tensors(self) -> dict[str, Tensor]:
        """Return everything by name."""
        found = {f"learner.{name}": tensor for name, tensor in self.learner.state_dict().items()}
        found |= {f"mean.{name}": tensor for name, tensor in self.mean.state_dict().items()}
        for name, parameter in self.learner.named_parameters():
            for moment in _MOMENTS:
                if moment in self.optimiser.state[parameter]:
                    found[f"adam.{moment}.{name}"] = self.optimiser.state[parameter][moment]
        return found

    def save(self, folder: Path) -> None:
        """Write ``state.safetensors`` and ``state.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors().items()}
        write_atomic(folder / WEIGHTS, safetensors.torch.save(tensors))
        meta = {"step": self.step, "recipe": digest(self.cfg.recipe())}
        write_atomic(folder / META, (json.dumps(meta) + "\n").encode())

    def load(self, folder: Path) -> None:
        """Take everything from a checkpoint.

        Raises
        ------
        RunError
            The checkpoint is damaged, or of another recipe.
        """
        try:
            meta = json.loads((folder / META).read_text(encoding="utf-8"))
            tensors = safetensors.torch.load_file(folder / WEIGHTS, device=str(self.device))
            if meta["recipe"] != digest(self.cfg.recipe()):
                raise RunError(f"the checkpoint {folder} was made with another recipe")
            for part, module in (("learner", self.learner), ("mean", self.mean)):
                module.load_state_dict(_below(tensors, part))
            self._load_moments(tensors)
            self.step = int(meta["step"])
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise RunError(
                f"the checkpoint {folder} is damaged: {error}",
                hint="delete that folder: training then goes on from the checkpoint before it",
            ) from error

    def _load_moments(self, tensors: dict[str, Tensor]) -> None:
        for name, parameter in self.learner.named_parameters():
            self.optimiser.state[parameter] = {
                moment: tensors[f"adam.{moment}.{name}"].to(
                    device="cpu" if moment == "step" and self.device.type == "cpu" else self.device
                )
                for moment in _MOMENTS
                if f"adam.{moment}.{name}" in tensors
            }


def _below(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{part}."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{part}.")
    }


def _channels_last(learner: Learner) -> Learner:
    """Lay the weights out as convolutions are fastest."""
    learner.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return learner
