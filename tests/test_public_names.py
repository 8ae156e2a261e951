"""The names that users may import from the package. A change here is a change of the contract."""

from __future__ import annotations

import pytest

import ner_service

PUBLIC_NAMES = ["Bundle", "Document", "Entity", "LabelSet", "NerServiceError", "Page", "Recognizer", "__version__"]


def test_public_names() -> None:
    assert ner_service.__all__ == PUBLIC_NAMES


@pytest.mark.parametrize("name", PUBLIC_NAMES)
def test_every_public_name_is_there(name: str) -> None:
    value = getattr(ner_service, name)
    assert getattr(value, "__name__", name) == name


def test_an_unknown_name_is_an_ordinary_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Pipeline'"):
        _ = ner_service.Pipeline
