"""`comity exam`: questions made from rules, put to models with and without the memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from comity.cli.exam_generate import generate_command
from comity.cli.exam_notes import note_plan, say_scores
from comity.cli.exam_preferences import preferences_command
from comity.cli.exam_ray import examiners
from comity.cli.exam_report import Floor, fail_under_option, report_command
from comity.cli.exam_retire import retire_command
from comity.cli.output import note, progress_bar
from comity.cli.ray import ray_option
from comity.cli.session import Session, pass_session, settings_options

if TYPE_CHECKING:
    from comity.evaluation.ask import ExamOptions
    from comity.evaluation.exams import Exam
    from comity.evaluation.run import Examiner, Job
    from comity.evaluation.runs import Item, Key, Mode, Plan, Run
    from comity.memory.memory import Memory
    from comity.models.chat import ChatModel
    from comity.workers import Make

_PARALLEL = 8  # requests at once to a server; a model on this machine works on one


class ModesType(click.ParamType["tuple[Mode, ...]"]):
    """`base,comity,oracle`, or some of them."""

    name = "modes"

    def convert(
        self,
        value: str | tuple[Mode, ...],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[Mode, ...]:
        """The modes in a list with commas, in their usual order."""
        from comity.evaluation.runs import MODES

        if isinstance(value, tuple):
            return value
        named = {part.strip() for part in value.split(",") if part.strip()}
        if not named or not named <= set(MODES):
            self.fail(f"{value!r}: known are {', '.join(MODES)}", param, ctx)
        return tuple(mode for mode in MODES if mode in named)


@click.group("exam")
def exam_group() -> None:
    """Questions made from rules, put to a model with and without them, and scored."""


@exam_group.command("run")
@click.option(
    "--questions",
    "files",
    type=click.Path(dir_okay=False, path_type=Path),
    multiple=True,
    required=True,
    metavar="FILE",
    help="An exam: OPO's CSV or JSON Lines; repeatable.",
)
@click.option(
    "--modes",
    type=ModesType(),
    default="base,comity",
    show_default=True,
    help="base: no rules; comity: those found; oracle: those a question was made from.",
)
@click.option(
    "--limit", type=click.IntRange(1), metavar="N", help="Questions of each exam, drawn by --seed."
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Where the run is kept; by default runs/ and the time.",
)
@click.option("--resume", is_flag=True, help="Continue the run that lies in --out.")
@click.option(
    "--changed",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="RUN",
    help="Ask only what has changed since that run: answers to equal prompts are taken over.",
)
@click.option("--skip-bad", is_flag=True, help="Leave out lines that cannot be used.")
@click.option(
    "--parallel", type=click.IntRange(1), metavar="N", help="Questions at a time (servers: 8)."
)
@ray_option("Put them on a Ray cluster, one at a time on each of its processors (docs/ray.md).")
@click.option(
    "--turns/--no-turns",
    default=True,
    show_default=True,
    help="Ask in two orders of the options, and in all where these differ; or in one.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    metavar="N",
    help="Longest answer where the letter is read from the text (reasoning models: 4096).",
)
@fail_under_option
@settings_options("memory", "tenant", "embedder", "model", "base_url", "timeout")
@settings_options("place", "hits", "relevance", "budget", "seed")
@pass_session
@click.pass_context
def run_command(
    context: click.Context,
    session: Session,
    files: tuple[Path, ...],
    modes: tuple[Mode, ...],
    limit: int | None,
    out: Path | None,
    resume: bool,
    changed: Path | None,
    skip_bad: bool,
    parallel: int | None,
    ray: str | None,
    turns: bool,
    max_tokens: int,
    floors: tuple[Floor, ...],
) -> None:
    """Put exams to a model, and keep every prompt, ruling and answer in a folder.

    A run that is stopped is continued with --resume. Questions whose rules have changed since
    they were written are not asked, in any mode, where there is a memory that says so.
    """
    from comity.evaluation.exams import read_exam
    from comity.evaluation.run import Examiner
    from comity.evaluation.runs import Run

    if resume and out is None:
        raise click.UsageError("--resume needs --out: the folder of the run to be continued")
    exams = [read_exam(file, skip_bad=skip_bad) for file in files]
    _check_names(exams, modes, floors)
    searched = "comity" in modes or ("oracle" in modes and session.has_memory())
    memory = session.open_memory() if searched else _book(session)
    try:
        if searched and memory is not None:
            _check_scope(session, memory)
        tenant = session.settings.tenant
        exams = [_prepared(exam, memory, tenant, searched=searched) for exam in exams]
        model = session.open_model()
        options = _options(session, turns, max_tokens)
        used = memory if searched else None
        plan, todo = _plan(session, files, exams, modes, limit, used, model, options)
        earlier = _earlier(changed, model.name, options)
        examiner = Examiner(model, memory, options, earlier)
        folder = out or Path("runs") / f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
        if resume and not (folder / "run.json").exists():
            note(f"there is no run in {folder} to be continued: a new one begins")
        with Run.begin(folder, plan, resume=resume) as run:
            note_plan(plan, exams, todo, folder)
            if resume:
                note(f"{len(run.answered())} of them are there already")
            at_once = parallel or (_PARALLEL if model.name.startswith("openai:") else 1)
            if ray is None:
                _execute(run, todo, _by_this_process(run, todo, examiner, at_once))
            else:
                make = examiners(session, used, options, earlier)
                _execute(run, todo, _by_cluster(run, todo, make, ray, parallel))
            missed = say_scores(run, floors, changed=changed)
    finally:
        if memory is not None:
            memory.close()
    context.exit(1 if missed else 0)


def _book(session: Session) -> Memory | None:
    """The memory's book of record, which says what has been retired; None where there is none."""
    from comity.errors import NotFound

    try:
        return session.open_book()
    except NotFound:
        return None


def _prepared(exam: Exam, memory: Memory | None, tenant: str, *, searched: bool) -> Exam:
    """The exam as the rules now stand; as it is where none is searched and all are unknown."""
    from comity.errors import ExamError
    from comity.evaluation.run import prepared

    try:
        return prepared(exam, memory, tenant)
    except ExamError as error:
        if searched:
            raise ExamError(f"{exam.name}: {error}") from error
        note(f"{exam.name} is asked as it is: {error}")
        return exam


def _check_names(exams: Sequence[Exam], modes: tuple[Mode, ...], floors: Sequence[Floor]) -> None:
    """Before anything is asked: each exam has a name of its own, and each floor is met by one."""
    from comity.errors import ExamError

    names = [exam.name for exam in exams]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ExamError(
            f"two exams are called {twice[0]}: rename one of the files, or give it only once"
        )
    there = [f"{name}.{mode}" for name in names for mode in modes]
    for floor in floors:
        if f"{floor.exam}.{floor.mode}" not in there:
            raise click.UsageError(
                f"--fail-under {floor.exam}.{floor.mode}: this run has {', '.join(there)}"
            )


def _check_scope(session: Session, memory: Memory) -> None:
    """Before anything is asked: the tenant and the default place are known."""
    from comity.memory.locate import locate
    from comity.records import Scope

    tenant, place = session.settings.tenant, session.settings.place
    locate(memory, "", Scope(tenant=tenant), default_place=place)


def _plan(
    session: Session,
    files: Sequence[Path],
    exams: Sequence[Exam],
    modes: tuple[Mode, ...],
    limit: int | None,
    memory: Memory | None,
    model: ChatModel,
    options: ExamOptions,
) -> tuple[Plan, list[Job]]:
    from importlib.metadata import version

    from comity.evaluation.run import jobs, names_gold, sample
    from comity.evaluation.runs import ExamTaken, Plan
    from comity.models.openai import OpenAIModel, without_credentials

    seed = session.settings.seed or 0
    drawn = [sample(exam, limit, seed) for exam in exams]
    taken = [
        ExamTaken(
            name=exam.name,
            path=str(file),
            sha256=exam.sha256,
            questions=tuple(question.id for question in questions),
            left_out=exam.left_out,
            retired={q.id: q.reason for q in exam.questions if q.status == "retired"},
            with_gold=tuple(question.id for question in questions if names_gold(question)),
        )
        for exam, file, questions in zip(exams, files, drawn, strict=True)
    ]
    plan = Plan(
        model=model.name,
        endpoint=without_credentials(model.base_url) if isinstance(model, OpenAIModel) else "",
        modes=modes,
        exams=tuple(taken),
        memory=session.memory_shown if memory else "",
        revision=memory.revision if memory else None,
        embedder=memory.embedder.id if memory else "",
        place=session.settings.place,
        options=options.model_dump(mode="json", exclude_none=True),
        limit=limit,
        seed=seed,
        version=version("comity"),
        started=datetime.now(UTC),
    )
    by_name = {exam.name: questions for exam, questions in zip(exams, drawn, strict=True)}
    return plan, list(jobs(by_name, modes))


def _options(session: Session, turns: bool, max_tokens: int) -> ExamOptions:
    from comity.evaluation.ask import ExamOptions

    names = ("place", "tenant", "hits", "relevance", "budget", "seed")
    given = {name: getattr(session.settings, name) for name in names}
    return ExamOptions(turns=turns, max_tokens=max_tokens, **given)


def _earlier(folder: Path | None, model: str, options: ExamOptions) -> Mapping[Key, Item]:
    """The answers of an earlier run that may stand."""
    from comity.errors import ExamError
    from comity.evaluation.runs import Run

    if folder is None:
        return {}
    run = Run.read(folder)
    if run.plan.model != model:
        raise ExamError(
            f"--changed {folder}: its answers are those of {run.plan.model}, not of {model}: "
            f"give --model {run.plan.model}, or leave --changed away"
        )
    if run.plan.options.get("turns") != options.turns:
        flag = "--no-turns" if options.turns else "--turns"
        raise ExamError(f"--changed {folder}: it was asked with {flag}: give it, too")
    if run.plan.options.get("max_tokens", 256) == options.max_tokens:
        return run.latest()
    # what was written may be longer or shorter now, and a letter that was cut off may be there
    told = ("logprobs", "constrained")
    return {key: item for key, item in run.latest().items() if item.scored_by in told}


Asking = Callable[[Callable[["Item"], None]], object]
"""Asks all that is to be asked, and tells a function of each item."""


def _by_this_process(run: Run, todo: Sequence[Job], examiner: Examiner, parallel: int) -> Asking:
    from comity.evaluation.run import execute

    def ask(seen: Callable[[Item], None]) -> int:
        return asyncio.run(execute(run, todo, examiner, parallel=parallel, seen=seen))

    return ask


def _by_cluster(
    run: Run, todo: Sequence[Job], make: Make[Job, Item], address: str, count: int | None
) -> Asking:
    from comity.evaluation.run import execute_elsewhere
    from comity.ray_workers import RayWorkers

    def ask(seen: Callable[[Item], None]) -> int:
        with RayWorkers(make, address, count) as workers:
            return execute_elsewhere(run, todo, workers, seen=seen)

    return ask


def _execute(run: Run, todo: Sequence[Job], ask: Asking) -> None:
    with progress_bar("answers", "answers") as advance:
        done = len(run.answered())

        def seen(_: Item) -> None:
            nonlocal done
            done += 1
            advance(done, len(todo))

        advance(done, len(todo))
        try:
            ask(seen)
        except KeyboardInterrupt:
            note(
                f"{done} of {len(todo)} answers are kept in {run.folder}; "
                f"continue with --resume --out {run.folder}"
            )
            raise


exam_group.add_command(report_command)
exam_group.add_command(generate_command)
exam_group.add_command(retire_command)
exam_group.add_command(preferences_command)
