"""The gateway as it is benchmarked: the real application over generated rules."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.speed import generated_memory, known_questions
from comity.alignment.aligner import Options
from comity.memory.embed import Embedder, open_embedder
from comity.memory.memory import Memory
from comity.serving.app import create_app
from comity.serving.auth import create_key
from comity.serving.config import Gateway
from comity.serving.upstream import Upstream


def fill(folder: Path, rules: int, *, real: bool) -> str:
    """Make the memory where it is missing, and give the secret of a new client's key."""
    url = url_of(folder, real=real)
    if not Path(url.removeprefix("sqlite:///")).exists():
        generated_memory(url, rules, _embedder(real=real))
    with Memory.open(url, embedder=_embedder(real=real)) as memory:
        return create_key(memory, "default", "client").secret


def url_of(folder: Path, *, real: bool) -> str:
    """Where the memory lies; vectors of the two embedders do not mix."""
    return f"sqlite:///{folder / ('real.db' if real else 'generated.db')}"


def _embedder(*, real: bool) -> Embedder:
    return open_embedder("e5") if real else known_questions()


def main() -> None:
    """Serve, as a process of its own."""
    import uvicorn

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--real-embedder", action="store_true")
    given = parser.parse_args()
    url = url_of(given.folder, real=given.real_embedder)
    with Memory.open(url, embedder=_embedder(real=given.real_embedder)) as memory:
        memory.index.catch_up()
        config = Gateway(upstreams={"*": Upstream(base_url=given.upstream)})
        app = create_app(memory, config, Options())
        uvicorn.run(app, host="127.0.0.1", port=given.port, log_level="warning")


if __name__ == "__main__":
    main()
