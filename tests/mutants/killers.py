"""Runs tests on mutants, each in a child of this process, where everything is imported and collected already."""

import hashlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from _pytest.runner import runtestprotocol
from redis.exceptions import ResponseError

from milepost.journal.refusals import wrong_server
from milepost.journal.scripts import OWN, SCRIPTS, SHARED, Scripts, Text, unavailable
from tests.mutants.lua import traced

BROKEN = "this is not a result"

OPTIONS = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore", "--timeout", "120"]


@dataclass
class Test:
    """A test, the seconds it takes, and the lines of the scripts that it runs: `FILE:LINE`."""

    name: str
    seconds: float = 0.0
    lines: set[str] = field(default_factory=set)


def use(scripts: Mapping[str, str]) -> None:
    """Have this process send these texts instead of the scripts of the same names."""
    changed = {SCRIPTS[name]: text for name, text in scripts.items()}
    SCRIPTS.update(scripts)
    run = Scripts.run

    async def run_changed(self: Scripts, digest: str, text: str, arguments: Iterable[Text]) -> Any:
        text = changed.get(text, text)
        return await run(self, digest_of(text), text, arguments)

    Scripts.run = run_changed  # type: ignore[method-assign]


def digest_of(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


TRACED = """
local lines, seen = {{}}, {{}}
local function trace(line)
  if not seen[line] then
    seen[line] = true
    lines[#lines + 1] = line
  end
end
local ok, result = pcall(function()
{text}
end)
if ok then return {{ 1, lines, result }} end
return {{ 0, lines, type(result) == 'table' and result.err or tostring(result) }}
"""
"""Lua: the result of a script or the error that it raises, and which lines it ran."""


class Recorder:
    """A pytest plugin: which lines of the scripts a test runs, and how long it takes."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        self.tests: dict[str, Test] = {}
        self.failed: set[str] = set()
        self._now: Test | None = None
        traces: dict[str, str] = {}
        shared = SHARED.replace(sources["common"], traced(sources["common"], "common"))
        for name, own in OWN.items():
            text = shared + own.replace(sources[name], traced(sources[name], name))
            traces[SCRIPTS[name]] = TRACED.format(text=text)
        run = Scripts.run

        async def run_traced(scripts: Scripts, _: str, text: str, arguments: Iterable[Text]) -> Any:
            text = traces[text]
            answer = await run(scripts, digest_of(text), text, arguments)
            if self._now is not None:
                self._now.lines.update(line.decode() for line in answer[1])
            if not answer[0]:
                fault = ResponseError(answer[2].decode())
                raise unavailable(wrong_server(fault) or fault)
            return answer[2] if len(answer) > 2 else None

        Scripts.run = run_traced  # type: ignore[method-assign]
        self._restore = lambda: setattr(Scripts, "run", run)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._now = self.tests[nodeid] = Test(nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.tests[report.nodeid].seconds += report.duration
        if report.failed:
            self.failed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        self._restore()


def record(arguments: list[str], sources: Mapping[str, str]) -> tuple[list[Test], list[str]]:
    """Run the tests on scripts that tell which lines they run. Returns those that pass, and the names of the others."""
    recorder = Recorder(sources)
    pytest.main([*OPTIONS, *arguments], plugins=[recorder])
    passed = [test for test in recorder.tests.values() if test.lines and test.name not in recorder.failed]
    return passed, sorted(recorder.failed)


class _Collected:
    """A pytest plugin: instead of running the tests, hands them on once they are collected."""

    def __init__(self, work: Callable[[list[pytest.Item]], None]) -> None:
        self._work = work

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self._work(session.items)
        return True


def collected(arguments: list[str], work: Callable[[list[pytest.Item]], None]) -> None:
    """Collect tests once, and call `work` with them."""
    ended = pytest.main([*OPTIONS, "--capture=no", *arguments], plugins=[_Collected(work)])
    if ended not in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}:
        raise SystemExit(f"{BROKEN}: pytest ends with {ended}")


@dataclass
class Job:
    """A mutant and the tests that it is given. `prepare` puts it in place, in a child of this process."""

    mutant: Any
    items: Sequence[pytest.Item]
    seconds: Sequence[float]
    """Seconds that each test usually takes. One that takes ten times as long and ten seconds more finds the mutant."""
    prepare: Callable[[], None]

    @property
    def within(self) -> float:
        return sum(map(limit_of, self.seconds))


def limit_of(seconds: float) -> float:
    return 10 + 10 * seconds


def first_failures(jobs: Iterator[Job], *, at_once: int) -> Iterator[tuple[Job, str | None]]:
    """Run the tests of each job in a child, so many children at once. Yield the name of the first test that fails.

    None if all pass. The next job is asked for when a child has ended.
    """
    running: dict[int, tuple[Job, int, float]] = {}
    while True:
        while len(running) < at_once and (job := next(jobs, None)) is not None:
            if job.items:
                readable, child = _start(job)
                running[readable] = job, child, time.monotonic() + job.within
            else:
                yield job, None
        if not running:
            return
        soonest = min(until for _, _, until in running.values())
        ended, _, _ = select.select([*running], [], [], max(0.0, soonest - time.monotonic()))
        for readable, (job, child, until) in list(running.items()):
            if readable in ended or time.monotonic() > until:
                del running[readable]
                yield job, _end(readable, child, job.within if readable not in ended else None)


def _start(job: Job) -> tuple[int, int]:
    """Begin to run a job. Returns the end of a pipe, which gets the name of the test that fails, and the child."""
    readable, writable = os.pipe()
    child = os.fork()
    if child:
        os.close(writable)
        return readable, child
    os.setsid()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    told = f"{BROKEN}: an exception outside of the tests"
    try:
        job.prepare()
        told = _first_failure(job, writable)
    finally:
        os.write(writable, told.encode())
        os._exit(0)


def _first_failure(job: Job, writable: int) -> str:
    for item, seconds, following in zip(job.items, job.seconds, [*job.items[1:], None], strict=True):

        def expire(*_: object, name: str = item.nodeid) -> None:
            os.write(writable, f"{name} does not end".encode())
            os._exit(0)

        signal.signal(signal.SIGALRM, expire)
        signal.setitimer(signal.ITIMER_REAL, limit_of(seconds))
        if any(report.failed for report in runtestprotocol(item, log=False, nextitem=following)):
            return item.nodeid
    return ""


def _end(readable: int, child: int, expired: float | None) -> str | None:
    """End a child and its own children. Returns its output, or that its time has expired."""
    with os.fdopen(readable, "rb") as pipe:
        answer = pipe.read().decode() if expired is None else f"no end within {expired:.0f} s"
    for ending in (signal.SIGTERM, signal.SIGKILL) if answer else ():
        os.killpg(child, ending)
    os.waitpid(child, 0)
    return answer or None
