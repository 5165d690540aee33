"""A window that cannot be closed: between the SMTP server's 250 and the mark in MongoDB."""

import asyncio
from collections import Counter
from signal import SIGKILL

from tests.contract.smtp import ACCEPTED
from tests.faults.registry import fault
from tests.faults.run import Run
from tests.servers import eventually


@fault(
    "email: SIGKILL between the server's 250 and the mark",
    loaded=False,
    resends=True,
    most=200,
    rate=20,
    server_behind_proxy="mongo",
    smtp=True,
    twin=True,
)
async def killed_before_the_mark(run: Run) -> None:
    """MongoDB falls silent as the server says 250, so that the mark cannot come; with the mail's line email dies."""
    stack = run.stack
    assert stack.smtp
    proxy, inbox, email = stack.proxy, stack.smtp.inbox, stack.functions["email"]
    loop = asyncio.get_running_loop()
    if run.fault.waiting:
        await run.fill()
    load = asyncio.create_task(run.load.submit(run.n))
    await eventually(lambda: run.mailbox.look() >= run.n // 4, what="the load's middle")

    def answer() -> str:
        loop.call_soon_threadsafe(stack.freeze, proxy)
        return ACCEPTED

    before = run.mailbox.look()
    inbox.answer = answer
    await eventually(lambda: proxy.is_frozen and run.mailbox.look() > before, what="a mail that is not marked")
    await stack.down(email, SIGKILL)
    inbox.answer = lambda: ACCEPTED
    stack.stall()  # its last bytes never arrive
    stack.thaw(proxy)
    await stack.up(email)
    await run.recover(load)
    await run.settle()
    mails = Counter(message["Message-ID"] for message in inbox.messages)
    run.check(max(mails.values()) == 2, f"a mail was sent {max(mails.values())} times, not twice")
    run.check(len(mails) == len(run.mailbox.lines), f"{len(mails)} mails, {len(run.mailbox.lines)} kinds of lines")
