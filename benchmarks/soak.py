"""Mixed load for an hour: does the gateway's memory grow, or what it keeps open?

    python -m benchmarks.soak --minutes 60

The real `comity serve` runs in a process of its own before a mock upstream; answers, streams,
withheld answers, upstream errors, cut streams, clients that go, bad requests, changes of rules
and of keys, and the rules API come in a fixed mixture. What is measured is the process: memory,
file descriptors and asyncio tasks, from its own `/metrics`. The book of record on disk grows by
design. After the first fifth, memory is fitted by a line over the number of requests.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import aiohttp

from benchmarks import soak_upstream
from benchmarks.report import Measure, publish
from comity.memory.embed import open_embedder
from comity.memory.memory import Memory
from comity.records import Check, Rule
from comity.serving.auth import Made, create_key

MOST_MB = 1.0
"""Growth in MB per 100,000 requests that is still none."""
_WARM = 0.2
_RULES = 200
_CHANGE_EVERY = 30.0  # seconds between two changes of rules: each version stays in memory
_KEY_EVERY = 5.0


class Sample(NamedTuple):
    """The process at one moment."""

    requests: int
    rss_mb: float
    fds: float
    tasks: float


class Line(NamedTuple):
    """A fitted line's slope."""

    slope: float
    """MB per 100,000 requests."""
    uncertainty: float
    """Half of the interval that holds it in 95 of 100 cases."""


def fit(samples: list[Sample]) -> Line:
    """Memory over requests, by least squares; neighbouring samples are not independent.

    The uncertainty comes from the slopes' scatter when eight blocks of samples are left out in
    turn. Raises `ValueError` for fewer than 16 samples.
    """
    if len(samples) < 16:
        raise ValueError(f"{len(samples)} samples are too few: let it run longer")
    whole, blocks = _slope(samples), 8
    without = [
        _slope([each for at, each in enumerate(samples) if at * blocks // len(samples) != block])
        for block in range(blocks)
    ]
    mean = statistics.fmean(without)
    variance = (blocks - 1) / blocks * sum((slope - mean) ** 2 for slope in without)
    return Line(whole, 2.36 * variance**0.5)  # Student's t for seven degrees of freedom


def _slope(samples: list[Sample]) -> float:
    found = statistics.linear_regression(
        [each.requests for each in samples], [each.rss_mb for each in samples]
    )
    return 100_000 * found.slope


def grown(values: list[float]) -> float:
    """How much the last third's median lies above the first third's."""
    third = len(values) // 3
    return statistics.median(values[-third:]) - statistics.median(values[:third])


def problems(samples: list[Sample]) -> list[str]:
    """What grows though it should not, after warm-up."""
    warm = samples[int(len(samples) * _WARM) :]
    line, found = fit(warm), []
    if line.slope - line.uncertainty > MOST_MB:
        found.append(
            f"memory grows {line.slope:.2f} ± {line.uncertainty:.2f} MB per 100,000 requests, "
            f"more than {MOST_MB:g}"
        )
    for name in ("fds", "tasks"):
        more = grown([getattr(each, name) for each in warm])
        if more > 10:
            found.append(f"{name} have grown by {more:g}")
    return found


# The gateway


@contextmanager
def gateway(folder: Path, upstream: int) -> Iterator[str]:
    """`comity serve` in a process of its own; gives its address when it is ready."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    file = folder / "gateway.toml"
    file.write_text(
        f'[upstreams."*"]\nbase_url = "http://127.0.0.1:{upstream}/v1"\ntimeout = 5\n'
        '[tenants.acme]\nrelease = "window"\n[tenants.elm]\nrelease = "observe"\n'
    )
    url = f"sqlite:///{folder}/rules.db"
    environ = os.environ | {"COMITY_MEMORY": url, "COMITY_EMBEDDER": "hash", "COMITY_CONFIG": ""}
    command = [sys.executable, "-m", "comity", "serve", "--port", str(port)]
    process = subprocess.Popen([*command, "--gateway", str(file)], env=environ)
    try:
        yield f"http://127.0.0.1:{port}"
        if process.poll() is not None:
            raise RuntimeError(f"the gateway ended with {process.returncode}")
    finally:
        process.terminate()
        process.wait(60)


def fill(folder: Path) -> None:
    """A memory with rules for three tenants."""
    with _open(folder) as memory:
        for tenant in TENANTS:
            rules = [
                Rule(id=f"r-{n}", text=f"Stall {n} may open from eight to ten.", tenant=tenant)
                for n in range(_RULES)
            ]
            harm = Check(must_not_match=r"\d+ mg")
            doses = Rule(
                id="doses",
                text="No doses.",
                mandatory=True,
                enforcement="block",
                check=harm,
                tenant=tenant,
            )
            memory.add([*rules, doses])


def _open(folder: Path) -> Memory:
    return Memory.open(f"sqlite:///{folder}/rules.db", embedder=open_embedder("hash"))


TENANTS = ("default", "acme", "elm")


# The load


class Load:
    """Clients that ask in a fixed mixture until time is over."""

    def __init__(self, url: str, folder: Path, seconds: float, seed: int) -> None:
        self._url, self._folder = url, folder
        self._until = time.monotonic() + seconds
        self._every = max(0.2, seconds / 400)
        self._chance = random.Random(seed)
        self._keys: dict[str, list[str]] = {}
        self.done: Counter[str] = Counter()
        self.samples: list[Sample] = []

    @property
    def over(self) -> bool:
        """Whether time is over."""
        return time.monotonic() > self._until

    async def run(self, clients: int) -> None:
        """Ask, change and sample, all at once."""
        with _open(self._folder) as memory:
            for tenant in TENANTS:
                self._keys[tenant] = [create_key(memory, tenant, "admin").secret]
            async with aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=60)
            ) as session:
                await self._ready(session)
                async with asyncio.TaskGroup() as tasks:
                    for _ in range(clients):
                        tasks.create_task(self._client(session))
                    tasks.create_task(self._change_rules(session))
                    tasks.create_task(self._change_keys(memory))
                    tasks.create_task(self._sample(session))

    async def _ready(self, session: aiohttp.ClientSession) -> None:
        for _ in range(600):
            try:
                async with session.get(f"{self._url}/readyz") as told:
                    if told.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.1)
        raise RuntimeError("the gateway does not answer")

    async def _client(self, session: aiohttp.ClientSession) -> None:
        steps = (self._plain, self._stream, self._leave, self._bad, self._read)
        while not self.over:
            (step,) = self._chance.choices(steps, (45, 30, 12, 5, 8))
            await step(session)

    def _key(self) -> dict[str, str]:
        tenant = self._chance.choice(TENANTS)
        return {"authorization": f"Bearer {self._chance.choice(self._keys[tenant])}"}

    def _body(self, stream: bool) -> dict[str, object]:
        (kind,) = self._chance.choices(soak_upstream.KINDS, (80, 6, 5, 3, 3, 3))
        question = f"May stall {self._chance.randrange(_RULES)} open now? kind:{kind} "
        turns = [{"role": "user", "content": question + secrets.token_hex(16)}]
        return {"model": "soak", "messages": turns, "stream": stream}

    async def _plain(self, session: aiohttp.ClientSession) -> None:
        url = f"{self._url}/v1/chat/completions"
        async with session.post(url, json=self._body(False), headers=self._key()) as told:
            await told.read()
            self.done[f"plain {told.status}"] += 1

    async def _stream(self, session: aiohttp.ClientSession) -> None:
        url = f"{self._url}/v1/chat/completions"
        async with session.post(url, json=self._body(True), headers=self._key()) as told:
            await told.read()
            self.done[f"stream {told.status}"] += 1

    async def _leave(self, session: aiohttp.ClientSession) -> None:
        """Go away after a moment, before the answer or in the middle of it."""
        self.done["left"] += 1
        try:
            async with asyncio.timeout(self._chance.choice((0.001, 0.005, 0.02, 0.05))):
                await self._stream(session)
        except TimeoutError:
            pass

    async def _bad(self, session: aiohttp.ClientSession) -> None:
        bodies = (b"{", b"[" * 500, b'{"model": 3}', b"\xff", secrets.token_bytes(100))
        body = self._chance.choice(bodies)
        key = self._key() if self._chance.random() < 0.7 else {"authorization": "Bearer no"}
        url = f"{self._url}/v1/chat/completions"
        async with session.post(url, data=body, headers=key) as told:
            await told.read()
            self.done[f"bad {told.status}"] += 1

    async def _read(self, session: aiohttp.ClientSession) -> None:
        number = self._chance.randrange(_RULES)
        paths = (
            f"/rules/search?q=stall+{number}",
            f"/rules/history?id=r-{number}",
            "/rules?limit=20",
            "/decisions?limit=5",
            f"/rules/history?id=nothing-{secrets.token_hex(4)}",
            "/v1/models",
        )
        url = self._url + self._chance.choice(paths)
        async with session.get(url, headers=self._key()) as told:
            await told.read()
            self.done[f"read {told.status}"] += 1

    async def _change_rules(self, session: aiohttp.ClientSession) -> None:
        while not self.over:
            await asyncio.sleep(min(_CHANGE_EVERY, self._every * 10))
            number = self._chance.randrange(_RULES)
            change = {"changes": {"text": f"Stall {number} is open: {secrets.token_hex(4)}."}}
            url = f"{self._url}/rules/amend?id=r-{number}"
            async with session.post(url, json=change, headers=self._key()) as told:
                await told.read()
                self.done[f"change {told.status}"] += 1

    async def _change_keys(self, memory: Memory) -> None:
        """A new key, and the oldest but one ends, as from the command line."""
        made: list[tuple[str, Made]] = []
        while not self.over:
            await asyncio.sleep(min(_KEY_EVERY, self._every * 10))
            tenant = self._chance.choice(TENANTS)
            key = await asyncio.to_thread(create_key, memory, tenant, "admin")
            self._keys[tenant].append(key.secret)
            made.append((tenant, key))
            if len(made) > len(TENANTS):
                whose, old = made.pop(0)
                self._keys[whose].remove(old.secret)
                await asyncio.to_thread(memory.store.revoke_key, old.key.id, memory.clock())
            self.done["key"] += 1

    async def _sample(self, session: aiohttp.ClientSession) -> None:
        while not self.over:
            await asyncio.sleep(self._every)
            async with session.get(f"{self._url}/metrics") as told:
                self.samples.append(read_sample(await told.text(), self.done.total()))


def read_sample(page: str, requests: int) -> Sample:
    """What a page of metrics says of the process."""
    values = dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    return Sample(
        requests,
        float(values["process_resident_memory_bytes"]) / 1e6,
        float(values["process_open_fds"]),
        float(values["comity_tasks"]),
    )


async def soak(folder: Path, seconds: float, clients: int, seed: int) -> Load:
    """Run it all; the load with its samples."""
    fill(folder)
    upstream = await soak_upstream.start()
    async with upstream:
        with gateway(folder, upstream.sockets[0].getsockname()[1]) as url:
            load = Load(url, folder, seconds, seed)
            await load.run(clients)
            return load


def main() -> None:
    """Soak, print a table, and fail for what grows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=20261122)
    parser.add_argument("--keep", type=Path, help="Where to write the samples, as JSON.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        load = asyncio.run(soak(Path(folder), 60 * given.minutes, given.clients, given.seed))
    if given.keep:
        given.keep.write_text(json.dumps(load.samples))
    print(dict(sorted(load.done.items())))
    warm = load.samples[int(len(load.samples) * _WARM) :]
    line = fit(warm)
    note = (
        f"{load.done.total()} requests in {given.minutes:g} minutes, {given.clients} clients, "
        f"seed {given.seed}; "
    )
    between = f"{warm[0].rss_mb:.0f} MB after warm-up, {warm[-1].rss_mb:.0f} at the end; "
    sure = f"± {line.uncertainty:.2f} (95 %)"
    publish(
        "soak",
        [
            Measure(
                measure="rss_growth.mb_per_100k",
                value=line.slope,
                unit="MB/100,000 requests",
                goal=f"<= {MOST_MB:g}",
                note=note + between + sure,
            ),
            Measure(
                measure="open_fds.growth",
                value=grown([each.fds for each in warm]),
                unit="descriptors",
                goal="<= 10",
                note=f"last third over first third, at most {max(s.fds for s in warm):.0f}",
            ),
            Measure(
                measure="tasks.growth",
                value=grown([each.tasks for each in warm]),
                unit="tasks",
                goal="<= 10",
                note=f"last third over first third, at most {max(s.tasks for s in warm):.0f}",
            ),
        ],
    )
    if found := problems(load.samples):
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
