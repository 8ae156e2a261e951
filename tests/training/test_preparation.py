"""What a run starts from: fresh weights, a bundle of ours, a checkpoint of transformers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedModel, PreTrainedTokenizerFast, RoFormerConfig, RoFormerModel

from ner_service.bundle import Bundle
from ner_service.errors import BundleError, ConfigError, NerServiceError
from ner_service.model.batch import pad
from ner_service.model.config import EmbeddingConfig, LatentConfig
from ner_service.model.text_model import TextModel
from ner_service.recognizer import Recognizer
from ner_service.types import Recognition, WindowLimits
from tests.training.runs import SMALL, small_setup
from training import preparation
from training.config import (
    DistillationConfig,
    ModelSection,
    ObjectivesConfig,
    RegularisationConfig,
    SimilarityConfig,
    TokenizerConfig,
    load_run,
)
from training.preparation import Setup, Started, prepare

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def fresh(run_folder: Path) -> Setup:
    return small_setup(run_folder)


def start_from(fresh: Setup, folder: Path, name: Path | str, **changes: object) -> Setup:
    """The run of `fresh`, started from something."""
    model = ModelSection(start_from=str(name), head=fresh.run.model.head)
    run = replace(fresh.run, model=model, tokenizer=TokenizerConfig(), **changes)  # type: ignore[arg-type]
    return prepare(run, folder, folder)


def test_fresh_weights_are_those_of_the_seed(fresh: Setup) -> None:
    one, two = fresh.build_model().state_dict(), fresh.build_model().state_dict()
    other = replace(fresh, run=replace(fresh.run, seed=1)).build_model().state_dict()
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    assert not torch.equal(one["spans.dense.weight"], other["spans.dense.weight"])


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (WindowLimits(max_tokens=65, overlap_tokens=8), "window.max_tokens: found 65, expected 64 at most, as many as"),
        (
            WindowLimits(max_tokens=16, overlap_tokens=14),
            "window.overlap_tokens: found 14 of 16, expected less than 14",
        ),
    ],
)
def test_windows_that_cannot_be_read_or_cut_are_refused(
    fresh: Setup, run_folder: Path, limits: WindowLimits, message: str
) -> None:
    """Before training: short texts would be learnt, and no long one could ever be served."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    encoder = {"kind": "huggingface", "model_type": "bert", "config": {**sizes, "max_position_embeddings": 64}}
    run = replace(fresh.run, model=ModelSection(encoder=encoder), window=limits)
    with pytest.raises(ConfigError, match=message):
        prepare(run, run_folder, run_folder)
    bundle = fresh.bundle(fresh.build_model().state_dict(), {})
    narrow = replace(bundle.manifest, window=WindowLimits(max_tokens=16, overlap_tokens=14))
    with pytest.raises(BundleError, match=r"window\.overlap_tokens: found 14 of 16"):
        Recognizer(replace(bundle, manifest=narrow), CPU)


def test_a_run_trains_its_tokenizer(fresh: Setup) -> None:
    text = fresh.corpus.train[0].text
    assert fresh.tokenizer.vocab_size <= 400
    assert fresh.config.encoder.vocab_size == fresh.tokenizer.vocab_size  # type: ignore[union-attr]
    assert len(fresh.tokenizer.encode(text)) > 3


def test_a_run_takes_a_tokenizer_from_a_file(fresh: Setup, run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(fresh.tokenizer.to_json(), encoding="utf-8")
    setup = small_setup(run_folder, f"tokenizer.file={tmp_path}/tokenizer.json", "tokenizer.vocab_size=250")
    assert setup.tokenizer.to_json() == fresh.tokenizer.to_json()
    with pytest.raises(ConfigError, match=r"no\.json: not found; expected a tokenizer\.json"):
        small_setup(run_folder, "tokenizer.file=no.json")
    with pytest.raises(ConfigError, match=r"run\.toml: .*expected a file of Hugging Face tokenizers"):
        small_setup(run_folder, "tokenizer.file=run.toml")


def test_the_encoder_must_have_a_kind(run_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected 'roformer' or 'roformer_v2' or .* or 'huggingface'"):
        small_setup(run_folder, "model.encoder.kind=lstm")
    kind = "unknown key of kind 'roformer'"
    with pytest.raises(ConfigError, match=rf"model\.encoder\.hiden_size: {kind}; did you mean 'hidden_size'"):
        small_setup(run_folder, "model.encoder.hiden_size=3")


def test_fingerprints_tell_runs_apart(fresh: Setup, run_folder: Path, tmp_path: Path) -> None:
    assert small_setup(run_folder).identity() == fresh.identity()
    others = [
        small_setup(run_folder, "optimizer.lr=1e-5"),
        replace(fresh, corpus=replace(fresh.corpus, sha256="0")),
        small_setup(run_folder, "tokenizer.vocab_size=300"),
    ]
    file = tmp_path / "tokenizer.json"
    for vocab_size in (400, 300):
        tokenizer = small_setup(run_folder, f"tokenizer.vocab_size={vocab_size}").tokenizer
        file.write_text(tokenizer.to_json(), encoding="utf-8")
        others.append(small_setup(run_folder, f"tokenizer.file={file}"))
    assert len({json.dumps(setup.identity()) for setup in [fresh, *others]}) == 6


@pytest.fixture(scope="module")
def start(fresh: Setup) -> Bundle:
    """A bundle of the same labels; not trained, but of another seed."""
    weights = replace(fresh, run=replace(fresh.run, seed=5)).build_model().state_dict()
    return fresh.bundle(weights, {})


@pytest.fixture(scope="module")
def start_folder(start: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start") / "bundle"
    start.save(folder)
    return folder


def test_from_a_bundle_of_the_same_labels_the_head_comes_along(
    fresh: Setup, run_folder: Path, start: Bundle, start_folder: Path
) -> None:
    setup = start_from(fresh, run_folder, start_folder)
    found = setup.build_model().state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in start.weights.items())
    assert setup.tokenizer.to_json() == start.tokenizer.to_json()
    assert setup.started == Started(name=str(start_folder), kept=("spans",), anew=(), left=())


def test_a_fresh_run_started_from_nothing(fresh: Setup) -> None:
    assert fresh.started is None


def test_heads_that_are_alike_come_along_and_the_others_are_named(
    fresh: Setup, run_folder: Path, start: Bundle, tmp_path: Path
) -> None:
    """Spans are alike, the embedding has another size, the latent codes are there alone, to name words is new."""
    theirs = replace(start.manifest.model.heads, embedding=EmbeddingConfig(size=8), latent=LatentConfig(num_latents=0))
    config = replace(start.manifest.model, heads=theirs)
    weights = TextModel(config, len(start.manifest.labels)).state_dict()
    bundle = replace(start, manifest=replace(start.manifest, model=config), weights=weights)
    bundle.save(tmp_path / "bundle")
    objectives = ObjectivesConfig(similarity=SimilarityConfig(size=4))
    setup = start_from(fresh, run_folder, tmp_path / "bundle", objectives=objectives)
    assert setup.started is not None
    assert (setup.started.kept, setup.started.anew) == (("spans",), ("embedding", "language_model"))
    assert setup.started.left == ("latent",)
    assert {name.split(".")[0] for name in setup.weights} == {"encoder", "spans"}


def test_from_a_bundle_of_other_labels_the_encoder_comes_alone(
    fresh: Setup, run_folder: Path, start: Bundle, start_folder: Path
) -> None:
    labels = ("PER", "ORG", "LOC")  # the same names in another order are other channels
    setup = start_from(fresh, run_folder, start_folder, data=replace(fresh.run.data, labels=labels))
    found = setup.build_model().state_dict()
    assert all(
        torch.equal(found[name], tensor) for name, tensor in start.weights.items() if name.startswith("encoder.")
    )
    assert not torch.equal(found["spans.dense.weight"], start.weights["spans.dense.weight"])
    assert setup.started == Started(name=str(start_folder), kept=(), anew=("spans",), left=())


def test_from_a_bundle_in_half_precision(fresh: Setup, run_folder: Path, start: Bundle, tmp_path: Path) -> None:
    half = {name: tensor.half() for name, tensor in start.weights.items()}
    replace(start, weights=half).save(tmp_path / "half")
    found = start_from(fresh, run_folder, tmp_path / "half").build_model().state_dict()
    assert all(torch.equal(tensor.float(), found[name]) for name, tensor in half.items())
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}


def write_checkpoint(folder: Path, model: PreTrainedModel, vocabulary: list[str]) -> Path:
    """A Hugging Face folder with a fast tokenizer that reads words."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]")
    fast.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "Ines", "Valente", "left", "Eastwick", "the", "."]
SIZES: dict[str, Any] = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (lambda: BertModel(BertConfig(**SIZES)), "huggingface"),
        (lambda: RoFormerModel(RoFormerConfig(**SIZES, embedding_size=16)), "roformer"),
    ],
)
def test_from_a_checkpoint_of_transformers(
    fresh: Setup, run_folder: Path, tmp_path: Path, model: object, kind: str
) -> None:
    """The encoder gives the checkpoint's own hidden states; a text is read by the checkpoint's own tokenizer."""
    assert callable(model)
    torch.manual_seed(3)
    foreign = model().eval()
    setup = start_from(fresh, run_folder, write_checkpoint(tmp_path / "checkpoint", foreign, VOCABULARY))
    assert setup.config.encoder.kind == kind
    assert setup.started == Started(name=str(tmp_path / "checkpoint"), kept=(), anew=("spans",), left=())
    encoding = setup.tokenizer.encode("Ines Valente left.")
    assert encoding.token_ids == (2, 4, 5, 6, 9, 3)
    ours = setup.build_model().eval()
    with torch.no_grad():
        expected = foreign(torch.tensor([encoding.token_ids])).last_hidden_state
        found = ours.encoder(pad([encoding.token_ids], setup.tokenizer.pad_id))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_from_nothing_at_hand(fresh: Setup, run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"model\.start_from: .* is neither a bundle nor a checkpoint at hand"):
        start_from(fresh, run_folder, tmp_path)


@pytest.mark.parametrize("name", ["runs/mine/bundle", "./bundle", "../bundle", "here", "here/bundel"])
def test_a_path_where_nothing_is_is_refused_with_both_places(
    fresh: Setup, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """`here` stands in the working directory, and that is not where a relative path counts from."""
    monkeypatch.setattr(preparation, "load_checkpoint", lambda name: pytest.fail(f"asked for {name}"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with pytest.raises(ConfigError) as caught:
        start_from(fresh, run_folder, name)
    assert str(caught.value) == (
        f"model.start_from: found nothing at {run_folder / name}, expected a bundle or a checkpoint; "
        f"a relative path counts from the run's folder, not from here: {tmp_path / name}"
    )


def test_a_full_path_where_nothing_is_is_refused(fresh: Setup, run_folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        start_from(fresh, run_folder, "/no/such/bundle")
    said = "model.start_from: found nothing at /no/such/bundle, expected a bundle or a checkpoint"
    assert str(caught.value) == said


@pytest.mark.parametrize("name", ["model", "owner/model"])
def test_a_name_of_a_hub_is_asked_for(
    fresh: Setup, run_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def asked(name: str) -> object:
        raise ConfigError(f"asked for {name}")

    monkeypatch.setattr(preparation, "load_checkpoint", asked)
    with pytest.raises(ConfigError, match=f"^asked for {name}$"):
        start_from(fresh, run_folder, name)


def test_weights_that_do_not_fit_are_refused(fresh: Setup) -> None:
    weights = dict(fresh.build_model().state_dict())
    del weights["encoder.layers.0.feed_in.bias"]
    with pytest.raises(ConfigError, match=r"weights do not fit: .*encoder\.layers\.0\.feed_in\.bias"):
        replace(fresh, weights=weights).build_model()


@pytest.mark.parametrize(
    "objectives",
    [
        ObjectivesConfig(similarity=SimilarityConfig(stage="distillation", teacher="teacher")),
        ObjectivesConfig(distillation=DistillationConfig(teacher="teacher")),
    ],
)
def test_another_teacher_in_its_place_is_another_run(
    run_folder: Path, tiny_bundle: Bundle, tmp_path: Path, objectives: ObjectivesConfig
) -> None:
    setup = small_setup(run_folder)
    run = replace(setup.run, objectives=objectives, regularisation=RegularisationConfig())
    setup = replace(setup, run=run, folder=tmp_path)
    found = []
    for name in ("one", "one", "other"):
        replace(tiny_bundle, manifest=replace(tiny_bundle.manifest, name=name)).save(tmp_path / "teacher")
        found.append(setup.identity())
    assert found[0] == found[1] != found[2]


def test_a_text_bundle_is_given_a_second_axis_by_one_word(
    fresh: Setup, run_folder: Path, start: Bundle, start_folder: Path
) -> None:
    """T-8: every weight comes along, and texts are answered to the bit as before."""
    model = ModelSection(start_from=str(start_folder), head=fresh.run.model.head, num_axes=2)
    run = replace(fresh.run, model=model, tokenizer=TokenizerConfig())
    setup = prepare(run, run_folder, run_folder)
    assert getattr(setup.config.encoder, "num_axes", None) == 2
    model = setup.build_model()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in start.weights.items())
    texts = ["Ines Valente left.", "Bo saw the sea at Visby."]
    before, after = (reader.recognize(texts) for reader in (Recognizer(start, CPU), setup.recognizer(model)))
    assert [vars_of(found) for found in after] == [vars_of(found) for found in before]


def vars_of(found: Recognition | NerServiceError) -> list[tuple[object, ...]]:
    assert isinstance(found, Recognition)
    return [(entity.key, entity.score) for entity in found.entities]


def test_axes_are_the_encoders_own_where_none_are_asked_for(run_folder: Path) -> None:
    for settings, expected in (([], 1), (["model.encoder.num_axes=2"], 2), (["model.num_axes=2"], 2)):
        assert getattr(small_setup(run_folder, *settings).config.encoder, "num_axes", None) == expected


def test_axes_are_refused_where_there_can_be_none(run_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.num_axes: hidden_size 36 over num_heads 6 with num_axes 2"):
        small_setup(run_folder, "model.num_axes=2", "model.encoder.num_heads=6", "model.encoder.hidden_size=36")
    foreign = replace(
        load_run(run_folder / "run.toml", SMALL),
        model=ModelSection(encoder={"kind": "huggingface", "model_type": "bert"}, num_axes=2),
    )
    with pytest.raises(
        ConfigError, match=r"model\.num_axes: found 2 for an encoder 'huggingface', expected an encoder with"
    ):
        prepare(foreign, run_folder, run_folder)
