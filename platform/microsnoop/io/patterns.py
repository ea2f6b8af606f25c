"""File-name patterns: ``plates/{plate}/{well}_s{site}_w{channel}.tif``.

``{name}`` stands for any text without a slash, the same text where a name occurs twice; ``*`` is any text
without a slash, ``**`` any folders. Files that differ only in ``{channel}`` are the channels of one image.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from microsnoop.core.errors import InputError
from microsnoop.core.ordering import natural
from microsnoop.io.opener import is_remote, local_path

CHANNEL = "channel"
_TOKEN = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}|(\*\*/?)|(\*)")


@dataclass(frozen=True)
class Pattern:
    """A compiled pattern: the folder to search, a regular expression for whole paths, the field names."""

    text: str
    base: str
    regex: re.Pattern[str]
    fields: tuple[str, ...]


@dataclass(frozen=True)
class PatternMatches:
    """Images found by a pattern: ids, URIs per channel (None where a file is missing), fields, channel names."""

    ids: list[str]
    uris: list[list[str | None]]
    fields: dict[str, list[str]]
    channels: list[str] | None
    n_files: int


def compile_pattern(text: str) -> Pattern:
    """Turn a pattern into a folder and a regular expression.

    Raises
    ------
    InputError
        No field and no star in it, or a brace that is not a field.
    """
    fields: list[str] = []
    parts: list[str] = []
    end = 0
    absolute = text if is_remote(text) else str(local_path(text))
    for token in _TOKEN.finditer(absolute):
        parts.append(_literal(absolute[end : token.start()], text))
        name, folders, _star = token.groups()
        if name is None:
            parts.append("(?:.*/)?" if folders else "[^/]*")
        elif name in fields:
            parts.append(f"(?P={name})")
        else:
            fields.append(name)
            parts.append(f"(?P<{name}>[^/]+?)")
        end = token.end()
    if end == 0:
        raise InputError(
            f"the pattern {text!r} has no field and no *",
            hint="write e.g. plates/{plate}/{well}_s{site}_w{channel}.tif; for a folder use input.folder",
        )
    parts.append(_literal(absolute[end:], text))
    fixed = absolute[: _TOKEN.search(absolute).start()]  # type: ignore[union-attr]
    base = (fixed.rsplit("/", 1)[0] or "/") if "/" in fixed else "."
    prefix = "(?:\\./)?" if base == "." else ""
    return Pattern(text, base, re.compile(prefix + "".join(parts)), tuple(fields))


def match_files(pattern: Pattern, files: Sequence[str]) -> PatternMatches:
    """Group files into images.

    Raises
    ------
    InputError
        No file matches, or two files claim the same channel of the same image.
    """
    keys = [name for name in pattern.fields if name != CHANNEL]
    images: dict[tuple[str, ...], dict[str, str]] = {}
    channels: set[str] = set()
    n_files = 0
    for uri in files:
        match = pattern.regex.fullmatch(uri)
        if match is None:
            continue
        n_files += 1
        # without any field the path itself tells images apart; with {channel} alone all files are one image
        key = tuple(match[name] for name in pattern.fields if name != CHANNEL) if pattern.fields else (uri,)
        channel = match[CHANNEL] if CHANNEL in pattern.fields else ""
        known = images.setdefault(key, {})
        if channel in known:
            which = f"channel {channel!r} of {_id(key) or pattern.text}" if channel else _id(key)
            raise InputError(
                f"two files match {which}: {known[channel]} and {uri}",
                hint="add a {field} for the part of the name in which they differ",
            )
        known[channel] = uri
        channels.add(channel)
    if not images:
        examples = "".join(f"\n  {uri}" for uri in list(files)[:3])
        raise InputError(
            f"no file below {pattern.base} matches {pattern.text}"
            + (f"; files there:{examples}" if examples else "")
        )
    order = sorted(channels, key=natural)
    return PatternMatches(
        ids=[_id(key) or pattern.text.rsplit("/", 1)[-1] for key in images],
        uris=[[by_channel.get(channel) for channel in order] for by_channel in images.values()],
        fields={name: [key[i] for key in images] for i, name in enumerate(keys)},
        channels=order if CHANNEL in pattern.fields else None,
        n_files=n_files,
    )


def _id(key: tuple[str, ...]) -> str:
    return "/".join(key)


def _literal(piece: str, text: str) -> str:
    if "{" in piece or "}" in piece:
        raise InputError(f"the pattern {text!r} has a brace that is not a field like {{well}}")
    return re.escape(piece)
