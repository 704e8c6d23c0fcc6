"""Comity's exams as tasks of Inspect AI: `inspect eval comity/opo_a_law --model openai/…`.

Questions, prompts and rulings are those of `comity exam run`; Inspect brings the model. Inspect
itself loads this module by its entry point: nothing else of Comity imports it, and without the
extra `inspect` it raises `MissingExtra`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from comity.errors import ExamError, MissingExtra, NotFound, SettingsError
from comity.evaluation.ask import ExamOptions, put
from comity.evaluation.exams import Exam, Question, read_exam
from comity.evaluation.inspect_ruling import ruling_text, ruling_told
from comity.evaluation.letters import read_cut, read_letter
from comity.evaluation.run import names_gold, prepared, sample
from comity.evaluation.runs import MODES, Mode
from comity.evaluation.score import wilson
from comity.memory.embed import open_embedder
from comity.memory.memory import Memory
from comity.memory.open_store import is_there, shown
from comity.models.chat import estimate_tokens
from comity.models.openai import first_token_scores
from comity.settings import Settings, load_settings

try:
    from anyio import to_thread
    from inspect_ai import Task, task
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.log import transcript
    from inspect_ai.model import (
        ChatMessageSystem,
        ChatMessageUser,
        ContentReasoning,
        GenerateConfig,
        ModelOutput,
    )
    from inspect_ai.scorer import (
        CORRECT,
        INCORRECT,
        Metric,
        SampleScore,
        Score,
        Scorer,
        Target,
        Value,
        accuracy,
        metric,
        scorer,
        stderr,
    )
    from inspect_ai.solver import Generate, Solver, TaskState, solver
except ModuleNotFoundError as error:
    raise MissingExtra("an exam in Inspect", "inspect") from error

_OPO_DATA = "COMITY_OPO_DATA"
_MAX_TOKENS = 256  # of an answer from which the letter may have to be read
_TOP_LOGPROBS = 20  # as many as OpenAI's endpoints give


def _given_file(questions: str) -> Path:
    if not questions:
        raise SettingsError("comity/exam needs its questions: give -T questions=FILE")
    return Path(questions)


def _opo_file(name: str, questions: str) -> Path:
    if questions:
        return Path(questions)
    folder = os.environ.get(_OPO_DATA)
    if not folder:
        raise SettingsError(
            f"comity/opo_{name} needs its questions: give -T questions=FILE, or let the variable "
            f"{_OPO_DATA} name the folder that holds questions/{name}.csv"
        )
    file = Path(folder) / "questions" / f"{name}.csv"
    if not file.is_file():
        raise SettingsError(
            f"comity/opo_{name}: there is no {file}, where the variable {_OPO_DATA} says that it "
            "is; give -T questions=FILE, or name the right folder"
        )
    return file


def _task_of(name: str, file_of: Callable[[str], Path]) -> Callable[..., Task]:
    """Register `comity/NAME`, whose questions lie in the file that `file_of` makes of its own.

    `questions` is the file, OPO's CSV or JSON Lines; `mode` is `base`, `comity` or `oracle`;
    `logprobs` false asks for none, for endpoints that refuse them. The others are Comity's
    settings of the same name; one that is not given comes from `comity.toml` or a variable
    `COMITY_…`. With `seed`, the questions come in the order in which
    `comity exam run --limit N --seed SEED` draws them. The task raises `SettingsError`,
    `ExamError`, and `NotFound` for a memory that is not there.
    """

    @task(name=name)
    def exam_task(
        questions: str = "",
        mode: str = "comity",
        memory: str | None = None,
        place: str | None = None,
        budget: int | None = None,
        relevance: float | None = None,
        hits: int | None = None,
        tenant: str | None = None,
        seed: int | None = None,
        logprobs: bool = True,
    ) -> Task:
        given = {
            "memory": memory,
            "place": place,
            "budget": budget,
            "relevance": relevance,
            "hits": hits,
            "tenant": tenant,
            "seed": seed,
        }
        return _exam_task(file_of(questions), _mode(mode), _settings(given), logprobs)

    return exam_task


exam = _task_of("exam", _given_file)
opo_a_law = _task_of("opo_a_law", partial(_opo_file, "a_law"))
opo_a_professional_morality = _task_of(
    "opo_a_professional_morality", partial(_opo_file, "a_professional_morality")
)
opo_h_law = _task_of("opo_h_law", partial(_opo_file, "h_law"))
opo_h_basic_morality = _task_of("opo_h_basic_morality", partial(_opo_file, "h_basic_morality"))
opo_h_social_morality = _task_of("opo_h_social_morality", partial(_opo_file, "h_social_morality"))


def _mode(name: str) -> Mode:
    for mode in MODES:
        if mode == name:
            return mode
    raise SettingsError(f"mode {name!r}: known are {', '.join(MODES)}")


def _settings(given: Mapping[str, object]) -> Settings:
    options = {name: str(value) for name, value in given.items() if value is not None}
    return load_settings(environ=os.environ, options=options).settings


def _exam_task(file: Path, mode: Mode, settings: Settings, logprobs: bool) -> Task:
    read = read_exam(file)
    memory = _open_memory(settings, mode)
    read = prepared(read, memory, settings.tenant)
    names = ExamOptions.model_fields.keys() & type(settings).model_fields.keys()
    given = {name: getattr(settings, name) for name in names}
    options = ExamOptions(**given, turns=False)  # Inspect's scorers judge one answer
    return Task(
        dataset=MemoryDataset(
            [_sample(question) for question in _asked(read, mode, settings.seed)],
            name=read.name,
            location=str(file.resolve()),
            shuffled=settings.seed is not None,
        ),
        solver=put_question(mode, memory, options),
        scorer=told_letter(),
        config=GenerateConfig(
            max_tokens=_MAX_TOKENS,
            temperature=0.0,
            seed=settings.seed,
            logprobs=True if logprobs else None,
            top_logprobs=_TOP_LOGPROBS if logprobs else None,
        ),
        metadata=_about(read, mode, settings, memory, options),
    )


def _open_memory(settings: Settings, mode: Mode) -> Memory | None:
    """The memory, open as long as the task lives; None where the mode does without."""
    if mode == "base":
        return None
    there, at = is_there(settings.memory), shown(settings.memory)
    if mode == "oracle" and not there:
        return None
    if not there:
        raise NotFound(
            f"mode {mode} needs a memory, and there is none at {at}: name it with "
            "-T memory=sqlite:///FILE or the variable COMITY_MEMORY, or make one with `comity add`"
        )
    embedder = open_embedder(
        settings.embedder,
        base_url=settings.base_url or None,
        api_key=settings.api_key.get_secret_value() or None,
    )
    memory = Memory.open(
        settings.memory,
        embedder=embedder,
        index=settings.index,
        index_token=settings.index_token.get_secret_value(),
    )
    if memory.revision == 0:
        memory.close()
        raise NotFound(f"{at} holds no rules yet: comity add FILE")
    return memory


def _asked(read: Exam, mode: Mode, seed: int | None) -> list[Question]:
    """The questions that are asked, in their order; `oracle` needs some that name gold rules."""
    asked = [q for q in _ordered(read, seed) if mode != "oracle" or names_gold(q)]
    if not asked:
        why = "names gold rules, which mode oracle needs" if mode == "oracle" else "is left to ask"
        raise ExamError(f"exam {read.name}: no question {why}")
    return asked


def _ordered(read: Exam, seed: int | None) -> Sequence[Question]:
    """In the file's order, or in the one in which `sample` draws them, whatever the limit."""
    if seed is None or not read.active:
        return read.active
    drawn = sample(read, len(read.active) - 1, seed)
    there = {question.id for question in drawn}
    return (*drawn, *(question for question in read.active if question.id not in there))


def _sample(question: Question) -> Sample:
    record = question.model_dump(mode="json", exclude_defaults=True)
    return Sample(
        id=question.id,
        input=f"{question.stem}\n{question.options_text}",
        target=question.answer,
        metadata={"question": record},
    )


def _question(state: TaskState) -> Question:
    return Question.model_validate(state.metadata["question"])


def _about(
    read: Exam, mode: Mode, settings: Settings, memory: Memory | None, options: ExamOptions
) -> dict[str, Any]:
    """What a log says of the whole task."""
    return {
        "turns": options.turns,
        "exam": read.name,
        "exam_sha256": read.sha256,
        "mode": mode,
        "memory": shown(settings.memory) if memory else None,
        "revision": memory.revision if memory else None,
        "place": settings.place,
        "tenant": settings.tenant,
        "comity": version("comity"),
        "left_out": [row.model_dump(mode="json") for row in read.left_out],
        "retired": {q.id: q.reason for q in read.questions if q.status == "retired"},
    }


@solver
def put_question(mode: Mode, memory: Memory | None, options: ExamOptions) -> Solver:
    """Put a sample's question as `comity exam run` does, and have Inspect's model answer it.

    The ruling goes into the sample's metadata (`comity`) and into its transcript.
    """

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        question = _question(state)
        prepared = await to_thread.run_sync(
            put, question, mode, memory, estimate_tokens, options, abandon_on_cancel=True
        )
        state.messages = [
            ChatMessageSystem(content=message.content)
            if message.role == "system"
            else ChatMessageUser(content=message.content)
            for message in prepared.messages
        ]
        state.metadata["comity"] = ruling_told(prepared)
        transcript().info(ruling_text(prepared), source="comity")
        return await generate(state)

    return solve


@metric
def wilson_interval() -> Metric:
    """Wilson's 95 % interval of the accuracy, over what was scored."""

    def ends(scores: list[SampleScore]) -> Value:
        right = round(sum(score.score.as_float() for score in scores))
        interval = wilson(right, len(scores))
        return {"wilson_low": interval.low, "wilson_high": interval.high} if interval else {}

    return ends


@scorer(name="letter", metrics=[accuracy(), stderr(), wilson_interval()])
def told_letter() -> Scorer:
    """Whether the letter that the model chose is the right one.

    It is told by the log-probabilities of the first token where the endpoint gives them, else
    read from the text. An answer that cannot be read is not scored: it stays out of all metrics,
    and its explanation says why.
    """

    async def score(state: TaskState, target: Target) -> Score:
        question = _question(state)
        scores = _letter_scores(state.output, question.letters)
        if scores:
            letter = max(scores, key=scores.__getitem__)
            return _scored(letter, target.text, "logprobs", scores)
        read = read_cut if state.output.stop_reason == "max_tokens" else read_letter
        reading = read(state.output.completion, question.options)
        if reading.letter:
            return _scored(reading.letter, target.text, "text", {})
        return _not_scored(state.output, reading.reason)

    return score


def _letter_scores(output: ModelOutput, letters: Sequence[str]) -> dict[str, float]:
    """Log-probability of each letter as the answer's first token; empty if it is not told."""
    if not output.choices or output.choices[0].logprobs is None:
        return {}
    content = output.choices[0].message.content
    if any(isinstance(part, ContentReasoning) for part in content):
        return {}  # the first token is one of the thoughts
    tokens = output.choices[0].logprobs.content
    top = (tokens[0].top_logprobs if tokens else None) or []
    return first_token_scores({token.token: token.logprob for token in top}, letters)


def _scored(letter: str, right: str, by: str, scores: Mapping[str, float]) -> Score:
    told = ", ".join(f"{name} {value:.2f}" for name, value in sorted(scores.items()))
    how = f"by log-probabilities ({told})" if scores else "read from the text"
    return Score(
        value=CORRECT if letter == right else INCORRECT,
        answer=letter,
        explanation=f"{letter}, {how}; right is {right}",
        metadata={"scored_by": by, "logprobs": dict(scores)},
    )


def _not_scored(output: ModelOutput, reason: str) -> Score:
    return Score.unscored(
        reason="invalid_response_format" if output.completion.strip() else "no_response",
        explanation=f"not scored: {reason}",
    )
