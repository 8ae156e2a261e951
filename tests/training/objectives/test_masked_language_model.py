"""The masked language model: its masks, its loss, its gradient, and what goes through its head. In fp64."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any, cast

import pytest
import torch
from accelerate import Accelerator
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from torch.nn import functional

from ner_service.errors import ConfigError
from ner_service.model.batch import pad
from ner_service.model.config import (
    EncoderConfig,
    FNetConfig,
    GMLPConfig,
    Heads,
    HuggingFaceConfig,
    HyperMixerConfig,
    LanguageModelConfig,
    ModelConfig,
    RoFormerConfig,
    RoFormerV2Config,
)
from ner_service.model.encoders import Encoder
from ner_service.model.text_model import TextModel
from ner_service.text.tokenizer import TextTokenizer
from ner_service.types import Document, Entity, LabelSet
from training.config import DataConfig, MaskedLanguageModelConfig, ModelSection, RunConfig
from training.data.raw import RawCorpus
from training.data.sources import Corpus
from training.data.tokenizer_training import train_tokenizer
from training.data.words import word_groups, word_spans
from training.objectives.masked_language_model import UNMASKED, MaskedLanguageModelObjective, MaskedText
from training.preparation import Setup
from training.sample import sample_documents

TEXTS = (
    "Rain came over the harbour before the boats were in.",
    "傍晚下了一场雨，港口的船都回来了。",
    "The baker of Harrowfield closes early on Mondays.",
    "双桥村的面包店星期一关门很早。",
    "Nobody had told Ines that the library was shut.",
)
LONG = "山路很长，我们走到天黑才看见村里的灯。" * 12


def encoder_config(kind: str, vocab_size: int, hidden_size: int) -> EncoderConfig:
    sizes: dict[str, Any] = {"hidden_size": hidden_size, "intermediate_size": 2 * hidden_size, "vocab_size": vocab_size}
    layers: dict[str, Any] = {"num_layers": 2, "num_heads": 2, "dropout": 0.0, "attention_dropout": 0.0}
    if kind == "roformer":
        return RoFormerConfig(embedding_size=hidden_size // 2, **sizes, **layers)
    if kind == "roformer_v2":
        return RoFormerV2Config(**sizes, **layers)
    mixing: dict[str, Any] = {"num_layers": 2, "dropout": 0.0}
    if kind == "gmlp":
        return GMLPConfig(**sizes, **mixing, kernel_size=5, attention_size=4)
    if kind == "fnet":
        return FNetConfig(**sizes, **mixing)
    if kind == "hypermixer":
        return HyperMixerConfig(**sizes, **mixing, num_heads=2, mixing_size=8)
    foreign = {"num_hidden_layers": 2, "num_attention_heads": 2}
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return HuggingFaceConfig(model_type="bert", config={**sizes, **foreign, **still})


def setup_of(
    raw: RawCorpus,
    kind: str = "roformer",
    tokenizer: TextTokenizer | None = None,
    dev: tuple[Document, ...] = (),
    hidden_size: int = 16,
) -> Setup:
    tokenizer = tokenizer or train_tokenizer([*TEXTS, LONG], vocab_size=400, min_frequency=1)
    encoder = encoder_config(kind, tokenizer.vocab_size, hidden_size)
    data = DataConfig(texts=("in memory",))
    model = ModelSection(encoder={"kind": kind})
    run = RunConfig(name="small", data=data, model=model)
    corpus = Corpus(labels=LabelSet(()), train=(), dev=dev, sha256="", raw=raw)
    config = ModelConfig(encoder=encoder, heads=Heads(language_model=LanguageModelConfig()))
    return Setup(run=run, corpus=corpus, tokenizer=tokenizer, config=config, weights={})


HALF = RawCorpus(fixed=(*TEXTS, LONG), dev_fraction=0.3)


def objective_of(setup: Setup, **config: float) -> MaskedLanguageModelObjective:
    settings = MaskedLanguageModelConfig(**{"share": 0.3, "batch_tokens": 96, "max_tokens": 32, **config})  # type: ignore[arg-type]
    return MaskedLanguageModelObjective(setup, setup.build_model().double(), Accelerator(cpu=True), settings)


@pytest.fixture(params=["roformer", "roformer_v2", "gmlp", "fnet", "hypermixer", "huggingface"])
def objective(request: pytest.FixtureRequest) -> MaskedLanguageModelObjective:
    return objective_of(setup_of(HALF, request.param))


def batches_of(objective: MaskedLanguageModelObjective, epoch: int = 0) -> list[list[MaskedText]]:
    return [batch for step in objective.steps(epoch) for batch in step]


def places(text: MaskedText) -> list[int]:
    return [place for place, target in enumerate(text.targets) if target != UNMASKED]


def original(text: MaskedText) -> tuple[int, ...]:
    """The tokens before anything was masked."""
    pairs = zip(text.token_ids, text.targets, strict=True)
    return tuple(token if target == UNMASKED else target for token, target in pairs)


def loss_by_hand(model: TextModel, text: MaskedText) -> float:
    """- sum over masked places of log softmax of the head's formula, one text alone, padded."""
    head = model.language_model
    assert head is not None
    embedding = cast(Encoder, model.encoder).token_embedding.weight
    with torch.no_grad():
        hidden_LD = model.encoder(pad([text.token_ids], 0))[0]
        total = 0.0
        for place in places(text):
            inner = functional.gelu(head.dense.weight @ hidden_LD[place] + head.dense.bias)
            inner = (inner - inner.mean()) / (inner.var(correction=0) + head.norm.eps).sqrt()
            logits = embedding @ (inner * head.norm.weight + head.norm.bias) + head.bias
            total -= float(logits[text.targets[place]] - logits.logsumexp(0))
    return total


def test_the_loss_is_the_cross_entropy_of_the_masked_places(objective: MaskedLanguageModelObjective) -> None:
    batches = batches_of(objective)
    assert max(map(len, batches)) > 1
    for batch in batches:
        expected = sum(loss_by_hand(objective.model, text) for text in batch)
        assert objective.loss(batch).item() == pytest.approx(expected, rel=1e-10)
        assert objective.count(batch) == sum(len(places(text)) for text in batch) > 0
        assert objective.num_tokens(batch) == sum(len(text.token_ids) for text in batch)


def test_a_wrong_target_changes_the_loss(objective: MaskedLanguageModelObjective) -> None:
    """The twin of the test above."""
    [text, *_], *_ = batches_of(objective)
    place = places(text)[0]
    text.targets[place] += 1
    wrong = objective.loss([text]).item()
    text.targets[place] -= 1
    assert wrong != pytest.approx(loss_by_hand(objective.model, text), rel=1e-6)


@contextmanager
def recorded_input(head: nn.Module) -> Iterator[list[Tensor]]:
    """What goes into the head; its gradient is kept."""
    seen: list[Tensor] = []

    def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        inputs[0].retain_grad()
        seen.append(inputs[0])

    handle = head.register_forward_pre_hook(hook)
    yield seen
    handle.remove()


def test_the_masked_places_alone_go_through_the_head(objective: MaskedLanguageModelObjective) -> None:
    head = objective.model.language_model
    assert head is not None
    batches = batches_of(objective)
    with recorded_input(head) as seen:
        objective.backward(batches, 1.0)
    assert [len(hidden_ND) for hidden_ND in seen] == [objective.count(batch) for batch in batches]
    assert all(len(hidden_ND) < objective.num_tokens(batch) / 2 for hidden_ND, batch in zip(seen, batches, strict=True))
    assert all(bool(hidden_ND.grad.abs().sum(-1).min() > 0) for hidden_ND in seen if hidden_ND.grad is not None)


def test_other_places_get_no_gradient_through_the_head() -> None:
    """The last hidden states have a gradient at the masked places and nowhere else."""
    objective = objective_of(setup_of(HALF))
    kept: list[Tensor] = []

    def hook(_: nn.Module, __: object, hidden_BLD: Tensor) -> None:
        hidden_BLD.retain_grad()
        kept.append(hidden_BLD)

    objective.model.encoder.register_forward_hook(hook)
    [batch, *_] = batches_of(objective)
    objective.backward([batch], 1.0)
    assert kept[0].grad is not None
    flat = [target != UNMASKED for text in batch for target in text.targets]
    assert kept[0].grad[0].abs().sum(-1).bool().tolist() == flat


def gradients(objective: MaskedLanguageModelObjective, batches: list[list[MaskedText]]) -> dict[str, Tensor]:
    objective.model.zero_grad()
    scale = 1.0 / sum(map(objective.count, batches))
    objective.backward(batches, scale)
    parameters = objective.model.named_parameters()
    return {name: parameter.grad.clone() for name, parameter in parameters if parameter.grad is not None}


def test_several_batches_have_the_gradient_of_one(objective: MaskedLanguageModelObjective) -> None:
    texts = [text for batch in batches_of(objective) for text in batch]
    whole = gradients(objective, [texts])
    parts = gradients(objective, [texts[:2], texts[2:]])
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-9, atol=1e-14)
    table = next(name for name in whole if "embedding" in name and len(whole[name]) == objective.tokenizer.vocab_size)
    assert {"language_model.dense.weight", "language_model.bias"} < whole.keys()
    half = gradients(objective, [texts[:2]])
    assert (half[table] - whole[table]).abs().max() > 1e-4


def test_an_empty_share_costs_nothing(objective: MaskedLanguageModelObjective) -> None:
    assert objective.backward([], 1.0) == 0.0
    assert all(parameter.grad is None for parameter in objective.model.parameters())


def test_seed_and_epoch_decide_the_masks() -> None:
    setup = setup_of(HALF)
    first = objective_of(setup).steps(1)
    assert objective_of(setup).steps(1) == first
    other = replace(setup, run=replace(setup.run, seed=1))
    masks = masks_of(objective_of(setup), 1)
    assert masks_of(objective_of(setup), 2) != masks
    assert masks_of(objective_of(other), 1) != masks


def masks_of(objective: MaskedLanguageModelObjective, epoch: int) -> set[tuple[int, ...]]:
    return {tuple(text.token_ids) for batch in batches_of(objective, epoch) for text in batch}


def every_piece(objective: MaskedLanguageModelObjective) -> set[tuple[int, ...]]:
    """Pieces of all texts with something masked in them in one epoch or another."""
    return {original(text) for epoch in range(8) for batch in batches_of(objective, epoch) for text in batch}


def test_masks_are_whole_words_of_the_share_asked_for() -> None:
    """Of the tokens of words 30 %, of these about 80 % masked, 10 % kept: 1,500 masked tokens, four sigma."""
    texts = tuple(document.text for document in sample_documents(400))
    tokenizer = train_tokenizer(texts, vocab_size=300, min_frequency=2)
    objective = objective_of(setup_of(RawCorpus(fixed=texts, dev_fraction=0.1), tokenizer=tokenizer), max_tokens=128)
    encodings = {encoding.token_ids: (text, encoding) for text in texts for encoding in [tokenizer.encode(text)]}
    total = masked = hidden = kept = 0
    for piece in (text for batch in batches_of(objective) for text in batch):
        text, encoding = encodings[original(piece)]
        chosen = set(places(piece))
        for group in word_groups(encoding, word_spans(text)):
            ordinary = {index for index in group if encoding.token_ids[index] not in tokenizer.special_ids}
            assert ordinary <= chosen or not ordinary & chosen
            total += len(ordinary)
        masked += len(chosen)
        hidden += sum(piece.token_ids[place] == tokenizer.mask_id for place in chosen)
        kept += sum(piece.token_ids[place] == piece.targets[place] for place in chosen)
    assert masked / total == pytest.approx(0.3, abs=0.02)
    assert hidden / masked == pytest.approx(0.8, abs=0.04)
    assert kept / masked == pytest.approx(0.1, abs=0.03)


def test_a_long_text_is_cut_and_no_token_is_lost() -> None:
    raw = RawCorpus(fixed=(LONG, *TEXTS), dev_fraction=0.3)
    objective = objective_of(setup_of(raw), share=0.9)
    tokenizer = objective.tokenizer
    assert LONG in raw.texts(0)
    inner = tokenizer.encode(LONG).token_ids[1:-1]
    pieces = [text for batch in batches_of(objective) for text in batch]
    assert max(map(len, pieces)) <= 32
    for text in pieces:
        assert (text.token_ids[0], text.token_ids[-1]) == (*tokenizer.start_ids, *tokenizer.end_ids)
        assert text.targets[0] == text.targets[-1] == UNMASKED
    contents = [original(text)[1:-1] for text in pieces]
    num_pieces = -(-len(inner) // 30)
    assert num_pieces > 5
    bounds = [len(inner) * number // num_pieces for number in range(num_pieces + 1)]
    assert all(inner[start:stop] in contents for start, stop in pairwise(bounds))
    assert sum(map(len, contents)) == sum(len(tokenizer.encode(text).token_ids) - 2 for text in raw.texts(0))


@pytest.mark.parametrize("kind", ["roformer", "huggingface"])
def test_batches_fit_the_budget(kind: str) -> None:
    texts = tuple(document.text for document in sample_documents(200))
    objective = objective_of(setup_of(RawCorpus(fixed=texts, dev_fraction=0.1), kind))
    sizes = [len(batch) * max(map(len, batch)) for batch in batches_of(objective)]
    assert max(sizes) <= 96
    assert sum(sizes) / len(sizes) > 70


def test_what_is_held_out_is_never_learnt_and_always_masked_alike() -> None:
    setup = setup_of(HALF)
    objective = objective_of(setup)
    dev = [text for batch in objective.dev_batches for text in batch]
    assert {original(text) for text in dev}.isdisjoint(every_piece(objective))
    other = objective_of(replace(setup, run=replace(setup.run, seed=1)))
    assert other.dev_batches == objective.dev_batches


def test_the_dev_loss_is_the_mean_over_masked_tokens(objective: MaskedLanguageModelObjective) -> None:
    dev = [text for batch in objective.dev_batches for text in batch]
    count = sum(len(places(text)) for text in dev)
    expected = sum(loss_by_hand(objective.model, text) for text in dev) / count
    assert objective.dev_loss() == pytest.approx(expected, rel=1e-10)


def test_learns_to_name_what_its_neighbours_tell() -> None:
    """The days of the week in their order: a hidden day follows from any other; by chance one in seven is right."""
    days = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
    texts = tuple(" ".join(days[(start + i) % 7] for i in range(n)) for start in range(7) for n in range(6, 30))
    tokenizer = train_tokenizer(texts, vocab_size=400, min_frequency=2)
    setup = setup_of(RawCorpus(fixed=texts, dev_fraction=0.2), tokenizer=tokenizer, hidden_size=32)
    objective = objective_of(setup, share=0.15, batch_tokens=256)
    model = objective.model.float()
    assert objective.dev_loss() > 5
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in (step for epoch in range(25) for step in objective.steps(epoch)):
        objective.backward(step, 1.0 / sum(map(objective.count, step)))
        optimizer.step()
        optimizer.zero_grad()
    assert objective.dev_loss() < 1.0


def words_tokenizer(*added: str) -> TextTokenizer:
    words = ["[PAD]", "[UNK]", *added, "rain", "boat"]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]"])
    return TextTokenizer(tokenizer)


def test_a_tokenizer_without_a_mask_token_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"objectives\.masked_language_model: found a tokenizer without a mask token"):
        objective_of(setup_of(HALF, tokenizer=words_tokenizer()))


def test_a_mask_token_that_is_no_special_one_is_not_drawn() -> None:
    tokenizer = words_tokenizer("[MASK]")
    raw = RawCorpus(fixed=("rain rain rain", "boat boat", "boat rain", "rain boat", "rain"), dev_fraction=0.5)
    objective = objective_of(setup_of(raw, tokenizer=tokenizer))
    assert objective.vocabulary.specials == {0, 1, 2}


def test_texts_without_a_known_word_are_left_out() -> None:
    raw = RawCorpus(fixed=("rain rain rain", "fog", "", "boat boat", "boat rain", "rain boat"), dev_fraction=0.5)
    objective = objective_of(setup_of(raw, tokenizer=words_tokenizer("[MASK]")))
    assert {"fog", ""} & {*raw.texts(0)}
    pieces = [original(text) for batch in batches_of(objective) for text in batch]
    assert pieces
    assert all(set(piece) <= {3, 4} for piece in pieces)


def test_nothing_to_mask_is_refused() -> None:
    raw = RawCorpus(fixed=("fog", "mist", "haze", "dew"), dev_fraction=0.0)
    setup = setup_of(raw, tokenizer=words_tokenizer("[MASK]"), dev=(Document("Bo", (Entity(0, 2, "PER"),)),))
    with pytest.raises(ConfigError, match=r"data\.texts: found no word in the texts of epoch 3, expected some to mask"):
        objective_of(setup).steps(2)


def test_nothing_held_out_is_refused_unless_documents_are_measured() -> None:
    raw = RawCorpus(fixed=TEXTS, dev_fraction=0.0)
    with pytest.raises(ConfigError, match=r"data\.dev_fraction: found no text held out, expected some"):
        objective_of(setup_of(raw))
    objective = objective_of(setup_of(raw, dev=(Document("Bo", (Entity(0, 2, "PER"),)),)))
    with pytest.raises(ConfigError, match=r"data\.dev_fraction: found no text held out"):
        objective.dev_loss()


def test_pieces_need_room_for_a_token() -> None:
    with pytest.raises(ConfigError, match=r"max_tokens: found 2, expected more than the 2 special tokens of a text"):
        objective_of(setup_of(HALF), max_tokens=2)
    assert {len(text) for batch in batches_of(objective_of(setup_of(HALF), max_tokens=3)) for text in batch} == {3}


def test_half_precision_gives_a_loss_in_single() -> None:
    setup = setup_of(HALF)
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    objective = MaskedLanguageModelObjective(setup, setup.build_model(), accelerator, MaskedLanguageModelConfig())
    [batch, *_] = batches_of(objective)
    loss = objective.loss(batch)
    assert loss.dtype == torch.float32
    expected = sum(loss_by_hand(objective.model, text) for text in batch)
    assert loss.item() != pytest.approx(expected, rel=1e-6)
    assert loss.item() == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("kind", ["roformer", "roformer_v2"])
def test_padded_and_packed_batches_have_the_same_loss(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = objective_of(setup_of(HALF, kind))
    texts = [text for batch in batches_of(objective) for text in batch]
    random.Random(0).shuffle(texts)
    packed = objective.loss(texts).item()
    monkeypatch.setattr(TextModel, "pads", lambda *_: True)
    assert objective.loss(texts).item() == pytest.approx(packed, rel=1e-10)
