"""`comity exam preferences`: do answers follow the wish that was given, and do the rules hold?"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from comity.cli.ask import options_of
from comity.cli.asker import catch_up
from comity.cli.output import note, progress_bar, say
from comity.cli.session import Session, pass_session, settings_options

if TYPE_CHECKING:
    from comity.evaluation.preference_ask import Examinee
    from comity.evaluation.preference_cases import PreferenceQuestion, RuleCase
    from comity.evaluation.preference_exam import Job
    from comity.evaluation.preference_runs import (
        PreferenceItem,
        PreferenceMode,
        PreferencePlan,
        PreferenceRun,
    )
    from comity.memory.memory import Memory
    from comity.models.chat import ChatModel

_LONGEST = 80  # tokens of an answer: enough to tell a list from a text, and brief from detailed
_FILE = click.Path(dir_okay=False, path_type=Path)


class PreferenceModesType(click.ParamType["tuple[PreferenceMode, ...]"]):
    """`none,plain,meta_prompt`, or others of the modes."""

    name = "modes"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[PreferenceMode, ...]:
        """The modes in a list with commas, in their usual order."""
        from comity.evaluation.preference_runs import PREFERENCE_MODES

        if isinstance(value, tuple):
            return value
        named = {part.strip() for part in str(value).split(",") if part.strip()}
        if not named or not named <= set(PREFERENCE_MODES):
            self.fail(f"{value!r}: known are {', '.join(PREFERENCE_MODES)}", param, ctx)
        return tuple(mode for mode in PREFERENCE_MODES if mode in named)


@click.command("preferences")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    metavar="DIR",
    help="Where the run is kept.",
)
@click.option(
    "--modes",
    type=PreferenceModesType(),
    default="none,plain,meta_prompt",
    show_default=True,
    help="Also refined, contrast and adapter.",
)
@click.option(
    "--limit", type=click.IntRange(1), metavar="N", help="Questions, drawn by --seed; all else."
)
@click.option(
    "--share",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Share of them that refined and contrast are asked.",
)
@click.option("--cases", type=_FILE, metavar="FILE", help="Questions instead of the packaged.")
@click.option("--rule-cases", type=_FILE, metavar="FILE", help="Rule cases instead of those.")
@click.option("--rules/--no-rules", default=True, show_default=True, help="Put rule cases too.")
@click.option("--samples", type=click.IntRange(2), default=3, show_default=True, help="Of refined.")
@click.option(
    "--strength", type=click.FloatRange(0), default=1.5, show_default=True, help="Of contrast."
)
@click.option("--adapter-model", metavar="NAME", help="Model of mode adapter.")
@click.option("--resume", is_flag=True, help="Continue the run in --out; modes may come on.")
@click.option(
    "--parallel", type=click.IntRange(1), default=1, show_default=True, help="Answers at a time."
)
@settings_options("memory", "tenant", "embedder", "model", "base_url", "timeout")
@settings_options("judge", "max_tokens", "seed", "infer", "refine_rounds")
@pass_session
def preferences_command(
    session: Session,
    out: Path,
    modes: tuple[PreferenceMode, ...],
    limit: int | None,
    share: float,
    cases: Path | None,
    rule_cases: Path | None,
    rules: bool,
    samples: int,
    strength: float,
    adapter_model: str | None,
    resume: bool,
    parallel: int,
) -> None:
    """Put questions under opposing wishes to a model, and judge which wish each answer follows.

    The packaged rule cases need the sample rules (`comity init`). The judge is --judge, or the
    model itself. Answers have at most 80 tokens unless --max-tokens says otherwise.
    """
    from comity.evaluation.preference_ask import model_of
    from comity.evaluation.preference_cases import drawn, read_questions, read_rule_cases
    from comity.evaluation.preference_exam import dear_ones, jobs
    from comity.evaluation.preference_runs import PreferenceRun

    if ("adapter" in modes) != bool(adapter_model):
        raise click.UsageError("mode adapter and --adapter-model go together: give both")
    session.given.setdefault("max_tokens", str(_LONGEST))
    questions, ruled = read_questions(cases), read_rule_cases(rule_cases) if rules else ()
    seed = session.settings.seed or 0
    some, cases_put = drawn(questions, limit, seed), drawn(ruled, limit, seed)
    dear = dear_ones(some, cases_put, share, seed)
    with session.open_memory() as memory:
        _check_rules(memory, session.settings.tenant, cases_put)
        model = session.open_model()
        judge = session.open_judge(model) or model
        examinee = _examinee(session, memory, model, judge, adapter_model, samples, strength)
        for mode in modes:
            model_of(examinee, mode)  # what a mode lacks is said before anything is asked
        catch_up(memory)
        plan = _plan(session, examinee, judge, questions, ruled, modes).model_copy(
            update={
                "cases": str(cases.resolve()) if cases else "",
                "rule_cases_file": str(rule_cases.resolve()) if rule_cases else "",
                "questions": tuple(question.id for question in some),
                "rule_cases": tuple(case.id for case in cases_put),
                "dear": dear,
                "limit": limit,
                "share": share,
            }
        )
        with PreferenceRun.begin(out, plan, resume=resume) as run:
            todo = list(jobs(some, cases_put, modes, dear))
            note(f"{len(todo)} answers of {model.name}, judged by {judge.name}, kept in {out}")
            _execute(run, todo, examinee, judge, parallel)
            _say(run)


def _check_rules(memory: Memory, tenant: str, cases: Sequence[RuleCase]) -> None:
    """Before anything is asked: the memory has the rules that the cases are about."""
    from comity.errors import ExamError

    known = {stored.rule.id for stored in memory.changes_since(0, tenant=tenant)}
    if missing := [case.rule for case in cases if case.rule not in known]:
        raise ExamError(
            f"the memory does not have rule {missing[0]}, which a rule case is about: the "
            "packaged ones need the sample rules (comity init); give --rule-cases or --no-rules"
        )


def _examinee(
    session: Session,
    memory: Memory,
    model: ChatModel,
    judge: ChatModel,
    adapter: str | None,
    samples: int,
    strength: float,
) -> Examinee:
    from comity.evaluation.preference_ask import Examinee

    settings = session.settings
    return Examinee(
        model=model,
        memory=memory,
        options=options_of(settings),
        adapter=_opened(session, adapter) if adapter else None,
        samples=samples,
        strength=strength,
        judge=None if judge is model else judge,  # the model judges wishes itself then
    )


def _opened(session: Session, name: str) -> ChatModel:
    from comity.models.chat import open_model

    return open_model(
        name,
        base_url=session.settings.base_url or None,
        api_key=session.settings.api_key.get_secret_value() or None,
        timeout=session.settings.timeout,
    )


def _plan(
    session: Session,
    examinee: Examinee,
    judge: ChatModel,
    questions: Sequence[PreferenceQuestion],
    rule_cases: Sequence[RuleCase],
    modes: tuple[PreferenceMode, ...],
) -> PreferencePlan:
    """The plan, without what was drawn."""
    from importlib.metadata import version

    from comity.alignment.prefer import prefer_version
    from comity.evaluation.preference_cases import asked_digest, digest
    from comity.evaluation.preference_runs import PreferencePlan
    from comity.evaluation.preference_words import words_by_mode

    options = examinee.options.model_dump(mode="json", exclude_none=True)
    plain = {name: value for name, value in options.items() if not isinstance(value, list | dict)}
    return PreferencePlan(
        model=examinee.model.name,
        judge=judge.name,
        adapter=examinee.adapter.name if examinee.adapter else "",
        modes=modes,
        cases_sha256=digest(questions),
        rule_cases_sha256=digest(rule_cases),
        cases_asked=asked_digest(questions),
        rule_cases_asked=asked_digest(rule_cases),
        words=dict(words_by_mode(rule_cases=bool(rule_cases))),
        questions=(),
        memory=session.memory_shown,
        revision=examinee.memory.revision,
        options=plain | {"samples": examinee.samples, "strength": examinee.strength},
        prompts=tuple(prefer_version(language) for language in ("en", "zh")),
        seed=session.settings.seed or 0,
        version=version("comity"),
        started=datetime.now(UTC),
    )


def _execute(
    run: PreferenceRun, todo: Sequence[Job], examinee: Examinee, judge: ChatModel, parallel: int
) -> None:
    from comity.evaluation.preference_exam import execute

    with progress_bar("answers", "answers") as advance:
        wanted = {job.key for job in todo}
        done = sum(key in wanted for key in run.latest())

        def seen(_: PreferenceItem) -> None:
            nonlocal done
            done += 1
            advance(done, len(todo))

        advance(done, len(todo))
        try:
            asyncio.run(execute(run, todo, examinee, judge, parallel=parallel, seen=seen))
        except KeyboardInterrupt:
            note(
                f"{done} of {len(todo)} answers are kept in {run.folder}; "
                f"continue with --resume --out {run.folder}"
            )
            raise


def _say(run: PreferenceRun) -> None:
    from comity.evaluation.preference_report import preference_markdown

    say(preference_markdown(run).rstrip("\n"))
    note(f"comity exam report {run.folder} makes a page of it")
