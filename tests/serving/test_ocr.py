"""RapidOCR itself, without any network; skipped where the extra is not installed."""

from __future__ import annotations

import io
import socket
import struct
from base64 import b64encode
from pathlib import Path
from typing import Any, NoReturn

import pytest

from ner_service.serving.images import InvalidImageError, decode_image, image_size

pytest.importorskip("rapidocr", reason="needs the extra `ocr`: pip install 'ner-service[ocr]'")
pytest.importorskip("onnxruntime", reason="needs the extra `ocr`: pip install 'ner-service[ocr]'")

import numpy as np
from PIL import ExifTags, Image, ImageDraw, ImageFile, ImageFont, ImageOps
from starlette.testclient import TestClient

from ner_service.serving.app import build_app
from ner_service.serving.metrics import Metrics
from ner_service.serving.ocr import RapidOcr, _pixels
from ner_service.serving.registry import Registry
from ner_service.serving.server import load_images, load_model
from ner_service.serving.settings import Settings
from tests.serving.conftest import until
from tests.serving.fakes import png

pytestmark = pytest.mark.filterwarnings("default")


MAX_PIXELS = 250_000


def refuse(*_: object) -> NoReturn:
    raise AssertionError("something asked for the network")


@pytest.fixture(scope="module")
def ocr() -> RapidOcr:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        return RapidOcr(num_threads=1, max_pixels=MAX_PIXELS)


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


@pytest.mark.parametrize("orientation", [*range(1, 9), 9])
def test_an_image_is_turned_as_pillow_turns_it(orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = io.BytesIO()
    Image.fromarray(np.arange(64 * 24 * 3, dtype=np.uint8).reshape(24, 64, 3)).save(file, "PNG", exif=exif)
    with Image.open(io.BytesIO(file.getvalue())) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))[:, :, ::-1]
    assert np.array_equal(_pixels(file.getvalue(), MAX_PIXELS), expected)


def test_a_tag_of_the_wrong_type_beside_the_orientation_does_no_harm(ocr: RapidOcr) -> None:
    orientation = struct.pack("<HHIHH", ExifTags.Base.Orientation, 3, 1, 6, 0)
    resolution = struct.pack("<HHI4s", ExifTags.Base.XResolution, 2, 3, b"72")
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + orientation + resolution + struct.pack("<I", 0)
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "white").save(file, "JPEG", exif=exif)
    with Image.open(io.BytesIO(file.getvalue())) as opened, pytest.raises(TypeError):
        ImageOps.exif_transpose(opened)
    assert ocr.read(file.getvalue()).size == (30, 40)


def grey(values: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


def test_a_grey_scan_of_16_bits_is_read_as_one_of_8(ocr: RapidOcr) -> None:
    with Image.open(io.BytesIO(scan("JPEG"))) as opened:
        of_8 = np.asarray(opened.convert("L"))
    # All but black is above 255, which a cut at 8 bits would make white.
    of_16 = of_8.astype(np.uint16) * 200 + 300
    with Image.open(io.BytesIO(grey(of_16))) as opened:
        assert opened.mode == "I;16"
    assert list(ocr.read(grey(of_16)).words) == ["Delivery", "for", "Marta", "Oliveira", "Northwind", "Robotics"]


def two_headed_png() -> bytes:
    """A PNG whose first head says 20 x 20; Pillow goes by its second one, 2000 x 2000, and there are such pixels."""
    small, large = png(20, 20), png(2000, 2000)
    return small[:33] + large[8:]


def two_headed_jpeg() -> bytes:
    """A JPEG of 2000 x 1000 behind two bytes that are no marker, and a length that would pass over its head."""
    file = io.BytesIO()
    Image.new("L", (2000, 1000), "white").save(file, "JPEG")
    picture = file.getvalue()[2:]
    return b"\xff\xd8\xff\x00\xff\xff" + picture


@pytest.mark.parametrize(("content", "size"), [(two_headed_png(), (2000, 2000)), (two_headed_jpeg(), (2000, 1000))])
def test_the_size_that_is_checked_is_the_size_that_is_decoded(
    ocr: RapidOcr, content: bytes, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Image.open(io.BytesIO(content)) as opened:
        assert opened.size == size != image_size(content)
    monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)
    with pytest.raises(InvalidImageError, match=f"found {size[0]} x {size[1]} pixels, expected at most 250000"):
        ocr.read(content)


def test_what_the_first_sieve_lets_pass_is_the_two_headed_png_alone() -> None:
    assert decode_image(b64encode(two_headed_png()).decode(), MAX_PIXELS) == two_headed_png()
    with pytest.raises(InvalidImageError, match="neither PNG nor JPEG"):
        decode_image(b64encode(two_headed_jpeg()).decode(), MAX_PIXELS)


@pytest.mark.parametrize("size", [(1, 2000), (2000, 1)])
def test_an_image_that_is_too_narrow_is_refused_before_it_is_enlarged(ocr: RapidOcr, size: tuple[int, int]) -> None:
    with pytest.raises(InvalidImageError, match="expected a longer side of at most 20 times"):
        ocr.read(png(*size))


def test_a_blank_page_has_no_words_and_a_damaged_file_is_refused(ocr: RapidOcr) -> None:
    file = io.BytesIO()
    Image.new("L", (80, 60), "white").save(file, "PNG")
    blank = ocr.read(file.getvalue())
    assert (blank.words, blank.size) == ((), (80, 60))
    for damaged in (scan("PNG")[:200], scan("JPEG")[:200]):
        with pytest.raises(InvalidImageError, match="damaged"):
            ocr.read(damaged)


def test_an_image_that_is_posted_comes_back_with_entities_and_their_boxes(tiny_bundle_folder: Path) -> None:
    """Nothing in it is a stand-in: the service as `serve` puts it together, RapidOCR, and a model."""
    settings = Settings(model=tiny_bundle_folder, device="cpu", num_threads=1, ocr=True)
    metrics = Metrics()
    images = load_images(settings, metrics, lambda: None)
    registry = Registry(load_model(settings, metrics, lambda: None))
    item = {"id": "scan", "image": b64encode(scan("PNG")).decode()}
    with TestClient(build_app(settings, registry, metrics, images)) as client:
        until(lambda: client.get("/health/ready").status_code == 200)
        reply = client.post("/v1/extract", json={"inputs": ["Ada", item], "threshold": 0.4}).json()
    text, page = reply["results"]
    assert (text["status"], page["status"], page["id"], page["page"]) == ("ok", "ok", "scan", [600, 200])
    assert page["words"] == ["Delivery", "for", "Marta", "Oliveira", "Northwind", "Robotics"]
    assert page["offset_unit"] == "word"
    assert len(page["boxes"]) == len(page["words"])
    assert page["entities"]
    for entity in page["entities"]:
        assert entity["words"] == list(range(entity["start"], entity["end"]))
        assert entity["text"] == " ".join(page["words"][index] for index in entity["words"])
        assert entity["boxes"] == [page["boxes"][index] for index in entity["words"]]
