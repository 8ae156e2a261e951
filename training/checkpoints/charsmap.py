"""A table of replacements for single characters -> the normaliser of `tokenizers` that applies it.

The library has one normaliser for such tables, SentencePiece's precompiled map: a double array over the UTF-8 bytes of
what is replaced, and the replacements. Knows no vocabulary.

Source: the layout is that of darts-clone, which SentencePiece writes and `tokenizers` reads.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from itertools import count

from tokenizers import Regex, normalizers

_HAS_LEAF = 1 << 8
_IS_LEAF = 1 << 31
_BLOCK = 256  # a node's children lie within one block, at the node's base xor their byte

# The nodes below a byte; those of byte 0 are the position of a replacement.
Trie = dict[int, "Trie | int"]


def replacing(table: Mapping[str, str]) -> normalizers.Normalizer:
    """A normaliser that replaces each character of the table, which has no U+0000, and keeps every other one.

    A character and its combining mark in fewer than six bytes are replaced together: such is the library's reading.

    Characters without a replacement go first and apart: the precompiled map loses count of the characters before it
    where a text begins with one.
    """
    steps: list[normalizers.Normalizer] = []
    if dropped := [character for character, replacement in table.items() if not replacement]:
        pattern = "".join(f"\\x{{{ord(character):X}}}" for character in dropped)
        steps.append(normalizers.Replace(Regex(f"[{pattern}]"), ""))
    if kept := {character: replacement for character, replacement in table.items() if replacement}:
        steps.append(normalizers.Precompiled(_precompiled(kept)))
    return normalizers.Sequence(steps)


def _precompiled(table: Mapping[str, str]) -> bytes:
    """The size of the double array in bytes, the double array, the replacements with a zero after each."""
    trie: Trie = {}
    replacements = b""
    for character, replacement in sorted(table.items()):
        node = trie
        for byte in character.encode("utf-8"):
            node = node.setdefault(byte, {})  # type: ignore[assignment]
        node[0] = len(replacements)
        replacements += replacement.encode("utf-8") + b"\0"
    units = _double_array(trie)
    return struct.pack(f"<I{len(units)}I", 4 * len(units), *units) + replacements


def _double_array(trie: Trie) -> list[int]:
    """A unit a node: its byte in the low 8 bits, from bit 10 on its own place xor its base."""
    units: dict[int, int] = {0: 0}
    bases = {0}  # two nodes never share a base: a child of the one would pass for one of the other
    free = 1
    waiting: list[tuple[int, Trie]] = [(0, trie)]
    for place, node in waiting:
        while free in units or free in bases:
            free += 1
        base = next(b for b in count(free) if b not in bases and all(b ^ byte not in units for byte in node))
        bases.add(base)
        units[place] |= (place ^ base) << 10
        for byte, below in node.items():
            if isinstance(below, int):
                units[place] |= _HAS_LEAF
                units[base] = _IS_LEAF | below
            else:
                units[base ^ byte] = byte
                waiting.append((base ^ byte, below))
    size = -(-(max(*units, *bases) + 1) // _BLOCK) * _BLOCK
    return [units.get(place, _IS_LEAF) for place in range(size)]
