from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ner_service.serving.settings import Settings
from tests.serving.conftest import Serve, Service
from tests.serving.fakes import ENDLESS, POISON

ADA = "Ada Lovelace read 《红楼梦》."


def extract(service: Service, inputs: Any, **fields: Any) -> Any:
    reply = service.post("/v1/extract", {"inputs": inputs, **fields})
    assert reply.status_code == 200, reply.text
    return reply.json()


def spans(result: dict[str, Any]) -> list[tuple[int, int, str]]:
    return [(entity["start"], entity["end"], entity["label"]) for entity in result["entities"]]


def test_a_text_is_answered_as_the_contract_says(service: Service) -> None:
    reply = extract(service, ADA)
    assert reply["model"] == {"name": "tiny", "version": "7"}
    assert reply["offset_unit"] == "codepoint"
    assert reply["usage"] == {"characters": 24, "tokens": 26, "windows": 1}
    assert set(reply["timing_ms"]) == {"queue", "infer", "total"}
    # Scores are sigma(2s) of the fake's logits 2, 1 and 0.5.
    name = {
        "start": 0,
        "end": 12,
        "text": "Ada Lovelace",
        "label": "NAME",
        "score": 0.982014,
        "parent": None,
        "depth": 0,
    }
    first = {"start": 0, "end": 3, "text": "Ada", "label": "WORD", "score": 0.880797, "parent": 0, "depth": 1}
    last = {"start": 4, "end": 12, "text": "Lovelace", "label": "WORD", "score": 0.880797, "parent": 0, "depth": 1}
    work = {
        "start": 18,
        "end": 23,
        "text": "《红楼梦》",
        "label": "WORK",
        "score": 0.731059,
        "parent": None,
        "depth": 0,
    }
    expected = {"id": None, "status": "ok", "length": 24, "windows": 1, "entities": [name, first, last, work]}
    assert reply["results"] == [expected]


def test_inputs_may_be_text_object_or_both_mixed(service: Service) -> None:
    assert extract(service, {"id": "a", "text": "Bob"})["results"][0]["id"] == "a"
    results = extract(service, ["Bob", {"id": "b", "text": "Cleo"}, {"text": ""}])["results"]
    assert [result["id"] for result in results] == [None, "b", None]
    assert [spans(result) for result in results] == [[(0, 3, "NAME")], [(0, 4, "NAME")], []]
    assert extract(service, [])["results"] == []


# The emoji is one code point, two UTF-16 units and four bytes; é is two bytes, each Chinese character three.
@pytest.mark.parametrize(
    ("unit", "work", "length"), [("codepoint", (7, 12), 13), ("utf16", (8, 13), 14), ("utf8", (11, 26), 27)]
)
def test_offsets_are_in_the_unit_asked_for(service: Service, unit: str, work: tuple[int, int], length: int) -> None:
    reply = extract(service, "😀 é Ada《红楼梦》!", offset_unit=unit)
    (result,) = reply["results"]
    assert reply["offset_unit"] == unit
    assert result["length"] == length
    found = next(entity for entity in result["entities"] if entity["label"] == "WORK")
    assert (found["start"], found["end"], found["text"]) == (*work, "《红楼梦》")


def test_labels_are_filtered(service: Service) -> None:
    (result,) = extract(service, ADA, labels=["WORK"])["results"]
    assert spans(result) == [(18, 23, "WORK")]


def test_thresholds_go_label_first_then_request_then_model(service: Service) -> None:
    # Scores: NAME 0.98, WORD 0.88, WORK 0.73, the model's threshold for WORK 0.6.
    def labels(**fields: Any) -> set[str]:
        return {label for *_, label in spans(extract(service, ADA, **fields)["results"][0])}

    assert labels() == labels(threshold=None) == {"NAME", "WORD", "WORK"}
    assert labels(threshold=0.8) == {"NAME", "WORD"}
    assert labels(threshold=0.8, label_thresholds={"WORK": 0.7, "NAME": 0.99}) == {"WORD", "WORK"}
    assert labels(label_thresholds={"WORK": 0.8}) == {"NAME", "WORD"}
    assert labels(threshold=1) == set()


def test_the_overlap_policy_is_applied(service: Service) -> None:
    (result,) = extract(service, ADA, overlap="flat")["results"]
    assert spans(result) == [(0, 12, "NAME"), (18, 23, "WORK")]


def test_a_long_text_is_read_in_windows_or_refused(service: Service) -> None:
    text = "x" * 100 + " Ada Lovelace " + "y" * 100
    reply = extract(service, text)
    (result,) = reply["results"]
    assert result["windows"] == reply["usage"]["windows"] > 1
    assert (101, 113, "NAME") in spans(result)
    refused, kept = extract(service, [text, "Ada"], long_text="error")["results"]
    assert refused["error"]["type"] == "urn:ner-service:text_too_long"
    assert refused["error"]["status"] == 413
    assert spans(kept) == [(0, 3, "NAME")]


@pytest.mark.parametrize(
    ("text", "code", "status"),
    [
        ("\ud800", "invalid_text", 422),
        ("x" * 101, "text_too_long", 413),
        (ENDLESS, "too_many_candidates", 422),
        (POISON, "inference_failed", 500),
    ],
)
def test_a_bad_text_is_its_own_error(serve: Serve, text: str, code: str, status: int) -> None:
    with serve(max_characters=100) as service:
        before, bad, after = extract(service, ["Ada", {"id": "bad", "text": text}, "Bob"])["results"]
    assert spans(before) == spans(after) == [(0, 3, "NAME")]
    assert (bad["id"], bad["status"]) == ("bad", "error")
    assert bad["error"]["type"] == f"urn:ner-service:{code}"
    assert bad["error"]["status"] == status
    assert text not in bad["error"]["detail"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.text(st.sampled_from("Ab C《》\r\n\u200b\u0301😀𠮷ﬁ☠∞\ud800"), max_size=80), max_size=5),
    st.sampled_from(["codepoint", "utf16", "utf8"]),
)
def test_every_text_gets_its_own_answer(service: Service, texts: list[str], unit: str) -> None:
    together = extract(service, texts, offset_unit=unit)["results"]
    alone = [extract(service, text, offset_unit=unit)["results"][0] for text in texts]
    assert together == alone
    for text, result in zip(texts, together, strict=True):
        assert (result["status"] == "error") == bool({"☠", "\ud800", "∞"} & set(text))


def test_the_named_route_answers_like_the_default_one(service: Service) -> None:
    for path in ("/v1/models/tiny/extract", "/v1/models/tiny/extract?version=7", "/v1/extract?version=7"):
        reply = service.post(path, {"inputs": "Ada"})
        assert spans(reply.json()["results"][0]) == [(0, 3, "NAME")]


def test_models_are_listed_and_shown(service: Service) -> None:
    assert service.client.get("/v1/models").json() == {"models": [{"name": "tiny", "version": "7", "default": True}]}
    card = service.client.get("/v1/models/tiny").json()
    defaults = Settings(model="unused")  # type: ignore[arg-type]
    assert card["labels"] == ["NAME", "WORD", "WORK"]
    assert card["thresholds"] == {"NAME": 0.5, "WORD": 0.5, "WORK": 0.6}
    assert card["calibration"]["WORK"] == {"slope": 2.0, "intercept": 0.0}
    assert card["window"] == {"max_tokens": 64, "overlap_tokens": 16, "longest_entity_tokens": 16}
    assert card["metrics"] == {"f1": 0.75}
    assert (card["data_sha256"], card["digest"]) == ("ab" * 32, "cd" * 32)
    assert card["limits"]["max_candidates"] == 9
    for name in ("max_inputs", "max_characters", "max_body_bytes", "queue_tokens", "deadline_s", "grace_s"):
        assert card["limits"][name] == getattr(defaults, name)
