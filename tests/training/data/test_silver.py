"""Silver mentions: which names are known, and where inside others they are found."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ner_service.errors import ConfigError
from ner_service.types import Document, Entity, Page
from training.config import DataConfig, SourceConfig, load_run
from training.data.raw import fraction_of
from training.data.silver import add_inner, known_names
from training.data.sources import read_corpus


def document(text: str, **mentions: str) -> Document:
    """A document in which each mention, by its label, is an entity at its first place."""
    found = [
        Entity(text.index(mention), text.index(mention) + len(mention), label) for label, mention in mentions.items()
    ]
    return Document(text=text, entities=tuple(sorted(found, key=lambda entity: entity.key)), flat=True)


KNOWN = (
    document("他住在云浦。", LOC="云浦"),
    document("云浦下雪了。", LOC="云浦"),
    document("去云浦北站。", LOC="云浦北"),
    document("云浦北很远。", LOC="云浦北"),
    document("She left Aldport.", LOC="Aldport"),
    document("Aldport is far.", LOC="Aldport"),
    document("从岭坪来。", LOC="岭坪"),
    document("河在南边。", LOC="河"),
    document("河水清。", LOC="河"),
)


def mentions(found: Document) -> list[tuple[str, str]]:
    return [(found.text[entity.start : entity.end], entity.label) for entity in found.entities]


def test_a_name_is_known_that_is_seen_twice_and_is_no_single_character() -> None:
    assert known_names(KNOWN, "LOC") == {"云浦", "云浦北", "Aldport"}
    assert known_names(KNOWN, "ORG") == set()


@pytest.mark.parametrize(
    ("text", "outer", "expected"),
    [
        ("云浦大学开学了。", "云浦大学", ["云浦"]),
        ("云浦北大学开学了。", "云浦北大学", ["云浦北"]),
        ("新云浦与老云浦公司合并。", "新云浦与老云浦公司", ["云浦", "云浦"]),
        ("岭坪大学开学了。", "岭坪大学", []),
        ("云浦赢了球。", "云浦", []),
        ("The Aldport Council met.", "Aldport Council", ["Aldport"]),
        ("The Aldporters Club met.", "Aldporters Club", []),
        ("云浦的海洋大学开学了。", "海洋大学", []),
    ],
)
def test_names_inside_a_mention(text: str, outer: str, expected: list[str]) -> None:
    *_, found = add_inner([*KNOWN, document(text, ORG=outer)], {"ORG": ("LOC",)})
    assert Counter(mentions(found)) == Counter([(outer, "ORG"), *((name, "LOC") for name in expected)])
    assert found.flat


@pytest.mark.parametrize(("words", "expected"), [(("云浦", "大学"), ["云浦"]), (("云浦大学",), [])])
def test_on_a_page_a_name_is_whole_words(words: tuple[str, ...], expected: list[str]) -> None:
    boxes = tuple((10.0 * index, 0.0, 10.0 * index + 9, 9.0) for index in range(len(words)))
    page = Page(words, boxes, (99.0, 9.0))
    school = Document(text=page.text, entities=(Entity(0, len(page.text), "ORG"),), page=page)
    *_, found = add_inner([*KNOWN, school], {"ORG": ("LOC",)})
    assert [name for name, label in mentions(found) if label == "LOC"] == expected


def test_mentions_of_other_labels_and_documents_without_stay_as_they_are() -> None:
    documents = [*KNOWN, document("云浦大学开学了。", WORK="云浦大学")]
    assert add_inner(documents, {"ORG": ("LOC",)}) == documents


def write(folder: Path, documents: Sequence[Document]) -> None:
    lines = [
        {"text": d.text, "entities": [{"start": e.start, "end": e.end, "label": e.label} for e in d.entities]}
        for d in documents
    ]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")


def test_a_run_adds_them_to_what_it_learns_under_its_own_names(tmp_path: Path) -> None:
    write(tmp_path, [*KNOWN, document("云浦大学开学了。", ORG="云浦大学")])
    source = SourceConfig(path="train.jsonl", labels={"LOC": "PLACE", "ORG": "GROUP"}, inner={"GROUP": ("PLACE",)})
    corpus = read_corpus(DataConfig(train=(source,), dev=(replace(source, inner={}),)), tmp_path)
    assert mentions(corpus.train[-1]) == [("云浦大学", "GROUP"), ("云浦", "PLACE")]
    assert mentions(corpus.dev[-1]) == [("云浦大学", "GROUP")]


def test_what_is_held_out_stays_gold_and_teaches_no_name(tmp_path: Path) -> None:
    schools = [document(f"云浦大学第{number}次开学。", ORG="云浦大学") for number in range(100)]
    places = [document(text, LOC="云浦") for text in (f"云浦下了{number}场雪。" for number in range(60))]
    config = DataConfig(train=(SourceConfig(path="train.jsonl", inner={"ORG": ("LOC",)}),), dev_fraction=0.3)
    for known, expected in ((places, 2), ([place for place in places if fraction_of(place.text) < 0.3], 1)):
        write(tmp_path, [*schools, *known])
        corpus = read_corpus(replace(config, labels=("LOC", "ORG")), tmp_path)
        assert {len(d.entities) for d in corpus.dev} == {1}
        assert {len(d.entities) for d in corpus.train if "大学" in d.text} == {expected}


def test_dev_is_measured_by_gold_alone(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        'name = "x"\nmodel = { encoder = { kind = "roformer" } }\n'
        '[data]\ntrain = [{ path = "a" }]\ndev = [{ path = "b", inner = { ORG = ["LOC"] } }]\n',
        encoding="utf-8",
    )
    with pytest.raises(ConfigError, match=r"dev\[0\]\.inner: found .*LOC.*, expected none: gold alone is measured by"):
        load_run(path)
