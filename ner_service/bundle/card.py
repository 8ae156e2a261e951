"""The model card: a manifest told to people. Knows nothing that the manifest does not say."""

from __future__ import annotations

from collections.abc import Mapping

from ner_service.bundle.manifest import Manifest
from ner_service.records import unstructure


def model_card(manifest: Manifest) -> str:
    """Markdown for the bundle's README."""
    encoder = manifest.model.encoder
    parts = [
        f"# {manifest.name} (version {manifest.version})",
        manifest.description,
        f"Licence: {manifest.licence}" if manifest.licence else "",
        *_findings(manifest),
        f"It reads {manifest.window.max_tokens} tokens at a time. Longer texts are read in overlapping windows; an "
        f"entity of up to {manifest.window.overlap_tokens} tokens is found wherever a window ends.",
        "## What it is",
        f"Encoder `{encoder.kind}`; heads: {', '.join(f'`{name}`' for name in unstructure(manifest.model.heads))}.",
        "## What was measured",
        _metrics(manifest.metrics) or "Nothing yet.",
        "## How it was made",
        f"Training data SHA-256: `{manifest.data_sha256}`." if manifest.data_sha256 else "",
        "The resolved run stands in `manifest.json` under `run`.",
        "## Use",
        _use(manifest),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _findings(manifest: Manifest) -> list[str]:
    """What it finds, if it has a head for that."""
    if not manifest.labels:
        return []
    calibrated = "calibrated on held-out texts" if manifest.calibration else "sigma(2s), not calibrated"
    return [
        "## What it finds",
        _table(("label", "threshold"), [(label, f"{manifest.thresholds[label]:.2f}") for label in manifest.labels]),
        f"Scores are probabilities: {calibrated}.",
    ]


def _use(manifest: Manifest) -> str:
    heads = manifest.model.heads
    commands = {
        "ner-service serve --model FOLDER": heads.spans or heads.embedding,
        "ner-service recognize --model FOLDER TEXT_FILE": heads.spans,
        "ner-train train RUN --set model.start_from=FOLDER": not heads.spans,
    }
    lines = ["```", *(command for command, fits in commands.items() if fits), "```"]
    if not heads.spans:
        lines += ["", "`model.start_from` counts from the folder of RUN, so give FOLDER in full."]
    return "\n".join(lines)


def _metrics(metrics: Mapping[str, object]) -> str:
    """Every group of numbers as a table; a number that stands alone as a line."""
    lines = [f"- {name}: {_number(value)}" for name, value in metrics.items() if not isinstance(value, Mapping)]
    tables = [
        f"### {name}\n\n" + _group(value) for name, value in metrics.items() if isinstance(value, Mapping) and value
    ]
    return "\n\n".join(["\n".join(lines), *tables]).strip()


def _group(group: Mapping[str, object]) -> str:
    rows = {name: value for name, value in group.items() if isinstance(value, Mapping)}
    if not rows:
        return _table(("measure", "value"), [(name, _number(value)) for name, value in group.items()])
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    return _table(
        ("", *columns), [(name, *(_number(row.get(column, "")) for column in columns)) for name, row in rows.items()]
    )


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = ((cell.replace("|", "\\|") for cell in row) for row in [head, ("---",) * len(head), *rows])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
