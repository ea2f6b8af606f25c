"""Names in the order in which people would put them."""

from __future__ import annotations

import re


def natural(name: str) -> list[tuple[bool, int, str]]:
    """Return a sort key by which ``B2`` comes before ``B10``; different names never have the same key."""
    return [
        (not part.isdecimal(), int(part) if part.isdecimal() else 0, part)
        for part in re.split(r"(\d+)", name)
    ]
