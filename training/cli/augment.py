"""`ner-train augment`: more labelled documents from a file of them, and what was refused and why."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ner_service.errors import DataError
from ner_service.formats import FORMATS, read_documents, write_documents
from ner_service.recognizer import Recognizer
from ner_service.terminal import check_output, console, refusals, say
from ner_service.types import Document
from training.cli.options import Device, Json
from training.paraphrases import REASONS, UNFIT, Recipe, paraphrase


@dataclass(slots=True, kw_only=True)
class Tally:
    """What became of the documents of a file, and of the candidates drawn for them."""

    num_documents: int = 0
    num_written: int = 0
    unfit: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, object]:
        """Every count, also of what did not happen."""
        return {
            "documents": self.num_documents,
            "unfit": {reason: self.unfit[reason] for reason in UNFIT},
            "candidates": self.num_written + self.refused.total(),
            "refused": {reason: self.refused[reason] for reason in REASONS},
            "written": self.num_written,
        }


def augment(
    bundle: Annotated[Path, typer.Argument(help="A bundle that writes similar sentences: objective `similarity`.")],
    data: Annotated[Path, typer.Argument(help="Annotated documents.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON Lines with the new documents alone.")],
    per_document: Annotated[int, typer.Option(min=1, help="New documents from one, at most.")] = 3,
    threshold: Annotated[float, typer.Option(min=-1.0, max=1.0, help="Least cosine with the source.")] = 0.7,
    samples: Annotated[int, typer.Option(min=1, help="Candidates drawn for a document.")] = 64,
    seed: Annotated[int, typer.Option(help="Another seed draws others.")] = 0,
    format: Annotated[str, typer.Option(help=f"Format of the documents: auto, {', '.join(FORMATS)}.")] = "auto",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Write new documents: sentences like those given, with the same entities."""
    with refusals():
        check_output(output, [data])
        recognizer = Recognizer.load(bundle, device)
        documents = list(read_documents(data, format))
        recipe = Recipe(per_document=per_document, threshold=threshold, num_samples=samples, seed=seed)
        tally = Tally()
        made = list(_augmented(recognizer, documents, recipe, tally))
        if as_json:
            print(json.dumps(tally.as_dict()))
        else:
            Console().print(_table(tally))
        if not made:
            raise DataError(data, None, "made no new document; the counts say why, and nothing is written")
        write_documents(made, output)
        say(f"Wrote {output}: {tally.num_written} documents. Next: name it in data.train, beside {data}")


def _augmented(
    recognizer: Recognizer, documents: Sequence[Document], recipe: Recipe, tally: Tally
) -> Iterator[Document]:
    """The new documents, as they are made; what becomes of the rest is counted."""
    made = paraphrase(recognizer, documents, recipe)
    for found in track(made, total=len(documents), console=console, transient=True, disable=not console.is_terminal):
        tally.num_documents += 1
        tally.num_written += len(found.documents)
        tally.refused.update(found.refused)
        tally.unfit.update([found.unfit] if found.unfit else [])
        yield from found.documents


def _table(tally: Tally) -> Table:
    table = Table("", "count", "")
    table.add_row("documents", str(tally.num_documents), "")
    _add_reasons(table, tally.unfit, UNFIT)
    table.add_section()
    table.add_row("candidates", str(tally.num_written + tally.refused.total()), "")
    _add_reasons(table, tally.refused, REASONS)
    table.add_section()
    table.add_row("written", str(tally.num_written), "")
    return table


def _add_reasons(table: Table, counts: Counter[str], reasons: Mapping[str, str]) -> None:
    for reason, meaning in reasons.items():
        if counts[reason]:
            table.add_row(f"  {reason.replace('_', ' ')}", str(counts[reason]), meaning)
