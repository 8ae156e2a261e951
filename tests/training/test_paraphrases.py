"""Documents made of a document: what is drawn, what is refused and why."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch

from ner_service.bundle import Bundle
from ner_service.errors import ConfigError, MissingHeadError
from ner_service.recognizer import Recognizer
from ner_service.types import Document, Entity, Page
from tests.training.paraphraser import PAIRS, paraphraser, random_model, small_encoder, small_tokenizer, writer
from training.generation import rank
from training.paraphrases import MASKED_SHARE, REASONS, UNFIT, Paraphrased, Recipe, mask_outside, paraphrase

ADA = Document(PAIRS[0][0], (Entity(0, 8, "PER"), Entity(18, 23, "LOC")), id="ada", metadata={"genre": "notes"})
TOM = Document(PAIRS[3][0], (Entity(0, 3, "PER"), Entity(18, 30, "ORG"), Entity(26, 30, "LOC")), flat=False)
GOOD = "Leeds has Ada Park."
ANY = Recipe(threshold=-1.0, num_samples=8)


def single(recognizer: Recognizer, document: Document, recipe: Recipe) -> Paraphrased:
    [found] = paraphrase(recognizer, [document], recipe)
    return found


def of(
    candidates: Sequence[str], monkeypatch: pytest.MonkeyPatch, recipe: Recipe, document: Document = ADA
) -> Paraphrased:
    """What is made of candidates in the place of those that the model would draw."""
    monkeypatch.setattr("training.paraphrases.generate_each", lambda *_, **__: [list(candidates)])
    return single(paraphraser(), document, recipe)


def mentions(document: Document) -> list[tuple[str, str]]:
    return [(document.text[entity.start : entity.end], entity.label) for entity in document.entities]


def test_what_was_learnt_becomes_a_labelled_document() -> None:
    found = single(paraphraser(), TOM, ANY)
    best = next(document for document in found.documents if document.text == PAIRS[3][1])
    assert mentions(best) == [("Bank of Oslo", "ORG"), ("Oslo", "LOC"), ("Tom", "PER")]
    assert best.metadata == {"augmented_from": TOM.text}
    assert len(found.documents) + found.refused.total() == 8
    assert found.unfit is None


def test_the_source_gives_all_but_text_entities_and_name(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Document(ADA.text, ADA.entities, "ada", frozenset({"PER", "LOC"}), True, {"genre": "notes"})
    [made] = of([GOOD], monkeypatch, ANY, source).documents
    assert made == Document(GOOD, (Entity(0, 5, "LOC"), Entity(10, 18, "PER")), None, frozenset({"PER", "LOC"}), True)
    assert made.metadata == {"augmented_from": ADA.text, "genre": "notes"}


def test_what_is_made_of_a_made_document_names_the_first_source(monkeypatch: pytest.MonkeyPatch) -> None:
    [made] = of([GOOD], monkeypatch, ANY).documents
    [again] = of(["Ada Park, Leeds."], monkeypatch, ANY, made).documents
    assert again.metadata == {"augmented_from": ADA.text, "genre": "notes"}


@pytest.mark.parametrize(
    ("reason", "candidate"),
    [
        ("same", ADA.text),
        ("same", "Ada  Park lives in Leeds ."),
        ("duplicate", f" {GOOD}"),
        ("entities", "Leeds has Ada."),
        ("entities", ""),
        ("entities", "Leeds has Ada Parker."),
    ],
)
def test_a_candidate_is_refused(reason: str, candidate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = of([GOOD, candidate], monkeypatch, Recipe(threshold=-1.0, num_samples=2))
    assert [document.text for document in found.documents] == [GOOD]
    assert +found.refused == {reason: 1}


def test_a_candidate_whose_entities_come_to_overlap_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Document("西安是李雷的家。雷南", (Entity(3, 5, "PER"), Entity(8, 10, "LOC")))
    found = of(["李雷南的家。", "雷南是李雷。"], monkeypatch, Recipe(threshold=-1.0, num_samples=2), source)
    assert [document.text for document in found.documents] == ["雷南是李雷。"]
    assert +found.refused == {"overlap": 1}


def test_a_candidate_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = of([GOOD], monkeypatch, Recipe(threshold=-1.0, num_samples=5))
    assert +found.refused == {"unfinished": 4}


SIMILAR = (GOOD, "In Leeds, Ada Park.", "Ada Park, Leeds", "Leeds where Ada Park lives")


def test_candidates_below_the_threshold_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model, recipe = paraphraser(), Recipe(threshold=-1.0, num_samples=4, per_document=4)
    every = of(SIMILAR, monkeypatch, recipe)
    assert +every.refused == {}
    monkeypatch.setattr("training.paraphrases.generate_each", lambda *_, **__: [list(SIMILAR)])
    cosines = [similar.cosine for similar in rank(model, ADA.text, SIMILAR)]
    threshold = (cosines[1] + cosines[2]) / 2
    found = single(model, ADA, Recipe(threshold=threshold, num_samples=4, per_document=4))
    assert found.documents == every.documents[:2]
    assert +found.refused == {"far": 2}


def test_the_most_similar_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    every = of(SIMILAR, monkeypatch, Recipe(threshold=-1.0, num_samples=4, per_document=4))
    found = of(SIMILAR, monkeypatch, Recipe(threshold=-1.0, num_samples=4, per_document=1))
    assert found.documents == every.documents[:1]
    assert +found.refused == {"surplus": 3}


@pytest.mark.parametrize(
    ("reason", "document"),
    [
        ("page", Document("Ann", (Entity(0, 3, "PER"),), page=Page(("Ann",), ((0, 0, 3, 1),), (9, 9)))),
        ("no_entity", Document("It rained.")),
        ("ambiguous", Document("Ann met Ann.", (Entity(0, 3, "PER"),))),
        ("too_long", Document("Ann slept. " * 20 + "Bo", (Entity(220, 222, "PER"),))),
    ],
)
def test_a_document_is_unfit(reason: str, document: Document) -> None:
    assert single(paraphraser(), document, ANY) == Paraphrased(unfit=reason)
    assert reason in UNFIT


def test_every_reason_is_tested() -> None:
    assert set(REASONS) == {"unfinished", "same", "duplicate", "entities", "overlap", "far", "surplus"}
    assert set(UNFIT) == {"page", "no_entity", "ambiguous", "too_long"}


def noisy() -> Recognizer:
    """The paraphraser, drawing now and then what it has not learnt."""
    model = paraphraser()
    assert model.model.language_model is not None
    model.model.language_model.norm.weight.data.mul_(0.6)
    return model


def test_the_seed_and_the_document_alone_decide() -> None:
    model = noisy()
    texts = [
        [[document.text for document in single(model, source, recipe).documents] for source in sources]
        for recipe, sources in (
            (Recipe(threshold=-1.0, num_samples=16, seed=1), (ADA, TOM)),
            (Recipe(threshold=-1.0, num_samples=16, seed=1), (TOM, ADA)),
        )
    ]
    assert texts[0] == texts[1][::-1]
    refused = [single(model, ADA, Recipe(threshold=-1.0, num_samples=32, seed=seed)).refused for seed in (1, 1, 2, 3)]
    assert refused[0] == refused[1]
    assert refused[0] != refused[2] or refused[0] != refused[3]


def test_what_is_drawn_together_is_what_is_drawn_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of one length share a batch, blocks and batches end where they end, and order is kept."""
    monkeypatch.setattr("training.paraphrases.BLOCK", 5)
    monkeypatch.setattr("training.paraphrases.ROWS", 32)
    model = noisy()
    alike = [Document(text, (Entity(0, 2, "PER"),)) for text in ("李雷住在西安。", "南京住在李雷。", "西安住在南京。")]
    assert len({len(model.tokenizer.encode(document.text)) for document in alike}) == 1
    documents = [ADA, alike[0], Document("It rained."), alike[1], TOM, alike[2], alike[0], ADA]
    recipe = Recipe(threshold=-1.0, num_samples=16)
    together = list(paraphrase(model, documents, recipe))
    assert together == [single(model, document, recipe) for document in documents]
    assert sum(bool(found.documents) for found in together) >= 3


def test_every_entity_reads_as_in_its_source() -> None:
    model = noisy()
    made = [
        (source, document)
        for seed in range(4)
        for source in (ADA, TOM)
        for document in single(model, source, Recipe(threshold=-1.0, num_samples=16, seed=seed)).documents
    ]
    assert len(made) >= 4
    for source, document in made:
        assert sorted(mentions(document)) == sorted(mentions(source))
        assert document.text != source.text


def masked(document: Document, share: float, seed: int = 0) -> list[int]:
    """Indices of the masked tokens."""
    tokenizer = small_tokenizer()
    assert tokenizer.mask_id is not None
    encoding = tokenizer.encode(document.text)
    tokens = mask_outside(encoding, document, tokenizer.mask_id, share, random.Random(seed))
    assert len(tokens) == len(encoding)
    changed = [index for index, pair in enumerate(zip(tokens, encoding.token_ids, strict=True)) if len(set(pair)) > 1]
    assert {tokens[index] for index in changed} <= {tokenizer.mask_id}
    return changed


def test_no_token_of_an_entity_is_masked() -> None:
    offsets = small_tokenizer().encode(ADA.text).offsets
    outside = [index for index, (start, end) in enumerate(offsets) if start < end and (8 <= start < 18 or start >= 23)]
    assert masked(ADA, share=1.0) == outside
    assert masked(ADA, share=0.0) == []
    assert masked(Document(ADA.text), share=1.0) == list(range(1, len(offsets) - 1))


def test_a_word_that_touches_an_entity_is_left_alone() -> None:
    document = Document("Nordbank pays", (Entity(0, 4, "ORG"),))
    offsets = small_tokenizer().encode(document.text).offsets
    assert masked(document, share=1.0) == [index for index, (start, _) in enumerate(offsets) if start >= 9]


def test_a_share_of_the_words_is_masked() -> None:
    """12 words, 300 times: about `MASKED_SHARE` of them, within four standard deviations."""
    document = Document("a b c d e f g h i j k l")
    count = sum(len(masked(document, MASKED_SHARE, seed)) for seed in range(300))
    deviation = (3600 * MASKED_SHARE * (1 - MASKED_SHARE)) ** 0.5
    assert abs(count - 3600 * MASKED_SHARE) < 4 * deviation


def test_what_cannot_write_is_refused(tiny_bundle: Bundle) -> None:
    with pytest.raises(MissingHeadError, match="no 'language_model' head"):
        single(Recognizer(tiny_bundle, torch.device("cpu")), ADA, ANY)


def test_a_tokenizer_without_masks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = writer(random_model(small_encoder(small_tokenizer().vocab_size)))
    monkeypatch.setattr(model.tokenizer, "mask_id", None)
    with pytest.raises(ConfigError, match="found no token for masks, expected one"):
        single(model, ADA, ANY)
