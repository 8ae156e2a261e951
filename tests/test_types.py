"""Plain data that is valid by construction."""

from __future__ import annotations

import math

import pytest

from ner_service.errors import ConfigError, UnknownLabelError
from ner_service.types import Entity, LabelSet, RecognizeOptions, WindowLimits


@pytest.mark.parametrize("threshold", [math.nan, -0.1, 1.1, math.inf])
def test_a_threshold_is_a_probability(threshold: float) -> None:
    for options in ({"threshold": threshold}, {"label_thresholds": {"PER": threshold}}):
        with pytest.raises(ConfigError, match="expected a probability, 0 to 1"):
            RecognizeOptions(**options)  # type: ignore[arg-type]
    assert RecognizeOptions(threshold=0.0, label_thresholds={"PER": 1.0}).threshold == 0.0


@pytest.mark.parametrize("overlap_tokens", [-1, 8, 9])
def test_windows_must_go_on(overlap_tokens: int) -> None:
    with pytest.raises(ValueError, match="expected 0 to 7"):
        WindowLimits(max_tokens=8, overlap_tokens=overlap_tokens)
    assert WindowLimits(max_tokens=8, overlap_tokens=7).overlap_tokens == 7


def test_labels_are_a_table_both_ways() -> None:
    labels = LabelSet(["PER", "ORG"])
    assert [labels[labels.index(name)] for name in labels] == ["PER", "ORG"]
    with pytest.raises(UnknownLabelError, match="'LOC'; the model knows: PER, ORG"):
        labels.index("LOC")
    with pytest.raises(ValueError, match="twice"):
        LabelSet(["PER", "PER"])


def test_score_and_source_are_no_part_of_an_entity() -> None:
    assert Entity(0, 2, "PER", 0.9, "a") == Entity(0, 2, "PER", 0.1, "b")
    assert len({Entity(0, 2, "PER", 0.9), Entity(0, 2, "PER", 0.1), Entity(0, 2, "ORG", 0.9)}) == 2
