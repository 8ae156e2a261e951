"""Images in base64 -> pages, one at a time, in a thread of its own. Knows no OCR: that is whatever can do `Ocr`.

What an image claims to be is read from its first bytes, so that one that is none, or that would fill the memory, is
refused before anything opens it. That is a first sieve: whoever decodes an image has to check the size that it decodes.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from ner_service.errors import CallerError
from ner_service.serving.batcher import Batcher, DeadlineError, Outcome, Stage
from ner_service.serving.metrics import Metrics
from ner_service.serving.settings import Settings
from ner_service.types import Page

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
MAX_RATIO = 20
"""Of an image's longer side to its shorter one. A long receipt has 10; OCR enlarges a narrow image, and its memory."""

# Segments of a JPEG that tell its size: start of frame, but neither of 0xC4 (tables), 0xC8 (reserved), 0xCC (tables).
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers that stand alone, without a length.
_BARE = frozenset((0x01, *range(0xD0, 0xD9)))


class InvalidImageError(CallerError):
    """No image that can be read. `pointer` is a JSON pointer from the item on."""

    code = "invalid_image"
    pointer = "image"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class ImagesOffError(CallerError):
    """An image was sent to a service that reads none."""

    code = "images_off"


class TooManyImagesError(CallerError):
    """More images in one request than may ever wait."""

    code = "too_large"


class Ocr(Protocol):
    """Reads the words of an image. Called from one thread only."""

    def read(self, image: bytes) -> Page:
        """The words of a PNG or JPEG file in any order, their boxes, and its size, in pixels.

        Raises:
            InvalidImageError: the image cannot be opened, or is larger than its head said and may be.
        """
        ...


ImageAnswer = Page | InvalidImageError | DeadlineError


@dataclass(frozen=True, slots=True)
class _Waiting:
    """An image in base64, and when it has to be begun, by the reader's clock."""

    image: str
    begin_by: float


class ImageReader:
    """Reads the images of many requests, one at a time, first come first served.

    Args:
        ocr: reads one image.
        settings: how large an image may be, how many may wait, and for how long.
        metrics: is told what happens.
        on_death: called once, from any thread, when no image can be read any more.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        ocr: Ocr,
        *,
        settings: Settings,
        metrics: Metrics,
        on_death: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ocr = ocr
        self._max_pixels = settings.max_image_pixels
        self._max_waiting = settings.queue_images
        self._deadline_s = settings.deadline_s
        self._clock = clock
        self._batcher: Batcher[_Waiting, ImageAnswer] = Batcher(
            self._answer,
            batch_tokens=1,
            queue_tokens=settings.queue_images,
            observer=_Observer(metrics),
            on_death=on_death,
            max_wait_s=settings.deadline_s,
            unit="images",
            clock=clock,
        )

    def start(self) -> None:
        self._batcher.start()

    def abort(self) -> None:
        """Fail whatever is not answered yet, and take nothing more."""
        self._batcher.abort()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread's end after `abort`; whether it came."""
        return self._batcher.join(timeout_s)

    async def read(self, images: Sequence[str]) -> Outcome[ImageAnswer]:
        """The page that each image in base64 shows, or why there is none: it is damaged, or was not begun in time.

        Raises:
            TooManyImagesError: more than may wait, even when none does.
            QueueFullError, DeadlineError, ClosedError, ModelDiedError: none of them has an answer.
        """
        if len(images) > self._max_waiting:
            raise TooManyImagesError(f"found {len(images)} images, expected at most {self._max_waiting} in one request")
        begin_by = self._clock() + self._deadline_s
        waiting = [_Waiting(image, begin_by) for image in images]
        return await self._batcher.answer(waiting, [1] * len(images), self._deadline_s)

    def _answer(self, images: Sequence[_Waiting]) -> list[ImageAnswer]:
        return [self._read(image) for image in images]

    def _read(self, waiting: _Waiting) -> ImageAnswer:
        if self._clock() > waiting.begin_by:
            return DeadlineError("the image waited to the request's deadline and was not begun")
        try:
            return self._ocr.read(decode_image(waiting.image, self._max_pixels))
        except InvalidImageError as error:
            return error


class _Observer:
    """Tells the metrics of images what the batcher tells of tokens: an image is one."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def queue_changed(self, queued_tokens: int) -> None:
        self._metrics.images_queued(queued_tokens)

    def job_started(self, queue_s: float) -> None:
        pass

    def job_cancelled(self, stage: Stage) -> None:
        self._metrics.job_cancelled(stage)

    def batch_done(self, lengths: Sequence[int], inference_s: float) -> None:
        self._metrics.image_read(inference_s)


def decode_image(image: str, max_pixels: int) -> bytes:
    """The file of an image in base64, if it says that it is a PNG or a JPEG of at most `max_pixels`.

    Raises:
        InvalidImageError: says what was found.
    """
    try:
        content = base64.b64decode(image, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidImageError("found no base64, expected a PNG or JPEG file in base64") from None
    size = image_size(content)
    if size is None:
        raise InvalidImageError("found neither PNG nor JPEG, expected one of them in base64")
    check_size(size, max_pixels)
    return content


def check_size(size: tuple[int, int], max_pixels: int) -> None:
    """Refuse an image of no pixels or too many, and one too narrow to be a page.

    Raises:
        InvalidImageError: says what was found.
    """
    width, height = size
    found = f"found {width} x {height} pixels"
    if not 1 <= width * height <= max_pixels:
        raise InvalidImageError(f"{found}, expected at most {max_pixels} and at least one")
    if max(size) > MAX_RATIO * min(size):
        raise InvalidImageError(f"{found}, expected a longer side of at most {MAX_RATIO} times the shorter one")


def image_size(content: bytes) -> tuple[int, int] | None:
    """Width and height in pixels as the head of a PNG or JPEG tells them; None where it is neither."""
    if content.startswith(_PNG) and content[12:16] == b"IHDR" and len(content) >= 24:
        return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")
    if content.startswith(_JPEG):
        for marker, place in _segments(content):
            if marker in _FRAMES and place + 7 <= len(content):
                height, width = content[place + 3 : place + 5], content[place + 5 : place + 7]
                return int.from_bytes(width, "big"), int.from_bytes(height, "big")
    return None


def _segments(content: bytes) -> Iterator[tuple[int, int]]:
    """The marker of each segment of a JPEG, and where its length stands, up to the first scan."""
    place = 2
    while place + 4 <= len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        # The first scan, or no marker at all: 0xFF00 is the byte 0xFF within a scan.
        if marker in (0xDA, 0x00):
            return
        if marker == 0xFF or marker in _BARE:
            place += 1 if marker == 0xFF else 2
            continue
        yield marker, place + 2
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
