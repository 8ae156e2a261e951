"""ner-train: one function a verb. Tables for people, `--json` for programs; exit codes 0, 1 (refused) and 2 (usage)."""

from __future__ import annotations

import typer

from training.cli import latent
from training.cli.augment import augment
from training.cli.bundles import calibrate, evaluate, export
from training.cli.enlarge import enlarge
from training.cli.imports import import_weights
from training.cli.pseudo_label import pseudo_label
from training.cli.runs import init, pretrain, train
from training.cli.similar import similar

app = typer.Typer(
    help="Train, evaluate and export named-entity models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for verb in (init, train, pretrain, evaluate, calibrate, export, enlarge, augment, similar):
    app.command()(verb)
app.command("import")(import_weights)
app.command("pseudo-label")(pseudo_label)
app.add_typer(latent.app, name="latent")
