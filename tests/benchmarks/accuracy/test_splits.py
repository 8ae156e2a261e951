"""The files of texts to learn from and to choose by."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from benchmarks.accuracy import splits
from benchmarks.accuracy.splits import Split, share_texts, split_texts
from ner_service.formats import read_documents, write_documents
from ner_service.types import Document, Entity
from training.data.raw import fraction_of


def documents(count: int) -> list[Document]:
    return [Document(text=f"Ann {number}", entities=(Entity(0, 3, "PER"),)) for number in range(count)]


def write_set(folder: Path, given: Sequence[Document]) -> Path:
    (folder / "cluener").mkdir(parents=True)
    write_documents(given, folder / "cluener/train.jsonl.gz")
    return folder / "cluener/train.jsonl.gz"


def texts_of(split: Split) -> tuple[list[str], list[str]]:
    learn, choose = ([document.text for document in read_documents(path)] for path in (split.learn, split.choose))
    return learn, choose


def test_a_tenth_of_the_texts_chooses_whatever_cut_off_the_dev_documents(tmp_path: Path) -> None:
    """The plain hash of a text may be what cut the set in two: no text of train would be below a tenth."""
    kept = [document for document in documents(500) if fraction_of(document.text) >= 0.125]
    learn, choose = texts_of(split_texts(write_set(tmp_path, kept), 300, tmp_path))
    assert not set(learn) & set(choose)
    assert len(learn) + len(choose) == 300
    assert 10 < len(choose) < 60
    assert sorted(learn + choose) != sorted(document.text for document in kept[:300])  # not the first of the file


def test_a_text_of_dev_is_not_learnt(tmp_path: Path) -> None:
    source = write_set(tmp_path, documents(60))
    write_documents(documents(20), source.with_name("dev.jsonl.gz"))
    learn, choose = texts_of(split_texts(source, None, tmp_path))
    assert sorted(learn + choose) == sorted(document.text for document in documents(60)[20:])


def test_without_a_cut_every_text_is_there_in_its_order(tmp_path: Path) -> None:
    learn, choose = texts_of(split_texts(write_set(tmp_path, documents(60)), None, tmp_path))
    every = [document.text for document in documents(60)]
    assert sorted(learn + choose) == sorted(every)
    assert learn == [text for text in every if text in learn]


def test_what_a_kill_left_half_written_is_never_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_set(tmp_path, documents(60))
    (tmp_path / "whole").mkdir()
    expected = texts_of(split_texts(source, None, tmp_path / "whole"))
    written: list[Path] = []

    def killed(documents: Sequence[Document], path: Path) -> None:
        """The first file appears whole, the second breaks off."""
        written.append(path)
        if len(written) == 1:
            write_documents(documents, path)
        else:
            path.write_text('{"text": "An', encoding="utf-8")
            raise KeyboardInterrupt

    monkeypatch.setattr(splits, "write_documents", killed)
    with pytest.raises(KeyboardInterrupt):
        split_texts(source, None, tmp_path)
    assert len(list(tmp_path.glob("*.jsonl"))) == 1  # no half-written file under a final name
    monkeypatch.undo()
    assert texts_of(split_texts(source, None, tmp_path)) == expected


def test_two_threads_may_make_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is about to write when the other is; `write_documents` alone has one scratch name a process."""
    source = write_set(tmp_path, documents(60))
    both = Barrier(2, timeout=60)
    paths: list[Path] = []

    def together(documents: Sequence[Document], path: Path) -> None:
        paths.append(path)
        both.wait()
        write_documents(documents, path)

    monkeypatch.setattr(splits, "write_documents", together)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: split_texts(source, None, tmp_path), range(2))
    assert first == second
    assert len(set(paths)) == len(paths) == 4
    assert sum(map(len, texts_of(first))) == 60


def test_another_folders_set_is_another_file(tmp_path: Path) -> None:
    one = split_texts(write_set(tmp_path / "one", documents(60)), None, tmp_path)
    other = split_texts(write_set(tmp_path / "other", documents(80)), None, tmp_path)
    assert sum(map(len, texts_of(one))) == 60
    assert sum(map(len, texts_of(other))) == 80
    assert one != split_texts(tmp_path / "one/cluener/train.jsonl.gz", 30, tmp_path)
    assert one == split_texts(tmp_path / "one/cluener/train.jsonl.gz", None, tmp_path)


def test_a_share_is_chosen_by_the_text_alone(tmp_path: Path) -> None:
    source = write_set(tmp_path, documents(200))
    write_documents(documents(20), source.with_name("dev.jsonl.gz"))
    path = share_texts(source, 0.1, tmp_path)
    every = documents(200)[20:]
    assert list(read_documents(path)) == [each for each in every if fraction_of("share " + each.text) < 0.1]
    assert 5 < len(list(read_documents(path))) < 50
    assert list(read_documents(share_texts(source, 1.0, tmp_path))) == every
    other = share_texts(write_set(tmp_path / "other", documents(80)), 0.1, tmp_path)
    assert other != path
    assert share_texts(source, 0.1, tmp_path) == path
