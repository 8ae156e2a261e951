"""What latent codes carry: the cost of sentences held out, and what is written from codes.

    python -m benchmarks.reconstruction BUNDLE ... --data FOLDER
    python -m benchmarks.reconstruction BUNDLE --data FOLDER --sentences FILE > docs/latent.md

FOLDER is the one that the bundles were trained with; what was held out then is measured, from the centres of the codes
and from samples of them, beside the divergence that the posterior allows. A bundle without a latent layer is the same
model with no path from the sentence to what is written. Prints one JSON object.

With `--sentences` it prints a page instead: ten of the file's lines, those with the smallest hashes, written again; ten
sentences of random codes; a way from one of them to another; and one scale at a time drawn anew. What stands word for
word in what the run read, white space aside, is neither taken for a line nor shown.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shlex
import sys
from collections.abc import Iterable, Iterator, Set
from itertools import chain
from pathlib import Path

import torch
from accelerate import Accelerator

from ner_service.bundle import Bundle
from ner_service.errors import ConfigError
from ner_service.model.von_mises_fisher import kl_to_uniform
from ner_service.recognizer import Recognizer
from ner_service.records import structure
from training.config import RunConfig
from training.data.projection import bare
from training.data.sources import Corpus, read_corpus
from training.data.texts import sentences
from training.latent import Autoencoder, Written
from training.objectives.univae import UniVAEObjective
from training.preparation import Setup

ABOUT = """\
Sentences that the run of `{name}` never read; which of them are shown, a hash decides. Codes are drawn with the seed
{seed}, tokens are the likeliest at each step; "…" is where a text was cut off. What stands word for word in what the
run read, in any epoch, is left out; white space is not compared. Written by

    {command}"""
SEED = 0
NUM_SHOWN = 10
NUM_STEPS = 6
NUM_RESAMPLED = 4


def corpus_of(bundle: Bundle, folder: Path) -> tuple[RunConfig, Corpus]:
    """The run that a bundle came from and what it read."""
    run = structure(RunConfig, bundle.manifest.run)
    return run, read_corpus(run.data, folder)


def measure(bundle: Bundle, folder: Path) -> dict[str, object]:
    """Nats a target of what is held out."""
    run, corpus = corpus_of(bundle, folder)
    univae, latent = run.objectives.univae, bundle.manifest.model.heads.latent
    assert univae is not None
    assert latent is not None
    setup = Setup(
        run=run, corpus=corpus, tokenizer=bundle.tokenizer, config=bundle.manifest.model, weights=bundle.weights
    )
    objective = UniVAEObjective(setup, setup.build_model().eval(), Accelerator(cpu=True), univae)
    torch.manual_seed(SEED)
    centre, sampled = objective.dev_evidence(sampled=False), objective.dev_evidence(sampled=True)
    allowed = latent.num_latents * kl_to_uniform(latent.size, latent.kappa) if latent.posterior == "vmf" else math.nan
    return {
        "model": bundle.manifest.name,
        "posterior": latent.posterior if latent.num_latents else "no latent path",
        "latents": latent.num_latents,
        "size": latent.size,
        "sentences": len(corpus.raw.dev_texts()),
        "cross_entropy_from_centres": round(centre.cross_entropy, 4),
        "cross_entropy_from_samples": round(sampled.cross_entropy, 4),
        "kl_a_target": round(sampled.kl, 4),
        "kl_a_sentence_by_formula": None if math.isnan(allowed) else round(allowed, 4),
        "negative_lower_bound": round(-sampled.lower_bound, 4),
    }


def known_sentences(run: RunConfig, corpus: Corpus) -> frozenset[str]:
    """All that the run read in any epoch or was measured on, whole and by the sentence, without white space."""
    raw = corpus.raw
    epochs = (text for epoch in range(run.epochs) for text in raw.texts(epoch))
    pairs = (text for pair in raw.all_pairs for text in (pair.first, pair.second))
    documents = (document.text for document in (*corpus.train, *corpus.dev))
    read = set(chain(epochs, raw.dev_texts(), pairs, documents))
    return frozenset(bare(part) for text in read for part in (text, *sentences(text)))


def choose(lines: Iterable[str], known: Set[str]) -> list[str]:
    """Of the lines that are not known, those with the smallest hashes.

    Raises:
        ConfigError: too few are left.
    """
    new = {line.strip() for line in lines if bare(line) and bare(line) not in known}
    if len(new) < NUM_SHOWN:
        raise ConfigError(f"--sentences: found {len(new)} that the run did not read, expected at least {NUM_SHOWN}")
    return sorted(new, key=lambda line: hashlib.sha256(line.encode("utf-8")).hexdigest())[:NUM_SHOWN]


def page(bundle: Bundle, folder: Path, lines: Iterable[str], command: str) -> Iterator[str]:
    """Markdown; it names the command that wrote it.

    Raises:
        ConfigError: too few of the lines are new to the run.
    """
    run, corpus = corpus_of(bundle, folder)
    known = known_sentences(run, corpus)
    chosen = choose(lines, known)
    autoencoder = Autoencoder(Recognizer(bundle, torch.device("cpu")), seed=SEED)
    yield from (
        "# Sentences by way of their codes",
        "",
        ABOUT.format(name=bundle.manifest.name, seed=SEED, command=command),
        "",
        "## Written again",
        "",
        "| sentence | from its codes |",
        "|---|---|",
    )
    for line, written in zip(chosen, autoencoder.reconstruct(chosen), strict=True):
        yield f"| {line} | {_shown(written, known)} |"
    yield from ("", "## Random codes", "")
    yield from _listed(autoencoder.sample(NUM_SHOWN), known)
    yield from ("", f"## From “{chosen[0]}” to “{chosen[1]}”", "")
    yield from _listed(autoencoder.interpolate(chosen[0], chosen[1], NUM_STEPS), known)
    for layer in autoencoder.layers:
        yield from ("", f"## “{chosen[2]}” with the code of layer {layer} drawn anew", "")
        yield from _listed(autoencoder.resample(chosen[2], [layer], NUM_RESAMPLED), known)


def _listed(texts: Iterable[Written], known: Set[str]) -> Iterator[str]:
    return (f"- {_shown(written, known)}" for written in texts)


def _shown(written: Written, known: Set[str]) -> str:
    if bare(written.text) in known:
        return "*(stands in the training data)*"
    return written.text if written.finished else f"{written.text} …"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sentences", type=Path)
    options = parser.parse_args()
    bundles = [Bundle.load(path) for path in options.bundles]
    if options.sentences is None:
        print(json.dumps([measure(bundle, options.data) for bundle in bundles], ensure_ascii=False, indent=2))
    else:
        lines = options.sentences.read_text(encoding="utf-8").splitlines()
        command = shlex.join(["python", "-m", "benchmarks.reconstruction", *sys.argv[1:]])
        print("\n".join(page(bundles[0], options.data, lines, command)))


if __name__ == "__main__":
    main()
