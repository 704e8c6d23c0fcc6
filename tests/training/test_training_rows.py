"""Rows of training files: what is taken, and what is refused by file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comity.errors import TrainingError
from comity.training.rows import Conversation, Pair, missing_families, read_rows
from pairs_to_learn import conversations, pairs, write_lines

TEXTS = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)


def test_rows_are_read_with_their_families_and_other_columns_dropped(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "dpo.train.jsonl", pairs(("tea", "rain")))
    rows, file = read_rows(path, Pair)
    assert [row.chosen[0].content for row in rows] == ["Yes.", "No.", "Yes.", "No."]
    assert file.families == {"helpful": 2, "priority": 2}
    assert not hasattr(rows[0], "wish")


@given(question=TEXTS, chosen=TEXTS, rejected=TEXTS)
def test_texts_are_kept_to_the_letter(
    tmp_path_factory: pytest.TempPathFactory, question: str, chosen: str, rejected: str
) -> None:
    row = {
        "prompt": [{"role": "user", "content": question}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected + "!" + chosen}],
    }
    path = write_lines(tmp_path_factory.mktemp("rows") / "pairs.jsonl", [row])
    (read,), _ = read_rows(path, Pair)
    assert json.loads(read.model_dump_json(exclude={"family"})) == row


def test_the_families_that_are_missing_are_named_where_any_is_named(tmp_path: Path) -> None:
    assert missing_families({"helpful": 2, "priority": 1}) == ("consensus", "diverse")
    assert missing_families({}) == ()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: is no JSON"),
        ("[1]", "line 2: is no JSON object"),
        ('{"text": "x"}', "line 2: needs prompt, chosen, rejected"),
        ('{"messages": []}', "these look like rows of comity train sft"),
        (
            '{"prompt": [{"role": "user", "content": "?"}], "chosen": "Yes.", "rejected": []}',
            "line 2: chosen: Input should be a valid tuple",
        ),
    ],
)
def test_a_bad_pair_is_named_by_file_and_line(tmp_path: Path, line: str, said: str) -> None:
    path = write_lines(tmp_path / "dpo.train.jsonl", list(pairs(("tea",)))[:1])
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    with pytest.raises(TrainingError) as raised:
        read_rows(path, Pair)
    assert str(path) in str(raised.value)
    assert said in str(raised.value)


def test_a_pair_needs_a_question_two_answers_and_a_difference(tmp_path: Path) -> None:
    row = next(pairs(("tea",)))
    for change, said in (
        ({"rejected": row["chosen"]}, "are the same text"),
        ({"chosen": row["prompt"][1:]}, "chosen must end with a message of the assistant"),
        ({"prompt": row["prompt"][:1]}, "last message of prompt must be the user's"),
        ({"rejected": [{"role": "assistant", "content": " "}]}, "rejected must end with"),
    ):
        path = write_lines(tmp_path / "dpo.train.jsonl", [row | change])
        with pytest.raises(TrainingError, match=said):
            read_rows(path, Pair)


def test_a_conversation_ends_with_an_answer_to_the_user(tmp_path: Path) -> None:
    row = next(conversations(("tea",)))
    for messages, said in (
        (row["messages"][:2], "messages must end with a message of the assistant"),
        ([row["messages"][0], row["messages"][2]], "must be a message of the user"),
        (row["messages"][2:], "messages: Tuple should have at least 2 items"),
    ):
        path = write_lines(tmp_path / "sft.train.jsonl", [{"messages": messages}])
        with pytest.raises(TrainingError, match=said):
            read_rows(path, Conversation)


def test_a_file_without_rows_and_one_that_is_not_there_are_refused(tmp_path: Path) -> None:
    empty = write_lines(tmp_path / "sft.train.jsonl", [])
    with pytest.raises(TrainingError, match="holds no rows"):
        read_rows(empty, Conversation)
    with pytest.raises(TrainingError, match="cannot be read: No such file"):
        read_rows(tmp_path / "none.jsonl", Conversation)
