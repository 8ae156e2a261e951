from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from ner_service.serving.settings import Settings, unknown_variables

DOCUMENT = Path(__file__).parents[2] / "docs" / "serving.md"


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MODEL": "some/folder", "PORT": "81", "API_KEY": "sesam", "DEADLINE_S": "2.5"}.items():
        monkeypatch.setenv(f"NER_{name}", value)
    settings = Settings()  # type: ignore[call-arg]
    assert (settings.model, settings.port, settings.deadline_s) == (Path("some/folder"), 81, 2.5)
    assert settings.api_key is not None
    assert "sesam" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "65536"),
        ("port", "-1"),
        ("device", "gpu"),
        ("api_key", ""),
        ("max_inputs", "0"),
        ("queue_tokens", "many"),
        ("deadline_s", "-1"),
        ("deadline_s", "nan"),
        ("grace_s", "-1"),
        ("grace_s", "inf"),
        ("num_threads", "0"),
    ],
)
def test_a_value_without_sense_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv("NER_MODEL", "x")
    monkeypatch.setenv(f"NER_{name.upper()}", value)
    with pytest.raises(ValidationError) as refusal:
        Settings()  # type: ignore[call-arg]
    assert [fault["loc"] for fault in refusal.value.errors()] == [(name,)]


def test_a_mistyped_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("NER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NER_QUEUE_TOKENS", "5")
    monkeypatch.setenv("ner_port", "5")
    assert unknown_variables() == []
    monkeypatch.setenv("NER_QUEUE_TOKEN", "5")
    monkeypatch.setenv("NER_X", "5")
    assert unknown_variables() == [
        "NER_QUEUE_TOKEN: no such setting; did you mean NER_QUEUE_TOKENS?",
        "NER_X: no such setting",
    ]


def test_the_model_has_to_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NER_MODEL", raising=False)
    with pytest.raises(ValidationError, match="model"):
        Settings()  # type: ignore[call-arg]


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_explained_with_its_default(name: str) -> None:
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    row = next(line for line in lines if f"| `NER_{name.upper()}` |" in line)
    default = Settings.model_fields[name].get_default()
    if isinstance(default, bool):
        assert f"| {str(default).lower()} |" in row
    elif isinstance(default, int | float):
        assert f"| {default:,.10g} |" in row
