"""Vectors and rankings over HTTP, with a recogniser whose vectors count the letters a, b, c and d."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from ner_service.errors import BundleError
from ner_service.model.config import Heads, LanguageModelConfig
from ner_service.serving.metrics import Metrics
from ner_service.serving.registry import ServedModel
from ner_service.serving.schemas import EmbedReply, ExtractReply, ModelCard, SimilarReply
from ner_service.serving.settings import Settings
from tests.serving.conftest import Serve, Service, until
from tests.serving.fakes import BOTH, DEADLY, EMBEDDING, POISON, FakeRecognizer
from tests.serving.test_overload import busy_model, sample
from tests.serving.test_problems import check_problem

HALF = 0.5**0.5
BAD = [("\ud800", "invalid_text", 422), ("a" * 101, "text_too_long", 413), (POISON, "inference_failed", 500)]


@pytest.fixture
def both(serve: Serve) -> Any:
    """A service whose model has both heads."""
    with serve(FakeRecognizer(BOTH)) as service:
        yield service


def embed(service: Service, inputs: Any) -> Any:
    reply = service.post("/v1/embed", {"inputs": inputs})
    assert reply.status_code == 200, reply.text
    return reply.json()


def rank(service: Service, text: Any, candidates: list[Any], **fields: Any) -> Any:
    reply = service.post("/v1/similar", {"input": text, "candidates": candidates, **fields})
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_a_text_gets_its_unit_vector(both: Service) -> None:
    reply = embed(both, ["ab", {"id": "x", "text": "dddd"}, ""])
    assert reply["model"] == {"name": "tiny", "version": "7"}
    assert reply["usage"] == {"characters": 6, "tokens": 12, "windows": 3}
    assert set(reply["timing_ms"]) == {"queue", "infer", "total"}
    first, second, empty = reply["results"]
    assert first["embedding"] == pytest.approx([HALF, HALF, 0, 0], abs=1e-7)
    assert second == {"id": "x", "status": "ok", "windows": 1, "embedding": [0.0, 0.0, 0.0, 1.0]}
    assert empty["embedding"] == [0.0, 0.0, 0.0, 0.0]
    assert embed(both, "ab")["results"] == [first]
    assert embed(both, [])["results"] == []


def test_the_vector_of_a_long_text_is_the_direction_of_the_mean_of_its_windows(both: Service) -> None:
    # Windows of 62 characters that overlap by 16: three of nothing but a, and a last one, or two, with b at the end.
    text = "a" * 150 + "b" * 10
    windows = both.recognizer.encode(text)
    assert len(windows) > 2
    counts = [(text[w.start : w.end].count("a"), text[w.start : w.end].count("b")) for w in windows]
    units = [(a / (a * a + b * b) ** 0.5, b / (a * a + b * b) ** 0.5) for a, b in counts]
    sums = [sum(unit[axis] for unit in units) for axis in (0, 1)]
    length = (sums[0] ** 2 + sums[1] ** 2) ** 0.5
    reply = embed(both, text)
    (result,) = reply["results"]
    assert result["windows"] == reply["usage"]["windows"] == len(windows)
    assert result["embedding"] == pytest.approx([sums[0] / length, sums[1] / length, 0, 0], abs=1e-6)
    # The twin: it is not the vector of all letters counted at once.
    assert result["embedding"][1] != pytest.approx(10 / (150**2 + 10**2) ** 0.5, abs=1e-3)


def test_candidates_are_ranked_by_cosine_and_equal_ones_by_index(both: Service) -> None:
    reply = rank(both, {"id": "q", "text": "ab"}, ["c", "b", {"id": "same", "text": "abab"}, "a", "ba", "abc"])
    assert reply["model"] == {"name": "tiny", "version": "7"}
    assert reply["input"] == {"id": "q", "windows": 1}
    assert reply["usage"] == {"characters": 14, "tokens": 28, "windows": 7}
    found = [(result["index"], result["score"]) for result in reply["results"]]
    # Cosines with (1, 1, 0, 0): of the same direction 1, of abc the root of 2/3, of one letter the root of 1/2.
    assert found == [(2, 1.0), (4, 1.0), (5, 0.816497), (1, 0.707107), (3, 0.707107), (0, 0.0)]
    assert reply["results"][0] == {"index": 2, "id": "same", "status": "ok", "windows": 1, "score": 1.0}
    assert rank(both, "ab", [])["results"] == []


@pytest.mark.parametrize(("top_k", "expected"), [(1, [1]), (2, [1, 2]), (9, [1, 2, 0]), (None, [1, 2, 0])])
def test_only_the_best_are_told_where_so_many_are_asked_for(
    both: Service, top_k: int | None, expected: list[int]
) -> None:
    reply = rank(both, "a", ["b", "a", "ab"], top_k=top_k)
    assert [result["index"] for result in reply["results"]] == expected
    assert reply["usage"]["windows"] == 4


@pytest.mark.parametrize(("text", "code", "status"), BAD)
def test_a_bad_text_is_its_own_error(serve: Serve, text: str, code: str, status: int) -> None:
    with serve(FakeRecognizer(BOTH), max_characters=100) as service:
        before, bad, after = embed(service, ["ab", {"id": "bad", "text": text}, "ab"])["results"]
        assert before == after == embed(service, "ab")["results"][0]
        assert (bad["id"], bad["status"], bad["error"]["status"]) == ("bad", "error", status)
        assert bad["error"]["type"] == f"urn:ner-service:{code}"
        assert text not in bad["error"]["detail"]
        # A ranking counts it after all others, and `top_k` does not count it.
        candidates = [{"id": "bad", "text": text}, "b", "a"]
        ranked = rank(service, "a", candidates, top_k=1)["results"]
        assert ranked == [
            {"index": 2, "id": None, "status": "ok", "windows": 1, "score": 1.0},
            {"index": 0, **bad},
        ]
        # Without the text to compare with there is nothing to rank.
        reply = service.post("/v1/similar", {"input": text, "candidates": ["a"]})
        check_problem(reply, status, code)
        assert text not in reply.text


@pytest.mark.parametrize(
    ("heads", "path", "missing", "found"),
    [
        (None, "/v1/embed", "embedding", "spans"),
        (None, "/v1/similar", "embedding", "spans"),
        (None, "/v1/models/tiny/embed", "embedding", "spans"),
        (EMBEDDING, "/v1/extract", "spans", "embedding"),
        (EMBEDDING, "/v1/models/tiny/extract?version=7", "spans", "embedding"),
    ],
)
def test_a_missing_head_is_409_and_names_those_there_are(
    serve: Serve, heads: Heads | None, path: str, missing: str, found: str
) -> None:
    with serve(FakeRecognizer(heads) if heads else None) as service:
        problem = check_problem(service.post(path, {"inputs": "a"}), 409, "missing_head")
        assert problem["detail"] == f"the model has no {missing!r} head; it has: {found}"
        assert sample(service, 'ner_rejected_total{reason="missing_head"}') == 1.0


def test_a_model_with_no_head_to_serve_is_refused() -> None:
    with pytest.raises(BundleError, match="'tiny' has no head to serve, expected `spans` or `embedding`"):
        ServedModel(
            FakeRecognizer(Heads(language_model=LanguageModelConfig())),
            settings=Settings(model="unused"),  # type: ignore[arg-type]
            metrics=Metrics(),
            on_death=lambda: None,
        )


def test_the_card_shows_the_heads(serve: Serve) -> None:
    with serve(FakeRecognizer(EMBEDDING)) as service:
        card = service.client.get("/v1/models/tiny").json()
    assert card["heads"] == {"embedding": {"size": 4}}
    assert (card["labels"], card["thresholds"]) == ([], {})
    TypeAdapter(ModelCard).validate_python(card, strict=True)


@pytest.mark.parametrize(
    ("path", "body", "pointer", "detail"),
    [
        ("embed", {}, "/inputs", "required"),
        ("embed", {"inputs": ["a", 1]}, "/inputs/1", "a text or an object with a text"),
        ("embed", {"inputs": "a", "labels": ["NAME"]}, "/labels", "not permitted"),
        ("similar", [], "", "valid dictionary"),
        ("similar", {"candidates": []}, "/input", "required"),
        ("similar", {"input": "a"}, "/candidates", "required"),
        ("similar", {"input": ["a"], "candidates": []}, "/input", "a text or an object with a text"),
        ("similar", {"input": {"id": "a"}, "candidates": []}, "/input/text", "required"),
        ("similar", {"input": "a", "candidates": "b"}, "/candidates", "valid list"),
        ("similar", {"input": "a", "candidates": ["b", {"text": 1}]}, "/candidates/1/text", "valid string"),
        ("similar", {"input": "a", "candidates": [], "top_k": 0}, "/top_k", "greater than or equal to 1"),
        ("similar", {"input": "a", "candidates": [], "top_k": 1.0}, "/top_k", "valid integer"),
    ],
)
def test_a_bad_field_is_422_and_says_where(both: Service, path: str, body: object, pointer: str, detail: str) -> None:
    problem = check_problem(both.post(f"/v1/{path}", body), 422, "invalid_field")
    (fault,) = problem["errors"]
    assert fault["pointer"] == pointer
    assert detail in fault["detail"]


def test_too_many_texts_are_413(serve: Serve) -> None:
    with serve(FakeRecognizer(BOTH), max_inputs=2) as service:
        problem = check_problem(service.post("/v1/embed", {"inputs": ["a"] * 3}), 413, "too_large")
        assert problem["errors"] == [{"pointer": "/inputs", "detail": "found 3 inputs, expected at most 2"}]
        assert len(rank(service, "a", ["b"] * 2)["results"]) == 2
        problem = check_problem(service.post("/v1/similar", {"input": "a", "candidates": ["b"] * 3}), 413, "too_large")
        assert problem["errors"] == [{"pointer": "/candidates", "detail": "found 3 candidates, expected at most 2"}]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
_FIELDS = ("input", "inputs", "candidates", "top_k", "text", "id")


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["embed", "similar"]), st.dictionaries(st.sampled_from(_FIELDS), _JSON, max_size=4))
def test_whatever_json_is_sent_is_answered_200_or_422(both: Service, path: str, body: object) -> None:
    reply = both.post(f"/v1/{path}", body)
    assert reply.status_code in (200, 422), reply.text
    json.loads(reply.content)


def test_replies_are_what_the_document_says(both: Service) -> None:
    texts = ["ab", {"id": "x", "text": "☠"}]
    for kind, path, body in (
        (EmbedReply, "embed", {"inputs": texts}),
        (SimilarReply, "similar", {"input": "a", "candidates": texts}),
        (ExtractReply, "models/tiny/extract", {"inputs": texts}),
        (EmbedReply, "models/tiny/embed?version=7", {"inputs": texts}),
        (SimilarReply, "models/tiny/similar", {"input": "a", "candidates": texts}),
    ):
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
        adapter.validate_json(both.post(f"/v1/{path}", body).content, strict=True)


def test_the_warm_up_reads_every_length_with_every_head(serve: Serve) -> None:
    # As for entities alone, 7 lengths and 128 full windows; the vectors' 7 lengths come before the full batch.
    with serve(FakeRecognizer(BOTH)) as service:
        assert service.recognizer.batches == [1] * 14 + [128]
    with serve(FakeRecognizer(EMBEDDING)) as service:
        assert service.recognizer.batches == [1] * 7 + [128]


def test_a_failed_self_test_of_the_vectors_is_death(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.serving.conftest.await_ready", lambda service: None)
    monkeypatch.setattr(FakeRecognizer, "embed", lambda self, encodings: [])
    with serve(FakeRecognizer(BOTH)) as service:
        until(lambda: service.deaths == ["died"])
        check_problem(service.client.get("/health/ready"), 503, "not_ready")


def test_what_waits_together_is_read_in_one_batch_whatever_it_is_for(both: Service) -> None:
    batches = sample(both, "ner_batch_sequences_count")
    with busy_model(both) as (running, ask):
        waiting = [ask("Bob"), ask({"text": "ab"}, "/v1/embed"), ask("Cleo")]
        until(lambda: both.model.batcher.queued_tokens == 5 + 4 + 6)
    assert running.result().status_code == 200
    replies = [future.result().json()["results"][0] for future in waiting]
    assert [result["entities"][0]["text"] for result in (replies[0], replies[2])] == ["Bob", "Cleo"]
    assert replies[1]["embedding"] == pytest.approx([HALF, HALF, 0, 0], abs=1e-7)
    assert sample(both, "ner_batch_sequences_count") - batches == 2.0
    # One pass for the two that want entities, one for the vector.
    assert both.recognizer.batches[-3:] == [1, 2, 1]


def test_a_text_that_fails_leaves_its_neighbours_of_the_other_kind_unharmed(both: Service) -> None:
    with busy_model(both) as (running, ask):
        waiting = [ask("Bob"), ask(POISON, "/v1/embed"), ask(POISON), ask("d", "/v1/embed")]
        until(lambda: both.model.batcher.queued_tokens == 5 + 3 + 3 + 3)
    assert running.result().status_code == 200
    results = [future.result().json()["results"][0] for future in waiting]
    assert [result["status"] for result in results] == ["ok", "error", "error", "ok"]


def test_one_queue_and_one_drain_for_all(serve: Serve) -> None:
    with serve(FakeRecognizer(BOTH), queue_tokens=4) as service:
        with busy_model(service) as (running, ask):
            waiting = ask("ab", "/v1/embed")
            until(lambda: service.model.batcher.queued_tokens == 4)
            similar = {"input": "a", "candidates": ["b"]}
            for path, body in (("extract", {"inputs": "Ada"}), ("embed", {"inputs": "a"}), ("similar", similar)):
                reply = service.post(f"/v1/{path}", body)
                check_problem(reply, 429, "queue_full")
                assert int(reply.headers["retry-after"]) >= 1
            service.model.drain()
            check_problem(service.post("/v1/similar", similar), 503, "not_ready")
        assert running.result().status_code == waiting.result().status_code == 200


def test_a_request_that_waited_to_its_deadline_is_504(serve: Serve) -> None:
    with serve(FakeRecognizer(BOTH), deadline_s=0.05) as service, busy_model(service) as (running, _):
        check_problem(service.post("/v1/embed", {"inputs": "ab"}), 504, "deadline_exceeded")
        assert service.model.batcher.queued_tokens == 0
        service.recognizer.release()
        assert running.result().status_code == 200


def test_a_dead_model_thread_is_told(serve: Serve) -> None:
    with serve(FakeRecognizer(EMBEDDING)) as service:
        check_problem(service.post("/v1/embed", {"inputs": DEADLY}), 503, "model_died")
        until(lambda: service.deaths == ["died"])


def test_metrics_count_vectors(both: Service) -> None:
    windows = sample(both, "ner_text_windows_count")
    embed(both, ["ab", POISON])
    rank(both, "a", ["b", "c", "\ud800"])
    assert sample(both, "ner_embeddings_total") == 4.0
    assert sample(both, "ner_text_windows_count") - windows == 4.0
    assert sample(both, 'ner_rejected_total{reason="inference_failed"}') == 1.0
    assert sample(both, 'ner_rejected_total{reason="invalid_text"}') == 1.0
    assert sample(both, 'ner_requests_total{code="200",route="/v1/similar"}') == 1.0
