r"""Lines of text files, plain or gzipped: strict reading, atomic writing. Knows no format.

A byte order mark is skipped, "\n" and "\r\n" both end a line, anything that is not UTF-8 is refused.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ner_service.errors import DataError, writing


@dataclass(frozen=True, slots=True)
class Line:
    """A line without its end; `number` counts from 1. Without a number, a whole file."""

    path: Path
    number: int | None
    text: str

    def error(self, detail: str) -> DataError:
        """A fault of this line."""
        return DataError(self.path, self.number, detail)


def read_lines(path: Path) -> Iterator[Line]:
    """Lines of a file, one at a time, empty ones included.

    Raises:
        DataError: no readable file, damaged gzip, or bytes that are not UTF-8.
    """
    with _faults_named(path), _open(path) as file:
        for number, content in enumerate(file, start=1):
            yield Line(path, number, _decode(path, number, content))


def read_whole(path: Path) -> Line:
    r"""A file as one text, its lines ended by "\n".

    Raises:
        DataError: as of `read_lines`.
    """
    return Line(path, None, "\n".join(line.text for line in read_lines(path)))


def read_bytes(path: Path, size: int = -1) -> bytes:
    """A file as it is, unpacked, or its first bytes: for formats that name their own encoding.

    Raises:
        DataError: no readable file, or damaged gzip.
    """
    with _faults_named(path), _open(path) as file:
        return file.read(size)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines, gzipped if the name ends in ".gz". The file appears whole or not at all."""
    content = (f"{line}\n".encode() for line in lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with writing(path), temporary.open("wb") as file:
            if path.suffix == ".gz":
                # No name and no time in the header: equal lines give equal bytes.
                with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as zipped:
                    zipped.writelines(content)
            else:
                file.writelines(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _faults_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(path, None, f"damaged gzip: {error}") from error
    except OSError as error:
        raise DataError(path, None, f"cannot be read: {error.strerror}") from error


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if zipped else path.open("rb")  # type: ignore[return-value]


def _decode(path: Path, number: int, content: bytes) -> str:
    if number == 1:
        content = content.removeprefix(b"\xef\xbb\xbf")
    content = content.removesuffix(b"\n").removesuffix(b"\r")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"byte 0x{content[error.start]:02X} at position {error.start} of the line"
        raise DataError(path, number, f"found {found}, expected UTF-8") from None
