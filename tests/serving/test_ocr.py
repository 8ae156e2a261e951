"""RapidOCR itself, without any network; skipped where the extra is not installed."""

from __future__ import annotations

import io
import socket
from typing import NoReturn

import pytest

from ner_service.serving.images import InvalidImageError

pytest.importorskip("rapidocr", reason="needs the extra `ocr`: pip install 'ner-service[ocr]'")
pytest.importorskip("onnxruntime", reason="needs the extra `ocr`: pip install 'ner-service[ocr]'")

from PIL import Image, ImageDraw, ImageFont

from ner_service.serving.ocr import RapidOcr

pytestmark = pytest.mark.filterwarnings("default")


def refuse(*_: object) -> NoReturn:
    raise AssertionError("something asked for the network")


@pytest.fixture(scope="module")
def ocr() -> RapidOcr:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        return RapidOcr(num_threads=1)


def scan(kind: str, *, turned: bool = False) -> bytes:
    """Two lines on an otherwise transparent page of 600 x 200; turned on its side, with a note that says so."""
    page = Image.new("RGBA", (600, 200), (255, 255, 255, 0))
    pen = ImageDraw.Draw(page)
    for top, line in ((30, "Delivery for Marta Oliveira"), (110, "Northwind Robotics")):
        pen.text((30, top), line, fill="black", font=ImageFont.load_default(36))
    exif = Image.Exif()
    if turned:
        # 6: the top row is the right side of what is seen.
        exif[0x0112] = 6
        page = page.rotate(90, expand=True)
    paper = Image.new("RGBA", page.size, "white")
    drawn = page if kind == "PNG" else Image.alpha_composite(paper, page).convert("RGB")
    file = io.BytesIO()
    drawn.save(file, kind, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize(("kind", "turned"), [("PNG", False), ("JPEG", False), ("JPEG", True)])
def test_words_and_boxes_are_read(ocr: RapidOcr, kind: str, turned: bool) -> None:
    page = ocr.read(scan(kind, turned=turned))
    assert page.size == (600, 200)
    assert list(page.words) == ["Delivery", "for", "Marta", "Oliveira", "Northwind", "Robotics"]
    boxes = dict(zip(page.words, page.boxes, strict=True))
    assert boxes["Delivery"][0] == pytest.approx(30, abs=12)
    assert boxes["Northwind"][1] == pytest.approx(115, abs=14)
    assert boxes["Delivery"][2] < boxes["for"][2] < boxes["Marta"][2] < boxes["Oliveira"][2] < 600


def test_a_blank_page_has_no_words_and_a_damaged_file_is_refused(ocr: RapidOcr) -> None:
    file = io.BytesIO()
    Image.new("L", (80, 60), "white").save(file, "PNG")
    blank = ocr.read(file.getvalue())
    assert (blank.words, blank.size) == ((), (80, 60))
    for damaged in (scan("PNG")[:200], scan("JPEG")[:200]):
        with pytest.raises(InvalidImageError, match="damaged"):
            ocr.read(damaged)
