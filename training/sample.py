"""What `ner-train init` writes: sentences made from patterns of our own, and a run that learns them in a minute.

Half are Chinese, half English; organisations hold the place that they are named after, so entities nest. The sample
shows the form of the data and that the machine works; it teaches nothing about a language.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from ner_service.errors import ConfigError
from ner_service.formats import write_documents
from ner_service.types import Document, Entity

RUN = "run.toml"
NUM_DOCUMENTS = {"train.jsonl": 400, "dev.jsonl": 80, "calibration.jsonl": 80}

PATTERNS = (
    "{person}昨天从{place}到了{organisation}。",
    "{organisation}请{person}谈谈{place}的变化。",
    "听说{person}离开了{organisation}，搬到{place}去住。",
    "{place}的{organisation}今年由{person}主持。",
    "{person} left {place} to work for {organisation}.",
    "{organisation} has asked {person} to write about {place}.",
    "Nobody in {place} knew that {person} ran {organisation}.",
    "With {person} gone, {organisation} moved to {place}.",
)
CHINESE = {
    "person": ("林小满", "周一帆", "陈望舒", "何青禾", "沈知远", "顾南星"),
    "place": ("青石镇", "白沙湾", "云溪县", "梅岭", "临江市", "双桥村"),
    "organisation": ("{place}图书馆", "{place}造船厂", "{place}中学", "{place}茶叶公司"),
}
ENGLISH = {
    "person": ("Ada Thornbury", "Miles Okafor", "Ines Valente", "Tom Hathersage", "Rosa Lindqvist"),
    "place": ("Marlow Bay", "Eastwick", "Harrowfield", "Port Linden", "Stonebridge"),
    "organisation": ("the University of {place}", "{place} Shipyard", "the {place} Gazette", "the Bank of {place}"),
}
LABELS = {"person": "PER", "place": "LOC", "organisation": "ORG"}

RUN_TEXT = """\
# A run of ner-train. Replace the files by your own documents, one JSON object a line:
#   {"text": "...", "entities": [{"start": 0, "end": 3, "label": "PER"}]}
# Offsets are code points, the end is exclusive, entities may nest. calibration.jsonl is for `ner-train calibrate`:
# documents that serve nothing else.
name = "sample"
epochs = 8

[data]
train = [{ path = "train.jsonl" }]
dev = [{ path = "dev.jsonl" }]
# The share of documents that are laid together into longer ones, other ones each epoch. A model that has seen single
# sentences alone finds debris where several stand together; 0 is for documents as long as the texts you will send.
join = 0.5

[tokenizer]
vocab_size = 2000

[model.encoder]
kind = "roformer"
hidden_size = 128
num_layers = 2
num_heads = 4
intermediate_size = 512

[batch]
tokens = 512

[optimizer]
lr = 2e-3
head_lr = 2e-3

# A second pass of each step moves the token embeddings against the model. Nearly twice the time, and a point of F1 on
# CLUENER, more on a tenth of it, none on CMeEE.
[regularisation]
fgm = 0.1

# Beside the entities, every sentence is written again from a short code of it; that fades out over the run. It costs no
# F1, and about as much time as the entities alone.
[objectives.univae]
weight = 0.1
final_weight = 0.0
latent = { num_latents = 1 }
"""


def write_sample(folder: Path) -> Path:
    """Write a run and its documents into a new folder; the path of the run.

    Raises:
        ConfigError: the folder exists and is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: exists and is not empty; expected a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    documents = iter(sample_documents(sum(NUM_DOCUMENTS.values())))
    for name, count in NUM_DOCUMENTS.items():
        write_documents(islice(documents, count), folder / name)
    (folder / RUN).write_text(RUN_TEXT, encoding="utf-8")
    return folder / RUN


def sample_documents(count: int) -> list[Document]:
    """The first `count` sentences, the same ones every time and none twice."""
    found: dict[str, Document] = {}
    for document in _documents(random.Random(0)):
        found.setdefault(document.text, document)
        if len(found) == count:
            break
    return list(found.values())


def _documents(generator: random.Random) -> Iterator[Document]:
    number = 0
    while True:
        number += 1
        pattern = generator.choice(PATTERNS)
        words = CHINESE if "。" in pattern else ENGLISH
        text = ""
        entities: list[Entity] = []
        for literal, slot in _slots(pattern):
            text += literal
            if slot:
                mention, inside = _mention(slot, words, generator, len(text))
                text += mention
                entities += inside
        ordered = sorted(entities, key=lambda entity: entity.key)
        yield Document(text, tuple(ordered), id=f"sample-{number}")


def _mention(
    slot: str, words: dict[str, tuple[str, ...]], generator: random.Random, start: int
) -> tuple[str, list[Entity]]:
    """A mention for a slot, and its entities: the place inside an organisation's name is one too."""
    name = generator.choice(words[slot])
    entities = []
    if "{place}" in name:
        place = generator.choice(words["place"])
        at = start + name.index("{place}")
        entities.append(Entity(at, at + len(place), LABELS["place"]))
        name = name.replace("{place}", place)
    return name, [Entity(start, start + len(name), LABELS[slot]), *entities]


def _slots(pattern: str) -> Iterator[tuple[str, str]]:
    """Literal text, and the slot after it; the last one is empty."""
    *parts, rest = pattern.split("}")
    for part in parts:
        literal, slot = part.split("{")
        yield literal, slot
    yield rest, ""
