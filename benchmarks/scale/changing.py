"""One change at full size while searches run: when it is visible, and what it costs them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from statistics import median

from benchmarks.report import Measure
from benchmarks.scale.setup import Bench, K, milliseconds
from comity.memory.memory import Memory
from comity.records import Rule, Scope
from comity.retrieval.search import search

_CLIENTS = 16
_EVERY = 0.25  # seconds from one change to the next, so that searches run in between
_ROWS_APART = 17  # between two rules that are changed
_FROM = datetime(2026, 12, 1, tzinfo=UTC)  # after all that the made rules begin with
_PAUSE = 0.2  # seconds between two questions of a client that is no machine

Asked = Sequence[tuple[str, Scope]]


def run(bench: Bench) -> list[Measure]:
    """All measures of this part."""
    asked = bench.asked()
    with bench.memory(bench.rules) as memory:
        memory.index.catch_up()
        for question, scope in asked[:20]:
            search(memory, question, scope, k=K)
        alone = [_found_by_next(memory, bench, number) for number in range(bench.changes)]
        loads = {pause: _under_load(memory, bench, pause) for pause in (_PAUSE, 0.0)}
    paced, endless = loads[_PAUSE], loads[0.0]
    rate = f"{_CLIENTS} clients, {{:.0f}} searches a second"
    return [
        Measure(measure="change_visible.ms", value=round(max(paced.visible), 2), unit="ms",
                goal="<= 20",
                note="from commit until every search sees it, worst of "
                     f"{bench.changes} changes; {rate.format(paced.rate)}"),
        Measure(measure="change_visible.longest_search_ms", value=round(max(paced.changed), 2),
                unit="ms", goal="<= 50", peer=round(max(paced.calm), 2),
                peer_name="the same without changes",
                note=f"p99 {milliseconds(paced.changed, 99)}, without changes "
                     f"{milliseconds(paced.calm, 99)}; {rate.format(paced.rate)}"),
        Measure(measure="change_visible.next_search_ms", value=round(median(alone), 2), unit="ms",
                note="from commit to the result of the next search, nothing else running; "
                     f"worst {max(alone):.1f}"),
        Measure(measure=f"load_{bench.size}.searches_per_s", value=round(endless.calm_rate, 1),
                unit="1/s", note=f"{_CLIENTS} clients in one process, each asks at once again; "
                                 f"p99 {milliseconds(endless.calm, 99)} ms"),
        Measure(measure="change_visible.saturated_ms", value=round(max(endless.visible), 2),
                unit="ms", note="as change_visible.ms, but each client asks at once again: "
                                f"{rate.format(endless.rate)}"),
        Measure(measure="change_visible.saturated_longest_ms",
                value=round(max(endless.changed), 2), unit="ms",
                peer=round(max(endless.calm), 2), peer_name="the same without changes",
                note=f"p99 {milliseconds(endless.changed, 99)}, without changes "
                     f"{milliseconds(endless.calm, 99)}"),
    ]  # fmt: skip


def _amended(memory: Memory, bench: Bench, number: int, words: str) -> tuple[Rule, str]:
    """A rule in a new version, just committed, and a question that finds it."""
    text = f"新规定{words}{number}号：任何单位不得在{words}期间进行试验{number}。"
    rule = memory.store.fetch([1 + number * _ROWS_APART % bench.rules])[0].rule
    changes = {"text": text, "status": "active", "valid_from": _FROM, "valid_to": None}
    return memory.amend(rule.id, changes, tenant=rule.tenant), text


def _found_by_next(memory: Memory, bench: Bench, number: int) -> float:
    """Milliseconds from a commit to the result of the next search, which must hold it."""
    rule, text = _amended(memory, bench, number, "甲乙丙丁")
    start = time.perf_counter()
    scope = Scope(place=(rule.place,), audience=rule.audience, at=_FROM, tenant=rule.tenant)
    found = search(memory, text, scope, k=K)
    taken = 1000 * (time.perf_counter() - start)
    if rule.key not in {hit.rule.key for hit in found.hits}:
        raise SystemExit(f"the amended {rule.id} was not found by the next search")
    return taken


class _Seen:
    """What clients and the one who changes saw, in milliseconds."""

    def __init__(self) -> None:
        self.calm: list[float] = []
        self.changed: list[float] = []
        self.visible: list[float] = []
        self.rate = 0.0
        """Searches a second while rules change."""
        self.calm_rate = 0.0
        """The same without changes."""


def _under_load(memory: Memory, bench: Bench, pause: float) -> _Seen:
    """Searches of 16 clients without changes, then with one change after the other."""
    seen, asked = _Seen(), bench.asked()
    start = time.perf_counter()
    with _clients(memory, asked, pause, seen.calm):
        time.sleep(bench.changes * _EVERY)
    seen.calm_rate = len(seen.calm) / (time.perf_counter() - start)
    start = time.perf_counter()
    with _clients(memory, asked, pause, seen.changed):
        for number in range(bench.changes):
            time.sleep(_EVERY)
            _amended(memory, bench, 1_000 + number + int(1_000 * pause), "戊己庚辛")
            committed = time.perf_counter()
            memory.index.catch_up()  # as every search does before it begins
            seen.visible.append(1000 * (time.perf_counter() - committed))
    seen.rate = len(seen.changed) / (time.perf_counter() - start)
    return seen


@contextmanager
def _clients(memory: Memory, asked: Asked, pause: float, taken: list[float]) -> Iterator[None]:
    """16 threads that search one question after the other, and note how long each took."""
    stop = threading.Event()
    failed: list[BaseException] = []

    def ask(first: int) -> None:
        number = first
        stop.wait(pause * first / _CLIENTS)  # not all at the same moment
        while not stop.is_set():
            start = time.perf_counter()
            try:
                search(memory, *asked[number % len(asked)], k=K)
            except BaseException as error:
                failed.append(error)
                raise
            taken.append(1000 * (time.perf_counter() - start))
            number += _CLIENTS
            stop.wait(pause)

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(_CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    if failed:
        raise SystemExit(f"a search failed while rules changed: {failed[0]}")
