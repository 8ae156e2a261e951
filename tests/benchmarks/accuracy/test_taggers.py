"""The taggers start from the encoder that the pointer heads start from."""

from __future__ import annotations

import math
from importlib.util import find_spec

import pytest
import torch

from benchmarks.accuracy.taggers import (
    TRANSITIONS_LR,
    LinearChainCRF,
    TaggerKind,
    TokenClassification,
    build_tagger,
    foreign_weights,
)
from benchmarks.accuracy.tags import NO_TAG
from ner_service.model.batch import Batch, pad
from ner_service.model.config import RoFormerConfig
from ner_service.model.encoders.roformer import RoFormer
from training.checkpoints.huggingface import roformer_weights
from training.config import OptimizerConfig

NUM_TAGS = 5
needs_crf = pytest.mark.skipif(find_spec("torchcrf") is None, reason="pytorch-crf is a need of the benchmark alone")
KINDS = ("token_classification", pytest.param("crf", marks=needs_crf))


def config(embedding_size: int | None = None, rotary_value: bool = False) -> RoFormerConfig:
    return RoFormerConfig(
        vocab_size=40,
        embedding_size=embedding_size,
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        intermediate_size=32,
        rotary_value=rotary_value,
    )


def batch() -> Batch:
    """Two texts of 9 and 5 tokens."""
    generator = torch.Generator().manual_seed(1)
    return pad([torch.randint(1, 40, (length,), generator=generator).tolist() for length in (9, 5)], pad_id=0)


def encoder(of: RoFormerConfig) -> RoFormer:
    torch.manual_seed(0)
    built = RoFormer(of).eval()
    for parameter in built.parameters():  # biases too, or one in the wrong place would not be seen
        torch.nn.init.normal_(parameter, std=0.3)
    return built


@pytest.mark.parametrize("embedding_size", [None, 8])
@pytest.mark.parametrize("rotary_value", [False, True])
@torch.no_grad()
def test_transformers_computes_our_hidden_states(embedding_size: int | None, rotary_value: bool) -> None:
    ours = encoder(config(embedding_size, rotary_value))
    tagger = TokenClassification(config(embedding_size, rotary_value), NUM_TAGS, max_tokens=16).eval()
    read = batch()
    valid_BL = read.valid_BL()
    before_BLD = tagger.model.roformer(read.token_ids_BL, attention_mask=valid_BL.long())[0]
    tagger.start_from(ours.state_dict())
    after_BLD = tagger.model.roformer(read.token_ids_BL, attention_mask=valid_BL.long())[0]
    torch.testing.assert_close(after_BLD[valid_BL], ours(read)[valid_BL], atol=1e-5, rtol=0)
    assert (before_BLD - after_BLD)[valid_BL].abs().max() > 0.1  # must-fail twin: random weights differ


def test_names_go_there_and_back() -> None:
    weights = encoder(config(embedding_size=8)).state_dict()
    back = roformer_weights(foreign_weights(weights))
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weights[name]) for name in weights)


def test_weights_of_another_shape_of_encoder_are_refused() -> None:
    weights = encoder(config()).state_dict()
    first = {name: tensor for name, tensor in weights.items() if not name.startswith("layers.1.")}
    with pytest.raises(ValueError, match=r"missing \['encoder\.layer\.1\."):
        TokenClassification(config(), NUM_TAGS, max_tokens=16).start_from(first)


@pytest.mark.parametrize("kind", KINDS)
def test_every_token_has_a_tag(kind: TaggerKind) -> None:
    tags = build_tagger(kind, config(), NUM_TAGS, max_tokens=16).eval().tags(batch())
    assert [len(text) for text in tags] == [9, 5]
    assert {tag for text in tags for tag in text} <= set(range(NUM_TAGS))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_padding_changes_no_tag_and_no_loss(kind: TaggerKind) -> None:
    torch.manual_seed(0)
    tagger = build_tagger(kind, config(), NUM_TAGS, max_tokens=16).eval()
    rows = [[3, 1, 4, 1, 5, 9, 2, 6, 5], [3, 5, 8, 9, 7]]
    tags = torch.tensor([[0, 1, 2, 0, 0, 3, 4, 4, 0], [0, 0, 1, 2, 0, *[NO_TAG] * 4]])
    together = pad(rows, pad_id=0)
    alone = [pad([row], pad_id=0) for row in rows]
    assert tagger.tags(together) == [tagger.tags(each)[0] for each in alone]
    losses = [tagger.loss(each, tags[i : i + 1, : len(rows[i])]) * len(rows[i]) for i, each in enumerate(alone)]
    torch.testing.assert_close(tagger.loss(together, tags) * 14, torch.stack(losses).sum())


@needs_crf
@torch.no_grad()
def test_a_chain_that_prefers_nothing_costs_the_logarithm_of_its_tags() -> None:
    """All scores 0: every one of T^L sequences is as likely, so a token costs log T."""
    tagger = LinearChainCRF(config(), NUM_TAGS).eval()
    for parameter in (*tagger.classifier.parameters(), *tagger.chain.parameters()):
        torch.nn.init.zeros_(parameter)
    loss = tagger.loss(pad([[1, 2, 3, 4]], pad_id=0), torch.tensor([[NO_TAG, 1, 2, NO_TAG]]))
    assert float(loss) == pytest.approx(math.log(NUM_TAGS), abs=1e-6)


@needs_crf
def test_transitions_learn_faster_than_the_head_and_the_head_than_the_encoder() -> None:
    tagger = LinearChainCRF(config(), NUM_TAGS)
    rate_of = {
        id(parameter): group["peak_lr"]
        for group in tagger.optimizer(OptimizerConfig(lr=1e-4, head_lr=1e-3)).param_groups
        for parameter in group["params"]
    }
    assert {rate_of[id(parameter)] for parameter in tagger.encoder.parameters()} == {1e-4}
    assert {rate_of[id(parameter)] for parameter in tagger.classifier.parameters()} == {1e-3}
    assert {rate_of[id(parameter)] for parameter in tagger.chain.parameters()} == {TRANSITIONS_LR}


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_steps_learn_a_batch_by_heart(kind: TaggerKind) -> None:
    torch.manual_seed(0)
    tagger = build_tagger(kind, config(), NUM_TAGS, max_tokens=16)
    optimizer = tagger.optimizer(OptimizerConfig(lr=1e-2, head_lr=1e-2))
    tags = torch.tensor([[0, 1, 2, 0, 0, 3, 4, 4, 0], [0, 0, 1, 2, 0, *[NO_TAG] * 4]])
    read = batch()
    expected = [tags[0].tolist(), tags[1, :5].tolist()]
    assert tagger.eval().tags(read) != expected
    for _ in range(60):
        tagger.loss(read, tags).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert tagger.tags(read) == expected
