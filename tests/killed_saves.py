"""Saves over a bundle in child processes, each killed before one more step on the file system than the one before.

Run as `python -m tests.killed_saves FOLDER WAY`; prints as JSON what stood in FOLDER after each kill: the old bundle,
the new one, or a broken one. A program of its own, so that forking meets no threads of other tests.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import ner_service.bundle as bundle_module
from ner_service.bundle import Bundle
from ner_service.errors import BundleError

STEPS = ("open", "os.mkdir", "os.chmod", "os.rename", "os.remove", "os.rmdir", "os.scandir", "ctypes.dlsym")


def kill_before(step: int) -> None:
    """Let this process die by SIGKILL just before its step number `step` on the file system."""
    steps = itertools.count()

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event in STEPS and next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def save_in_child(bundle: Bundle, folder: Path, step: int) -> bool:
    """Whether the save came to its end; else it was killed."""
    child = os.fork()
    if child == 0:
        kill_before(step)
        bundle.save(folder)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert os.WEXITSTATUS(status) == 0
    return True


def outcome(folder: Path, old: Bundle) -> str:
    """Which bundle stands in the folder."""
    try:
        found = Bundle.load(folder)
    except BundleError:
        return "broken"
    return "old" if found.manifest.version == old.manifest.version else "new"


def remove_then_rename(finished: Path, target: Path) -> None:
    """What an atomic save must not do."""
    shutil.rmtree(target)
    finished.rename(target)


def main(folder: Path, way: str) -> None:
    old = Bundle.load(folder)
    new = dataclasses.replace(old, manifest=dataclasses.replace(old.manifest, version="new"))
    spare = folder.with_name("spare")
    old.save(spare)
    if way != "ours":
        vars(bundle_module)["put_in_place"] = remove_then_rename
    outcomes: list[str] = []
    finished = False
    while not finished:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(spare, folder)
        finished = save_in_child(new, folder, len(outcomes))
        outcomes.append(outcome(folder, old))
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
