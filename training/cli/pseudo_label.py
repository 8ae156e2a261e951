"""`ner-train pseudo-label`: documents to learn from, made of raw text and what a model is sure of in it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ner_service.errors import ConfigError
from ner_service.formats import write_documents
from ner_service.recognizer import Recognizer
from ner_service.terminal import check_output, console, refusals, say
from ner_service.types import Document
from training.cli.options import Device, Json
from training.data.texts import paragraphs, sentences
from training.pseudo_labels import pseudo_label as label_sentences


@dataclass(slots=True, kw_only=True)
class Tally:
    """How many sentences were read and written, and how often each label has an entity or is left open in those."""

    num_sentences: int = 0
    num_written: int = 0
    entities: Counter[str] = field(default_factory=Counter)
    left_open: Counter[str] = field(default_factory=Counter)

    def as_dict(self, labels: Sequence[str]) -> dict[str, object]:
        """Every count, also of what did not happen."""
        return {
            "sentences": self.num_sentences,
            "written": self.num_written,
            "entities": {label: self.entities[label] for label in labels},
            "left_open": {label: self.left_open[label] for label in labels},
        }


def pseudo_label(
    bundle: Annotated[Path, typer.Argument(help="A bundle, best a calibrated one: its probabilities decide.")],
    texts: Annotated[list[Path], typer.Argument(help="Files of raw text, a paragraph a line.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON Lines with the sentences that have an entity.")],
    sure: Annotated[float, typer.Option(min=0.5, max=1.0, help="Probability that an entity must exceed.")] = 0.75,
    outermost: Annotated[
        bool, typer.Option("--outermost", help="Leave out an entity inside another of its label.")
    ] = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Write documents to learn from: raw sentences with the entities that a model is sure of."""
    with refusals():
        check_output(output, texts)
        recognizer = Recognizer.load(bundle, device)
        found = dict.fromkeys(own for path in texts for line in paragraphs(path) for own in sentences(line))
        tally = Tally()
        documents = list(_labelled(recognizer, list(found), sure, outermost, tally))
        if as_json:
            print(json.dumps(tally.as_dict(recognizer.labels.names), ensure_ascii=False))
        else:
            Console().print(_table(tally, recognizer.labels.names))
        if not documents:
            raise ConfigError(f"--sure {sure}: found no entity surer than that, expected some; nothing is written")
        write_documents(documents, output)
        hint = "Next: name it in data.train, beside the documents that the bundle learnt from"
        say(f"Wrote {output}: {tally.num_written} documents. {hint}")


def _labelled(
    recognizer: Recognizer, found: Sequence[str], sure: float, outermost: bool, tally: Tally
) -> Iterator[Document]:
    """The documents, as they are made, and what they hold counted."""
    made = label_sentences(recognizer, found, sure, outermost=outermost)
    for document in track(made, total=len(found), console=console, transient=True, disable=not console.is_terminal):
        tally.num_sentences += 1
        if document is not None:
            tally.num_written += 1
            tally.entities.update(entity.label for entity in document.entities)
            tally.left_open.update(set(recognizer.labels) - (document.annotated or frozenset()))
            yield document


def _table(tally: Tally, labels: Sequence[str]) -> Table:
    table = Table("label", "entities", "left open")
    for label in labels:
        table.add_row(label, str(tally.entities[label]), str(tally.left_open[label]))
    table.add_section()
    table.add_row("sentences", f"{tally.num_written} of {tally.num_sentences}", "", style="bold")
    return table
