"""The pages: their files, and in Chromium what a person sees and does."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

import ner_service.serving
from ner_service.serving.app import build_app
from ner_service.serving.images import ImageReader
from ner_service.serving.metrics import Metrics
from ner_service.serving.registry import Registry, ServedModel
from ner_service.serving.settings import Settings
from ner_service.types import Page as LaidOut
from tests.serving.conftest import Service, until
from tests.serving.fakes import EMBEDDING, FakeOcr, FakeRecognizer, png

PAGE = Path(ner_service.serving.__file__).parent / "page"
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_chromium = pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="needs chromium and chromedriver")

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def test_pages_load_nothing_from_another_host(service: Service) -> None:
    for path, kind in {"/": "text/html", "/docs": "text/html", "/page/page.js": "text/javascript"}.items():
        reply = service.client.get(path)
        assert reply.headers["content-type"].startswith(kind)
        assert reply.headers["x-content-type-options"] == "nosniff"
        policy = reply.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';")
        assert "unsafe" not in policy
    own_namespace = "http://www.w3.org/2000/svg"
    for file in PAGE.iterdir():
        assert not re.findall(r"(?:https?:)?//[a-z]", file.read_text(encoding="utf-8").replace(own_namespace, ""))
        assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|\beval\b", file.read_text(encoding="utf-8"))


@dataclass
class Page:
    """The page in a browser."""

    driver: webdriver.Chrome
    port: int
    recognizer: FakeRecognizer

    def open(self, path: str = "/") -> None:
        self.driver.get(f"http://127.0.0.1:{self.port}{path}")

    def find(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        return [element.text for element in self.driver.find_elements(By.CSS_SELECTOR, selector)]

    def wait(self, condition: Callable[[], Any]) -> None:
        # What a condition looks at may be drawn anew while it looks.
        patient = WebDriverWait(self.driver, 120, ignored_exceptions=[StaleElementReferenceException])
        patient.until(lambda _: condition())

    def ask(self, text: str) -> None:
        """Put a text into the box, as pasting does, and send it with the keyboard."""
        self.driver.execute_script("arguments[0].value = arguments[1]", self.find("#text"), text)
        self.find("#text").send_keys(Keys.CONTROL, Keys.ENTER)
        self.wait(lambda: self.find(".words").get_property("textContent") == text)

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser") if "favicon" not in entry["message"]]


def start_server(
    settings: Settings, recognizer: FakeRecognizer, ocr: FakeOcr | None = None
) -> tuple[uvicorn.Server, threading.Thread, int]:
    metrics = Metrics()
    model = ServedModel(recognizer, settings=settings, metrics=metrics, on_death=lambda: None)
    images = ImageReader(ocr, settings=settings, metrics=metrics, on_death=lambda: None) if ocr else None
    app = build_app(settings, Registry(model), metrics, images)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    until(lambda: model.state == "ready" and server.started)
    return server, thread, listener.getsockname()[1]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    assert CHROMIUM is not None
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: webdriver.Chrome) -> Iterator[Page]:
    recognizer = FakeRecognizer()
    server, thread, port = start_server(Settings(model=Path("unused")), recognizer)
    page = Page(browser, port, recognizer)
    page.open()
    yield page
    complaints = page.complaints()
    server.should_exit = True
    thread.join(60)
    assert complaints == []


@needs_chromium
def test_nested_entities_are_lines_under_one_another(page: Page) -> None:
    page.ask("Augustina Lovelace met Bob")
    assert page.texts(".tag b") == ["NAME", "WORD", "WORD", "NAME"]
    assert page.texts(".tag i") == ["0.98", "0.88", "0.88", "0.98"]
    lines = {
        line.get_attribute("data-index"): line.rect for line in page.driver.find_elements(By.CSS_SELECTOR, ".line")
    }
    outer, first, second, apart = (lines[index] for index in "0123")
    assert outer["y"] > first["y"] == second["y"] == apart["y"]
    assert outer["x"] == pytest.approx(first["x"], abs=1)
    assert outer["x"] + outer["width"] == pytest.approx(second["x"] + second["width"], abs=1)
    assert page.texts("td.entity") == ["Augustina Lovelace", "Augustina", "Lovelace", "Bob"]
    assert page.texts("td.number") == ["0–18", "0–9", "10–18", "23–26"]
    assert "4 entities" in page.find("#summary").text


@needs_chromium
def test_labels_do_not_cover_one_another(page: Page) -> None:
    page.ask("Ab Cd Ef Gh Ij")
    boxes = [tag.rect for tag in page.driver.find_elements(By.CSS_SELECTOR, ".tag")]
    assert len(boxes) == 6
    for index, one in enumerate(boxes):
        for other in boxes[:index]:
            beside = one["x"] >= other["x"] + other["width"] or other["x"] >= one["x"] + one["width"]
            above = one["y"] >= other["y"] + other["height"] or other["y"] >= one["y"] + one["height"]
            assert beside or above


@needs_chromium
def test_emoji_do_not_shift_the_lines(page: Page) -> None:
    page.ask("😀😀 𠮷 《红楼梦》")
    assert page.texts("td.entity") == ["《红楼梦》"]
    # UTF-16: two units each for three characters, and two spaces.
    assert page.texts("td.number") == ["8–13"]
    drawn = page.driver.execute_script(
        "const range = document.createRange(), node = document.querySelector('.words').firstChild;"
        "range.setStart(node, 8); range.setEnd(node, 13); return range.getBoundingClientRect().toJSON()"
    )
    line = page.find(".line").rect
    assert (line["x"], line["width"]) == (pytest.approx(drawn["x"], abs=1), pytest.approx(drawn["width"], abs=1))


@needs_chromium
def test_a_text_is_never_read_as_html(page: Page) -> None:
    text = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script> 《<b>Ada</b>》"
    page.ask(text)
    assert page.driver.title == "Named entities, nested and scored"
    assert page.find(".words").get_property("childElementCount") == 0
    assert page.texts("td.entity") == ["《<b>Ada</b>》", "Ada"]
    assert page.driver.find_elements(By.CSS_SELECTOR, "#answer img, #answer script, #answer td b") == []


@needs_chromium
def test_an_entity_that_wraps_is_underlined_in_every_row(page: Page) -> None:
    page.ask("《" + "很" * 60 + "》")
    lines = [line.rect for line in page.driver.find_elements(By.CSS_SELECTOR, ".line")]
    assert len(lines) == 2
    assert lines[0]["y"] < lines[1]["y"]
    assert page.texts(".tag b") == ["WORK"]


@needs_chromium
def test_the_threshold_asks_again(page: Page) -> None:
    page.ask("Ada Lovelace 《红楼梦》")
    assert len(page.texts("td.entity")) == 4
    # Scores: NAME 0.98, WORD 0.88, WORK 0.73.
    slider = page.find("#threshold")
    page.driver.execute_script("arguments[0].value = 0.8; arguments[0].dispatchEvent(new Event('input'))", slider)
    page.wait(lambda: page.texts("td.entity") == ["Ada Lovelace", "Ada", "Lovelace"])
    assert page.find("#threshold-value").text == "0.80"
    assert not page.find("#own").is_selected()
    slider.send_keys(Keys.END)
    page.wait(lambda: page.find("#summary").text.startswith("0 entities"))
    page.find("#own").send_keys(Keys.SPACE)
    page.wait(lambda: len(page.texts("td.entity")) == 4)


@needs_chromium
def test_json_and_curl_show_the_same_request_and_reply(page: Page) -> None:
    page.ask("Ada's 😀 $HOME `ls`")
    page.find("#tab-text").send_keys(Keys.ARROW_RIGHT)
    assert page.driver.switch_to.active_element.get_attribute("id") == "tab-json"
    reply = json.loads(page.find("#view-json pre").text)
    assert reply["results"][0]["entities"][0]["text"] == "Ada"
    page.find("#copy").click()
    command = shlex.split(page.find("#view-curl pre").get_property("textContent"))
    assert command[:2] == ["curl", "-s"]
    assert command[2] == f"http://127.0.0.1:{page.port}/v1/extract"
    assert json.loads(command[-1]) == {"inputs": "Ada's 😀 $HOME `ls`", "offset_unit": "utf16"}


@needs_chromium
def test_every_example_is_answered(page: Page) -> None:
    buttons = page.driver.find_elements(By.CSS_SELECTOR, "#examples button")
    assert [button.text for button in buttons] == ["English", "中文", "Mixed", "Page"]
    *of_texts, of_page = buttons
    of_page.click()
    page.wait(lambda: page.find("#sheet").is_displayed())
    for button in of_texts:
        button.click()
        page.wait(
            lambda: page.find("#text").get_property("value") == page.find("#answer .words").get_property("textContent")
        )


@needs_chromium
def test_a_row_of_the_table_lights_its_entity(page: Page) -> None:
    page.ask("Ada Lovelace")
    page.driver.execute_script("arguments[0].focus()", page.find("tbody tr[data-index='2']"))
    lit = page.driver.find_elements(By.CSS_SELECTOR, ".lit")
    assert {part.get_attribute("data-index") for part in lit} == {"2"}
    assert {part.get_attribute("class") for part in lit} == {"line lit", "wash lit", "tag lit", "lit"}


@needs_chromium
def test_an_error_is_told(page: Page) -> None:
    page.ask("☠")
    assert page.find("#problem").text == "the model failed with RuntimeError"
    page.ask("Ada")
    assert not page.find("#problem").is_displayed()


# Two lines: "Ada Lovelace" over both, and "Bob" apart. The page is in points.
WORDS = {
    "words": ["Ada", "Lovelace", "met", "Bob"],
    "boxes": [[60, 10, 90, 20], [10, 30, 60, 40], [80, 30, 110, 40], [140, 30, 170, 40]],
    "page": [200, 100],
}


def ask_page(page: Page, item: object) -> None:
    page.find("#tab-write").send_keys(Keys.ARROW_RIGHT)
    page.driver.execute_script("arguments[0].value = arguments[1]", page.find("#words"), json.dumps(item))
    page.find("#words").send_keys(Keys.CONTROL, Keys.ENTER)
    page.wait(lambda: page.find("#answer").is_displayed() or page.find("#problem").is_displayed())


@needs_chromium
def test_boxes_of_a_page_are_drawn_around_its_words(page: Page) -> None:
    ask_page(page, WORDS)
    assert page.texts("td.entity") == ["Ada Lovelace", "Ada", "Lovelace", "Bob"]
    assert page.texts("#sheet .word") == WORDS["words"]
    rects = {
        index: [rect.rect for rect in page.driver.find_elements(By.CSS_SELECTOR, f"#sheet [data-index='{index}'] rect")]
        for index in range(4)
    }
    assert [len(rects[index]) for index in range(4)] == [2, 1, 1, 1]
    sheet = page.find("#sheet svg").rect
    unit = sheet["width"] / 200
    for (outer, inner), word in zip(
        ((rects[0][0], rects[1][0]), (rects[0][1], rects[2][0])), WORDS["boxes"], strict=False
    ):
        assert outer["x"] < inner["x"] <= sheet["x"] + unit * word[0]
        assert outer["x"] + outer["width"] > inner["x"] + inner["width"] >= sheet["x"] + unit * word[2]
        assert outer["y"] < inner["y"] <= sheet["y"] + unit * word[1]
    page.driver.execute_script("arguments[0].focus()", page.find("tbody tr[data-index='3']"))
    assert page.find("#sheet .lit").get_attribute("data-index") == "3"
    assert page.find("#sheet svg").get_attribute("role") == "img"
    assert "4 words" in page.find("#sheet svg").get_attribute("aria-label")
    page.find("#tab-write").click()
    page.ask("Bob")
    assert not page.find("#sheet").is_displayed()


@needs_chromium
def test_a_bad_page_is_told_and_not_drawn(page: Page) -> None:
    ask_page(page, {**WORDS, "page": [100, 100]})
    page.wait(lambda: "/inputs/boxes/2/2" in page.find("#problem").text)
    assert not page.find("#sheet").is_displayed()
    page.find("#words").send_keys("x")
    page.find("#words").send_keys(Keys.CONTROL, Keys.ENTER)
    page.wait(lambda: "JSON" in page.find("#problem").text)


@needs_chromium
def test_an_image_is_read_and_lies_under_the_boxes(browser: webdriver.Chrome, tmp_path: Path) -> None:
    scan = tmp_path / "scan of Ada's.png"
    scan.write_bytes(png(400, 200))
    seen = LaidOut(tuple(WORDS["words"]), tuple(tuple(box) for box in WORDS["boxes"]), (200.0, 100.0))
    for ocr in (None, FakeOcr(seen)):
        server, thread, port = start_server(Settings(model=Path("unused")), FakeRecognizer(), ocr)
        page = Page(browser, port, FakeRecognizer())
        try:
            page.open()
            page.wait(lambda page=page: page.find("#image-hint").get_property("textContent"))
            page.find("#tab-page").click()
            page.find("#image").send_keys(str(scan))
            if ocr is None:
                page.wait(lambda page=page: "reads no images" in page.find("#problem").text)
                ask_page(page, WORDS)
            page.wait(lambda page=page: page.texts("td.entity") == ["Ada Lovelace", "Ada", "Lovelace", "Bob"])
            page.wait(lambda page=page: page.find("#sheet canvas").get_property("width") == 400)
            assert page.find("#sheet canvas").size == pytest.approx(page.find("#sheet svg").size, abs=1)
            assert page.texts("#sheet .word") == []
            if ocr is not None:
                command = page.find("#view-curl pre").get_property("textContent")
                assert shlex.quote(scan.name) in command.replace("'\\''", "'\"'\"'")
            assert page.complaints() == []
        finally:
            server.should_exit = True
            thread.join(60)


@needs_chromium
def test_on_a_phone_nothing_is_wider_than_the_screen(page: Page) -> None:
    metrics = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        for path in ("/", "/docs"):
            page.open(path)
            page.wait(lambda: page.texts("button, h2"))
            if path == "/":
                page.ask("Ada Lovelace " * 9)
            width = page.driver.execute_script("return document.documentElement.scrollWidth")
            assert width <= 360
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@needs_chromium
def test_the_documentation_shows_every_operation(page: Page) -> None:
    page.open("/docs")
    page.wait(lambda: len(page.texts("h2")) == 11)
    assert "POST/v1/extract" in [title.replace(" ", "") for title in page.texts("h2")]
    page.find("summary").click()
    assert "offset_unit" in page.texts("code")


@needs_chromium
def test_a_model_that_finds_no_entities_is_told_at_once(browser: webdriver.Chrome) -> None:
    recognizer = FakeRecognizer(EMBEDDING)
    server, thread, port = start_server(Settings(model=Path("unused")), recognizer)
    page = Page(browser, port, recognizer)
    try:
        page.open()
        page.wait(lambda: page.find("#problem").is_displayed())
        assert page.find("#problem").text == "This model finds no entities. It has: embedding."
        page.find("#text").send_keys("Ada", Keys.CONTROL, Keys.ENTER)
        page.wait(lambda: page.find("#problem").text == "the model has no 'spans' head; it has: embedding")
        assert not page.find("#answer").is_displayed()
        assert page.find("#run").is_enabled()
    finally:
        server.should_exit = True
        thread.join(60)
        page.complaints()


@needs_chromium
def test_a_key_is_asked_for_and_used(browser: webdriver.Chrome) -> None:
    settings = Settings(model=Path("unused"), api_key="sesam")  # type: ignore[arg-type]
    server, thread, port = start_server(settings, FakeRecognizer())
    page = Page(browser, port, FakeRecognizer())
    try:
        page.open()
        page.wait(lambda: page.find("#key").is_displayed())
        page.find("#key").send_keys("sesam", Keys.TAB)
        page.wait(lambda: page.find("#model").text == "tiny 7")
        page.ask("Ada")
        assert page.texts("td.entity") == ["Ada"]
        assert '"Authorization: Bearer $NER_API_KEY"' in page.find("#view-curl pre").get_property("textContent")
    finally:
        server.should_exit = True
        thread.join(60)
        page.complaints()
