"""The environment -> settings. The only place that reads it; knows nothing of what the numbers do."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class Settings(BaseSettings):
    """How the service runs; each field is `NER_` and its name in capitals. `docs/serving.md` explains every one."""

    model_config = SettingsConfigDict(env_prefix="NER_", extra="ignore", frozen=True)

    model: Path
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    num_threads: Count | None = None
    api_key: SecretStr | None = Field(default=None, min_length=1)

    max_inputs: Count = 256
    max_characters: Count = 1_000_000
    max_words: Count = 10_000
    max_body_bytes: Count = 16 * 1024 * 1024
    batch_tokens: Count = 8192
    queue_tokens: Count = 262_144
    deadline_s: Seconds = 30.0
    body_timeout_s: Seconds = 30.0
    grace_s: Seconds = 30.0

    ocr: bool = False
    max_image_pixels: Count = 25_000_000
    queue_images: Count = 64


def unknown_variables() -> list[str]:
    """What is to be said of each variable of the environment that is named as a setting and is none."""
    named = {name.removeprefix("ner_") for name in EnvSettingsSource(Settings).env_vars if name.startswith("ner_")}
    return [
        f"NER_{name.upper()}: no such setting{_hint(name)}" for name in sorted(named - Settings.model_fields.keys())
    ]


def _hint(name: str) -> str:
    near = difflib.get_close_matches(name, Settings.model_fields, n=1)
    return f"; did you mean NER_{near[0].upper()}?" if near else ""
