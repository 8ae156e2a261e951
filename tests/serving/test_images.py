"""Images of pages: read by a part that is switched on, one at a time, and every fault an item's own."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from ner_service.errors import ConfigError
from ner_service.serving.batcher import DeadlineError, Outcome
from ner_service.serving.images import ImageReader, InvalidImageError, decode_image, image_size
from ner_service.serving.metrics import Metrics
from ner_service.serving.schemas import ExtractReply
from ner_service.serving.server import load_images
from ner_service.serving.settings import Settings
from ner_service.types import Page
from tests.serving.conftest import Serve, Service, until
from tests.serving.fakes import FakeOcr, png
from tests.serving.test_problems import check_problem

# As OCR may find it: the lower line first.
SEEN = Page(("Lovelace", "met", "Ada"), ((10, 30, 60, 40), (80, 30, 110, 40), (10, 10, 40, 20)), (400, 200))


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


SCAN = {"image": base64_of(png(400, 200))}


def extract(service: Service, inputs: Any) -> Any:
    reply = service.post("/v1/extract", {"inputs": inputs})
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_an_image_is_answered_with_its_words_in_the_order_of_reading(serve: Serve) -> None:
    with serve(ocr=FakeOcr(SEEN)) as service:
        reply = extract(
            service, ["Bob", {"id": "scan", **SCAN}, {"words": ["Bob"], "boxes": [[0, 0, 1, 1]], "page": [1, 1]}]
        )
    TypeAdapter(ExtractReply).validate_json(json.dumps(reply), strict=True)
    text, image, page = reply["results"]
    assert (text["status"], page["status"], image["id"]) == ("ok", "ok", "scan")
    assert image["words"] == ["Ada", "Lovelace", "met"]
    assert image["boxes"] == [[10, 10, 40, 20], [10, 30, 60, 40], [80, 30, 110, 40]]
    assert image["page"] == [400, 200]
    name = image["entities"][0]
    assert (name["text"], name["words"], name["boxes"]) == ("Ada Lovelace", [0, 1], image["boxes"][:2])
    # The client has the words of a page of its own already.
    assert "words" not in page
    assert reply["usage"]["characters"] == len("Bob" + "Ada Lovelace met" + "Bob")


def test_without_ocr_an_image_is_its_own_error(service: Service) -> None:
    before, image, after = extract(service, ["Ada", SCAN, "Bob"])["results"]
    assert (image["error"]["type"], image["error"]["status"]) == ("urn:ner-service:images_off", 409)
    assert "NER_OCR" in image["error"]["detail"]
    assert before["status"] == after["status"] == "ok"
    assert service.client.get("/v1/models/tiny").json()["inputs"] == ["text", "page"]


@pytest.mark.parametrize(
    ("image", "detail"),
    [
        ("not base64!", "found no base64"),
        ("QUJ", "found no base64"),
        ("\ud800", "found no base64"),
        ("", "neither PNG nor JPEG"),
        (base64_of(b"GIF89a" + bytes(40)), "neither PNG nor JPEG"),
        (base64_of(png(1001, 1000)), "found 1001 x 1000 pixels, expected at most 1000000"),
        # A bomb: a few bytes that promise a picture of terabytes. Nothing opens it.
        (base64_of(png(2**31 - 1, 2**31 - 1, head_only=True)), "found 2147483647 x 2147483647 pixels"),
        (base64_of(png(0, 5, head_only=True)), "found 0 x 5 pixels"),
        # OCR makes the short side longer, and the long one with it: tens of gigabytes.
        (base64_of(png(1, 2000)), "found 1 x 2000 pixels, expected a longer side of at most 20 times"),
        (base64_of(png(2000, 1)), "found 2000 x 1 pixels, expected a longer side of at most 20 times"),
        (base64_of(png(2001, 100, head_only=True)), "found 2001 x 100 pixels, expected a longer side"),
        (base64_of(png(5, 5, head_only=True)), "found a damaged file"),
        # As long and narrow as an image may be; that there is nothing behind its head is found by whoever opens it.
        (base64_of(png(2000, 100, head_only=True)), "found a damaged file"),
    ],
)
def test_what_is_no_image_is_its_own_error(serve: Serve, image: str, detail: str) -> None:
    ocr = FakeOcr(SEEN)
    with serve(ocr=ocr, max_image_pixels=1_000_000) as service:
        bad, good = extract(service, [{"id": "x", "image": image}, SCAN])["results"]
    assert (bad["id"], good["status"]) == ("x", "ok")
    assert (bad["error"]["type"], bad["error"]["status"]) == ("urn:ner-service:invalid_image", 422)
    (fault,) = bad["error"]["errors"]
    assert fault["pointer"] == "/inputs/0/image"
    assert detail in fault["detail"]
    assert ocr.num_read == (2 if "damaged" in detail else 1)


def test_an_image_that_ocr_fails_on_fails_alone(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    with serve(ocr=FakeOcr(SEEN)) as service:
        bad, good = extract(service, [{"image": base64_of(png(5, 5) + b"crash")}, SCAN])["results"]
    assert (bad["error"]["type"], good["status"]) == ("urn:ner-service:inference_failed", "ok")
    assert "secret" not in caplog.text + json.dumps(bad)


def test_an_image_over_the_limit_of_words_is_its_own_error(serve: Serve) -> None:
    with serve(ocr=FakeOcr(SEEN), max_words=2) as service:
        image, text = extract(service, [SCAN, "Ada"])["results"]
    assert image["error"]["detail"] == "found 3 words, expected at most 2"
    assert text["status"] == "ok"


def test_images_wait_in_a_bounded_queue_and_hold_up_nothing_else(serve: Serve) -> None:
    ocr = FakeOcr(SEEN)
    ocr.hold()
    with serve(ocr=ocr, queue_images=2) as service, ThreadPoolExecutor(2) as clients:
        first = clients.submit(extract, service, SCAN)
        assert ocr.entered.wait(120)
        waiting = clients.submit(extract, service, [SCAN, SCAN])
        until(lambda: "ner_queue_images 2.0" in service.client.get("/metrics").text)
        # The loop is free while OCR works, and so is the model.
        assert extract(service, "Ada")["results"][0]["status"] == "ok"
        problem = check_problem(service.post("/v1/extract", {"inputs": SCAN}), 429, "queue_full")
        assert "1 images do not fit beside 2 waiting ones" in problem["detail"]
        ocr.release()
        assert first.result(120)["results"][0]["status"] == "ok"
        assert [result["status"] for result in waiting.result(120)["results"]] == ["ok", "ok"]
    assert ocr.num_read == 3


def test_a_request_of_more_images_than_may_wait_is_refused_even_when_none_waits(serve: Serve) -> None:
    ocr = FakeOcr(SEEN)
    with serve(ocr=ocr, queue_images=2) as service:
        problem = check_problem(service.post("/v1/extract", {"inputs": ["Ada", SCAN, SCAN, SCAN]}), 413, "too_large")
        assert problem["detail"] == "found 3 images, expected at most 2 in one request"
        assert ocr.num_read == 0
        assert [result["status"] for result in extract(service, ["Ada", SCAN, SCAN])["results"]] == ["ok"] * 3
        assert service.client.get("/v1/models/tiny").json()["limits"]["queue_images"] == 2


class SlowOcr(FakeOcr):
    """Needs ten seconds of its own clock for an image."""

    now = 0.0

    def read(self, image: bytes) -> Page:
        self.now += 10.0
        return super().read(image)


def test_an_image_that_is_not_begun_by_the_deadline_fails_alone() -> None:
    """The images of one request wait for one another, too."""
    ocr = SlowOcr(SEEN)
    settings = Settings(model=Path("unused"), deadline_s=15.0)
    reader = ImageReader(ocr, settings=settings, metrics=Metrics(), on_death=lambda: None, clock=lambda: ocr.now)
    reader.start()
    outcome = asyncio.run(reader.read([SCAN["image"]] * 4))
    reader.abort()
    # Begun at 0 and at 10 seconds, not at 20.
    assert outcome.answers[:2] == [SEEN, SEEN]
    assert [type(answer) for answer in outcome.answers[2:]] == [DeadlineError, DeadlineError]
    assert ocr.num_read == 2


def test_an_image_that_is_not_begun_in_time_is_an_error_among_answers(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def read(self: ImageReader, images: list[str]) -> Outcome[Any]:
        return Outcome(answers=[SEEN, DeadlineError("the image waited")], queue_s=1.0, inference_s=1.0)

    monkeypatch.setattr(ImageReader, "read", read)
    with serve(ocr=FakeOcr(SEEN)) as service:
        image, text, late = extract(service, [SCAN, "Ada", SCAN])["results"]
    assert image["status"] == text["status"] == "ok"
    assert (late["error"]["type"], late["error"]["status"]) == ("urn:ner-service:deadline_exceeded", 504)


def test_what_images_waited_is_taken_from_what_the_model_may_wait(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    async def read(self: ImageReader, images: list[str]) -> Outcome[Any]:
        return Outcome(answers=[SEEN], queue_s=12.0, inference_s=100.0)

    monkeypatch.setattr(ImageReader, "read", read)
    with serve(ocr=FakeOcr(SEEN), deadline_s=30.0) as service:
        answer = service.model.batcher.answer

        async def spy(items: Any, lengths: Any, deadline_s: float) -> Outcome[Any]:
            waits.append(deadline_s)
            return await answer(items, lengths, deadline_s)

        monkeypatch.setattr(service.model.batcher, "answer", spy)
        extract(service, SCAN)
        extract(service, "Ada")
    assert waits == pytest.approx([18.0, 30.0], abs=2.0)


def test_an_image_that_waits_too_long_is_504(serve: Serve) -> None:
    ocr = FakeOcr(SEEN)
    ocr.hold()
    with serve(ocr=ocr, deadline_s=0.3) as service, ThreadPoolExecutor(1) as clients:
        first = clients.submit(extract, service, SCAN)
        assert ocr.entered.wait(120)
        check_problem(service.post("/v1/extract", {"inputs": SCAN}), 504, "deadline_exceeded")
        ocr.release()
        assert first.result(120)["results"][0]["status"] == "ok"


def test_images_are_counted_and_announced(serve: Serve) -> None:
    with serve(ocr=FakeOcr(SEEN)) as service:
        extract(service, [SCAN, SCAN])
        metrics = service.client.get("/metrics").text
        card = service.client.get("/v1/models/tiny").json()
    assert "ner_image_duration_seconds_count 2.0" in metrics
    assert "ner_page_words_sum 6.0" in metrics
    assert card["inputs"] == ["text", "page", "image"]
    assert card["limits"]["max_image_pixels"] == 25_000_000


def jpeg(width: int, height: int, *segments: bytes) -> bytes:
    """The head of a JPEG: segments, a table, and the start of a progressive frame."""
    frame = b"\xff\xc2" + (17).to_bytes(2, "big") + b"\x08" + height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return b"\xff\xd8" + b"".join(segments) + b"\xff\xc4\x00\x04\x01\x02" + frame + bytes(10) + b"\xff\xda\x00\x02"


def test_sizes_are_read_from_heads() -> None:
    assert image_size(png(7, 9)) == (7, 9)
    # A thumbnail within a segment is not the picture: its own frame is passed over.
    thumbnail = b"\xff\xe1" + (2 + 40).to_bytes(2, "big") + jpeg(3, 4)[:40].ljust(40, b"\0")
    assert image_size(jpeg(640, 480, thumbnail)) == (640, 480)
    assert image_size(jpeg(640, 480, b"\xff\xff\xe0\x00\x02")) == (640, 480)
    assert image_size(jpeg(640, 480)[:16]) is None
    assert image_size(b"\xff\xd8\xff\xda\x00\x02" + jpeg(1, 1)) is None
    # No marker: whoever decodes such a file may pass over two bytes alone, and find the head of another picture.
    hidden = jpeg(640, 480)[2:]
    assert image_size(jpeg(3, 4, b"\xff\x00" + (2 + len(hidden)).to_bytes(2, "big") + hidden)) is None


@given(st.binary(max_size=60), st.sampled_from([b"", png(3, 3)[:12], b"\xff\xd8\xff", jpeg(3, 3)[:15]]))
def test_whatever_bytes_come_are_an_image_or_refused(content: bytes, head: bytes) -> None:
    size = image_size(head + content)
    if size is not None and 1 <= size[0] * size[1] <= 100 and max(size) <= 20 * min(size):
        assert decode_image(base64_of(head + content), 100) == head + content
    else:
        with pytest.raises(InvalidImageError, match="expected"):
            decode_image(base64_of(head + content), 100)


def test_ocr_that_is_switched_on_but_not_installed_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    monkeypatch.delitem(sys.modules, "ner_service.serving.ocr", raising=False)
    on = Settings(model=Path("unused"), ocr=True)
    with pytest.raises(ConfigError, match=r"NER_OCR: .*ner-service\[ocr\]"):
        load_images(on, Metrics(), lambda: None)
    assert load_images(Settings(model=Path("unused")), Metrics(), lambda: None) is None
