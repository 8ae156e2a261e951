"""RapidOCR as the part that reads images: PNG and JPEG files -> pages. Imported only where `NER_OCR` is on.

Its models lie in the installed package and are named one by one, so nothing is ever downloaded.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rapidocr
from PIL import ExifTags, Image

from ner_service.errors import ConfigError
from ner_service.serving.images import InvalidImageError, check_size
from ner_service.types import Box, Page

_FORMATS = ("PNG", "JPEG")
# What Pillow raises on files that are damaged in one way or another.
_DAMAGES = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
# `check_size` is the one limit: Pillow's own would warn of what the settings allow.
Image.MAX_IMAGE_PIXELS = None
# What makes an image upright whose EXIF data give this orientation; any other stands upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PARTS = {"Det": "*_det_*.onnx", "Cls": "*_cls_*.onnx", "Rec": "*_rec_*.onnx"}


class RapidOcr:
    """Reads printed Chinese and English, in lines, with the models that RapidOCR brings.

    Args:
        num_threads: threads of one image; None takes all cores.
        max_pixels: the most that an image may have.

    Raises:
        ConfigError: the installed package comes without its models.
    """

    def __init__(self, num_threads: int | None, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        folder = Path(rapidocr.__file__).parent / "models"
        models = {f"{part}.model_path": _only(folder, pattern) for part, pattern in _PARTS.items()}
        threads = {} if num_threads is None else {"EngineConfig.onnxruntime.intra_op_num_threads": num_threads}
        self._engine = rapidocr.RapidOCR(params={"Global.log_level": "error", **models, **threads})
        # Its models are opened when they are first used: here, so that a request never waits for it.
        blank = np.full((64, 64, 3), 255, dtype=np.uint8)
        self._engine(blank, use_det=False, use_cls=True, use_rec=True)
        self._words_of(blank)

    def read(self, image: bytes) -> Page:
        """The words of an image that is turned as its EXIF data say.

        Raises:
            InvalidImageError: a damaged file, or an image that is too large or too narrow.
        """
        pixels = _pixels(image, self._max_pixels)
        height, width = pixels.shape[:2]
        words = [(word.strip(), _clipped(corners, width, height)) for word, corners in self._words_of(pixels)]
        kept = [(word, box) for word, box in words if word]
        return Page(tuple(word for word, _ in kept), tuple(box for _, box in kept), (width, height))

    def _words_of(self, pixels: npt.NDArray[np.uint8]) -> Iterator[tuple[str, Iterable[tuple[float, float]]]]:
        """Words in lines, each with the four corners of its box; none where nothing was found."""
        found: Any = self._engine(pixels, use_det=True, use_cls=True, use_rec=True, return_word_box=True)
        if found.txts is not None:
            yield from ((word, corners) for line in found.word_results for word, _, corners in line)


def _pixels(image: bytes, max_pixels: int) -> npt.NDArray[np.uint8]:
    """Height, width, and blue, green, red, as OpenCV has them; what is transparent is white.

    Raises:
        InvalidImageError: a damaged file, or an image that is too large or too narrow.
    """
    try:
        with Image.open(io.BytesIO(image), formats=_FORMATS) as opened:
            # Nothing is decoded yet. A file can be written so that its first bytes tell of another size than this.
            check_size(opened.size, max_pixels)
            upright = _upright(_eight_bits(opened), opened.getexif().get(ExifTags.Base.Orientation)).convert("RGBA")
    except _DAMAGES:
        raise InvalidImageError("found a damaged file, expected a whole PNG or JPEG") from None
    paper = Image.new("RGBA", upright.size, "white")
    return np.asarray(Image.alpha_composite(paper, upright).convert("RGB"))[:, :, ::-1].copy()


def _upright(image: Image.Image, orientation: object) -> Image.Image:
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _eight_bits(image: Image.Image) -> Image.Image:
    """A grey image of 16 bits as one of 8, which is what Pillow itself makes of colours; any other as it is."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


def _clipped(corners: Iterable[tuple[float, float]], width: int, height: int) -> Box:
    """The upright box around four corners, as far as it lies on the page."""
    x, y = zip(*corners, strict=True)
    left, right = (float(min(max(0, value), width)) for value in (min(x), max(x)))
    top, bottom = (float(min(max(0, value), height)) for value in (min(y), max(y)))
    return left, top, right, bottom


def _only(folder: Path, pattern: str) -> str:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise ConfigError(f"NER_OCR: found {len(found)} files {pattern} in {folder}, expected one")
    return str(found[0])
