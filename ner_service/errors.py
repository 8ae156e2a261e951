"""The tree of errors. Every error has a stable `code` that clients may rely on.

    NerServiceError
    ├── CallerError                  the caller can mend it
    │   ├── InvalidTextError         invalid_text          not Unicode text (a lone surrogate)
    │   ├── InvalidPageError         invalid_page          a page whose words or boxes are none: names the word
    │   ├── TextTooLongError         text_too_long         over a limit that the caller knows
    │   ├── TooManyCandidatesError   too_many_candidates   a threshold so low that nearly every span is an answer
    │   ├── UnknownLabelError        unknown_label         a label that the model does not have
    │   ├── MissingHeadError         missing_head          a task that the model has no head for
    │   ├── DataError                invalid_data          a data file: names file, line, the fault
    │   ├── ConfigError              invalid_config        a run or manifest: names the key, the fault
    │   └── BundleError              invalid_bundle        a model folder: incomplete, altered or foreign
    └── ServiceError                 ours; the caller may try again
        └── InferenceError           inference_failed      the model failed on this item

HTTP has its own errors on top of these; they stand in `serving`, the only room that knows status codes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar


class NerServiceError(Exception):
    """Root of all errors raised on purpose."""

    code: ClassVar[str] = "error"


class CallerError(NerServiceError):
    """The caller's fault: the same call fails again."""

    code = "caller_error"


class InvalidTextError(CallerError):
    """The text is not well-formed Unicode."""

    code = "invalid_text"


class InvalidPageError(CallerError):
    """A page whose words, boxes or size cannot be.

    `pointer` is a JSON pointer from the page on, without a slash in front: "boxes/3/2". The keys are those of a page in
    JSON: `words`, `boxes`, `page`. `detail` names the word, what was found and what was expected.
    """

    code = "invalid_page"

    def __init__(self, pointer: str, detail: str) -> None:
        super().__init__(f"{pointer}: {detail}")
        self.pointer = pointer
        self.detail = detail


class TextTooLongError(CallerError):
    """The text is over a limit."""

    code = "text_too_long"


class TooManyCandidatesError(CallerError):
    """There are more spans above the threshold than the model may emit, or longer ones than an answer may hold."""

    code = "too_many_candidates"


class UnknownLabelError(CallerError):
    """A label was named that the model does not have."""

    code = "unknown_label"

    def __init__(self, label: str, known: tuple[str, ...]) -> None:
        super().__init__(f"unknown label {label!r}; the model knows: {', '.join(known)}")
        self.label = label
        self.known = known


class MissingHeadError(CallerError):
    """The model was trained without the head that the task needs."""

    code = "missing_head"

    def __init__(self, head: str, found: tuple[str, ...]) -> None:
        super().__init__(f"the model has no {head!r} head; it has: {', '.join(found)}")


class DataError(CallerError):
    """A data file holds something that cannot be read as annotated text."""

    code = "invalid_data"

    def __init__(self, path: Path | str, line: int | None, detail: str) -> None:
        where = str(path) if line is None else f"{path}:{line}"
        super().__init__(f"{where}: {detail}")
        self.path = Path(path)
        self.line = line
        self.detail = detail


class ConfigError(CallerError):
    """A configuration value is missing, unknown or of the wrong kind."""

    code = "invalid_config"


class BundleError(CallerError):
    """A model folder cannot be trusted or understood."""

    code = "invalid_bundle"


class ServiceError(NerServiceError):
    """Our fault: the call was right."""

    code = "service_error"


class InferenceError(ServiceError):
    """The model failed on an item."""

    code = "inference_failed"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file where writing it fails: what the system says of a full disk names none.

    Raises:
        OSError: with the path.
    """
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
