"""The walk itself: texts -> windows -> candidates -> entities. The one place where text, model and decoding meet.

`encode` needs no torch and may run in any thread; `forward` is the model's and runs in one; `decode` is plain Python.
`recognize` is the three in a row, and every other way in (service, evaluation) calls the same three. For vectors,
`embed` stands in the place of `forward`, and `pool` in that of `decode`; `vectors` is those in a row.

Shapes: B encodings, N texts, W windows of a text, E embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from ner_service.bundle import Bundle
from ner_service.decoding import Calibration, Candidates, apply_overlap, decode
from ner_service.errors import BundleError, ConfigError, MissingHeadError, NerServiceError, TooManyCandidatesError
from ner_service.model.batch import Batch
from ner_service.model.config import EncoderConfig, longest_text
from ner_service.model.heads import Cells
from ner_service.model.text_model import TextModel
from ner_service.records import unstructure
from ner_service.text.layout import windows_of
from ner_service.text.planning import plan_groups
from ner_service.text.tokenizer import TextTokenizer
from ner_service.text.windows import merge
from ner_service.types import Encoding, Entity, LabelSet, Page, Recognition, RecognizeOptions, Window, WindowLimits

P = ParamSpec("P")
T = TypeVar("T")

Vectors = npt.NDArray[np.float32]

MIN_MENTIONS, MAX_COVERAGE = 1_000_000, 4.0
"""The entities of a text may have so many characters together, or four times the text's: an answer repeats each."""

_HINT = "raise the threshold, or train on texts as long as this one (`data.join`)"

BATCH_TOKENS = 4096
"""Tokens that go through the encoder at a time in `recognize` and `vectors`."""


def check_window(limits: WindowLimits, tokenizer: TextTokenizer, encoder: EncoderConfig) -> None:
    """Whether windows of these limits can be cut and read.

    Raises:
        ConfigError: the encoder reads fewer tokens at once, or the special ones leave no room beside the overlap.
    """
    longest = longest_text(encoder)
    if longest is not None and limits.max_tokens > longest:
        expected = f"expected {longest} at most, as many as the encoder reads"
        raise ConfigError(f"window.max_tokens: found {limits.max_tokens}, {expected}")
    room = limits.max_tokens - tokenizer.num_specials
    if limits.overlap_tokens >= room:
        found = f"found {limits.overlap_tokens} of {limits.max_tokens}"
        expected = f"expected less than {room}, for {tokenizer.num_specials} are special ones"
        raise ConfigError(f"window.overlap_tokens: {found}, {expected}")


class Recognizer:
    """A loaded model. The same text gives the same answer whatever it is batched with.

    Attributes:
        max_candidates: spans of one label that a window may have.
        max_coverage: how many times the characters of a text its entities may have together.
    """

    def __init__(self, bundle: Bundle, device: torch.device) -> None:
        self.manifest = bundle.manifest
        self.labels = LabelSet(bundle.manifest.labels)
        self.limits = bundle.manifest.window
        self.max_candidates: float = bundle.manifest.max_candidates
        self.max_coverage = MAX_COVERAGE
        self.tokenizer: TextTokenizer = bundle.tokenizer
        self.calibration = bundle.manifest.calibration or Calibration.uncalibrated(len(self.labels))
        self.device = device
        try:
            check_window(self.limits, self.tokenizer, bundle.manifest.model.encoder)
        except ConfigError as error:
            raise BundleError(f"{bundle.manifest.name!r}: {error}") from error
        self.model = TextModel(bundle.manifest.model, len(self.labels))
        try:
            self.model.load_state_dict(bundle.weights)
        except RuntimeError as error:
            raise BundleError(f"weights of {bundle.manifest.name!r} are not those of its model: {error}") from error
        self.model.eval().requires_grad_(False).to(device)

    @classmethod
    def load(cls, folder: Path, device: str = "auto") -> Recognizer:
        """Load a bundle. `device` is auto, cpu or cuda; auto takes a GPU where there is one.

        Raises:
            BundleError: the bundle cannot be trusted or understood.
            ConfigError: a GPU is asked for and there is none.
        """
        return cls(Bundle.load(folder), pick_device(device))

    @property
    def pads(self) -> bool:
        """Whether what is read together is padded, so that texts of like length should be."""
        return self.model.pads(self.device)

    @property
    def precision(self) -> str:
        """In what the model computes, as torch calls it: float32, ..."""
        return str(next(self.model.parameters()).dtype).removeprefix("torch.")

    def encode(self, content: str | Page) -> list[Window]:
        """The windows of a text or of a page, whose words are read in the order given: one where it fits.

        Raises:
            InvalidTextError: the text is not Unicode.
        """
        return windows_of(content, self.tokenizer, self.limits)

    def cutoffs(self, options: RecognizeOptions) -> tuple[float, ...]:
        """For each label the logit a span must exceed; +inf for a label that was not asked for.

        Raises:
            UnknownLabelError: a label that the model does not have.
            MissingHeadError: the model finds no entities.
        """
        self.require_head("spans")
        for name in [*(options.labels or ()), *options.label_thresholds]:
            self.labels.index(name)
        default = (
            self.manifest.thresholds if options.threshold is None else dict.fromkeys(self.labels, options.threshold)
        )
        thresholds = {**default, **options.label_thresholds}
        wanted = set(self.labels) if options.labels is None else options.labels
        return tuple(
            self.calibration.cutoff(index, thresholds[name]) if name in wanted else torch.inf
            for index, name in enumerate(self.labels)
        )

    @torch.inference_mode()
    def forward(self, encodings: Sequence[Encoding], cutoffs: Sequence[tuple[float, ...]]) -> list[Candidates]:
        """Spans above their text's cut-offs, for as many encodings as given, in one pass through the encoder."""
        inner = [_inner_tokens(encoding).to(self.device) for encoding in encodings]
        cells = self.model.candidates(self._batch(encodings), inner, torch.tensor(cutoffs, device=self.device))
        return [self._candidates(_of_words(own, encoding)) for own, encoding in zip(cells, encodings, strict=True)]

    def decode(
        self, windows: Sequence[Window], candidates: Sequence[Candidates], options: RecognizeOptions
    ) -> tuple[Entity, ...]:
        """Entities of a text from the candidates of its windows, after merging and the overlap policy.

        Raises:
            TooManyCandidatesError: a window overflowed, or the mentions are too long together for an answer.
        """
        for found in candidates:
            if found.overflow is not None:
                raise TooManyCandidatesError(
                    f"more than {self.max_candidates} spans of {found.overflow!r} in one window; {_HINT}"
                )
        answers = [
            (window, decode(found, window.encoding, self.labels, self.calibration))
            for window, found in zip(windows, candidates, strict=True)
        ]
        entities = tuple(apply_overlap(merge(answers), options.overlap))
        most = max(MIN_MENTIONS, self.max_coverage * max(window.end for window in windows))
        together = sum(entity.end - entity.start for entity in entities)
        if together > most:
            raise TooManyCandidatesError(
                f"entities of {together} characters together, expected at most {most:.0f}; {_HINT}"
            )
        return entities

    @torch.inference_mode()
    def embed(self, encodings: Sequence[Encoding]) -> Vectors:
        """Unit vectors [B, E], for as many encodings as given, in one pass through the encoder.

        A vector of length 0, which has no direction, stays as it is.

        Raises:
            MissingHeadError: the model makes no vectors.
        """
        self.require_head("embedding")
        return functional.normalize(self.model.embed(self._batch(encodings)).float(), dim=-1).cpu().numpy()

    def pool(self, vectors_WE: Sequence[Vectors]) -> Vectors:
        """A text's unit vector [E] from those of its windows: the direction of their mean."""
        return functional.normalize(torch.from_numpy(np.mean(vectors_WE, axis=0)), dim=-1).numpy()

    def recognize(
        self, contents: Sequence[str | Page], options: RecognizeOptions | None = None
    ) -> list[Recognition | NerServiceError]:
        """An answer, or the error of that one alone, for each text or page in order."""
        options = options or RecognizeOptions()
        cutoffs = self.cutoffs(options)
        texts_windows = [_attempt(self.encode, content) for content in contents]
        windows = [window for item in texts_windows if not isinstance(item, NerServiceError) for window in item]
        stream = self._in_groups(windows, lambda group: self.forward(group, [cutoffs] * len(group)))
        return [
            item
            if isinstance(item, NerServiceError)
            else _attempt(self._answer, item, [next(stream) for _ in item], options)
            for item in texts_windows
        ]

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors [N, E] of one text or more, each of all of its windows.

        Raises:
            InvalidTextError: a text is not Unicode.
            MissingHeadError: the model makes no vectors.
        """
        texts_windows = [self.encode(text) for text in texts]
        stream = self._in_groups([window for windows in texts_windows for window in windows], self.embed)
        return np.stack([self.pool([next(stream) for _ in windows]) for windows in texts_windows])

    def require_head(self, head: str) -> None:
        """Refuse what needs a head that the model does not have.

        Raises:
            MissingHeadError: names the heads that it has.
        """
        found = unstructure(self.manifest.model.heads)
        if head not in found:
            raise MissingHeadError(head, tuple(found))

    def _batch(self, encodings: Sequence[Encoding]) -> Batch:
        token_ids = [encoding.token_ids for encoding in encodings]
        positions = [encoding.positions for encoding in encodings]
        return self.model.batch(token_ids, self.tokenizer.pad_id, self.device, positions)

    def _in_groups(self, windows: Sequence[Window], step: Callable[[list[Encoding]], Iterable[T]]) -> Iterator[T]:
        """What `step` says of each window, in order; it gets windows of like length, as many as fit at a time."""
        found: dict[int, T] = {}
        for group in plan_groups([len(window.encoding) for window in windows], BATCH_TOKENS, padded=self.pads):
            found.update(zip(group, step([windows[index].encoding for index in group]), strict=True))
        return (found[index] for index in range(len(windows)))

    def _answer(self, windows: list[Window], candidates: list[Candidates], options: RecognizeOptions) -> Recognition:
        num_tokens = sum(len(window.encoding) for window in windows)
        return Recognition(self.decode(windows, candidates, options), len(windows), num_tokens)

    def _candidates(self, cells: Cells) -> Candidates:
        counts = torch.bincount(cells.label_N, minlength=len(self.labels))
        if int(counts.max()) > self.max_candidates:
            return Candidates.none(overflow=self.labels[int(counts.argmax())])
        label_N, start_N, end_N = (index.cpu().numpy() for index in (cells.label_N, cells.start_N, cells.end_N))
        return Candidates(label_N, start_N, end_N, cells.score_N.double().cpu().numpy())


def pick_device(name: str) -> torch.device:
    """The torch device of a setting: auto takes a GPU where there is one.

    Raises:
        ConfigError: a GPU is asked for and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    elif name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device: found no GPU, expected one for {name!r}")
    return torch.device(name)


def _inner_tokens(encoding: Encoding) -> torch.Tensor:
    """Indices of the tokens where an entity may start or end: those of characters, on a page those that bound words."""
    if encoding.words is not None:
        return torch.tensor(sorted({token for word in encoding.words for token in word}), dtype=torch.long)
    return torch.tensor([i for i, (start, end) in enumerate(encoding.offsets) if start < end], dtype=torch.long)


def _of_words(cells: Cells, encoding: Encoding) -> Cells:
    """On a page, the cells that start with a word's first token and end with a word's last; in a text, all of them."""
    if encoding.words is None:
        return cells
    first, last = torch.tensor(encoding.words, dtype=torch.long, device=cells.start_N.device).reshape(-1, 2).T
    kept = torch.isin(cells.start_N, first) & torch.isin(cells.end_N, last)
    return Cells(cells.label_N[kept], cells.start_N[kept], cells.end_N[kept], cells.score_N[kept])


def _attempt(step: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T | NerServiceError:
    try:
        return step(*arguments, **options)
    except NerServiceError as error:
        return error
