"""Settings come from a file, variables and options, and wrong ones are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from comity.errors import SettingsError
from comity.settings import Settings, load_settings


def config(folder: Path, text: str) -> Path:
    path = folder / "comity.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_hold_where_nothing_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings, sources = load_settings()
    assert settings == Settings()
    assert settings.memory == "sqlite:///comity.db"
    assert set(sources.values()) == {"default"}


def test_variables_win_over_the_file_and_options_over_variables(tmp_path: Path) -> None:
    path = config(tmp_path, 'hits = 3\nbudget = 300\nplace = "CN"\n')
    settings, sources = load_settings(
        config=path,
        environ={"COMITY_HITS": "4", "COMITY_BUDGET": "400"},
        options={"hits": "5"},
    )
    assert (settings.hits, settings.budget, settings.place) == (5, 400, "CN")
    assert sources["hits"] == "option --hits"
    assert sources["budget"] == "variable COMITY_BUDGET"
    assert sources["place"] == str(path)


def test_the_file_in_the_working_directory_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config(tmp_path, "max_tokens = 77\n")
    monkeypatch.chdir(tmp_path)
    assert load_settings().settings.max_tokens == 77


def test_a_variable_names_the_file(tmp_path: Path) -> None:
    path = config(tmp_path, 'tenant = "acme"\n')
    assert load_settings(environ={"COMITY_CONFIG": str(path)}).settings.tenant == "acme"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hitz = 3\n", r"comity\.toml: unknown setting 'hitz': did you mean hits\?"),
        ("zzz = 3\n", r"comity\.toml: unknown setting 'zzz': known are memory, tenant"),
        ("hits = 0\n", r"comity\.toml: hits: .*greater than or equal to 1 \(given '0'\)"),
        ('budget = "many"\n', r"comity\.toml: budget: .*integer.*\(given 'many'\)"),
        ("hits = \n", r"comity\.toml: is no valid TOML: .*line 1"),
    ],
)
def test_a_wrong_file_is_refused_by_name_and_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_settings(config=config(tmp_path, text))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.toml: cannot be read: No such file"):
        load_settings(config=tmp_path / "none.toml")


def test_a_wrong_variable_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match=r"variable COMITY_TIMEOUT: timeout: .*given 'soon'"):
        load_settings(environ={"COMITY_TIMEOUT": "soon"})


def test_a_wrong_option_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match="option --max-tokens: max_tokens"):
        load_settings(options={"max_tokens": "-1"})


def test_a_misspelt_variable_is_refused_with_the_right_one() -> None:
    with pytest.raises(SettingsError, match=r"COMITY_MEMMORY: did you mean COMITY_MEMORY\?"):
        load_settings(environ={"COMITY_MEMMORY": "x.db"})


def test_variables_that_a_cluster_sets_for_its_services_are_passed_over() -> None:
    environ = {"COMITY_SERVICE_HOST": "10.0.0.1", "COMITY_CACHE": "/c", "HITS": "9"}
    assert load_settings(environ=environ).settings.hits == Settings().hits


def test_a_key_is_shown_neither_in_the_record_nor_in_errors(tmp_path: Path) -> None:
    settings = load_settings(environ={"COMITY_API_KEY": "sk-secret"}).settings
    assert "sk-secret" not in repr(settings) + settings.model_dump_json()
    assert settings.api_key.get_secret_value() == "sk-secret"
    with pytest.raises(SettingsError) as caught:
        load_settings(config=config(tmp_path, "api_key = 1234567\n"))
    assert "1234567" not in str(caught.value)
