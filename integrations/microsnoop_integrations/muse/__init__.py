"""MUSE, one latent for transcripts and image features of the same cells (Bao et al. 2022), written anew in PyTorch.

>>> from microsnoop_integrations.muse import Muse, MuseParameters
>>> model = Muse(MuseParameters(seed=1)).fit(x, y)  # doctest: +SKIP
>>> model.latent_, model.labels_, model.transform(x_new, y_new)  # doctest: +SKIP

Importing this package is cheap: torch is loaded when ``Muse`` is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# public name -> where it lives; resolved on first use (PEP 562)
_PUBLIC = {
    "Muse": "microsnoop_integrations.muse.model",
    "MuseParameters": "microsnoop.core.muse_config",
    "SimulationParameters": "microsnoop_integrations.joint.simulate",
    "simulate": "microsnoop_integrations.joint.simulate",
}

__all__ = ["Muse", "MuseParameters", "SimulationParameters", "simulate"]

if TYPE_CHECKING:
    from microsnoop.core.muse_config import MuseParameters as MuseParameters
    from microsnoop_integrations.joint.simulate import SimulationParameters as SimulationParameters
    from microsnoop_integrations.joint.simulate import simulate as simulate
    from microsnoop_integrations.muse.model import Muse as Muse


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
