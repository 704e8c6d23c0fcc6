"""Comity's exams as tasks of Inspect AI, answered by Inspect's own fake model."""

from __future__ import annotations

import gc
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from comity.errors import ExamError, NotFound, SettingsError
from comity.evaluation.ask import ExamOptions, put
from comity.evaluation.exams import Exam, Question, read_exam, write_exam
from comity.evaluation.run import sample
from comity.evaluation.score import wilson
from comity.memory.memory import Memory
from comity.models.chat import estimate_tokens
from comity.records import Rule, RuleRef

pytest.importorskip("inspect_ai", reason="the extra `inspect` is not installed")

from inspect_ai import Task, eval
from inspect_ai.event import InfoEvent
from inspect_ai.log import EvalLog, EvalSample, read_eval_log
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessageAssistant,
    Content,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    Logprob,
    Logprobs,
    Model,
    ModelOutput,
    ModelUsage,
    StopReason,
    TopLogprob,
    get_model,
)

from comity.evaluation import inspect_tasks

# Inspect's own: a deprecated argument to its library for retries, and streams that it leaves open.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'initial' parameter:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning"),
]

OPO_SETS = ("a_law", "a_professional_morality", "h_law", "h_basic_morality", "h_social_morality")
OPO_DATA = os.environ.get("COMITY_OPO_DATA", "")

LEAD = Rule(id="lead", title="By-laws", article="Article 1", text="Dogs are kept on a lead.")
STALLS = Rule(id="stalls", title="By-laws", article="Article 2", text="Stalls close at 18:00.")
DOGS = Question(
    id="dogs",
    stem="How are dogs kept?",
    options=("Free", "On a lead", "In a cage"),
    answer="B",
    rules=(RuleRef(id="lead", version=1),),
)
MARKET = Question(
    id="market",
    stem="When do stalls close?",
    options=("At noon", "At 18:00"),
    answer="B",
    rules=(RuleRef(id="stalls", version=1),),
)
FIRE = Question(id="fire", stem="May one light a fire?", options=("Yes", "No"), answer="B")


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a memory and an exam."""
    folder = tmp_path_factory.mktemp("town")
    write_exam(folder / "town.jsonl", [DOGS, MARKET, FIRE])
    with Memory.open(f"sqlite:///{folder}/rules.db", embedder="hash") as memory:
        memory.add(LEAD)
        memory.add(STALLS)
    return folder


@pytest.fixture(scope="module", autouse=True)
def _all_closed() -> Iterator[None]:
    yield
    gc.collect()  # what Inspect left open is closed here, where its warnings are not errors


@pytest.fixture(autouse=True)
def _own_surroundings(town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the town to work in, and nothing of this machine's settings."""
    for name in [name for name in os.environ if name.startswith(("COMITY_", "INSPECT_"))]:
        if name != "COMITY_CACHE":
            monkeypatch.delenv(name)
    monkeypatch.setenv("COMITY_EMBEDDER", "hash")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(shutil.copytree(town, tmp_path / "town"))


def said(
    text: str | Sequence[Content],
    tops: Mapping[str, float] | None = None,
    stop: StopReason = "stop",
) -> ModelOutput:
    """What a model said, with the first token's log-probabilities if any are given."""
    content = text if isinstance(text, str) else list(text)
    top = [TopLogprob(token=token, logprob=logprob) for token, logprob in (tops or {}).items()]
    first = Logprob(token="", logprob=0.0, top_logprobs=top)
    choice = ChatCompletionChoice(
        message=ChatMessageAssistant(content=content),
        stop_reason=stop,
        logprobs=Logprobs(content=[first]) if tops else None,
    )
    # without its usage, Inspect would fetch a tokenizer to count it
    usage = ModelUsage(input_tokens=10, output_tokens=1, total_tokens=11)
    return ModelOutput(model="mockllm", choices=[choice], usage=usage)


def answering(answers: Mapping[str, ModelOutput] | ModelOutput) -> Model:
    """A model that answers the first key that its prompt begins with."""

    def answer(messages: Sequence[Any], *_: Any) -> ModelOutput:
        if isinstance(answers, ModelOutput):
            return answers
        return next(out for stem, out in answers.items() if messages[-1].text.startswith(stem))

    return get_model("mockllm/model", custom_outputs=answer, memoize=False)


def taken(model: Model, task: str = "comity/exam", **args: Any) -> EvalLog:
    """The log of an exam in `town.jsonl`, read back from its file."""
    given = {"questions": "town.jsonl", "mode": "base"} | args
    (log,) = eval(task, model=model, task_args=given, log_dir="logs", display="none")
    assert log.status == "success", log.error
    return read_eval_log(log.location, resolve_attachments=True)


def samples(log: EvalLog) -> dict[str, EvalSample]:
    return {str(one.id): one for one in log.samples or ()}


def metrics(log: EvalLog) -> dict[str, float]:
    assert log.results is not None
    return {name: found.value for name, found in log.results.scores[0].metrics.items()}


def test_a_letter_is_told_by_log_probabilities_else_by_the_text_else_not_scored() -> None:
    model = answering(
        {
            "How are dogs": said("C", {"C": -1.0, " B": -0.5, "The": -3.0}),
            "When do": said("The answer is A."),
            "May one": said("That depends on the town."),
        }
    )
    log = taken(model)
    scores = {name: one.scores["letter"] for name, one in samples(log).items() if one.scores}
    assert (scores["dogs"].value, scores["dogs"].answer) == ("C", "B")
    assert scores["dogs"].metadata == {"scored_by": "logprobs", "logprobs": {"C": -1.0, "B": -0.5}}
    assert (scores["market"].value, scores["market"].answer) == ("I", "A")
    assert scores["market"].explanation == "A, read from the text; right is B"
    assert math.isnan(scores["fire"].as_float())
    assert scores["fire"].reason == "invalid_response_format"
    assert str(scores["fire"].explanation).startswith("not scored: ")


def test_what_is_not_scored_stays_out_of_the_accuracy() -> None:
    model = answering(
        {"How are dogs": said("B"), "When do": said("A"), "May one": said("It depends.")}
    )
    log = taken(model)
    assert log.results is not None
    (score,) = log.results.scores
    assert (score.scored_samples, score.unscored_samples) == (2, 1)
    interval = wilson(1, 2)
    assert interval is not None
    found = metrics(log)
    assert found["accuracy"] == 0.5
    assert (found["wilson_low"], found["wilson_high"]) == (interval.low, interval.high)


def test_where_nothing_is_scored_there_is_no_accuracy() -> None:
    found = metrics(taken(answering(said("It depends."))))
    assert math.isnan(found["accuracy"])


def test_an_answer_that_was_cut_says_what_to_do() -> None:
    log = taken(answering(said("The answer is B. Or is", stop="max_tokens")))
    (score,) = (samples(log)["dogs"].scores or {}).values()
    told = "B may not be its last word; the answer was cut at its longest: raise --max-tokens"
    assert score.explanation == f"not scored: {told}"


def test_an_empty_answer_is_no_response() -> None:
    (score,) = (samples(taken(answering(said(""))))["dogs"].scores or {}).values()
    assert score.reason == "no_response"


def test_the_first_token_of_a_thought_tells_no_letter() -> None:
    thought: list[Content] = [ContentReasoning(reasoning="A dog …"), ContentText(text="B")]
    (score,) = (samples(taken(answering(said(thought, {"A": -0.1}))))["dogs"].scores or {}).values()
    assert (score.answer, score.value) == ("B", "C")


def test_the_ruling_stands_in_the_log() -> None:
    log = taken(answering(said("B")), mode="comity", memory="sqlite:///rules.db")
    dogs = samples(log)["dogs"]
    told = dogs.metadata["comity"]
    assert "lead" in [rule["id"] for rule in told["kept"]]
    assert (told["revision"], told["gold_found"], told["gold_sent"]) == (2, 1.0, 1.0)
    assert "Dogs are kept on a lead." in dogs.messages[-2].text
    (info,) = [event for event in dogs.events if isinstance(event, InfoEvent)]
    assert info.source == "comity"
    assert "By-laws Article 1 (`lead`, version 1" in str(info.data)
    assert log.eval.metadata is not None
    assert (log.eval.metadata["revision"], log.eval.metadata["mode"]) == (2, "comity")
    assert log.eval.metadata["turns"] is False


@pytest.mark.parametrize("mode", ["base", "comity", "oracle"])
def test_the_prompt_is_that_of_an_exam_run(mode: Any) -> None:
    log = taken(answering(said("B")), mode=mode, memory="sqlite:///rules.db", budget=300)
    with Memory.open("sqlite:///rules.db", embedder="hash") as memory:
        wanted = put(DOGS, mode, memory, estimate_tokens, ExamOptions(budget=300))
    asked = samples(log)["dogs"].messages[:-1]
    assert [(one.role, one.text) for one in asked] == [
        (message.role, message.content) for message in wanted.messages
    ]


def test_the_model_is_asked_for_log_probabilities_and_without_chance() -> None:
    asked: list[GenerateConfig] = []

    def answer(messages: Any, tools: Any, choice: Any, config: GenerateConfig) -> ModelOutput:
        asked.append(config)
        return said("B")

    model = get_model("mockllm/model", custom_outputs=answer, memoize=False)
    taken(model, seed=7)
    taken(model, logprobs=False)
    first, last = asked[0], asked[-1]
    assert (first.logprobs, first.top_logprobs) == (True, 20)
    assert (first.temperature, first.seed, first.max_tokens) == (0.0, 7, 256)
    assert (last.logprobs, last.top_logprobs, last.seed) == (None, None, None)


def test_oracle_asks_only_what_names_gold_rules() -> None:
    log = taken(answering(said("B")), mode="oracle", memory="sqlite:///rules.db")
    assert sorted(samples(log)) == ["dogs", "market"]
    write_exam(Path("town.jsonl"), [FIRE])
    with pytest.raises(ExamError, match="town: no question names gold rules"):
        inspect_tasks.exam(questions="town.jsonl", mode="oracle")


def test_questions_that_a_changed_rule_retired_are_not_asked() -> None:
    with Memory.open("sqlite:///rules.db", embedder="hash") as memory:
        memory.amend("lead", {"text": "Dogs run free."})
    task = inspect_tasks.exam(questions="town.jsonl", memory="sqlite:///rules.db")
    assert [one.id for one in task.dataset] == ["market", "fire"]
    assert list((task.metadata or {})["retired"]) == ["dogs"]


def test_a_seed_brings_the_order_of_an_exam_run() -> None:
    questions = tuple(DOGS.model_copy(update={"id": str(n), "stem": f"{n}?"}) for n in range(20))
    write_exam(Path("many.jsonl"), questions)
    wanted = [one.id for one in sample(Exam(name="many", questions=questions), 8, seed=5)]
    shuffled = inspect_tasks.exam(questions="many.jsonl", mode="base", seed=5)
    assert [one.id for one in shuffled.dataset][:8] == wanted
    plain = inspect_tasks.exam(questions="many.jsonl", mode="base")
    assert [one.id for one in plain.dataset] == [one.id for one in questions]


def test_settings_come_from_variables_and_parameters_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMITY_MEMORY", "sqlite:///rules.db")
    monkeypatch.setenv("COMITY_BUDGET", "1")
    sent = samples(taken(answering(said("B")), mode="comity"))["dogs"].metadata["comity"]
    assert (sent["rule_tokens"], sent["gold_sent"]) == (0, 0.0)
    more = samples(taken(answering(said("B")), mode="comity", budget=500))["dogs"]
    assert more.metadata["comity"]["gold_sent"] == 1.0


@pytest.mark.parametrize(
    ("args", "error", "problem"),
    [
        ({"questions": ""}, SettingsError, "-T questions=FILE"),
        ({"questions": "no.jsonl"}, ExamError, r"there is no exam no\.jsonl"),
        ({"mode": "comitty"}, SettingsError, "'comitty': known are base, comity, oracle"),
        ({"memory": "sqlite:///no.db"}, NotFound, r"sqlite:///no\.db.*COMITY_MEMORY"),
        ({"budget": -1}, SettingsError, "budget"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_asked(
    args: dict[str, Any], error: type[Exception], problem: str
) -> None:
    with pytest.raises(error, match=problem):
        inspect_tasks.exam(**{"questions": "town.jsonl"} | args)


def test_an_empty_memory_is_refused() -> None:
    Memory.open("sqlite:///empty.db", embedder="hash").close()
    with pytest.raises(NotFound, match="holds no rules yet"):
        inspect_tasks.exam(questions="town.jsonl", memory="sqlite:///empty.db")


def test_an_opo_task_finds_its_questions_through_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = "1,Wie werden Hunde gehalten?,frei,an der Leine,B"
    (tmp_path / "questions").mkdir()
    (tmp_path / "questions" / "a_law.csv").write_text(f"id,question,A,B,answer\n{row}\n", "utf-8")
    monkeypatch.setenv("COMITY_OPO_DATA", str(tmp_path))
    log = taken(answering(said("B")), "comity/opo_a_law", questions="")
    assert metrics(log)["accuracy"] == 1.0
    assert log.eval.dataset.name == "a_law"


@pytest.mark.parametrize("name", OPO_SETS)
def test_an_opo_task_without_questions_names_parameter_and_variable(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task: Callable[..., Task] = getattr(inspect_tasks, f"opo_{name}")
    with pytest.raises(SettingsError, match=r"-T questions=FILE.*COMITY_OPO_DATA"):
        task(mode="base")
    monkeypatch.setenv("COMITY_OPO_DATA", str(tmp_path))
    with pytest.raises(SettingsError, match=rf"no .*{name}\.csv.*-T questions=FILE"):
        task(mode="base")
    assert task(questions="town.jsonl", mode="base").dataset.name == "town"


@pytest.mark.skipif(not OPO_DATA, reason="COMITY_OPO_DATA names no folder of OPO's data")
@pytest.mark.parametrize("name", OPO_SETS)
def test_every_file_of_opo_is_a_task(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMITY_OPO_DATA", OPO_DATA)
    task: Callable[..., Task] = getattr(inspect_tasks, f"opo_{name}")
    active = read_exam(Path(OPO_DATA, "questions", f"{name}.csv")).active
    assert len(task(mode="base").dataset) == len(active) > 100
