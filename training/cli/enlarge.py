"""`ner-train enlarge`: a larger bundle that answers as the one it comes from, checked before it is written."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ner_service.bundle import Bundle, free_place
from ner_service.errors import ConfigError
from ner_service.formats.lines import read_lines
from ner_service.records import unstructure
from ner_service.terminal import refusals, say
from training.cli.options import Json, Seed
from training.enlargement import Plan, Scheme, Symmetry, num_parameters
from training.enlargement import enlarge as enlarged
from training.enlargement.verification import TOLERANCE, Verification, verify
from training.enlargement.width import known_encoder


def enlarge(
    bundle: Annotated[Path, typer.Argument(help="A bundle with an encoder of ours: roformer or roformer_v2.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the enlarged bundle goes.")],
    width_factor: Annotated[int, typer.Option(min=1, help="How many times as wide.")] = 1,
    num_layers: Annotated[int | None, typer.Option(min=1, help="How deep; else as deep as it is.")] = None,
    scheme: Annotated[
        Scheme, typer.Option(help="What becomes of attention: more heads, each as wide, or as many, each wider.")
    ] = "more_heads",
    symmetry: Annotated[
        Symmetry,
        typer.Option(
            help="How copies are told apart, so that they may learn different things: every weight shared out among "
            "them by chance, noise that sums to zero, or not at all."
        ),
    ] = "shares",
    seed: Seed = 0,
    texts: Annotated[Path | None, typer.Option(help="A file with a text a line, to compare the answers on.")] = None,
    as_json: Json = False,
) -> None:
    """Make a bundle wider or deeper without changing any answer, to go on training from."""
    with refusals():
        free_place(output)
        source = Bundle.load(bundle)
        given = [line.text for line in read_lines(texts) if line.text.strip()] if texts else []
        plan = Plan(width_factor=width_factor, num_layers=num_layers, scheme=scheme, symmetry=symmetry, seed=seed)
        if width_factor == 1 and num_layers in (None, known_encoder(source.manifest.model.encoder).num_layers):
            raise ConfigError("found no --width-factor and no more --num-layers than there are, expected one of them")
        result = enlarged(source, plan)
        verification = verify(source, result, given, seed)
        sizes = num_parameters(source), num_parameters(result)
        result.save(output)
        if as_json:
            print(json.dumps(figures(verification, *sizes), ensure_ascii=False))
        else:
            Console().print(sizes_table(source, result, *sizes), differences_table(verification))
        say(f"Wrote {output}. Next: ner-train train RUN --set model.start_from={output.absolute()}")


def figures(verification: Verification, before: int, after: int) -> dict[str, object]:
    """What was counted and compared, for programs."""
    agreement = verification.agreement
    return {
        "parameters": {"before": before, "after": after},
        "outputs": dict(verification.outputs),
        "answers": asdict(agreement) if agreement else None,
    }


def sizes_table(small: Bundle, large: Bundle, before: int, after: int) -> Table:
    """What grew."""
    table = Table("", "before", "after")
    one, other = (unstructure(bundle.manifest.model.encoder) for bundle in (small, large))
    for name in ("hidden_size", "num_heads", "intermediate_size", "num_layers"):
        table.add_row(name, str(one[name]), str(other[name]))
    table.add_row("parameters", f"{before:,}", f"{after:,}")
    return table


def differences_table(verification: Verification) -> Table:
    """The largest difference of each output, and of the scores of entities."""
    table = Table("output", "largest difference")
    for name, difference in verification.outputs.items():
        table.add_row(name, f"{difference:.1e}")
    caption = f"at most {TOLERANCE:.0e} each"
    if agreement := verification.agreement:
        table.add_row("scores of entities", f"{agreement.largest:.1e}")
        caption += f"; the same {agreement.num_entities} entities in {agreement.num_texts} texts"
    table.caption = caption
    return table
