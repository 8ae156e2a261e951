"""Every recipe of the repository is a complete run."""

from __future__ import annotations

from pathlib import Path

import pytest

from ner_service.model.config import EncoderConfig
from ner_service.records import structure, unstructure
from training.cli.documents import dev_sources
from training.config import RunConfig, load_run

FOLDER = Path(__file__).parents[1] / "training/recipes"
RECIPES = sorted(FOLDER.glob("*.toml"))


def test_there_are_recipes() -> None:
    assert {"cluener", "cmeee", "pretrain", "starter"} <= {path.stem for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_loads(path: Path) -> None:
    run = load_run(path)
    assert run.name == path.stem
    assert run.description
    assert structure(RunConfig, unstructure(run)) == run
    if run.model.encoder is not None:
        encoder: object = structure(EncoderConfig, {**run.model.encoder, "vocab_size": 100})  # type: ignore[arg-type]
        assert unstructure(encoder).items() >= run.model.encoder.items()


@pytest.mark.parametrize("name", ["calibrate", "evaluate"])
def test_documents_that_are_named_in_a_file_load(name: str) -> None:
    """They are the sets of the starter's run, with the labels that it has."""
    sets = {source.path.split("/")[0] for source in load_run(FOLDER / "starter.toml").data.train}
    for source in dev_sources(FOLDER / "starter" / f"{name}.toml"):
        assert source.path.split("/")[0] in sets
        assert set((source.labels or {}).values()) == {"PER", "ORG", "LOC"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_how_it_is_run(path: Path) -> None:
    verb = "train" if load_run(path).data.train else "pretrain"
    assert f"ner-train {verb} training/recipes/{path.name}" in path.read_text(encoding="utf-8")
