"""The environment -> settings. The only place that reads it; knows nothing of what the numbers do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]

_PORT = 8000


class Settings(BaseSettings):
    """How the service runs; each field is `NER_` and its name in capitals. `docs/serving.md` explains every one."""

    model_config = SettingsConfigDict(env_prefix="NER_", extra="ignore", frozen=True)

    model: Path
    host: str = Field(default="127.0.0.1", min_length=1)
    port: int = Field(default=_PORT, ge=0, le=65535)
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

    @field_validator("port", mode="before")
    @classmethod
    def _without_link(cls, value: object) -> object:
        """Kubernetes gives each container `NER_PORT=tcp://...` where a Service is called `ner`."""
        return _PORT if _is_link(value) else value

    @field_validator("api_key", mode="before")
    @classmethod
    def _without_line_end(cls, value: object) -> object:
        """No header carries white space at the ends of a key; what `echo` wrote into a file does."""
        return value.strip() if isinstance(value, str) else value


def remarks() -> list[str]:
    """What is to be said of variables of the environment that are named as settings and are none."""
    found = {
        name.removeprefix("ner_"): value
        for name, value in EnvSettingsSource(Settings).env_vars.items()
        if name.startswith("ner_")
    }
    if _is_link(found.get("port")):
        # Beside it stand the parts of the address.
        linked = f"NER_PORT: found {found['port']}, Kubernetes' link to a Service called ner; the default port is taken"
        return [linked, *_strangers(name for name in found if not name.startswith(("port_", "service_")))]
    return _strangers(found)


def _is_link(value: object) -> bool:
    return isinstance(value, str) and value.startswith(("tcp://", "udp://"))


def _strangers(names: Iterable[str]) -> list[str]:
    strange = sorted(set(names) - Settings.model_fields.keys())
    return [f"NER_{name.upper()}: no such setting{_hint(name)}" for name in strange]


def _hint(name: str) -> str:
    near = difflib.get_close_matches(name, Settings.model_fields, n=1)
    return f"; did you mean NER_{near[0].upper()}?" if near else ""
