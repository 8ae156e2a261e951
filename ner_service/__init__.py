"""Named entities, nested and scored: train on your own labels, export one folder, serve it.

Importing this package costs milliseconds; torch is imported when a model is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ner_service.errors import NerServiceError
from ner_service.types import Document, Entity, LabelSet, Page

if TYPE_CHECKING:
    from ner_service.bundle import Bundle as Bundle
    from ner_service.recognizer import Recognizer as Recognizer

__version__ = "0.1.0"
__all__ = ["Bundle", "Document", "Entity", "LabelSet", "NerServiceError", "Page", "Recognizer", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Bundle":
        from ner_service.bundle import Bundle

        return Bundle
    if name == "Recognizer":
        from ner_service.recognizer import Recognizer

        return Recognizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
