"""Documents of strangers, read in a process of their own, with limits on time and memory.

A PDF or DOCX file goes through parsers of other languages: what crashes or exhausts them takes
this process down, and not the one that serves everybody.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from comity.documents.read import Document, format_of, read_bytes
from comity.errors import DocumentError

_APART = ("pdf", "docx", "html")
_SECONDS = 60
_BYTES = 1_500_000_000


def read_apart(path: Path, data: bytes, *, seconds: int = _SECONDS) -> Document:
    """A file's bytes as a document; `path` only names it, and is never opened.

    Raises `DocumentError`, also for a file whose reader crashed or took too long.
    """
    if format_of(path) not in _APART:
        return read_bytes(path, data)
    command = [sys.executable, "-P", "-m", "comity.documents.apart", str(path), str(seconds)]
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=seconds + 5)
    except subprocess.TimeoutExpired as error:
        raise _too_much(path, seconds) from error
    if done.returncode == 0:
        return Document.model_validate_json(done.stdout)
    if done.returncode == DocumentError.exit_code and done.stdout:
        told = json.loads(done.stdout)
        raise DocumentError(path, told["problem"], line=told["line"])
    raise _too_much(path, seconds)


def _too_much(path: Path, seconds: int) -> DocumentError:
    problem = f"could not be read within {seconds} seconds and {_BYTES / 1e9:g} GB of memory"
    return DocumentError(path, f"{problem}; it may be damaged: save it again, or as text")


def _limit(seconds: int) -> None:
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (_BYTES, _BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(path: str, seconds: str) -> int:
    """Read a document from stdin and print it as JSON; what is wrong with it is code 3."""
    _limit(int(seconds))
    try:
        document = read_bytes(Path(path), sys.stdin.buffer.read())
    except DocumentError as error:
        told = json.dumps({"problem": error.problem, "line": error.line})
        sys.stdout.buffer.write(told.encode())
        return DocumentError.exit_code
    sys.stdout.buffer.write(document.model_dump_json().encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
