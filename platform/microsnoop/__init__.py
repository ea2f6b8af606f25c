"""Microsnoop Platform: microscopy images to embeddings, every row accounted for.

Importing this package is cheap: neither torch nor ray is loaded until a name that needs it is used.

>>> import microsnoop
>>> microsnoop.embed, microsnoop.verify, microsnoop.load_config  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# public name -> where it lives; resolved on first use (PEP 562)
_PUBLIC = {
    "EmbedConfig": "microsnoop.core.config",
    "load_config": "microsnoop.core.config_file",
    "MicrosnoopError": "microsnoop.core.errors",
    "read_image": "microsnoop.io.images",
    "read_records": "microsnoop.io.manifest",
    "RunStore": "microsnoop.io.store",
    "verify": "microsnoop.io.verify",
    "embed": "microsnoop.pipelines.embed",
    "list_encoders": "microsnoop.models.registry",
    "load_encoder": "microsnoop.models.registry",
}

__all__ = [
    "EmbedConfig",
    "MicrosnoopError",
    "RunStore",
    "__version__",
    "embed",
    "list_encoders",
    "load_config",
    "load_encoder",
    "read_image",
    "read_records",
    "verify",
]

if TYPE_CHECKING:
    from microsnoop.core.config import EmbedConfig as EmbedConfig
    from microsnoop.core.config_file import load_config as load_config
    from microsnoop.core.errors import MicrosnoopError as MicrosnoopError
    from microsnoop.io.images import read_image as read_image
    from microsnoop.io.manifest import read_records as read_records
    from microsnoop.io.store import RunStore as RunStore
    from microsnoop.io.verify import verify as verify
    from microsnoop.models.registry import list_encoders as list_encoders
    from microsnoop.models.registry import load_encoder as load_encoder
    from microsnoop.pipelines.embed import embed as embed


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'microsnoop' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
