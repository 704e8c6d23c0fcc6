"""`comity add --stream`: files of any size, in batches, each a revision of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from comity.cli.output import counted, note, progress_bar, say, say_json
from comity.cli.session import Session
from comity.errors import ComityError, DocumentError, MissingExtra, SettingsError

if TYPE_CHECKING:
    from comity.documents.extract import Files
    from comity.documents.fields import RuleDefaults
    from comity.documents.stream import FileStream
    from comity.memory.bulk import BulkReport, EmbeddingWorkers
    from comity.memory.imports import Changed
    from comity.memory.memory import Memory

_TOLD = 20


class Streaming:
    """One call of `comity add --stream`."""

    def __init__(
        self,
        session: Session,
        *,
        yes: bool,
        keep_going: bool,
        workers: int | None,
        batch: int | None,
        ray: str | None,
        as_json: bool,
    ) -> None:
        self._session = session
        self._yes = yes
        self._keep_going = keep_going
        self._workers = workers
        self._batch = batch
        self._ray = ray
        self._as_json = as_json
        self._left = 0
        self._first_left = ""
        self._would_change = 0
        self._revisions: list[int] = []

    def run(
        self, paths: Sequence[Path], defaults: RuleDefaults, reason: str, *, dry_run: bool
    ) -> None:
        """Add what the files hold. Raises what ended it, having said what is in."""
        from comity.documents.extract import find_files

        found = find_files(paths)
        with self._session.open_memory(create=not dry_run, trial=dry_run) as memory:
            if dry_run:
                self._check(memory, self._stream(memory, found, defaults))
                return
            self._define_places(memory, found)
            stream = self._stream(memory, found, defaults)
            with self._told(), ExitStack() as stack:
                report = self._add(memory, stream, reason or _names(found), stack)
        self._say(report)

    def _stream(self, memory: Memory, found: Files, defaults: RuleDefaults) -> FileStream:
        from comity.cli.add import check_authority
        from comity.documents.stream import FileStream

        tenant = self._session.settings.tenant
        place_of = memory.gazetteer(tenant).canonical
        check_authority(memory, defaults)
        if defaults.place:
            defaults = defaults.model_copy(update={"place": place_of(defaults.place)})

        def text_of(rule_id: str) -> str:
            versions = memory.store.history(tenant, rule_id)
            return versions[-1].rule.text if versions else ""

        return FileStream(
            found,
            defaults,
            place_of,
            tenant=tenant,
            text_of=text_of,
            max_bytes=int(self._session.settings.max_file_mb * 1e6),
            left_out=self._leave_out if self._keep_going else None,
        )

    def _define_places(self, memory: Memory, found: Files) -> None:
        from comity.memory.store import PlaceNames

        settings = self._session.settings
        places = [PlaceNames(code=place.code, names=place.names) for place in found.places]
        if places:
            memory.define_places(places, tenant=settings.tenant, author=settings.author)

    def _add(self, memory: Memory, stream: FileStream, reason: str, stack: ExitStack) -> BulkReport:
        from comity.memory.bulk import BATCH, bulk_import
        from comity.memory.marks import last_mark

        tenant = self._session.settings.tenant
        mark = last_mark(memory.store, tenant, stream.name)
        if mark and stream.resume(mark):
            note(f"it goes on behind row {mark.rows:,}: what stands before that is in")
        workers = self._open_workers(stack)
        with progress_bar("adding") as progress:
            return bulk_import(
                memory,
                stream,
                tenant=tenant,
                workers=workers,
                batch=self._batch or BATCH,
                author=self._session.settings.author,
                note=reason,
                progress=progress,
                committed=self._revisions.append,
                confirm=self._confirm,
                left_out=self._leave_out if self._keep_going else None,
            )

    def _open_workers(self, stack: ExitStack) -> EmbeddingWorkers | None:
        from comity.memory.embed_worker import embedding
        from comity.ray_workers import RayWorkers
        from comity.workers import ProcessWorkers, processors

        settings = self._session.settings
        make = embedding(
            settings.embedder,
            base_url=settings.base_url or None,
            api_key=settings.api_key.get_secret_value() or None,
        )
        if self._ray is not None:
            return stack.enter_context(RayWorkers(make, self._ray, self._workers))
        # the fake costs less than handing its texts to another process
        count = self._workers or (1 if settings.embedder == "hash" else processors())
        return stack.enter_context(ProcessWorkers(make, count)) if count > 1 else None

    def _check(self, memory: Memory, stream: FileStream) -> None:
        """A dry run: everything is read and compared, and nothing is changed."""
        from comity.memory.bulk import BATCH, plan_bulk
        from comity.memory.places import OwnPlace

        tenant = self._session.settings.tenant
        own = [OwnPlace(code=place.code, names=place.names) for place in stream.places]
        report = plan_bulk(
            memory,
            stream,
            tenant=tenant,
            gazetteer=memory.gazetteer(tenant).with_own(own),
            batch=self._batch or BATCH,
            confirm=self._count_changed,
            left_out=self._leave_out if self._keep_going else None,
        )
        if self._would_change and not self._yes:
            note(
                f"{counted(self._would_change, 'rule')} would be changed, which has to be said: "
                "add --yes"
            )
        self._say(report, dry=True)

    def _count_changed(self, changed: Sequence[Changed]) -> None:
        self._would_change += len(changed)

    def _confirm(self, changed: Sequence[Changed]) -> None:
        from comity.cli.add import Refused

        if not self._yes:
            names = ", ".join(change.new.id for change in changed[:3])
            names += ", …" if len(changed) > 3 else ""
            raise Refused(
                f"the next batch would change {counted(len(changed), 'rule')} of the memory's "
                f"({names}): add --yes to give such rules their next versions"
            )

    def _leave_out(self, error: ComityError) -> None:
        self._left += 1
        self._first_left = self._first_left or str(error)
        if self._left <= _TOLD:
            note(f"left out: {error}")
        elif self._left == _TOLD + 1:
            note("left out: more rows, which are counted and not named")

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Say what is in, where something ends the stream."""
        from comity.cli.add import Refused, Stopped

        try:
            yield
        except (Refused, MissingExtra, SettingsError):
            note(self._so_far())  # the same command would be refused again
            raise
        except ComityError:
            note(f"{self._so_far()}; {self._again()}")
            raise
        except (KeyboardInterrupt, click.Abort) as stop:
            raise Stopped(f"stopped. {self._so_far()}; {self._again()}") from stop

    def _so_far(self) -> str:
        if not self._revisions:
            return "nothing was added"
        first, last = self._revisions[0], self._revisions[-1]
        which = f"revision {first}" if first == last else f"revisions {first} to {last}"
        return f"the batches before are in, as {which}, and whole"

    def _again(self) -> str:
        where = "behind them" if self._revisions else "from there"
        return f"the vectors made so far are kept; the same command again goes on {where}"

    def _say(self, report: BulkReport, *, dry: bool = False) -> None:
        left_out = self._left
        if self._as_json:
            said: dict[str, Any] = report.model_dump() | {"left_out": left_out}
            say_json(said | {"committed": not dry})
        else:
            parts = [f"{counted(report.added, 'rule')} {'new' if dry else 'added'}"]
            parts += [f"{report.changed:,} changed"] if report.changed else []
            parts += [f"{report.unchanged:,} there already"] if report.unchanged else []
            parts += [f"{counted(left_out, 'row')} left out"] if left_out else []
            parts += [f"in {counted(report.revisions, 'revision')}"] if report.revisions else []
            said_before = "a dry run, which changes nothing: " if dry else ""
            say(said_before + ", ".join(parts))
        self._end()

    def _end(self) -> None:
        if self._left:
            raise RowsLeftOut(
                f"{counted(self._left, 'row')} could not be taken and "
                f"{'was' if self._left == 1 else 'were'} left out, the first of them: "
                f"{self._first_left}"
            )


class RowsLeftOut(ComityError):
    """All was added but some rows, as `--keep-going` asks."""

    exit_code = DocumentError.exit_code


def _names(found: Files) -> str:
    names = [file.name for file in found.files]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
