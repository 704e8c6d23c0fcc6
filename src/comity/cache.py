"""Where Comity keeps what it can make or fetch again: models, graphs, compiled tables."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder named by `COMITY_CACHE`, else `comity` in the user's cache folder."""
    named = os.environ.get("COMITY_CACHE")
    if named:
        return Path(named).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("comity", appauthor=False)
