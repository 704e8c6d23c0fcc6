"""Settings: one frozen record, gathered from a file, the environment and the caller's options.

Later sources win: defaults, then `comity.toml`, then variables `COMITY_…`, then options.
"""

from __future__ import annotations

import getpass
import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, SecretStr, ValidationError

from comity.errors import SettingsError
from comity.records import DEFAULT_TENANT, WORLD, Record

CONFIG = Path("comity.toml")
PREFIX = "COMITY_"
OTHER_VARIABLES = ("COMITY_CACHE", "COMITY_CONFIG", "COMITY_DEBUG", "COMITY_OPO_DATA")
"""Variables that are no settings: folder of models and graphs, settings file, tracebacks, data."""


def login_name() -> str:
    """Name of the user who runs this process; empty where the system has none for them."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""


class Settings(Record):
    """What the command line and the gateway run with."""

    memory: str = Field(
        "sqlite:///comity.db",
        min_length=1,
        description="URL of the memory: `sqlite:///FILE` or `postgresql://USER@HOST/DATABASE`.",
    )
    tenant: str = Field(DEFAULT_TENANT, min_length=1, description="Whose rules are meant.")
    place: str = Field(
        WORLD, min_length=1, description="Place of a question for which none is given or named."
    )
    author: str = Field(
        default_factory=login_name, description="Who changes rules; the login name by default."
    )
    model: str = Field(
        "local", min_length=1, description="Chat model: `local`, `openai:MODEL` or `scripted`."
    )
    base_url: str = Field("", description="Address of the OpenAI-compatible endpoint.")
    api_key: SecretStr = Field(SecretStr(""), description="Key of that endpoint; never shown.")
    timeout: float | None = Field(
        None, gt=0, description="Seconds that a model may stay silent; by default as it suits it."
    )
    embedder: str = Field(
        "e5", min_length=1, description="Embedder: `e5`, `hash`, `openai:MODEL`, `fastembed:MODEL`."
    )
    index: str = Field(
        "local", min_length=1, description="Index: `local`, or `milvus:http://HOST:19530`."
    )
    index_token: SecretStr = Field(SecretStr(""), description="Token of Milvus; never shown.")
    hits: int = Field(20, ge=1, description="How many rules a search gives.")
    relevance: float = Field(
        0.75, ge=0, le=1, description="Hits after the fourth must score this share of the best."
    )
    budget: int = Field(1000, ge=0, description="Tokens that rules may take in a prompt.")
    max_tokens: int = Field(512, ge=1, description="Longest answer, in tokens.")
    incomplete_note: bool = Field(True, description="Tell the model that rules may be missing.")
    temperature: float = Field(0.0, ge=0, description="Of the model; 0 is greedy.")
    seed: int | None = Field(None, description="For sampling that can be repeated.")
    judge: str = Field("", description="Model that checks what code cannot, as `model`; or none.")
    judge_timeout: float = Field(30.0, gt=0, description="Seconds that the judge may take.")
    deny_unchecked: Literal["failed", "any", "never"] = Field(
        "failed", description="Under `block` rules, withhold what failed its check, any, or none."
    )
    judge_conflicts: bool = Field(
        False, description="Gateway: have the judge compare rules that were in force together."
    )
    release: Literal["strict", "window", "observe"] = Field(
        "strict", description="When text leaves: checked whole, by sentences, or afterwards."
    )
    rounds: int = Field(2, ge=0, description="How often an answer is rewritten, at most.")
    infer: Literal["never", "user_info", "conversation"] = Field(
        "never", description="What implicit wishes of a user are inferred from, by the model."
    )
    rewrite: Literal["off", "on"] = Field(
        "off", description="Search also what the model makes of the question; not in the gateway."
    )
    samples: int = Field(
        1, ge=1, le=16, description="Answers of which the best is taken; not in the gateway."
    )
    refine_rounds: int = Field(
        1, ge=0, le=8, description="How often as many are written anew from a critique of these."
    )
    max_file_mb: float = Field(50.0, gt=0, description="Largest document that is read, in MB.")


class Loaded(NamedTuple):
    """Settings, and for each one where it came from."""

    settings: Settings
    sources: Mapping[str, str]


class _Given(NamedTuple):
    value: Any
    source: str


def load_settings(
    *,
    config: Path | None = None,
    environ: Mapping[str, str] | None = None,
    options: Mapping[str, str] | None = None,
) -> Loaded:
    """The settings of a file, of variables and of options, later ones winning.

    Without `config` (or `COMITY_CONFIG`), `comity.toml` in the working directory is read if it is
    there. A relative memory is relative to the working directory. Raises `SettingsError`, naming
    file, variable or option, for an unknown key, a value that cannot be used, and a file that
    cannot be read.
    """
    environ = environ or {}
    named = config or (Path(environ["COMITY_CONFIG"]) if environ.get("COMITY_CONFIG") else None)
    given: dict[str, _Given] = {}
    if named is not None or CONFIG.exists():
        given |= dict(_from_file(named or CONFIG))
    given |= dict(_from_variables(environ))
    given |= {name: _Given(v, f"option {flag(name)}") for name, v in (options or {}).items()}
    return Loaded(_validated(given), {n: _source(n, given) for n in Settings.model_fields})


def flag(name: str) -> str:
    """The option of a setting: `--max-tokens` for `max_tokens`."""
    return "--" + name.replace("_", "-")


def _source(name: str, given: Mapping[str, _Given]) -> str:
    return given[name].source if name in given else "default"


def _from_file(path: Path) -> Iterator[tuple[str, _Given]]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: is no valid TOML: {error}") from error
    for name, value in content.items():
        if name not in Settings.model_fields:
            raise SettingsError(f"{path}: unknown setting {name!r}: {_hint(name)}")
        yield name, _Given(value, str(path))


def _from_variables(environ: Mapping[str, str]) -> Iterator[tuple[str, _Given]]:
    for variable, value in sorted(environ.items()):
        name = variable.removeprefix(PREFIX).lower()
        if not variable.startswith(PREFIX) or variable in OTHER_VARIABLES:
            continue
        if name in Settings.model_fields:
            yield name, _Given(value, f"variable {variable}")
        elif near := _near(name):
            # Others pass: Kubernetes itself sets COMITY_SERVICE_HOST beside a service `comity`.
            raise SettingsError(
                f"unknown variable {variable}: did you mean {PREFIX}{near[0].upper()}?"
            )


def _near(name: str) -> list[str]:
    return get_close_matches(name.lower(), Settings.model_fields, n=3, cutoff=0.75)


def _hint(name: str) -> str:
    near = _near(name)
    known = ", ".join(near) if near else ", ".join(Settings.model_fields)
    return f"did you mean {known}?" if near else f"known are {known}"


def _validated(given: Mapping[str, _Given]) -> Settings:
    try:
        return Settings.model_validate({name: one.value for name, one in given.items()})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        name = str(problem["loc"][0])
        secret = Settings.model_fields[name].annotation is SecretStr
        shown = "" if secret else f" (given {str(problem['input'])[:60]!r})"
        raise SettingsError(f"{given[name].source}: {name}: {problem['msg']}{shown}") from error
