"""The order in which files reach the disk and get their names: a power cut may come between any two steps."""

import os
from contextlib import contextmanager
from pathlib import Path

NAMING = ("replace", "rename", "link")


@contextmanager
def recorded(monkeypatch):
    """The steps of the block: `("fsync", path, bytes)`, and `("replace", old, new)` or another naming."""
    steps = []

    def record_fsync(descriptor, own=os.fsync):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        steps.append(("fsync", path, None if path.is_dir() else path.stat().st_size))
        own(descriptor)

    def recording(name):
        own = getattr(os, name)

        def record(old, new, **options):
            steps.append((name, Path(old), Path(new)))
            own(old, new, **options)

        return record

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", record_fsync)
        for name in NAMING:
            patched.setattr(os, name, recording(name))
        yield steps


def check_durable(steps, path):
    """Whether the file was whole on the disk before it got its name, and its name before the steps end."""
    (named,) = [index for index, (_, _, new) in enumerate(steps) if new == path]
    kind, temporary, _ = steps[named]
    assert kind in NAMING
    assert ("fsync", temporary, path.stat().st_size) in steps[:named]
    assert ("fsync", path.parent, None) in steps[named + 1 :]
