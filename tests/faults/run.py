"""One row: a stack, a load, a fault in its middle, and the check of its history."""

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from milepost.errors import JournalUnavailable
from milepost.journal import DeadLetter
from tests.cli.running import MILEPOST, environment
from tests.faults import state
from tests.faults.checker import Allowed, Parts, check
from tests.faults.history import Operation, write
from tests.faults.load import Acceptance, Load, Sent
from tests.faults.recovery import after_decision, rates, recovery
from tests.faults.registry import Fault
from tests.faults.report import Result, Row
from tests.faults.stack import Stack
from tests.faults.state import Mailbox
from tests.servers import ANSWER_WITHIN, ROOT, Module, eventually

LOOK = 0.05
"""Seconds between two looks at the mails."""

STANDSTILL = 40.0
"""Seconds without any progress after which a row is over."""

DEFAULT_STANDSTILL = 150.0
"""The same with the times as shipped."""

LOST_STANDSTILL = 8.0
"""The same where submissions may be lost and Redis holds no event: nothing can bring their mails."""

Tell = Callable[[str, int, int], None]
"""Progress: the step, how many e-mails there are, of how many."""


class Run:
    """The argument of a fault's function."""

    def __init__(self, stack: Stack, load: Load, fault: Fault, n: int, tell: Tell) -> None:
        self.stack = stack
        self.load = load
        self.fault = fault
        self.n = n
        self.mailbox = Mailbox(stack.sent_emails, stack.history)
        self.destroyed: set[str] = set()
        self.dead_on_purpose: set[str] = set()
        self.wrong: list[str] = []
        self.notes: list[str] = []
        self.recovered = 0.0
        self.began = time.monotonic()
        """When the fault began."""
        self.parts: Parts | None = None
        """In the row that splits events."""
        self.ordered_of_its_own: list[str] = []
        """Stages of the row's own that are ordered by key."""
        self.decided: float | None = None
        """When the servers had agreed on another primary, in the rows about that."""
        self._tell = tell
        self._tasks: set[asyncio.Task[None]] = set()

    def check(self, holds: object, what: str) -> None:
        """Note a condition that does not hold: the row fails."""
        if not holds:
            self.wrong.append(what)

    def note(self, doing: str) -> None:
        self._tell(doing, self.mailbox.look(), len(self.load.sent))

    def missing(self, among: Iterable[Sent] | None = None) -> list[Sent]:
        """Accepted, not mailed, and not known to be gone or dead."""
        self.mailbox.look()
        return [one for one in (self.load.sent if among is None else among) if self.is_missing(one)]

    def is_missing(self, one: Sent) -> bool:
        excused = one.id in self.destroyed or one.id in self.dead_on_purpose
        return one.acceptance is Acceptance.ACCEPTED and one.line not in self.mailbox.lines and not excused

    @asynccontextmanager
    async def loaded(self, n: int | None = None, *, doors: tuple[str, ...] = ()) -> AsyncIterator[None]:
        """Submissions come in; the body runs in their middle, and the time after its end counts as recovery."""
        wanted = n or self.n
        before = len(self.load.sent)
        load = asyncio.create_task(self.load.submit(wanted, doors=doors))
        self._tasks.add(load)
        await eventually(lambda: load.done() or len(self.load.sent) - before >= wanted // 4, 600, "load")
        await eventually(lambda: load.done() or self.mailbox.look(), what="the first e-mail")
        await self.fault_begins()
        try:
            yield
        except BaseException:
            load.cancel()
            raise
        await self.recover(load)
        await load

    async def fault_begins(self) -> None:
        """Note when the fault begins, and in a twin how many events wait."""
        self.note("fault")
        if self.fault.waiting:
            waiting = await self._backlog()
            self.notes.append(f"{waiting} events waited at the fault")
            self.check(waiting > self.load.filled // 2, "half of the backlog was gone before the fault")
        self.began = time.monotonic()

    async def recover(self, load: "asyncio.Task[None] | None" = None) -> None:
        """Note how long it takes until all that was submitted by now is mailed."""
        begun, waited = time.monotonic(), list(self.load.sent)
        still = Standstill(self)
        while waited := [one for one in waited if one.acceptance is Acceptance.OPEN or self.is_missing(one)]:
            if await still.found():
                break
            await self._pause(len(waited))
        self.recovered = max(self.recovered, time.monotonic() - begun)
        if load:
            await eventually(load.done, 600, "the end of the load")

    async def settle(self) -> None:
        """Wait until every accepted submission has its e-mail and nothing is left in Redis, or nothing moves."""
        still = Standstill(self)
        while await self._backlog() or self.missing():
            if await still.found():
                return
            await self._pause(len(self.load.sent))

    async def _pause(self, many: int) -> None:
        """Until the next look, which takes the longer the more submissions are looked at."""
        await asyncio.sleep(LOOK * (1 + many / 2000))
        self.mailbox.look()

    async def _backlog(self) -> int:
        try:
            return await self.stack.journal.backlog() - len(self.dead_on_purpose)
        except JournalUnavailable:
            return 1

    async def fill(self) -> None:
        """Let events wait: as many as the row says, or ten for each submission of a short run."""
        self.note("filling")
        await self.load.fill(min(self.fault.waiting, 20 * self.n))

    def destroy(self, ids: Iterable[str]) -> None:
        """Note that the row deleted these events."""
        now = time.monotonic()
        for event_id in set(ids) - self.destroyed:
            self.stack.history.add(Operation("destroy", now, now, event_id))
            self.destroyed.add(event_id)

    async def row(self) -> tuple[Row, Sequence[str]]:
        """Stop all but the servers, then write and check the history. Returns the row and its broken promises."""
        await self.stack.rest()
        self.mailbox.look()
        history = self.stack.history
        self.stack.note_unended()
        for operation in await state.left(self.stack.client):
            history.add(operation)
        for operation in await asyncio.to_thread(lambda: list(state.records(self.stack.mongo.url))):
            history.add(operation)
        unanswered = [one for one in self.load.sent if one.acceptance is Acceptance.UNANSWERED]
        if unanswered:
            mailed = sum(1 for one in unanswered if self.mailbox.lines[one.line])
            self.notes.append(f"{mailed} of {len(unanswered)} submissions without an answer have their mail")
        operations = history.read()
        write(self.stack.folder / "history.jsonl", operations)
        if self.decided:
            self.notes.append(after_decision(operations, self.decided))
        if self.fault.waiting and (told := rates(operations)):
            self.notes.append(told)
        ordered = [entry.name for entry in self.stack.stages if self.stack.is_ordered(entry.name)]
        ordered += self.ordered_of_its_own
        verdict = check(operations, self.fault.allowed, ordered=ordered, parts=self.parts)
        if self.stack.options.order:
            self.notes.append(f"ordered by {self.stack.options.order}: {verdict.inverted} out of order")
        if verdict.oldest_lost:
            self.notes.append(f"the oldest lost submission was accepted {verdict.oldest_lost:.2f} s before Redis ended")
        if verdict.without_mail:
            self.notes.append(f"{verdict.without_mail} accepted events of a stage of the row's own")
        row = Row.of(self.fault.name, verdict, self.recovered, recovery(operations))
        return row, self.fault.judge(verdict, row.again_s)

    # What rows look at

    async def others_mailed(self, left_out: Callable[[], Iterable[str]]) -> None:
        """Wait until all but these are mailed."""

        def mailed() -> bool:
            ids = set(left_out())
            return all(one.id in ids for one in self.missing())

        await eventually(mailed, 120, "all others are mailed")

    async def buried(self, stage: str, ids: Collection[str]) -> list[DeadLetter]:
        """Wait until these events, and no others, are dead letters of the stage. They are no loss from now on."""
        self.dead_on_purpose |= set(ids)
        now = time.monotonic()
        for event_id in ids:
            self.stack.history.add(Operation("bury", now, now, event_id, by=stage))

        async def all_dead() -> bool:
            return len(await self.stack.journal.admin.dead_letters(stage, count=len(ids) + 1)) >= len(ids)

        await eventually(all_dead, 120, f"{len(ids)} dead letters of {stage}")
        letters = await self.stack.journal.admin.dead_letters(stage, count=len(ids) + 100)
        self.check({letter.id for letter in letters} == set(ids), f"others than {len(ids)} events are dead")
        return letters

    async def milepost(self, *arguments: str) -> str:
        """Run a `milepost` command on this Redis, which must succeed. Returns its output."""
        command = await asyncio.create_subprocess_exec(
            *MILEPOST,
            *arguments,
            cwd=ROOT,
            env=environment(REDIS_URL=self.stack.redis.url, COLUMNS="200"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        begin = time.monotonic()
        output, _ = await command.communicate()
        done = Operation("operate", begin, time.monotonic(), answer=command.returncode, by=" ".join(arguments))
        self.stack.history.add(done)
        self.check(command.returncode == 0, f"milepost {' '.join(arguments)}: {output.decode()[-300:]}")
        return output.decode()

    async def metric(self, bridge: Module, name: str) -> float:
        """The sum of a bridge's metric over its labels."""
        async with httpx.AsyncClient(timeout=ANSWER_WITHIN) as client:
            text = (await client.get(f"{bridge.url}/metrics")).text
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))

    async def p99(self, sent: Sequence[Sent]) -> float:
        """Of the seconds between the journaling of these and their e-mail, by Redis's clock."""
        seconds = []
        for one in sent:
            notes = await self.stack.journal.status(one.id)
            seconds.append((notes["email:sent"].at - notes["raw_input"].at).total_seconds())
        return sorted(seconds)[len(seconds) * 99 // 100]


class Standstill:
    """Notices that nothing moves any more."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._seen: tuple[int, int, int] | None = None
        self._since = time.monotonic()
        self._longest = STANDSTILL if run.stack.options.quick else DEFAULT_STANDSTILL

    async def found(self) -> bool:
        run = self._run
        run.note("waiting")
        now = run.mailbox.look(), run.load.answered, await run._backlog()
        if now != self._seen:
            self._seen, self._since = now, time.monotonic()
        some_are_lost = run.fault.allowed != Allowed() and not now[2]
        return time.monotonic() - self._since > (LOST_STANDSTILL if some_are_lost else self._longest)


async def run(fault: Fault, folder: Path, *, n: int, rate: float, tell: Tell) -> Result:
    """Run one row. Returns it, with its faults."""
    async with Stack(folder, fault.options) as stack:
        load = Load(stack, rate=min(rate, fault.rate))
        try:
            case = Run(stack, load, fault, min(n, fault.most), tell)
            if fault.loaded:
                if fault.waiting:
                    await case.fill()
                async with case.loaded():
                    await fault.act(case)
            else:
                await fault.act(case)
            await case.settle()
            row, broken = await case.row()
        finally:
            await load.close()
    return Result(fault.name, row, [*case.wrong, *load.refused[:3], *broken], case.notes)
