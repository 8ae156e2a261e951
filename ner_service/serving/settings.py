"""The environment -> settings. The only place that reads it; knows nothing of what the numbers do."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """How the service runs; each field is `NER_` and its name in capitals. `docs/serving.md` explains every one."""

    model_config = SettingsConfigDict(env_prefix="NER_", extra="ignore", frozen=True)

    model: Path = Field(description="folder of the bundle")
    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N")
    num_threads: int | None = Field(default=None, ge=1, description="threads of the model on a CPU; unset: by torch")
    api_key: SecretStr | None = Field(default=None, min_length=1, description="key that /v1 and /metrics then ask for")

    max_inputs: int = Field(default=256, ge=1, description="texts of a request")
    max_characters: int = Field(default=1_000_000, ge=1, description="characters of a text")
    max_body_bytes: int = Field(default=16 * 1024 * 1024, ge=1, description="bytes of a request's body")
    batch_tokens: int = Field(default=8192, ge=1, description="tokens that the model reads at a time")
    queue_tokens: int = Field(default=262_144, ge=1, description="tokens that may wait; more is refused with 429")
    deadline_s: float = Field(default=30.0, gt=0, description="seconds that a request may wait for the model")
    body_timeout_s: float = Field(default=30.0, gt=0, description="seconds that a request's body may take to arrive")
    grace_s: float = Field(default=30.0, ge=0, description="seconds to finish what was begun after SIGTERM")
