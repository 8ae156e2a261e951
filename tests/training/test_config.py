"""Runs in TOML: what is read, what is refused and how it is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from ner_service.errors import ConfigError
from ner_service.model.config import EmbeddingConfig
from ner_service.records import structure, unstructure
from training.config import BatchConfig, OptimizerConfig, RunConfig, SourceConfig, TokenizerConfig, load_run

RUN = """\
name = "harbour"
epochs = 3

[data]
train = [{ path = "a.jsonl" }, { path = "b.txt", format = "conll-bio", labels = { PERSON = "PER" } }]
dev = [{ path = "dev.jsonl", where = { genre = ["news", "letters"] } }]

[model.encoder]
kind = "roformer"
hidden_size = 64
"""


def write(folder: Path, text: str = RUN) -> Path:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_run(path, overrides)
    return str(caught.value)


def test_a_run_is_read(tmp_path: Path) -> None:
    run = load_run(write(tmp_path))
    assert (run.name, run.epochs, run.seed, run.patience) == ("harbour", 3, 0, None)
    assert run.data.train == (
        SourceConfig(path="a.jsonl"),
        SourceConfig(path="b.txt", format="conll-bio", labels={"PERSON": "PER"}),
    )
    assert run.data.dev[0].where == {"genre": ("news", "letters")}
    assert run.model.encoder == {"kind": "roformer", "hidden_size": 64}


def test_a_run_comes_back_from_its_record(tmp_path: Path) -> None:
    run = load_run(write(tmp_path))
    assert structure(RunConfig, unstructure(run)) == run


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("optimizer.lr=2e-5", lambda run: run.optimizer.lr == 2e-5),
        ("optimizer.lr=1", lambda run: run.optimizer.lr == 1.0),
        ("epochs=7", lambda run: run.epochs == 7),
        ("name=ferry", lambda run: run.name == "ferry"),
        ('name="7"', lambda run: run.name == "7"),
        ("model.head.rotary=false", lambda run: run.model.head.rotary is False),
        ('data.labels=["B", "A"]', lambda run: run.data.labels == ("B", "A")),
        ("data.train.1.path=c.txt", lambda run: run.data.train[1].path == "c.txt"),
        ('data.train.0={path="d.jsonl"}', lambda run: run.data.train[0] == SourceConfig(path="d.jsonl")),
        ("data.train.1.labels.PERSON=HUMAN", lambda run: run.data.train[1].labels == {"PERSON": "HUMAN"}),
        ("window.max_tokens=65", lambda run: run.window.max_tokens == 65),
    ],
)
def test_an_override_has_the_type_of_its_key(tmp_path: Path, override: str, found: object) -> None:
    assert callable(found)
    assert not found(load_run(write(tmp_path)))
    assert found(load_run(write(tmp_path), [override]))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epocs=7", "epocs: unknown key; did you mean 'epochs'?"),
        ("optimizer.lrate=7", "optimizer.lrate: unknown key; known keys: lr, head_lr"),
        ("optimizer.warm_up_fraction=0.2", "unknown key; did you mean 'warmup_fraction'?"),
        ("epochs=many", "epochs: found 'many', expected a whole number"),
        ("epochs=2.5", "epochs: found 2.5, expected a whole number"),
        ("epochs=true", "epochs: found True, expected a whole number"),
        ("epochs=0", "epochs: found 0, expected 1 or more"),
        ("precision=fp8", "precision: found 'fp8', expected 'fp32' or 'bf16'"),
        ("optimizer.warmup_fraction=1.0", "optimizer: warmup_fraction: found 1.0, expected 0 to below 1"),
        ("batch.tokens=0", "batch: tokens: found 0, expected 1 or more"),
        ("batch.accumulate=0", "batch: accumulate: found 0, expected 1 or more"),
        ("data.dev_fraction=1.0", "data: dev_fraction: found 1.0, expected 0 to below 1"),
        ("data.join=1.5", "data: join: found 1.5, expected 0 to 1"),
        ('data.labels=["A", "A"]', "data: labels: found ('A', 'A'), expected every label once"),
        ("data.train=7", "data.train: found 7, expected a list"),
        ("data.train.0.labels=PER", "data.train[0].labels: found 'PER', expected a table"),
        ("model.head.head_size=7", "model.head: head_size is 7, expected an even number"),
        ("optimizer=7", "optimizer: found 7, expected a table"),
        ("optimizer.lr=-1.0", "optimizer: lr: found -1.0, expected 0 or more"),
        ("optimizer.weight_decay=-1.0", "optimizer: weight_decay: found -1.0, expected 0 or more"),
        ("optimizer.clip_norm=0.0", "optimizer: clip_norm: found 0.0, expected above 0"),
        ("patience=0", "patience: found 0, expected 1 or more"),
        ("seed=-1", "seed: found -1, expected 0 to below 4294967296"),
        ("seed=4294967296", "seed: found 4294967296, expected 0 to below 4294967296"),
        ("objectives.univae.weight=-1.0", "objectives.univae: weight: found (-1.0, -1.0), expected 0 or more"),
        ("objectives.univae.batch_tokens=0", "objectives.univae: batch_tokens: found 0, expected 1 or more"),
        ("objectives.univae.max_tokens=0", "objectives.univae: max_tokens: found 0, expected 1 or more"),
        ("objectives.similarity.mine=0.0", "objectives.similarity: mine: found 0.0, expected above 0 and up to 1"),
        ("objectives.similarity.mine=1.1", "objectives.similarity: mine: found 1.1, expected above 0 and up to 1"),
        ("objectives.similarity.size=0", "objectives.similarity: size: found 0, expected 1 or more"),
        ("objectives.similarity.scale=0", "objectives.similarity: scale: found 0.0, expected above 0"),
        ("objectives.similarity.generation=-0.1", "objectives.similarity: generation: found -0.1, expected 0 or more"),
        ("objectives.similarity.max_tokens=0", "objectives.similarity: max_tokens: found 0, expected 1 or more"),
        ("objectives.masked_language_model.batch_tokens=0", "batch_tokens: found 0, expected 1 or more"),
        ("objectives.masked_language_model.max_tokens=0", "max_tokens: found 0, expected 1 or more"),
    ],
)
def test_a_wrong_value_is_refused_with_its_key(tmp_path: Path, override: str, message: str) -> None:
    path = write(tmp_path)
    said = refusal(path, override)
    assert said.startswith(f"{path}: ")
    assert message in said


RAW = ("data.train=[]", "data.dev=[]", 'data.texts=["texts.txt"]')
PAIRS = ('data.pairs=["pairs.jsonl"]', "objectives.similarity.size=8")


@pytest.mark.parametrize(
    ("idle", "acting", "message"),
    [
        ((*RAW, "regularisation.r_drop=1.0"), ("regularisation.r_drop=1.0",), "regularisation.r_drop: found 1.0, exp"),
        ((*RAW, "regularisation.fgm=0.5"), ("regularisation.fgm=0.5",), "regularisation.fgm: found 0.5, expected 0 w"),
        (
            (*PAIRS, "objectives.similarity.mine=0.5"),
            (PAIRS[1], "objectives.similarity.mine=0.5"),
            "objectives.similarity.mine: found 0.5, expected none beside data.pairs",
        ),
        ((*RAW, "data.join=0.5"), ("data.join=0.5",), "data: join: found 0.5, expected none without `train`"),
        ((*RAW, 'data.labels=["PER"]'), ('data.labels=["PER"]',), "data: labels: found ('PER',), expected none"),
        (
            (*RAW, 'data.dev=[{ path = "dev.jsonl" }]'),
            ('data.dev=[{ path = "dev.jsonl" }]',),
            "data: dev: found (SourceConfig(path='dev.jsonl'",
        ),
        (
            ("model.start_from=there", "tokenizer.vocab_size=100"),
            ("tokenizer.vocab_size=100",),
            "tokenizer: found TokenizerConfig(vocab_size=100",
        ),
        (
            ("model.start_from=there", "model.encoder.hidden_size=32"),
            ("model.encoder.hidden_size=32",),
            "model: found both of `encoder` and `start_from`, expected one: a start brings its encoder",
        ),
    ],
)
def test_a_value_that_cannot_act_is_refused(
    tmp_path: Path, idle: tuple[str, ...], acting: tuple[str, ...], message: str
) -> None:
    path = write(tmp_path)
    assert message in refusal(path, *idle)
    load_run(path, idle[:-1])
    load_run(path, acting)


def test_a_start_takes_the_place_of_encoder_and_tokenizer(tmp_path: Path) -> None:
    path = write(tmp_path, RUN + "\n[tokenizer]\nvocab_size = 100\n")
    run = load_run(path, ["model.head.head_size=32", "model.start_from=there"])
    assert (run.model.start_from, run.model.encoder, run.tokenizer) == ("there", None, TokenizerConfig())
    assert run.model.head.head_size == 32
    assert load_run(path).tokenizer.vocab_size == 100
    both = write(tmp_path, RUN.replace("[model.encoder]", '[model]\nstart_from = "there"\n\n[model.encoder]'))
    assert "found both of `encoder` and `start_from`" in refusal(both)


def test_the_bounds_themselves_are_allowed(tmp_path: Path) -> None:
    bounds = ("mine=1.0", "size=1", "scale=0.1", "generation=0", "max_tokens=1")
    run = load_run(write(tmp_path), [f"objectives.similarity.{bound}" for bound in bounds])
    assert run.objectives.similarity is not None
    assert (run.objectives.similarity.mine, run.objectives.similarity.generation) == (1.0, 0.0)


def test_a_vector_has_a_size() -> None:
    with pytest.raises(ValueError, match="size: found 0, expected 1 or more"):
        EmbeddingConfig(size=0)
    assert EmbeddingConfig(size=1).size == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs", "--set epochs: expected KEY=VALUE"),
        ("epochs.more=7", "--set epochs.more=7: found 3 at epochs, expected a table"),
        ("data.train.2.path=x", "--set data.train.2.path=x: found item '2', expected a number from 0 to 1"),
        ("data.train.path=x", "--set data.train.path=x: found item 'path', expected a number from 0 to 1"),
    ],
)
def test_a_wrong_override_is_refused(tmp_path: Path, override: str, message: str) -> None:
    assert refusal(write(tmp_path), override) == message


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, 'name = "harbour"\n[model]\nstart_from = "x"\n')
    assert refusal(path) == f"{path}: data: missing"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.toml") == f"{tmp_path}/no.toml: not found; expected a run in TOML"


@pytest.mark.parametrize("content", [b"name = ", b"name = '\xff'"])
def test_a_file_that_is_not_toml(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    assert refusal(path).startswith(f"{path}: not TOML: ")


def test_limits_hold_for_records_made_in_python() -> None:
    with pytest.raises(ValueError, match="tokens: found 0"):
        BatchConfig(tokens=0)
    with pytest.raises(ValueError, match=r"warmup_fraction: found -0\.1"):
        OptimizerConfig(warmup_fraction=-0.1)
