"""The walk from texts to entities on a tiny random model."""

from __future__ import annotations

import dataclasses
import json
import unicodedata

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ner_service import recognizer as recognizer_module
from ner_service.bundle import Bundle
from ner_service.decoding import Calibration, apply_overlap
from ner_service.errors import (
    BundleError,
    InvalidTextError,
    MissingHeadError,
    TooManyCandidatesError,
    UnknownLabelError,
)
from ner_service.recognizer import Recognizer, pick_device
from ner_service.text.windows import merge
from ner_service.types import Entity, Recognition, RecognizeOptions, WindowLimits
from tests.conftest import LABELS, SENTENCES
from tests.strategies import texts

LONG = " ".join(SENTENCES * 3)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def recognizer(tiny_bundle: Bundle) -> Recognizer:
    return Recognizer(tiny_bundle, CPU)


def altered(bundle: Bundle, **changes: object) -> Recognizer:
    """A recogniser whose manifest differs."""
    return Recognizer(dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, **changes)), CPU)  # type: ignore[arg-type]


def answer(recognizer: Recognizer, text: str, options: RecognizeOptions | None = None) -> Recognition:
    (found,) = recognizer.recognize([text], options)
    assert isinstance(found, Recognition), found
    return found


@pytest.fixture(scope="module")
def roomy(tiny_bundle: Bundle) -> Recognizer:
    """Windows with room for any character: one of them normalises to 18 tokens."""
    return altered(tiny_bundle, window=WindowLimits(max_tokens=64, overlap_tokens=16))


def assert_same(found: Recognition, expected: Recognition) -> None:
    """The same entities, scores within the contract's tolerance."""
    assert found.entities == expected.entities
    scores = [[entity.score for entity in answer.entities] for answer in (found, expected)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    assert (found.num_windows, found.num_tokens) == (expected.num_windows, expected.num_tokens)


def test_entities_are_sorted_and_lie_in_the_text(recognizer: Recognizer) -> None:
    for text in SENTENCES:
        found = answer(recognizer, text)
        assert list(found.entities) == sorted(found.entities, key=lambda entity: entity.key)
        assert all(0 <= entity.start < entity.end <= len(text) for entity in found.entities)
        assert all(entity.label in LABELS and 0.5 < (entity.score or 0) < 1 for entity in found.entities)
        assert found.num_tokens == len(recognizer.encode(text)[0].encoding)
    assert {entity.label for text in SENTENCES for entity in answer(recognizer, text).entities} == set(LABELS)


@pytest.mark.parametrize("batch_tokens", [4096, 40, 1])
def test_alone_is_batched(recognizer: Recognizer, batch_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recognizer_module, "BATCH_TOKENS", batch_tokens)
    batch = [LONG, *SENTENCES, "", "a", *SENTENCES[::-1]]
    for text, found in zip(batch, recognizer.recognize(batch), strict=True):
        assert isinstance(found, Recognition)
        assert_same(found, answer(recognizer, text))


def test_answers_to_different_texts_differ(recognizer: Recognizer) -> None:
    """The twin: what is compared above is not empty everywhere."""
    assert len({answer(recognizer, text).entities for text in SENTENCES}) > 2


def test_a_long_text_is_its_windows_sent_alone_and_merged(recognizer: Recognizer) -> None:
    windows = recognizer.encode(LONG)
    assert len(windows) > 3
    alone = [answer(recognizer, LONG[window.start : window.end]) for window in windows]
    assert all(found.num_windows == 1 for found in alone)
    found = answer(recognizer, LONG)
    merged = merge(list(zip(windows, (one.entities for one in alone), strict=True)))
    assert found.entities == tuple(merged)
    assert [e.score for e in found.entities] == pytest.approx([e.score for e in merged], abs=1e-5)
    assert found.num_windows == len(windows)
    assert found.num_tokens == sum(one.num_tokens for one in alone)


@pytest.mark.parametrize("text", ["", " ", "\n\t \u3000", "\u200b"])
def test_a_text_without_words_has_no_entity(recognizer: Recognizer, text: str) -> None:
    found = answer(recognizer, text, RecognizeOptions(threshold=0.0))
    assert [e for e in found.entities if text[e.start : e.end].strip()] == []
    assert found.num_windows == 1
    assert answer(recognizer, text).entities == ()


@given(st.lists(texts(max_pieces=8), max_size=4))
def test_any_text_is_answered_within_its_bounds(roomy: Recognizer, batch: list[str]) -> None:
    for text, one in zip(batch, roomy.recognize(batch), strict=True):
        assert isinstance(one, Recognition)
        assert all(0 <= entity.start < entity.end <= len(text) for entity in one.entities)


def test_a_lone_surrogate_is_the_error_of_its_text_alone(recognizer: Recognizer) -> None:
    first, bad, last = recognizer.recognize([SENTENCES[0], "bad \ud800", SENTENCES[1]])
    assert isinstance(bad, InvalidTextError)
    assert isinstance(first, Recognition)
    assert isinstance(last, Recognition)
    assert_same(first, answer(recognizer, SENTENCES[0]))
    assert_same(last, answer(recognizer, SENTENCES[1]))


def test_entities_too_long_together_are_the_error_of_their_text_alone(recognizer: Recognizer) -> None:
    """White space has no tokens, so few spans may be as long as the text is, and an answer would repeat it for each."""
    long = "Ada Lovelace" + " " * 400_000 + "Charles Babbage"
    bounded = RecognizeOptions(threshold=0.0)
    found, other = recognizer.recognize([long, "Ada Lovelace"], bounded)
    assert isinstance(found, TooManyCandidatesError)
    assert f"expected at most {4 * len(long)}" in str(found)
    assert isinstance(other, Recognition)
    assert_same(other, answer(recognizer, "Ada Lovelace", bounded))
    [kept] = recognizer.recognize([long.replace(" " * 400_000, " " * 1000)], bounded)
    assert isinstance(kept, Recognition)


def test_too_many_candidates_are_the_error_of_their_text_alone(tiny_bundle: Bundle, recognizer: Recognizer) -> None:
    counts = [
        {label: sum(entity.label == label for entity in answer(recognizer, text).entities) for label in LABELS}
        for text in SENTENCES
    ]
    most = [max(count.values()) for count in counts]
    limited = altered(tiny_bundle, max_candidates=max(most) - 1)
    for text, count, found in zip(SENTENCES, counts, limited.recognize(SENTENCES), strict=True):
        if max(count.values()) == max(most):
            label = max(count, key=lambda label: count[label])
            assert isinstance(found, TooManyCandidatesError)
            assert str(found).startswith(f"more than {max(most) - 1} spans of {label!r}")
        else:
            assert isinstance(found, Recognition)
            assert_same(found, answer(recognizer, text))
    enough = altered(tiny_bundle, max_candidates=max(most))
    assert all(isinstance(found, Recognition) for found in enough.recognize(SENTENCES))


def test_precedence_of_thresholds(tiny_bundle: Bundle) -> None:
    own = altered(tiny_bundle, thresholds={"PER": 0.5, "ORG": 0.6, "LOC": 0.7})

    def thresholds(options: RecognizeOptions) -> list[float]:
        calibration = own.calibration
        cutoffs = torch.tensor(own.cutoffs(options), dtype=torch.float64).numpy()
        return [float(calibration.probability(torch.tensor([i]).numpy(), cutoffs[i : i + 1])[0]) for i in range(3)]

    assert thresholds(RecognizeOptions()) == pytest.approx([0.5, 0.6, 0.7])
    assert thresholds(RecognizeOptions(threshold=0.9)) == pytest.approx([0.9, 0.9, 0.9])
    assert thresholds(RecognizeOptions(label_thresholds={"ORG": 0.2})) == pytest.approx([0.5, 0.2, 0.7])
    both = RecognizeOptions(threshold=0.9, label_thresholds={"ORG": 0.2})
    assert thresholds(both) == pytest.approx([0.9, 0.2, 0.9])
    assert thresholds(RecognizeOptions(labels=frozenset({"ORG"}), threshold=0.9)) == pytest.approx([1.0, 0.9, 1.0])


def test_thresholds_decide_what_is_found(recognizer: Recognizer) -> None:
    text = SENTENCES[1]
    every = answer(recognizer, text, RecognizeOptions(threshold=0.0)).entities
    num_inner = len(recognizer.encode(text)[0].encoding) - 2
    assert len(every) == len(LABELS) * num_inner * (num_inner + 1) // 2
    for threshold in (0.2, 0.5, 0.9):
        expected = tuple(entity for entity in every if (entity.score or 0) > threshold)
        assert answer(recognizer, text, RecognizeOptions(threshold=threshold)).entities == expected
    assert answer(recognizer, text, RecognizeOptions(threshold=1.0)).entities == ()


def test_a_score_equal_to_its_threshold_is_not_found(tiny_bundle: Bundle) -> None:
    """With all weights 0 every score is exactly 0, a probability of one half."""
    silent = {name: torch.zeros_like(tensor) for name, tensor in tiny_bundle.weights.items()}
    recognizer = Recognizer(dataclasses.replace(tiny_bundle, weights=silent), CPU)
    assert answer(recognizer, "Ann", RecognizeOptions(threshold=0.5)).entities == ()
    below = answer(recognizer, "Ann", RecognizeOptions(threshold=0.49)).entities
    assert {entity.score for entity in below} == {0.5}


def test_labels_are_chosen_before_the_overlap_policy(recognizer: Recognizer) -> None:
    text = SENTENCES[1]
    every = answer(recognizer, text).entities
    people = [entity for entity in every if entity.label == "PER"]
    asked = answer(recognizer, text, RecognizeOptions(labels=frozenset({"PER"}), overlap="flat")).entities
    assert asked == tuple(apply_overlap(people, "flat"))
    too_late = tuple(entity for entity in apply_overlap(every, "flat") if entity.label == "PER")
    assert asked != too_late


def test_the_policy_sees_the_whole_long_text(recognizer: Recognizer) -> None:
    every = answer(recognizer, LONG).entities
    for policy in ("nested", "flat", "longest"):
        found = answer(recognizer, LONG, RecognizeOptions(overlap=policy)).entities
        assert found == tuple(apply_overlap(every, policy))
        assert len(found) < len(every)


@pytest.mark.parametrize(
    "options", [RecognizeOptions(labels=frozenset({"PER", "DOG"})), RecognizeOptions(label_thresholds={"DOG": 0.5})]
)
def test_an_unknown_label_fails_the_call(recognizer: Recognizer, options: RecognizeOptions) -> None:
    with pytest.raises(UnknownLabelError, match="unknown label 'DOG'; the model knows: PER, ORG, LOC"):
        recognizer.recognize(["text"], options)


def test_no_label_no_entity(recognizer: Recognizer) -> None:
    assert answer(recognizer, SENTENCES[1], RecognizeOptions(labels=frozenset(), threshold=0.0)).entities == ()


def test_calibration_changes_scores_and_not_the_order(tiny_bundle: Bundle, recognizer: Recognizer) -> None:
    calibrated = altered(tiny_bundle, calibration=Calibration(slopes=(1.0,) * 3, intercepts=(0.0,) * 3))
    plain = answer(recognizer, SENTENCES[1]).entities
    found = answer(calibrated, SENTENCES[1]).entities
    assert found == plain

    def odds(entity: Entity) -> float:
        assert entity.score is not None
        return entity.score / (1 - entity.score)

    assert [odds(entity) ** 2 for entity in found] == pytest.approx([odds(entity) for entity in plain], rel=1e-6)


def test_each_text_of_a_forward_has_its_own_cutoffs(recognizer: Recognizer) -> None:
    encoding = recognizer.encode(SENTENCES[1])[0].encoding
    cutoffs = [recognizer.cutoffs(RecognizeOptions(threshold=threshold)) for threshold in (0.5, 1.0, 0.9)]
    counts = [len(found.label_N) for found in recognizer.forward([encoding] * 3, cutoffs)]
    assert counts[0] > counts[2] > counts[1] == 0


def test_no_text_no_answer(recognizer: Recognizer) -> None:
    assert recognizer.recognize([]) == []


def test_a_folder_is_loaded_as_saved(tiny_bundle_folder: object, recognizer: Recognizer) -> None:
    loaded = Recognizer.load(tiny_bundle_folder, device="cpu")  # type: ignore[arg-type]
    for text in SENTENCES:
        assert answer(loaded, text) == answer(recognizer, text)


def test_weights_of_another_model_are_refused(tiny_bundle: Bundle) -> None:
    for weights in ({}, {**tiny_bundle.weights, "spans.terms.bias": torch.zeros(8)}):
        with pytest.raises(BundleError, match="weights of 'tiny' are not those of its model"):
            Recognizer(dataclasses.replace(tiny_bundle, weights=weights), CPU)


def test_devices() -> None:
    assert pick_device("cpu") == CPU
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@given(st.text("北京上海AdaLovelace０１Ａｂ。，.!?😀👍\U00020bb7 \t\r\n\u3000é7"))
def test_r9_every_token_is_spelt_as_its_characters(tiny_bundle: Bundle, text: str) -> None:
    """Full width, emoji beyond the basic plane, whitespace and upper case; the tokenizer folds width alone."""
    vocab = json.loads(tiny_bundle.tokenizer.to_json())["model"]["vocab"]
    spelling = {token_id: token for token, token_id in vocab.items()}
    encoding = tiny_bundle.tokenizer.encode(text)
    covered = 0
    for token_id, (start, end) in zip(encoding.token_ids[1:-1], encoding.offsets[1:-1], strict=True):
        token, mention = spelling[token_id], text[start:end]
        assert text[covered:start].strip() == ""
        assert unicodedata.normalize("NFKC", mention) == token.removeprefix("##") or (
            token == "[UNK]" and end - start == 1
        )
        covered = end
    assert text[covered:].strip() == ""


def test_r9_upper_case_is_kept(tiny_bundle: Bundle) -> None:
    """The twin: a tokenizer that folded case would give both words the same tokens."""
    encode = tiny_bundle.tokenizer.encode
    assert encode("ADA").token_ids != encode("ada").token_ids
    assert encode("ＡＤＡ").token_ids == encode("ADA").token_ids


@pytest.fixture(scope="module")
def embedder(tiny_embedding_bundle: Bundle) -> Recognizer:
    return Recognizer(tiny_embedding_bundle, CPU)


def test_a_vector_is_the_direction_of_what_the_model_says(embedder: Recognizer) -> None:
    """The oracle goes by the model's parts: the encoder's state at position 0, times the head's matrix."""
    head = embedder.model.embedding
    assert head is not None
    for text in SENTENCES:
        encoding = embedder.encode(text)[0].encoding
        with torch.inference_mode():
            hidden_BLD = embedder.model.encoder(embedder.model.batch([encoding.token_ids], 0, CPU))
            vector_E = hidden_BLD[0, 0].double() @ head.weight.double().T + head.bias.double()
        expected = (vector_E / vector_E.square().sum().sqrt()).numpy()
        found = embedder.embed([encoding])
        assert (found.shape, found.dtype) == ((1, 24), np.float32)
        assert found[0] == pytest.approx(expected, abs=1e-6)


def test_a_vector_does_not_depend_on_its_neighbours(embedder: Recognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    encodings = [window.encoding for text in (*SENTENCES, LONG, "", "a") for window in embedder.encode(text)]
    alone = np.concatenate([embedder.embed([encoding]) for encoding in encodings])
    packed = embedder.embed(encodings)
    monkeypatch.setattr(embedder.model, "pads", lambda device: True)
    padded = embedder.embed(encodings)
    for together in (packed, padded, embedder.embed(encodings[::-1])[::-1]):
        assert together == pytest.approx(alone, abs=1e-5)
    assert np.linalg.norm(packed, axis=1) == pytest.approx(1.0, abs=1e-6)


def test_vectors_of_different_texts_differ(embedder: Recognizer) -> None:
    """The twin: what is compared above is not the same everywhere."""
    vectors = embedder.embed([embedder.encode(text)[0].encoding for text in (*SENTENCES, SENTENCES[0])])
    cosines = vectors @ vectors.T
    assert cosines[0, -1] == pytest.approx(1.0, abs=1e-6)
    assert np.abs(cosines[0, 1:-1]).max() < 0.9


def test_the_vector_of_a_long_text_is_the_direction_of_the_mean_of_its_windows(embedder: Recognizer) -> None:
    # Half of (0.6 + 1, 0.8 + 0) is (0.8, 0.4), which is as long as the root of 0.8.
    pooled = embedder.pool([np.array([0.6, 0.8], dtype=np.float32), np.array([1.0, 0.0], dtype=np.float32)])
    assert pooled == pytest.approx([0.8 / 0.8**0.5, 0.4 / 0.8**0.5], abs=1e-6)
    (alone,) = embedder.embed([embedder.encode(SENTENCES[0])[0].encoding])
    assert embedder.pool([alone]) == pytest.approx(alone, abs=1e-6)


@pytest.mark.parametrize("batch_tokens", [4096, 40, 1])
def test_vectors_of_texts_are_those_of_their_windows_in_order(
    embedder: Recognizer, batch_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recognizer_module, "BATCH_TOKENS", batch_tokens)
    batch = [LONG, *SENTENCES, "", "a"]
    windows = [[window.encoding for window in embedder.encode(text)] for text in batch]
    expected = np.stack([embedder.pool(list(embedder.embed(encodings))) for encodings in windows])
    found = embedder.vectors(batch)
    assert len(windows[0]) > 1
    assert (found.shape, found.dtype) == ((len(batch), 24), np.float32)
    assert found == pytest.approx(expected, abs=1e-5)
    # The twin: in another order they are others.
    assert np.abs(found - expected[::-1]).max() > 0.1


def test_vectors_without_a_direction_are_zero(embedder: Recognizer) -> None:
    one = np.array([0.6, 0.8], dtype=np.float32)
    assert embedder.pool([one, -one]).tolist() == [0.0, 0.0]


def test_a_head_that_is_missing_is_named_beside_those_there_are(
    recognizer: Recognizer, embedder: Recognizer, tiny_two_headed_bundle: Bundle
) -> None:
    with pytest.raises(MissingHeadError, match="no 'embedding' head; it has: spans"):
        recognizer.embed([recognizer.encode("a")[0].encoding])
    with pytest.raises(MissingHeadError, match="no 'spans' head; it has: embedding"):
        embedder.recognize(["a"])
    both = Recognizer(tiny_two_headed_bundle, CPU)
    assert answer(both, SENTENCES[1]).entities
    assert both.embed([both.encode("a")[0].encoding]).shape == (1, 24)
