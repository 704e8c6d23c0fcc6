"""The sample rules: documents of an imagined country, as a rule owner would hand them in."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def sample_folder() -> Path:
    """Folder of the sample documents and of `documents.toml`, which describes them."""
    return Path(str(files(__name__) / "arlenia"))
