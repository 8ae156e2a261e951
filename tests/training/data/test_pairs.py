"""Pairs are read strictly, mined where sentences are alike, and batched so that no positive becomes a negative."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ner_service.errors import DataError
from ner_service.formats.lines import write_lines
from training.data.pairs import MIN_CHARACTERS, REACH, Pair, in_turn, mine_pairs, pair_batches, read_pairs


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.jsonl.gz"])
def test_read_pairs(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    rows = [
        '{"a": "还款日", "b": "哪天还款", "label": 5}',
        "",
        '{"b": "y", "a": "x"}',
        '{"a":"x","b":"x","label":3.75}',
    ]
    write_lines(path, rows)
    assert read_pairs(path) == [Pair("还款日", "哪天还款", 1.0), Pair("x", "y"), Pair("x", "x", 0.75)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"a": "x", "b": "y", "score": 1}', "found the key 'score', expected 'a', 'b', 'label'"),
        ('{"a": "x", "label": 1}', "b: missing; found the keys 'a', 'label', expected a string"),
        ('{"a": "x", "b": 3}', "b: found 3, expected a string"),
        ('{"a": " ", "b": "y"}', "a: found ' ', expected a sentence"),
        (r'{"a": "x", "b": "\ud800"}', "b: found a lone surrogate"),
        ('{"a": "x", "b": "y", "label": 5.5}', "label: found 5.5, expected 0 or 1, or a score from 0 to 5"),
        ('{"a": "x", "b": "y", "label": -1}', "label: found -1, expected"),
        ('{"a": "x", "b": "y", "label": NaN}', "label: found nan, expected"),
        ('{"a": "x", "b": "y", "label": true}', "label: found True, expected"),
        ('{"a": "x", "b": "y", "label": "1"}', "label: found '1', expected"),
        (
            '{"a": "x", "b": "y", "label": "entails"}',
            "label: found 'entails', expected 0 or 1, or a score from 0 to 5; "
            "or one of 'entailment', 'neutral', 'contradiction'",
        ),
        (
            '{"a": "x", "b": "y", "label": "neutral"}',
            "label: found 'neutral', expected 0 or 1, or a score from 0 to 5, as before it",
        ),
        ('{"a": "x", "b": "y", "label": ["neutral"]}', "label: found ['neutral'], expected"),
        ('["x", "y"]', "the line: found ['x', 'y'], expected an object"),
        ("x\ty", "found no valid JSON"),
    ],
)
def test_a_fault_names_its_line_and_what_was_expected(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "pairs.jsonl"
    write_lines(path, ['{"a": "x", "b": "y"}', "", row])
    with pytest.raises(DataError) as caught:
        read_pairs(path)
    assert str(caught.value).startswith(f"{path}:3: {message}")


def test_a_file_without_pairs_is_refused(tmp_path: Path) -> None:
    write_lines(tmp_path / "pairs.jsonl", ["", " "])
    with pytest.raises(DataError, match=r"pairs\.jsonl: found no pair, expected lines like"):
        read_pairs(tmp_path / "pairs.jsonl")


@pytest.mark.parametrize(
    ("labels", "alike"),
    [((0, 1, None), (False, True, True)), ((0, 2.4, 2.5, 1, None, 5), (False, False, True, False, True, True))],
)
def test_alike_is_at_least_half_of_the_files_scale(
    tmp_path: Path, labels: tuple[float | None, ...], alike: tuple[bool, ...]
) -> None:
    path = tmp_path / "pairs.jsonl"
    write_lines(path, [json.dumps({"a": "x", "b": "y", "label": label}) for label in labels])
    assert tuple(pair.alike for pair in read_pairs(path)) == alike


def test_labels_of_inference_and_those_that_are_alike(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    labels = ("neutral", "entailment", "contradiction")
    write_lines(path, [json.dumps({"a": "x", "b": "y", "label": label}) for label in labels])
    pairs = read_pairs(path)
    assert pairs == [Pair("x", "y", "neutral"), Pair("x", "y", "entailment"), Pair("x", "y", "contradiction")]
    assert [pair.alike for pair in pairs] == [False, True, False]
    assert all(pair.infers for pair in pairs)
    assert not any(pair.infers for pair in (Pair("x", "y"), Pair("x", "y", 1.0)))


@pytest.mark.parametrize(("label", "found"), [("1", "1.0"), ("null", "None")])
def test_a_file_of_inference_has_no_other_pair(tmp_path: Path, label: str, found: str) -> None:
    path = tmp_path / "pairs.jsonl"
    write_lines(path, ['{"a": "x", "b": "y", "label": "neutral"}', f'{{"a": "x", "b": "y", "label": {label}}}'])
    with pytest.raises(DataError) as caught:
        read_pairs(path)
    expected = "expected one of 'entailment', 'neutral', 'contradiction', as before it"
    assert str(caught.value) == f"{path}:2: label: found {found}, {expected}"


def mined(paragraph: str, threshold: float) -> list[tuple[str, str]]:
    return [(pair.first, pair.second) for pair in mine_pairs([paragraph], threshold)]


def test_the_threshold_is_jaccard_of_character_bigrams() -> None:
    """The bigrams are ab bc cd de and cd de ef fg: 2 shared of 6."""
    found = [("Abcde!", "CD-EFG!")]
    assert mined("Abcde!CD-EFG!", 2 / 6) == found
    assert mined("Abcde!CD-EFG!", 2 / 6 + 1e-9) == []


def test_a_sentence_within_another_is_as_alike_as_it_is_long() -> None:
    """All 4 bigrams of the one are among the 8 of the other."""
    assert mined("abcde。abcdefghi。", 0.5) == [("abcde。", "abcdefghi。")]
    assert mined("abcde。abcdefghi。", 0.51) == []


def test_a_pair_is_unlabelled_and_in_the_order_of_the_text() -> None:
    paragraph = "借款可以提前还清吗？本行周末照常营业。借款能不能提前还清？"
    assert list(mine_pairs([paragraph], 0.3)) == [Pair("借款可以提前还清吗？", "借款能不能提前还清？", None)]


def test_the_most_alike_come_first_and_no_sentence_twice() -> None:
    """One with two is 3 of 5, two with three 4 of 4 + 1: two goes to three, and one is left over."""
    one, two, three = "abcdx。", "abcde。", "abcdef。"
    assert mined(one + two + three, 0.3) == [(two, three)]
    assert mined(one + two, 0.3) == [(one, two)], "must fail otherwise: the two are alike enough"


def test_no_sentence_is_used_in_two_paragraphs() -> None:
    paragraphs = ["今天天气很好。今天天气真好。", "今天天气很好！今天天气不好。", "今天天气挺好。今天天气不好。"]
    found = list(mine_pairs(paragraphs, 0.2))
    assert found == [Pair("今天天气很好。", "今天天气真好。"), Pair("今天天气挺好。", "今天天气不好。")]


@pytest.mark.parametrize(
    "paragraph",
    [
        "The ship left. THE SHIP LEFT!",  # equal but for case and punctuation
        "好的吧呀。好的吧哦。",  # too short
        "第一句话说完了。\n与它毫不相干。",
    ],
)
def test_equal_short_and_unlike_sentences_are_no_pairs(paragraph: str) -> None:
    assert mined(paragraph, 0.1) == []


def test_longer_sentences_as_alike_are_a_pair() -> None:
    """Must fail otherwise: the pairs above are refused for their length and their equality alone."""
    assert mined("The ship left. THE SHIP LEFT now!", 0.1) == [("The ship left.", "THE SHIP LEFT now!")]
    assert mined("好的吧呀" + "a" * (MIN_CHARACTERS - 4) + "。好的吧哦哦。", 0.1) != []


@pytest.mark.parametrize(("num_between", "num_found"), [(REACH - 1, 1), (REACH, 0)])
def test_partners_are_within_reach(num_between: int, num_found: int) -> None:
    between = "".join(f"{chr(0x4E00 + number) * 6}。" for number in range(num_between))
    assert len(mined(f"春天播种秋天收。{between}春天播种秋天忙。", 0.5)) == num_found


@given(st.lists(st.text("abc。 ", max_size=60), max_size=5), st.floats(0.1, 1))
def test_mined_pairs_are_sentences_of_one_paragraph_used_once(paragraphs: list[str], threshold: float) -> None:
    pairs = list(mine_pairs(paragraphs, threshold))
    assert pairs == list(mine_pairs(paragraphs, threshold))
    used = [sentence for pair in pairs for sentence in (pair.first, pair.second)]
    assert len(used) == len(set(used))
    for pair in pairs:
        assert any(pair.first in paragraph and pair.second in paragraph for paragraph in paragraphs)
        assert similarity(pair) >= threshold


def similarity(pair: Pair) -> float:
    """Jaccard, written out once more."""
    first, second = ("".join(filter(str.isalnum, text)) for text in (pair.first, pair.second))
    grams = [{text[i : i + 2] for i in range(len(text) - 1)} for text in (first, second)]
    return len(grams[0] & grams[1]) / len(grams[0] | grams[1])


def repeated(batch: Sequence[Pair]) -> list[str]:
    """Sentences that two pairs of a batch share."""
    seen = Counter(sentence for pair in batch for sentence in {pair.first, pair.second})
    return [sentence for sentence, count in seen.items() if count > 1]


def pairs_of(max_sentences: int) -> st.SearchStrategy[list[Pair]]:
    sentence = st.integers(1, max_sentences).map(str)
    return st.lists(st.builds(Pair, sentence, sentence), max_size=80)


@given(pairs_of(200) | pairs_of(12), st.integers(2, 9), st.integers(0, 9))
def test_batches_repeat_no_sentence_and_lose_only_single_pairs(pairs: list[Pair], size: int, seed: int) -> None:
    batches = pair_batches(pairs, size, random.Random(seed))
    assert all(2 <= len(batch) <= size and not repeated(batch) for batch in batches)
    lost = Counter(pairs)
    lost.subtract(pair for batch in batches for pair in batch)
    assert min(lost.values(), default=0) >= 0, "a pair came twice"
    left = list(lost.elements())  # each shares a sentence with every batch that has room, and with every other one left
    assert all(repeated([*batch, pair]) for pair in left for batch in batches if len(batch) < size)
    assert all(repeated([one, other]) for i, one in enumerate(left) for other in left[i + 1 :])


def test_batches_cut_without_care_repeat_sentences() -> None:
    """Must fail: the oracle above sees what a plain shuffle does."""
    pairs = [Pair(f"question {number % 20}", f"answer {number}") for number in range(105)]
    order = random.Random(0).sample(pairs, len(pairs))
    assert any(repeated(order[start : start + 10]) for start in range(0, 105, 10))
    assert not any(map(repeated, pair_batches(pairs, 10, random.Random(0))))


def test_only_the_last_batch_is_smaller_where_sentences_differ() -> None:
    pairs = [Pair(f"a{number}", f"b{number}") for number in range(23)]
    assert [len(batch) for batch in pair_batches(pairs, 5, random.Random(0))] == [5, 5, 5, 5, 3]
    assert [len(batch) for batch in pair_batches(pairs[:21], 5, random.Random(0))] == [5, 5, 5, 5]


def test_pairs_of_one_sentence_cannot_be_batched() -> None:
    assert pair_batches([Pair("hub", str(number)) for number in range(50)], 4, random.Random(0)) == []


def test_a_sentence_may_be_its_own_partner() -> None:
    """Two dropout views of one sentence are a pair; the sentence twice is not."""
    pairs = [Pair("x", "x"), Pair("y", "y"), Pair("x", "x"), Pair("y", "y")]
    assert [set(batch) for batch in pair_batches(pairs, 4, random.Random(0))] == [{pairs[0], pairs[1]}] * 2


def test_the_generator_decides_the_order() -> None:
    pairs = [Pair(f"a{number}", f"b{number}") for number in range(40)]
    kept = list(pairs)
    first, again, other = (pair_batches(pairs, 8, random.Random(seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert pairs == kept
    assert [pair for batch in first for pair in batch] != pairs


def test_kinds_take_turns_and_the_smaller_comes_round_again() -> None:
    [one], [two], [three], [x], [y] = ([[Pair(name, name)]] for name in ("one", "two", "three", "x", "y"))
    assert in_turn([[one, two, three], [x, y]]) == [one, x, two, y, three, x]
    assert in_turn([[x], [one, two]]) == [x, one, x, two]
    assert in_turn([[one, two], []]) == [one, two]
    assert in_turn([[], []]) == []
