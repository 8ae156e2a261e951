"""The curve of an adaptation: its points, its measures by hand, and a run that is stopped or killed and goes on.

Shapes: N tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import Tensor

from benchmarks import runs
from benchmarks.accuracy import adaptation
from benchmarks.accuracy.adaptation import (
    Row,
    adapt,
    centred_cosine,
    check_name,
    fingerprint_of,
    is_point,
    masked_accuracy,
    measure,
)
from ner_service.bundle import read_manifest
from ner_service.errors import ConfigError
from ner_service.formats import read_documents, write_documents
from ner_service.model.config import Heads, LanguageModelConfig, ModelConfig, RoFormerConfig
from ner_service.model.text_model import TextModel
from ner_service.types import Document, Entity, LabelSet
from training.config import (
    DataConfig,
    DistillationConfig,
    MaskedLanguageModelConfig,
    ModelSection,
    ObjectivesConfig,
    RunConfig,
)
from training.data.raw import RawCorpus, fraction_of
from training.data.sources import Corpus
from training.data.tokenizer_training import train_tokenizer
from training.objectives.distillation import DistillationObjective
from training.objectives.masked_language_model import MaskedLanguageModelObjective
from training.preparation import Setup
from training.state import State

TEXTS = (
    "The mill at Lune was sold twice in one week.",
    "磨坊一个星期里卖了两次。",
    "Oster has two bridges and one baker.",
    "面包师傅每天四点起床。",
    "Nobody swims in the harbour before June.",
    "六月以前没有人在港口游泳。",
    "Mirek lent his boat to the school.",
    "他把船借给了学校。",
)
FOREVER_S, AT_ONCE_S = math.inf, -math.inf


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    """A run of five epochs over a few sentences, and its teacher, an encoder twice as deep with random weights."""
    folder = tmp_path_factory.mktemp("run")
    tokenizer = train_tokenizer(TEXTS, vocab_size=300, min_frequency=1)
    encoder = RoFormerConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32
    )
    torch.manual_seed(1)
    teacher = TextModel(ModelConfig(encoder=replace(encoder, num_layers=2), heads=Heads()), 0)
    named = Setup(
        run=RunConfig(
            name="small",
            device="cpu",
            epochs=5,
            data=DataConfig(texts=("in memory",)),
            model=ModelSection(encoder={"kind": "roformer"}),
            objectives=ObjectivesConfig(
                distillation=DistillationConfig(teacher="teacher", batch_tokens=64, max_tokens=32),
                masked_language_model=MaskedLanguageModelConfig(weight=0.1, batch_tokens=64, max_tokens=32),
            ),
        ),
        corpus=Corpus(labels=LabelSet(()), train=(), dev=(), sha256="", raw=RawCorpus(fixed=TEXTS, dev_fraction=0.4)),
        tokenizer=tokenizer,
        config=ModelConfig(encoder=encoder, heads=Heads(language_model=LanguageModelConfig())),
        weights={},
        folder=folder,
    )
    whole = replace(named, config=teacher.config).bundle(dict(teacher.state_dict()), {})
    whole.save(folder / "teacher")
    return named


def test_points_are_powers_of_two_and_the_last() -> None:
    assert [epoch for epoch in range(25) if is_point(epoch, 24)] == [0, 1, 2, 4, 8, 16, 24]


# ---- rows


def row_of(name: str, fingerprint: str | None) -> Row:
    return Row(
        name=name,
        fingerprint=fingerprint,
        epoch=1,
        num_tokens=9,
        cosine=0.5,
        masked_accuracy=None,
        f1=0.25,
        f1_on="tenth",
        settings=(),
        date="",
        hardware="",
        torch="",
    )


def test_a_name_is_that_of_one_run() -> None:
    rows = [row_of("one", "a"), row_of("old", None)]
    check_name("one", "a", rows)
    check_name("two", "b", rows)
    for name, fingerprint in (("one", "b"), ("old", "a")):
        with pytest.raises(ConfigError, match=f"--name {name}: found rows of another run"):
            check_name(name, fingerprint, rows)


def test_another_student_at_the_same_place_is_another_run(setup: Setup, tmp_path: Path) -> None:
    found = []
    for number in (0, 1, 1):
        weights = {"encoder.x": torch.full((2,), float(number))}
        shutil.rmtree(tmp_path / "student", ignore_errors=True)
        setup.bundle(weights, {}).save(tmp_path / "student")
        found.append(fingerprint_of(setup, tmp_path / "student"))
    assert found[0] != found[1] == found[2]


def test_what_a_point_is_measured_on_is_not_learnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is it dev: the tenth of all training texts that chooses elsewhere, and none of it among those learnt from."""
    data, read = tmp_path / "cluener", {}
    data.mkdir()
    for part, first in (("train", 0), ("dev", 100)):
        texts = [Document(f"{number} {TEXTS[0]}", (Entity(0, 1, "N"),)) for number in range(first, first + 60)]
        write_documents(texts, data / f"{part}.jsonl.gz")

    def train(recipe: Path, settings: Sequence[str], output: Path) -> SimpleNamespace:
        for part in ("train", "dev"):
            [option] = [each for each in settings if each.startswith(f"data.{part}=")]
            read[part] = {document.text for document in read_documents(option.split('"')[1])}
        return SimpleNamespace(output='{"last_epoch_f1": 0.25}')

    monkeypatch.setattr(runs, "train", train)
    monkeypatch.setattr(adaptation, "NUM_TEXTS", 30)
    known = {"epoch": 1, "num_tokens": 9, "cosine": 0.5, "masked_accuracy": None}
    monkeypatch.setattr(adaptation, "read_manifest", lambda point: SimpleNamespace(metrics=known))
    assert measure(tmp_path / "point", "one", "a", (), tmp_path, tmp_path).f1 == 0.25
    everything = {document.text for document in read_documents(data / "train.jsonl.gz")}
    assert read["train"].isdisjoint(read["dev"])
    assert read["train"] | read["dev"] < everything
    assert len(read["dev"]) == sum(fraction_of("choose " + text) < 0.1 for text in everything) > 2
    assert 20 < len(read["train"]) <= 30


# ---- measures


def cosine_of(own_PD: Tensor, other_PD: Tensor) -> float:
    """Of states in two batches, five parts and the rest, whose first layer is another matter."""
    batches = {"first": slice(0, 5), "second": slice(5, None)}
    objective = SimpleNamespace(
        dev_batches=list(batches),
        states=lambda name: [torch.ones(3, 4), own_PD[batches[name]]],
        targets=lambda name: [torch.zeros(3, 4), other_PD[batches[name]]],
    )
    return centred_cosine(cast(DistillationObjective, objective))


def test_the_cosine_is_of_states_less_their_means() -> None:
    own_PD, other_PD = torch.randn(2, 12, 4, generator=torch.Generator().manual_seed(0))
    assert cosine_of(own_PD, 3.0 * own_PD + 7.0) == pytest.approx(1.0, abs=1e-6)
    assert cosine_of(own_PD, 7.0 - own_PD) == pytest.approx(-1.0, abs=1e-6)
    cosines = [
        sum(a * b for a, b in zip(x, y, strict=True)) / (math.hypot(*x) * math.hypot(*y))
        for x, y in zip(by_hand(own_PD), by_hand(other_PD), strict=True)
    ]
    assert cosine_of(own_PD, other_PD) == pytest.approx(sum(cosines) / len(cosines), abs=1e-6)


def by_hand(states_PD: Tensor) -> list[list[float]]:
    rows = states_PD.tolist()
    means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    return [[value - mean for value, mean in zip(row, means, strict=True)] for row in rows]


def test_masked_accuracy_counts_tokens_not_batches() -> None:
    """Two of three named in the one batch, none of one in the other: 2 of 4, not the mean of 2/3 and 0."""
    answers = {
        "first": (torch.eye(5)[[1, 2, 3]], torch.tensor([1, 2, 4])),
        "second": (torch.eye(5)[[0]], torch.tensor([4])),
    }
    objective = SimpleNamespace(dev_batches=list(answers), predict=answers.__getitem__)
    assert masked_accuracy(cast(MaskedLanguageModelObjective, objective)) == 0.5


# ---- stop and resume

Point = tuple[object, str]


def points(folder: Path) -> dict[str, Point]:
    """What every kept bundle says of itself, and the SHA-256 of its weights."""
    manifests = {path.name: read_manifest(path) for path in sorted(folder.glob("epoch-*"))}
    return {name: (each.metrics, each.files["model.safetensors"].sha256) for name, each in manifests.items()}


@pytest.fixture(scope="module")
def unbroken(setup: Setup, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Point]:
    folder = tmp_path_factory.mktemp("unbroken")
    adapt(setup, folder, FOREVER_S)
    return points(folder)


def test_a_run_keeps_its_points_with_what_was_measured(unbroken: dict[str, Point]) -> None:
    assert list(unbroken) == ["epoch-000", "epoch-001", "epoch-002", "epoch-004", "epoch-005"]
    metrics = [cast(dict[str, float], metrics) for metrics, _ in unbroken.values()]
    assert [each["epoch"] for each in metrics] == [0, 1, 2, 4, 5]
    tokens = [each["num_tokens"] for each in metrics]
    assert tokens[0] == 0
    assert tokens == sorted(set(tokens))
    assert len({sha256 for _, sha256 in unbroken.values()}) == len(unbroken)


def test_a_stopped_run_goes_on_to_the_same_points(setup: Setup, unbroken: dict[str, Point], tmp_path: Path) -> None:
    calls = 0
    while "epoch-005" not in points(tmp_path):
        adapt(setup, tmp_path, AT_ONCE_S)
        calls += 1
    assert calls == setup.run.epochs
    assert points(tmp_path) == unbroken


@pytest.mark.parametrize(("owner", "name"), [(State, "save"), (adaptation, "keep_point"), (adaptation, "_write_whole")])
@pytest.mark.parametrize("call", [1, 3])
@pytest.mark.parametrize("after", [False, True])
def test_a_killed_run_goes_on_to_the_same_points(
    owner: object,
    name: str,
    call: int,
    after: bool,
    setup: Setup,
    unbroken: dict[str, Point],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed as an epoch is put down, before or after its snapshot, its point or its tokens."""
    monkeypatch.setattr(owner, name, killed(getattr(owner, name), call, after))
    with pytest.raises(KeyboardInterrupt):
        adapt(setup, tmp_path, FOREVER_S)
    monkeypatch.undo()
    assert points(tmp_path) != unbroken
    adapt(setup, tmp_path, FOREVER_S)
    assert points(tmp_path) == unbroken


def killed(function: Callable[..., None], call: int, after: bool) -> Callable[..., None]:
    """The function, which ends the run before or after its work when it is called for that time."""
    calls: list[object] = []

    def run(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) < call or after:
            function(*arguments)
        if len(calls) == call:
            raise KeyboardInterrupt

    return run
