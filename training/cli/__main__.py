"""`python -m training.cli`, for `accelerate launch`."""

from training.cli import app

app()
