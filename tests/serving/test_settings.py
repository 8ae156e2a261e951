from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from ner_service.serving.settings import Settings, remarks

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
        ("api_key", " "),
        ("host", ""),
        ("port", "http://10.0.0.1:8000"),
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
    assert remarks() == []
    monkeypatch.setenv("NER_QUEUE_TOKEN", "5")
    monkeypatch.setenv("NER_X", "5")
    assert remarks() == [
        "NER_QUEUE_TOKEN: no such setting; did you mean NER_QUEUE_TOKENS?",
        "NER_X: no such setting",
    ]


def test_what_kubernetes_sets_beside_a_service_called_ner_is_no_port(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("NER_")]:
        monkeypatch.delenv(name)
    link = "tcp://10.0.0.1:8000"
    for name in ("PORT", "PORT_8000_TCP"):
        monkeypatch.setenv(f"NER_{name}", link)
    for name in ("SERVICE_HOST", "SERVICE_PORT", "PORT_8000_TCP_PROTO", "PORT_8000_TCP_PORT", "PORT_8000_TCP_ADDR"):
        monkeypatch.setenv(f"NER_{name}", "1")
    monkeypatch.setenv("NER_MODEL", "x")
    assert Settings().port == 8000  # type: ignore[call-arg]
    assert remarks() == [f"NER_PORT: found {link}, Kubernetes' link to a Service called ner; the default port is taken"]


@pytest.mark.parametrize("value", ["sesam", "sesam\n", " sesam \r\n"])
def test_a_key_is_what_a_header_can_carry(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("NER_MODEL", "x")
    monkeypatch.setenv("NER_API_KEY", value)
    key = Settings().api_key  # type: ignore[call-arg]
    assert key is not None
    assert key.get_secret_value() == "sesam"


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
