"""Snapshots of an index: folders that are never changed, the current one named in a file.

A snapshot's manifest holds the SHA-256 of every file, and `CURRENT` that of the manifest. What
has not changed since the snapshot before is linked, neither written nor hashed again.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import file_digest
from pathlib import Path
from typing import Any

_CURRENT = "CURRENT"
_MANIFEST = "manifest.json"
_NAMES = "snapshot-*"


def current_name(folder: Path) -> str:
    """The name of the snapshot that a folder has; empty for none."""
    file = folder / _CURRENT
    return file.read_text("utf-8", "replace").partition(" ")[0] if file.exists() else ""


def write_snapshot(
    folder: Path, revision: int, write: Callable[[Path], Mapping[str, Any]], before: str
) -> str:
    """Write a new snapshot, make it the current one, and give its name.

    `write` fills the folder that it is given and returns what the manifest is to tell besides.
    The snapshot `before` stays, for those who are about to open it; older ones are removed.
    """
    name = f"snapshot-{revision:09d}-{time.time_ns():x}"
    target = folder / name
    try:
        facts = write(target)
        known = _digests(folder / before) if before else {}
        hashed = _hashed(target, known)
        write_synced(target / _MANIFEST, json.dumps({**facts, "files": hashed}, ensure_ascii=False))
        write_synced(folder / f"{_CURRENT}.new", f"{name} {_sha256(target / _MANIFEST)}")
        os.replace(folder / f"{_CURRENT}.new", folder / _CURRENT)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    _remove(folder, keep={name, before})
    return name


def read_current(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The folder of the current snapshot and its manifest, not yet compared with its files.

    Raises `FileNotFoundError` where it was replaced meanwhile, `ValueError` where it is damaged.
    """
    name, digest = (folder / _CURRENT).read_text("ascii").split()
    snapshot = folder / name
    if _sha256(snapshot / _MANIFEST) != digest:
        raise ValueError(f"{_MANIFEST} is damaged")
    manifest: dict[str, Any] = json.loads((snapshot / _MANIFEST).read_text("utf-8"))
    return snapshot, manifest


def verify(snapshot: Path, files: Mapping[str, str]) -> None:
    """Raise `ValueError` where a file is not what the manifest says."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        digests = pool.map(_sha256, [snapshot / name for name in files])
        for (name, expected), digest in zip(files.items(), digests, strict=True):
            if digest != expected:
                raise ValueError(f"{name} is damaged")


def remove_snapshots(folder: Path) -> None:
    """Delete all snapshots of a folder."""
    (folder / _CURRENT).unlink(missing_ok=True)
    _remove(folder, keep=set())


def write_synced(file: Path, text: str) -> None:
    """Write a file that is on the disk when the call returns."""
    with file.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _hashed(target: Path, known: Mapping[tuple[int, int], str]) -> dict[str, str]:
    files = sorted(f for f in target.rglob("*") if f.is_file() and f.suffix != ".lock")
    return {str(f.relative_to(target)): known.get(_inode(f)) or _sha256(f) for f in files}


def _digests(snapshot: Path) -> dict[tuple[int, int], str]:
    """What the manifest of a snapshot says of the files that others may link to."""
    try:
        files = json.loads((snapshot / _MANIFEST).read_text("utf-8"))["files"]
        return {_inode(snapshot / name): digest for name, digest in files.items()}
    except (OSError, ValueError, KeyError):
        return {}


def _inode(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_dev, status.st_ino


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()


def _remove(folder: Path, keep: set[str]) -> None:
    for path in folder.glob(_NAMES):
        if path.name not in keep:
            shutil.rmtree(path, ignore_errors=True)
