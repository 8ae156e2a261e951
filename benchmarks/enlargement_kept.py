"""What an enlarged bundle keeps, its answers, and what it does not: copies that are equal.

Measured by `python -m benchmarks.enlargement --bundle BUNDLE`, a line for each way of enlarging. Knows no comparison of
trainings.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from benchmarks.accuracy.splits import share_texts
from benchmarks.machine import where
from benchmarks.processes import ROOT
from benchmarks.rows import append_row, read_rows
from benchmarks.runs import RECIPES, train
from ner_service.bundle import WEIGHTS, Bundle
from ner_service.formats import read_documents
from ner_service.model.batch import pack
from ner_service.recognizer import Recognizer
from ner_service.records import unstructure
from training.enlargement import Plan, Symmetry, enlarge, num_parameters
from training.enlargement.verification import compare
from training.enlargement.width import known_encoder

KEPT = ROOT / "benchmarks/results/enlargement-kept.jsonl"
PARTED = ROOT / "benchmarks/results/enlargement-parted.jsonl"
RECIPE = RECIPES / "cluener.toml"
NUM_TEXTS = 1000
TEXTS_OF_COPIES = 100
PARTED_SHARE = 0.125
PARTED_EPOCHS = 1
SYMMETRIES: tuple[Symmetry, ...] = ("shares", "equal")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """How a bundle's answers and those of an enlarged one agree; `largest` is of scores, `outputs` of all outputs."""

    model: str
    weights_sha256: str
    width_factor: int
    num_layers: int
    scheme: str
    num_texts: int
    num_entities: int
    num_differing: int
    num_at_threshold: int
    largest: float
    outputs: Mapping[str, float]
    parameters: tuple[int, ...]
    date: str
    hardware: str
    torch: str

    @property
    def way(self) -> tuple[int, int, str]:
        return self.width_factor, self.num_layers, self.scheme


@dataclass(frozen=True, slots=True, kw_only=True)
class Parted:
    """How far apart the copies of a bundle twice as wide are, before it is trained on without dropout and after."""

    model: str
    weights_sha256: str
    symmetry: Symmetry
    share: float
    epochs: int
    apart_before: float
    apart_after: float
    date: str
    hardware: str
    torch: str


# ---- answers


def plans(num_layers: int) -> tuple[Plan, ...]:
    """Twice and four times as wide, twice as deep, and both."""
    return (
        Plan(width_factor=2),
        Plan(width_factor=4),
        Plan(width_factor=2, scheme="wider_heads"),
        Plan(num_layers=2 * num_layers),
        Plan(width_factor=2, num_layers=2 * num_layers),
    )


def keep(small: Bundle, plan: Plan, texts: Sequence[str]) -> Kept:
    """Enlarge a bundle and compare its answers with those of the one it came from."""
    device = torch.device("cpu")
    large = enlarge(small, plan)
    found = compare(Recognizer(small, device), Recognizer(large, device), texts)
    assert found.agreement is not None
    return Kept(
        model=small.manifest.name,
        weights_sha256=small.manifest.files[WEIGHTS].sha256,
        width_factor=plan.width_factor,
        num_layers=known_encoder(large.manifest.model.encoder).num_layers,
        scheme=plan.scheme,
        **asdict(found.agreement),
        outputs=dict(found.outputs),
        parameters=(num_parameters(small), num_parameters(large)),
        **where(),
    )


def dev_texts(data: Path, num: int) -> list[str]:
    return [document.text for document in read_documents(data / "cluener/dev.jsonl.gz")][:num]


# ---- copies


def part(small: Bundle, symmetry: Symmetry, data: Path, state: Path) -> Parted:
    """Enlarge a bundle, train it on for a while with its own head and labels, and see whether the copies part."""
    digest = small.manifest.files[WEIGHTS].sha256
    folder = state / f"parted-{digest[:8]}-{symmetry}"
    shutil.rmtree(folder, ignore_errors=True)
    without_dropout(enlarge(small, Plan(width_factor=2, symmetry=symmetry))).save(folder / "enlarged")
    documents = share_texts(data / "cluener/train.jsonl.gz", PARTED_SHARE, state)
    head = unstructure(small.manifest.model.heads.spans)
    settings = (
        f"epochs={PARTED_EPOCHS}",
        f"model.start_from={folder}/enlarged",
        *(f"model.head.{key}={json.dumps(value)}" for key, value in head.items()),
        f"data.labels={json.dumps(small.manifest.labels, ensure_ascii=False)}",
        f'data.train=[{{ path = "{documents}" }}]',
        f'data.dev=[{{ path = "{data}/cluener/dev.jsonl.gz" }}]',
    )
    train(RECIPE, settings, folder / "on")
    texts = dev_texts(data, TEXTS_OF_COPIES)
    return Parted(
        model=small.manifest.name,
        weights_sha256=digest,
        symmetry=symmetry,
        share=PARTED_SHARE,
        epochs=PARTED_EPOCHS,
        apart_before=copies_apart(folder / "enlarged", texts),
        apart_after=copies_apart(folder / "on/bundle", texts),
        **where(),
    )


def without_dropout(bundle: Bundle) -> Bundle:
    """The same bundle, to be trained on in such a way that nothing but its weights can part copies."""
    encoder = replace(known_encoder(bundle.manifest.model.encoder), dropout=0.0, attention_dropout=0.0)
    return replace(bundle, manifest=replace(bundle.manifest, model=replace(bundle.manifest.model, encoder=encoder)))


def copies_apart(folder: Path, texts: Sequence[str]) -> float:
    """The difference of the two copies in the hidden states of a bundle twice as wide: 0 for equal ones, 1 for ones
    that have nothing in common. The first half of the channels is one copy and the second half the other, whatever the
    scheme: only within attention do the two differ.
    """
    recognizer = Recognizer.load(folder, "cpu")
    token_ids = [window.encoding.token_ids for text in texts for window in recognizer.encode(text)]
    with torch.inference_mode():
        hidden_BLD = recognizer.model.encoder(pack(token_ids))
    first, second = hidden_BLD.chunk(2, dim=-1)
    return float((first - second).norm() / hidden_BLD.norm())


# ---- the command and the tables


def measure(folder: Path, data: Path, state: Path) -> None:
    """Add a row for each way of enlarging, and of telling copies apart, that has none of this bundle."""
    torch.set_num_threads(1)
    bundle = Bundle.load(folder)
    digest = bundle.manifest.files[WEIGHTS].sha256
    done = {row.way for row in read_rows(Kept, KEPT) if row.weights_sha256 == digest}
    small_layers = known_encoder(bundle.manifest.model.encoder).num_layers
    texts = dev_texts(data, NUM_TEXTS)
    for plan in plans(small_layers):
        if (plan.width_factor, plan.num_layers or small_layers, plan.scheme) not in done:
            kept = keep(bundle, plan, texts)
            append_row(KEPT, kept)
            print(f"{kept.way}: {kept.num_differing} differ, scores by {kept.largest:.1e}", file=sys.stderr)
    parted_by = {row.symmetry for row in read_rows(Parted, PARTED) if row.weights_sha256 == digest}
    for symmetry in SYMMETRIES:
        if symmetry not in parted_by:
            parted = part(bundle, symmetry, data, state)
            append_row(PARTED, parted)
            print(f"{symmetry}: apart by {parted.apart_before:.1e}, then {parted.apart_after:.1e}", file=sys.stderr)


def kept_table(rows: Iterable[Kept]) -> Iterator[str]:
    """Markdown: every enlargement, and what differed."""
    yield "| model | width | layers | attention | parameters | texts | entities | differ | largest score difference |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        before, after = row.parameters
        yield (
            f"| {row.model} | x {row.width_factor} | {row.num_layers} | {row.scheme} | {before:,} to {after:,} | "
            f"{row.num_texts:,} | {row.num_entities:,} | {row.num_differing} | {row.largest:.1e} |"
        )


def parted_table(rows: Iterable[Parted]) -> Iterator[str]:
    """Markdown: how far apart copies are when training goes on without dropout."""
    yield "| model | symmetry | apart before | apart after |"
    yield "|---|---|---|---|"
    for row in rows:
        yield f"| {row.model} | {row.symmetry} | {row.apart_before:.1e} | {row.apart_after:.1e} |"
