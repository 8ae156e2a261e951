"""Tokens drawn one by one say what the whole forward says; similar sentences are ranked and never the source (S7)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor

from ner_service.bundle import Bundle
from ner_service.errors import ConfigError, MissingHeadError, TextTooLongError
from ner_service.model.attention import KeyValueCache
from ner_service.model.batch import pad, pad_pairs
from ner_service.model.config import Heads, HuggingFaceConfig, RoFormerV2Config
from ner_service.model.text_model import TextModel
from ner_service.recognizer import Recognizer, Vectors
from ner_service.records import unstructure
from ner_service.text.tokenizer import TextTokenizer
from ner_service.types import Encoding
from tests.training.paraphraser import (
    PAIRS,
    bundle_of_pairs,
    paraphraser,
    random_model,
    small_encoder,
    small_tokenizer,
    writer,
)
from training.config import ObjectivesConfig, SimilarityConfig
from training.generation import (
    Sampling,
    Similar,
    cosine,
    decode_tokens,
    distinct,
    generate,
    nucleus_tokens,
    rank,
    similar_sentences,
)

SOURCE = (2, 17, 9, 30, 11, 3)
END, BARRED = 3, frozenset({0, 1, 2, 4})


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def free(top_p: float = 0.95, max_tokens: int = 12) -> Sampling:
    return Sampling(end_id=END, barred_ids=BARRED, max_tokens=max_tokens, top_p=top_p)


def encoders() -> list[TextModel]:
    second = RoFormerV2Config(vocab_size=40, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64)
    return [random_model(small_encoder(40)), random_model(second)]


def drawn(model: TextModel, num_rows: int, sampling: Sampling, first_position: int = len(SOURCE)) -> list[list[int]]:
    caches = [KeyValueCache() for _ in range(2)]
    with torch.inference_mode():
        last_1D = model.encoder(pad([SOURCE], 0), caches)[:, -1]
    rows = decode_tokens(
        model,
        last_1D.expand(num_rows, -1),
        [cache.repeat(num_rows) for cache in caches],
        sampling,
        first_position=first_position,
        generators=[seeded()],
    )
    return [list(row) for row in rows]


def logits_seen(model: TextModel, first_position: int) -> tuple[list[list[int]], Tensor]:
    """Three rows without an end, and the logits [N, T, V] that they were drawn from."""
    seen: list[Tensor] = []
    assert model.language_model is not None
    hook = model.language_model.register_forward_hook(lambda module, inputs, output: seen.append(output.clone()))
    never_ending = Sampling(end_id=39, barred_ids=BARRED | {39}, max_tokens=7, top_p=1.0)
    rows = drawn(model, 3, never_ending, first_position)
    hook.remove()
    return rows, torch.stack(seen, dim=1)


def logits_at_once(model: TextModel, rows: Sequence[Sequence[int]]) -> Tensor:
    """The same by one forward under UniLM's mask."""
    assert model.language_model is not None
    with torch.inference_mode():
        hidden_NLD = model.encoder(pad_pairs([(SOURCE, row) for row in rows], 0))[:, len(SOURCE) - 1 : -1]
        return model.language_model(hidden_NLD, model.encoder.token_embedding.weight)  # type: ignore[union-attr, no-any-return]


@pytest.mark.parametrize("model", encoders(), ids=("roformer", "roformer_v2"))
def test_kept_keys_and_values_give_the_logits_of_the_whole_forward(model: TextModel) -> None:
    rows, seen = logits_seen(model, first_position=len(SOURCE))
    assert len({tuple(row) for row in rows}) == 3
    torch.testing.assert_close(seen, logits_at_once(model, rows), rtol=0, atol=1e-5)


@pytest.mark.parametrize("model", encoders(), ids=("roformer", "roformer_v2"))
def test_another_first_position_gives_other_logits(model: TextModel) -> None:
    """The must-fail twin: the oracle sees positions."""
    rows, seen = logits_seen(model, first_position=len(SOURCE) + 1)
    assert (seen - logits_at_once(model, rows)).abs().max() > 1e-2


def grid(count: int) -> Tensor:
    """The middles of `count` equal parts of 0 to 1."""
    return (torch.arange(count) + 0.5) / count


def shares(probabilities: Sequence[float], top_p: float) -> dict[int, float]:
    """How often each token is drawn, over a grid."""
    logits_NV = torch.tensor(probabilities).log().expand(10_000, -1)
    counts = Counter(nucleus_tokens(logits_NV, top_p, grid(10_000)).tolist())
    return {token: count / 10_000 for token, count in counts.items()}


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [
        (0.0, {2: 1.0}),
        (0.49, {2: 1.0}),
        (0.79, {2: 0.5 / 0.8, 0: 0.3 / 0.8}),
        (0.81, {2: 0.5 / 0.95, 0: 0.3 / 0.95, 3: 0.15 / 0.95}),
        (0.96, {2: 0.5, 0: 0.3, 3: 0.15, 1: 0.05}),
        (1.0, {2: 0.5, 0: 0.3, 3: 0.15, 1: 0.05}),
    ],
)
def test_the_nucleus_is_kept_exactly_and_drawn_by_its_shares(top_p: float, expected: dict[int, float]) -> None:
    """Closed form: the likeliest tokens until `top_p` is reached, their probabilities divided by their sum."""
    assert shares([0.3, 0.05, 0.5, 0.15], top_p) == pytest.approx(expected, abs=2e-4)


@given(st.integers(0, 2**32), st.sampled_from((0.3, 1.0, 4.0)), st.floats(0.0, 1.0), st.sampled_from((5, 3000)))
def test_what_is_drawn_lies_in_the_nucleus(seed: int, scale: float, top_p: float, vocab_size: int) -> None:
    """A token is in the nucleus if those likelier than it hold less than `top_p`; small and large vocabularies."""
    generator = seeded(seed)
    logits_NV = scale * torch.randn(20, vocab_size, generator=generator)
    token_N = nucleus_tokens(logits_NV, top_p, torch.rand(20, generator=generator))
    probability_NV = logits_NV.double().softmax(-1)
    own_N1 = probability_NV.gather(-1, token_N[:, None])
    likelier_N = (probability_NV * (probability_NV > own_N1)).sum(-1)
    assert (likelier_N <= top_p + 1e-5).all()


def test_the_whole_of_a_wide_nucleus_can_be_drawn() -> None:
    """3,000 equally likely tokens: each part of the grid draws another, for `top_p` 0.9 of 2,700 of them."""
    for top_p, expected in ((1.0, 3000), (0.9, 2700)):
        token_N = nucleus_tokens(torch.zeros(3000, 3000), top_p, grid(3000))
        assert len(set(token_N.tolist())) == pytest.approx(expected, abs=3)


def test_an_impossible_token_is_never_drawn() -> None:
    logits_NV = torch.tensor([[0.0, -torch.inf, 0.0, -torch.inf]]).expand(3, -1)
    assert set(nucleus_tokens(logits_NV, 1.0, torch.tensor([0.0, 0.5, 1 - 2**-24])).tolist()) == {0, 2}


def biased(token_ids: Sequence[int]) -> TextModel:
    """A model that would write these tokens before all others."""
    model = random_model(small_encoder(40))
    assert model.language_model is not None
    model.language_model.bias.data[list(token_ids)] = 1000.0
    return model


def test_special_tokens_are_not_drawn() -> None:
    rows = drawn(biased(sorted(BARRED)), 4, free())
    assert len({token for row in rows for token in row}) > 3
    assert not {token for row in rows for token in row} & BARRED


def test_tokens_that_are_not_barred_would_be_drawn() -> None:
    """The must-fail twin."""
    sampling = Sampling(end_id=END, barred_ids=frozenset(), max_tokens=12, top_p=0.95)
    assert {token for row in drawn(biased(sorted(BARRED)), 4, sampling) for token in row} <= BARRED


def test_of_a_tokenizers_special_tokens_the_end_alone_is_drawn() -> None:
    tokenizer = small_tokenizer()
    sampling = Sampling.of_tokenizer(tokenizer, max_tokens=5, top_p=0.9)
    assert (sampling.end_id,) == tokenizer.end_ids
    assert sampling.barred_ids | {sampling.end_id} == tokenizer.special_ids
    assert tokenizer.mask_id in sampling.barred_ids


def test_a_mask_token_that_is_not_marked_as_special_is_never_written() -> None:
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str, range(35))]
    whole = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token="[UNK]"))
    whole.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer = TextTokenizer(whole)
    assert tokenizer.mask_id == 4
    sampling = Sampling.of_tokenizer(tokenizer, max_tokens=12, top_p=0.95)
    tokens = {token for row in drawn(biased([4]), 4, sampling) for token in row}
    assert len(tokens) > 3
    assert 4 not in tokens


def test_a_row_ends_with_its_end_or_at_the_most_tokens() -> None:
    assert drawn(biased([END]), 3, free()) == [[END]] * 3
    rows = drawn(random_model(small_encoder(40), std=0.1), 30, free(top_p=1.0, max_tokens=20))
    ended = [row for row in rows if row[-1] == END]
    assert 0 < len(ended) < 30
    assert all(row.index(END) == len(row) - 1 for row in ended)
    assert {len(row) for row in rows if row[-1] != END} == {20}


def test_a_text_without_an_end_is_left_out() -> None:
    """A model that writes one character for ever, and the must-fail twin, one that ends at once."""
    tokenizer = small_tokenizer()
    source = tokenizer.encode("李雷住在西安。").token_ids
    for token_id, expected in ((source[1], []), (tokenizer.end_ids[0], ["", ""])):
        model = random_model(small_encoder(tokenizer.vocab_size))
        assert model.language_model is not None
        model.language_model.bias.data[token_id] = 1000.0
        assert generate(writer(model), [source] * 2) == expected


def test_the_seed_decides() -> None:
    model = writer(random_model(small_encoder(small_tokenizer().vocab_size), std=0.1))
    sources = [model.tokenizer.encode("李雷住在西安。").token_ids] * 20
    texts = [generate(model, sources, generator=seeded(seed)) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_greedy_rows_are_alike_and_need_no_seed() -> None:
    first, *others = drawn(random_model(small_encoder(40)), 3, free(top_p=0.0))
    assert others == [first, first]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[1])
def test_what_was_learnt_by_heart_is_written(pair: tuple[str, str]) -> None:
    best = similar_sentences(paraphraser(), pair[0], num_samples=8, generator=seeded())[0]
    assert best.text == pair[1]
    assert -1.0 <= best.cosine <= 1.0


def test_an_untrained_model_does_not_write_it() -> None:
    """The must-fail twin."""
    untrained = writer(random_model(small_encoder(small_tokenizer().vocab_size), std=0.1))
    found = similar_sentences(untrained, PAIRS[0][0], num_samples=8, generator=seeded())
    assert PAIRS[0][1] not in [similar.text for similar in found]


def test_equal_sources_are_read_once_and_written_for_as_if_read_each() -> None:
    """A masked source among them makes all be read; the others' texts stay the same."""
    model = paraphraser()
    ids = model.tokenizer.encode(PAIRS[2][0]).token_ids
    assert model.tokenizer.mask_id is not None
    masked = (ids[0], model.tokenizer.mask_id, *ids[2:])
    once = generate(model, [ids] * 3, top_p=0.0)
    assert generate(model, [ids, ids, masked], top_p=0.0)[:2] == once[:2] == [PAIRS[2][1]] * 2


@pytest.mark.parametrize("same", ["李雷住在西安。", " 李雷 住在\n西安。", "李雷住在西安｡"])
def test_s7_the_source_is_never_returned(same: str) -> None:
    source, other = "李雷住在西安。", "李雷住在南京。"
    assert distinct([other, same, other, f"{other} ", "", " "], besides=(source, "")) == [other]


def test_s7_one_character_makes_another_sentence() -> None:
    """The must-fail twin."""
    assert distinct(["Ann ran", "ann ran.", ""], besides=("Ann ran.",)) == ["Ann ran", "ann ran.", ""]


def test_s7_a_model_that_repeats_its_source_gives_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.generation.generate", lambda *_, **__: [PAIRS[0][0], PAIRS[0][0].replace(" ", "")])
    assert similar_sentences(paraphraser(), PAIRS[0][0]) == []


FACTORS = (3.0, 0.01, 40.0, 0.5, 7.0, 1e-3)


def scaled(recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch) -> list[Vectors]:
    """Let the model's vectors have any lengths; what it made stands in the list."""
    plain, made = recognizer.embed, []

    def embed(encodings: Sequence[Encoding]) -> Vectors:
        vectors: Vectors = plain(encodings) * np.array(FACTORS[: len(encodings)], dtype=np.float32)[:, None]
        made.append(vectors)
        return vectors

    monkeypatch.setattr(recognizer, "embed", embed)
    return made


def test_s7_the_order_does_not_hang_on_the_lengths_of_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    model = paraphraser()
    text, *candidates = [sentence for pair in PAIRS[:3] for sentence in pair]
    expected = rank(model, text, candidates)
    assert [similar.cosine for similar in expected] == sorted((s.cosine for s in expected), reverse=True)
    made = scaled(model, monkeypatch)
    found = rank(model, text, candidates)
    assert [similar.text for similar in found] == [similar.text for similar in expected]
    assert [s.cosine for s in found] == pytest.approx([s.cosine for s in expected], abs=1e-5)
    lengths = np.linalg.norm(made[0], axis=1)
    assert lengths.max() > 100 * lengths.min()


def test_s7_dot_products_would_hang_on_them() -> None:
    """The must-fail twin, and the cosine's closed form."""
    source, near, far = (np.array(vector, dtype=np.float32) for vector in ((1, 0), (0.8, 0.6), (0.6, 0.8)))
    assert source @ near > source @ far
    assert source @ near < source @ (100 * far)
    for factor in (1e-3, 1.0, 5.0):
        assert cosine(source, factor * near) == pytest.approx(0.8)
        assert cosine(source, factor * far) == pytest.approx(0.6)
    assert cosine(source, 0 * near) == 0.0


def test_the_best_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    text, *others = [sentence for pair in PAIRS for sentence in pair]
    monkeypatch.setattr("training.generation.generate", lambda *_, **__: others)
    ranked = similar_sentences(paraphraser(), text)
    assert len(ranked) == len(others)
    assert similar_sentences(paraphraser(), text, keep=3) == ranked[:3]
    assert all(isinstance(similar, Similar) for similar in ranked)


def test_a_missing_head_is_refused(tiny_bundle: Bundle, tiny_embedding_bundle: Bundle) -> None:
    cpu = torch.device("cpu")
    with pytest.raises(MissingHeadError, match="no 'language_model' head; it has: spans"):
        similar_sentences(Recognizer(tiny_bundle, cpu), "a")
    with pytest.raises(MissingHeadError, match="no 'language_model' head; it has: embedding"):
        similar_sentences(Recognizer(tiny_embedding_bundle, cpu), "a")
    mute = random_model(small_encoder(small_tokenizer().vocab_size))
    heads = Heads(language_model=mute.config.heads.language_model)
    with pytest.raises(MissingHeadError, match="no 'embedding' head; it has: language_model"):
        similar_sentences(writer(random_model(mute.config.encoder, heads)), "a")


def taught_by(run: Mapping[str, object]) -> Recognizer:
    bundle = bundle_of_pairs()
    return Recognizer(replace(bundle, manifest=replace(bundle.manifest, run=run)), torch.device("cpu"))


def run_of(**options: object) -> dict[str, object]:
    objectives = ObjectivesConfig(similarity=SimilarityConfig(**options))  # type: ignore[arg-type]
    return {"objectives": unstructure(objectives)}


@pytest.mark.parametrize(
    ("run", "found"),
    [
        (run_of(generation=0.0), "found generation 0.0, stage 'contrast'"),
        (run_of(stage="supervised"), "found generation 1.0, stage 'supervised'"),
        ({"name": "spans alone"}, "found none"),
    ],
)
def test_a_model_that_was_not_taught_to_write_is_refused(run: Mapping[str, object], found: str) -> None:
    with pytest.raises(ConfigError, match=rf"run\.objectives\.similarity of 'writer': {found}, expected generation"):
        similar_sentences(taught_by(run), "a")


@pytest.mark.parametrize("run", [{}, run_of(), run_of(stage="distillation", teacher="teacher", generation=0.5)])
def test_one_that_was_or_tells_nothing_is_not(run: Mapping[str, object]) -> None:
    """The twin; it has the same heads."""
    assert similar_sentences(taught_by(run), PAIRS[0][0], num_samples=4, generator=seeded())


def test_a_foreign_encoder_is_refused() -> None:
    sizes = {
        "vocab_size": small_tokenizer().vocab_size,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
    }
    foreign = random_model(HuggingFaceConfig(model_type="bert", config=sizes))
    with pytest.raises(
        ConfigError, match="generation: found the encoder HuggingFaceEncoder, expected one that attends"
    ):
        similar_sentences(writer(foreign), "a")


def test_a_text_of_several_windows_is_refused() -> None:
    with pytest.raises(TextTooLongError, match="found a text of 4 windows, expected one of at most 32 tokens"):
        similar_sentences(paraphraser(), "李雷住在西安。" * 10)


def test_a_tokenizer_without_an_end_is_refused() -> None:
    endless = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    endless.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ConfigError, match="found no token after a text, expected one that ends"):
        Sampling.of_tokenizer(TextTokenizer(endless), max_tokens=1, top_p=0.5)


@pytest.mark.parametrize("top_p", [-0.1, 1.1, float("nan")])
def test_top_p_is_a_probability(top_p: float) -> None:
    with pytest.raises(ConfigError, match=r"top_p: found .*, expected a probability, 0 to 1"):
        similar_sentences(paraphraser(), "a", top_p=top_p)
