"""Putting a finished folder in its place in one step. Knows nothing of what is in it."""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path

from ner_service.errors import BundleError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def put_in_place(finished: Path, target: Path) -> None:
    """Make `target` be the folder `finished`, which stands on the same file system; an old `target` is removed after.

    At every moment `target` is the old folder or the new one, whole.

    Raises:
        BundleError: `target` exists and this system cannot exchange two folders in one step.
    """
    for path in finished.iterdir():
        _sync(path)
    _sync(finished)
    if target.exists():
        _exchange(finished, target)
        shutil.rmtree(finished)
    else:
        finished.rename(target)
    _sync(target.parent)


def _exchange(one: Path, other: Path) -> None:
    """Linux's renameat2 with RENAME_EXCHANGE: Python's os has no name for it."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        raise BundleError(f"{other}: exists, and this system cannot replace a folder in one step; remove it first")
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise BundleError(f"{other}: exists, and cannot be replaced in one step ({reason}); remove it first")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
