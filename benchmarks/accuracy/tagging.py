"""Train a tagger as `ner-train train` trains a pointer head: the same documents, windows, batches, steps and choice.

    python -m benchmarks.accuracy.tagging RUN --head crf -o FOLDER [--set KEY=VALUE ...]

RUN is what `ner-train train` reads, started from a bundle with a RoFormer; its `model.head` is not looked at. Writes
`tagger.safetensors`, the weights of the best epoch, and prints one JSON object. What differs from `training.loop` is
the head and its loss alone: no objectives beside it, no regularisation, one process.

An epoch is measured on what the run holds out, under both rules for an I without a beginning; the best epoch and rule
are kept, so a tagger never loses by the rule. Shapes: B windows, L tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.accuracy.taggers import Tagger, TaggerKind, build_tagger
from benchmarks.accuracy.tags import NO_TAG, RULES, Rule, entities_of, num_tags, outermost, tags_of
from ner_service.errors import ConfigError
from ner_service.model.batch import pad
from ner_service.model.config import RoFormerConfig
from ner_service.recognizer import BATCH_TOKENS, pick_device
from ner_service.terminal import refusals
from ner_service.text.planning import plan_groups
from ner_service.text.windows import merge, split
from ner_service.types import Document, Encoding, Entity, LabelSet, Window
from training.assembly import accelerator_of
from training.config import load_run
from training.data.loader import batches_of_epoch
from training.evaluation import compare
from training.loop import weights_of
from training.objectives import steps_of
from training.preparation import Setup, prepare
from training.steps import seed_step, set_learning_rate

WEIGHTS = "tagger.safetensors"


@dataclass(frozen=True, slots=True)
class TaggedWindow:
    """What a tagger reads, and the tag of each token."""

    encoding: Encoding
    tags: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.encoding)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """F1 of an epoch, counted from 1, on what is held out; under the rule that gave more."""

    epoch: int
    rule: Rule
    f1: float


def new_tagger(kind: TaggerKind, setup: Setup) -> Tagger:
    """A tagger with the encoder that the run starts from and the seed's head.

    Raises:
        ConfigError: the run does not start from a bundle with a RoFormer, or asks for what is not compared.
    """
    run, encoder = setup.run, setup.config.encoder
    if not setup.weights or not isinstance(encoder, RoFormerConfig):
        raise ConfigError(f"model.start_from: found {run.model.start_from!r}, expected a bundle with a RoFormer")
    if run.data.join or any(asdict(run.regularisation).values()) or any(asdict(run.objectives).values()):
        raise ConfigError("data.join, regularisation, objectives: found some, expected none where heads are compared")
    torch.manual_seed(run.seed)
    tagger = build_tagger(kind, encoder, num_tags(setup.corpus.labels), run.window.max_tokens)
    prefix = "encoder."
    tagger.start_from({k.removeprefix(prefix): v for k, v in setup.weights.items() if k.startswith(prefix)})
    return tagger


def train(tagger: Tagger, setup: Setup, accelerator: Accelerator) -> Iterator[Measured]:
    """Train to the end of the run; yields after every epoch's measure."""
    run = setup.run
    tagger.to(accelerator.device)
    optimizer = tagger.optimizer(run.optimizer)
    windows = list(tagged_windows(setup.corpus.train, setup))
    for epoch in range(run.epochs):
        batches = list(batches_of_epoch(windows, run.batch.tokens, seed=run.seed, epoch=epoch))
        steps = steps_of(batches, run.batch.accumulate)
        tagger.train()
        for number, step in enumerate(steps):
            set_learning_rate(optimizer, (epoch + number / len(steps)) / run.epochs, run.optimizer)
            seed_step(run.seed, epoch, number, accelerator.process_index)
            for batch in step:
                (_loss(tagger, batch, setup.tokenizer.pad_id, accelerator) / len(step)).backward()
            nn.utils.clip_grad_norm_(tagger.parameters(), run.optimizer.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        yield measure(tagger, setup, epoch + 1)


def tagged_windows(documents: Sequence[Document], setup: Setup) -> Iterator[TaggedWindow]:
    """The windows of documents, as in serving, with the tags of the outermost mentions."""
    for document in documents:
        mentions = outermost(document.entities)
        for window in split(document.text, setup.tokenizer, setup.run.window):
            yield TaggedWindow(window.encoding, tags_of(window, mentions, setup.corpus.labels))


def _loss(tagger: Tagger, batch: Sequence[TaggedWindow], pad_id: int, accelerator: Accelerator) -> Tensor:
    inputs = pad([window.encoding.token_ids for window in batch], pad_id, accelerator.device)
    length = inputs.token_ids_BL.shape[1]
    rows = [[*window.tags, *[NO_TAG] * (length - len(window))] for window in batch]
    with accelerator.autocast():
        return tagger.loss(inputs, torch.tensor(rows, device=accelerator.device))


def measure(tagger: Tagger, setup: Setup, epoch: int) -> Measured:
    """F1 on what the run holds out, under the better rule."""
    held_out = setup.corpus.dev
    answers = predict(tagger, setup, [document.text for document in held_out])
    labels = setup.corpus.labels
    scores = {rule: compare(held_out, [entities(answer, labels, rule) for answer in answers]) for rule in RULES}
    rule = max(RULES, key=lambda rule: scores[rule].micro.f1)
    return Measured(epoch=epoch, rule=rule, f1=scores[rule].micro.f1)


TaggedText = list[tuple[Window, list[int]]]
"""The windows of a text, each with the tags that were found."""


@torch.inference_mode()
def predict(tagger: Tagger, setup: Setup, texts: Sequence[str]) -> list[TaggedText]:
    """The tags of every text's windows, without autocast, as the recognizer computes."""
    tagger.eval()
    device = next(tagger.parameters()).device
    windows_of = [split(text, setup.tokenizer, setup.run.window) for text in texts]
    windows = [window for own in windows_of for window in own]
    tags: dict[int, list[int]] = {}
    for group in plan_groups([len(window.encoding) for window in windows], BATCH_TOKENS, padded=True):
        batch = pad([windows[index].encoding.token_ids for index in group], setup.tokenizer.pad_id, device)
        tags.update(zip(group, tagger.tags(batch), strict=True))
    found = iter(range(len(windows)))
    return [[(window, tags[next(found)]) for window in own] for own in windows_of]


def entities(text: TaggedText, labels: LabelSet, rule: Rule) -> list[Entity]:
    """The entities of a text from the tags of its windows."""
    return merge([(window, entities_of(tags, window.encoding, labels, rule)) for window, tags in text])


def load_tagger(kind: TaggerKind, setup: Setup, folder: Path) -> Tagger:
    """What `main` wrote."""
    tagger = new_tagger(kind, setup)
    tagger.load_state_dict(load_file(folder / WEIGHTS))
    return tagger.to(pick_device(setup.run.device))


def main(
    run: Annotated[Path, typer.Argument(help="A run in TOML.")],
    head: Annotated[TaggerKind, typer.Option(help="What stands on the encoder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the weights.")],
    settings: Annotated[list[str] | None, typer.Option("--set", help="Override, e.g. optimizer.lr=2e-5.")] = None,
) -> None:
    """Train a tagger and write the best epoch's weights."""
    with refusals():
        config = load_run(run, settings or [])
        accelerator = accelerator_of(config)
        setup = prepare(config, run.parent, run.parent)
        tagger = new_tagger(head, setup)
        history: list[Measured] = []
        output.mkdir(parents=True, exist_ok=True)
        for measured in train(tagger, setup, accelerator):
            if not history or measured.f1 > max(earlier.f1 for earlier in history):
                save_file({name: t.contiguous() for name, t in weights_of(tagger).items()}, output / WEIGHTS)
            history.append(measured)
    best = max(history, key=lambda measured: measured.f1)
    print(json.dumps({"best": asdict(best), "history": [asdict(measured) for measured in history]}))


if __name__ == "__main__":
    typer.run(main)
