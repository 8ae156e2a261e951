"""Where the pairs of an epoch come from, and those held out."""

from __future__ import annotations

from pathlib import Path

import pytest

from ner_service.errors import ConfigError
from training.config import SimilarityConfig
from training.data.pairs import Inference, Pair
from training.data.raw import RawCorpus, fraction_of
from training.data.texts import TextStream
from training.objectives.similarity.source import PairSource

TEXTS = ("The cat sat on the mat. It rained.", "It rained.", "请关灯。请把灯关掉。")
SENTENCES = ["The cat sat on the mat.", "It rained.", "请关灯。", "请把灯关掉。"]


def pairs(*labels: float | Inference | None) -> tuple[Pair, ...]:
    return tuple(Pair(f"a{number}", f"b{number}", label) for number, label in enumerate(labels))


def source(raw: RawCorpus, **settings: object) -> PairSource:
    return PairSource(raw, SimilarityConfig(**settings))  # type: ignore[arg-type]


def test_an_epoch_has_the_pairs_that_are_alike() -> None:
    given = pairs(0, 1, None, 0.5, 0.4)
    assert source(RawCorpus(all_pairs=given)).epoch(0) == [given[1], given[2], given[3]]


def test_of_inference_an_epoch_has_entailment() -> None:
    given = pairs("neutral", "entailment", 1, "contradiction")
    assert source(RawCorpus(all_pairs=given)).epoch(0) == [given[1], given[2]]


def test_supervised_pairs_are_those_of_both_labels() -> None:
    given = pairs(0, 1, None)
    assert source(RawCorpus(all_pairs=given), stage="supervised").epoch(0) == list(given)


def test_supervised_pairs_of_one_label_are_refused() -> None:
    with pytest.raises(ConfigError, match="found pairs of one label, expected both"):
        source(RawCorpus(all_pairs=pairs(1, None, 1)), stage="supervised").epoch(0)


@pytest.mark.parametrize("similar", [(), (0, 1)])
def test_supervised_inference_of_one_label_is_refused(similar: tuple[float, ...]) -> None:
    given = pairs(*similar, "neutral", "neutral")
    with pytest.raises(ConfigError, match="found inference pairs of one label, expected more"):
        source(RawCorpus(all_pairs=given), stage="supervised").epoch(0)
    more = pairs(*similar, "neutral", "contradiction")
    assert source(RawCorpus(all_pairs=more), stage="supervised").epoch(0) == list(more)


def test_what_is_held_out_may_have_one_label() -> None:
    """The must-fail twin is what is learnt from: it may not."""
    numbered = [(f"a{number}", f"b{number}") for number in range(20)]
    held = [min(fraction_of(first), fraction_of(second)) < 0.3 for first, second in numbered]
    assert 0 < sum(held) < 18
    free = iter(range(20))
    given = tuple(
        Pair(first, second, 1.0 if out else float(next(free) % 2))
        for (first, second), out in zip(numbered, held, strict=True)
    )
    of_files = source(RawCorpus(all_pairs=given, dev_fraction=0.3), stage="supervised")
    assert {pair.label for pair in of_files.dev()} == {1.0}
    assert {pair.label for pair in of_files.epoch(0)} == {0.0, 1.0}
    learnt = tuple(pair for pair in given if pair.label == 1.0)
    with pytest.raises(ConfigError, match="found pairs of one label"):
        source(RawCorpus(all_pairs=learnt, dev_fraction=0.3), stage="supervised").epoch(0)


def test_supervised_without_pair_files_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"found no pair file, expected data\.pairs"):
        source(RawCorpus(fixed=TEXTS), stage="supervised").epoch(0)


def test_without_files_every_sentence_is_a_pair_with_itself_once() -> None:
    assert source(RawCorpus(fixed=TEXTS)).epoch(0) == [Pair(sentence, sentence) for sentence in SENTENCES]


def test_pairs_may_be_mined() -> None:
    passage = "The old harbour froze in January. Nobody sailed. The old harbour froze in February."
    assert source(RawCorpus(fixed=(passage,)), mine=0.5).epoch(0) == [
        Pair("The old harbour froze in January.", "The old harbour froze in February.")
    ]


def test_files_come_before_texts() -> None:
    given = pairs(1, 1)
    assert source(RawCorpus(fixed=TEXTS, all_pairs=given), mine=0.5).epoch(0) == list(given)


def test_an_epoch_has_the_texts_of_its_round(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("Ann came.\nBo left.\n", encoding="utf-8")
    streamed = source(RawCorpus(stream=TextStream([path], round_lines=1)))
    assert [streamed.epoch(epoch)[0].first for epoch in range(3)] == ["Ann came.", "Bo left.", "Ann came."]


def test_what_is_held_out_is_not_learnt() -> None:
    given = tuple(Pair(f"a{number}", f"b{number}") for number in range(40))
    held = [pair for pair in given if min(fraction_of(pair.first), fraction_of(pair.second)) < 0.25]
    of_files = source(RawCorpus(all_pairs=given, dev_fraction=0.25))
    assert of_files.dev() == held
    assert of_files.epoch(0) == [pair for pair in given if pair not in held]
    texts = tuple(pair.first for pair in given)
    of_texts = source(RawCorpus(fixed=texts, dev_fraction=0.25))
    assert [pair.first for pair in of_texts.dev()] == [text for text in texts if fraction_of(text) < 0.25]
    assert len(of_texts.dev()) + len(of_texts.epoch(0)) == 40
