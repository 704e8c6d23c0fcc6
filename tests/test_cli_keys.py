"""Keys on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from comity.memory.embed import HashEmbedder
from comity.memory.memory import Memory
from comity.serving.auth import principal
from comity.serving.wire import Refused
from comity_command import Command


@pytest.fixture
def comity(tmp_path: Path) -> Command:
    command = Command(tmp_path)
    command.done("add", command.write("bylaws.md"))
    return command


def test_a_key_is_made_listed_without_its_secret_and_revoked(comity: Command) -> None:
    made = comity.json("keys", "create", "--role", "editor", "--note", "for Ada")
    (listed,) = comity.json("keys", "list")
    assert (listed["id"], listed["role"], listed["note"]) == (made["id"], "editor", "for Ada")
    assert made["secret"] not in str(listed)
    url = comity.environ["COMITY_MEMORY"]
    with Memory.open(url, embedder=HashEmbedder()) as memory:
        header = f"Bearer {made['secret']}"
        assert principal(memory, header).role == "editor"
        comity.done("keys", "revoke", made["id"])
        with pytest.raises(Refused, match="revoked"):
            principal(memory, header)
    assert made["secret"].encode() not in Path(url.removeprefix("sqlite:///")).read_bytes()


def test_a_key_that_is_not_there_is_an_error(comity: Command) -> None:
    result = comity("keys", "revoke", "k-none")
    assert (result.exit_code, "no key 'k-none'" in result.stderr) == (4, True)
