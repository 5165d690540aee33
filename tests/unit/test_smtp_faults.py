"""The table of SMTP replies, tried with replies of real servers."""

import pytest

from functions.email.smtp_faults import RULES, Fault, error_for_reply, retry_after, rule_for
from milepost.errors import Defer, MilepostError, Reject, Unavailable

ROUTE, LATER, NEVER = Unavailable, Defer, Reject


@pytest.mark.parametrize(
    ("step", "code", "text", "expected"),
    [
        ("connection", 421, "4.3.2 All server ports are busy", ROUTE),
        ("connection", 554, "No SMTP service here", ROUTE),
        ("connection", 550, "5.1.1 whatever is said before a recipient is named", ROUTE),
        ("EHLO", 504, "5.5.2 <pod-7>: Helo command rejected: need fully-qualified hostname", ROUTE),
        ("AUTH", 535, "5.7.8 Username and Password not accepted", ROUTE),
        ("AUTH", 454, "4.7.0 Temporary authentication failure", ROUTE),
        ("MAIL FROM", 530, "5.7.0 Must issue a STARTTLS command first", ROUTE),
        ("MAIL FROM", 530, "Authentication required", ROUTE),
        ("MAIL FROM", 550, "5.1.0 Sender address rejected", ROUTE),
        ("MAIL FROM", 550, "no such user", ROUTE),
        ("MAIL FROM", 553, "5.7.1 Sender address rejected: not owned by user", ROUTE),
        ("MAIL FROM", 552, "5.2.2 the sender is over quota", ROUTE),
        ("MAIL FROM", 452, "4.3.1 Insufficient system storage", ROUTE),
        ("RCPT TO", 421, "4.7.0 Try again later, closing connection", ROUTE),
        ("RCPT TO", 421, "too many connections", ROUTE),
        ("RCPT TO", 450, "4.1.8 Sender address rejected: Domain not found", ROUTE),
        ("RCPT TO", 452, "4.3.1 Insufficient system storage", ROUTE),
        ("RCPT TO", 451, "4.3.0 Temporary lookup failure", ROUTE),
        ("RCPT TO", 454, "4.7.1 <ada@example.org>: Relay access denied", ROUTE),
        ("RCPT TO", 504, "5.5.2 <pod-7>: Helo command rejected: need fully-qualified hostname", ROUTE),
        ("RCPT TO", 504, "<pod-7>: Helo command rejected: need fully-qualified hostname", ROUTE),
        ("RCPT TO", 530, "5.7.1 Client was not authenticated", ROUTE),
        ("RCPT TO", 550, "5.4.5 Daily sending quota exceeded", ROUTE),
        ("RCPT TO", 550, "#5.7.1 Relaying denied", ROUTE),
        ("RCPT TO", 554, "5.7.1 <ada@example.org>: Relay access denied", ROUTE),
        ("RCPT TO", 554, "Relay access denied", ROUTE),
        ("RCPT TO", 550, "relay not permitted", ROUTE),
        ("RCPT TO", 550, "authentication required", ROUTE),
        ("RCPT TO", 550, "Sender verify failed", ROUTE),
        ("RCPT TO", 550, "5.1.0 <me@example.org>: Sender address rejected: User unknown in local table", ROUTE),
        ("RCPT TO", 553, "sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)", ROUTE),
        ("RCPT TO", 553, "sorry, that domain isn't in my list of allowed rcpthosts", ROUTE),
        ("RCPT TO", 550, "sorry, no mailbox here by that name (#5.1.1)", NEVER),
        ("RCPT TO", 550, "Daily sending quota exceeded", ROUTE),
        ("RCPT TO", 550, "Your IP 192.0.2.1 is listed at spamhaus", ROUTE),
        ("RCPT TO", 550, "SPF check failed for example.org", ROUTE),
        ("RCPT TO", 552, "mailbox quota exceeded", NEVER),
        ("RCPT TO", 503, "5.5.1 Error: need MAIL command", ROUTE),
        ("RCPT TO", 500, "command not recognised", ROUTE),
        ("RCPT TO", 450, "4.2.0 Greylisted, try again in 300 seconds", LATER),
        ("RCPT TO", 451, "4.7.1 Greylisting in action, please come back later", LATER),
        ("RCPT TO", 451, "greylisted, please try again", LATER),
        ("RCPT TO", 450, "greylisted", LATER),
        ("RCPT TO", 452, "4.2.2 The recipient's mailbox is over quota", LATER),
        ("RCPT TO", 452, "over quota", LATER),
        ("RCPT TO", 450, "4.2.1 The user is receiving mail too quickly", LATER),
        ("RCPT TO", 450, "4.1.1 Recipient address rejected: unverified address", LATER),
        ("RCPT TO", 451, "4.4.3 Temporary server error: DNS", LATER),
        ("RCPT TO", 550, "5.1.1 The email account that you tried to reach does not exist", NEVER),
        ("RCPT TO", 550, "5.1.1 The email account\n5.1.1 that you tried to reach\n5.1.1 does not exist", NEVER),
        ("RCPT TO", 550, "Sorry\n5.1.1 no such user", NEVER),
        ("RCPT TO", 550, "#5.1.0 Address rejected.", NEVER),
        ("RCPT TO", 550, "5.2.1 The mailbox is disabled", NEVER),
        ("RCPT TO", 552, "5.2.2 Mailbox full", NEVER),
        ("RCPT TO", 550, "5.4.1 Recipient address rejected: Access denied", NEVER),
        ("RCPT TO", 550, "5.5.0 Requested action not taken: mailbox unavailable", NEVER),
        ("RCPT TO", 550, "5.0.0 Requested action not taken", NEVER),
        ("RCPT TO", 553, "5.1.3 Invalid address", NEVER),
        ("RCPT TO", 553, "sorry, no mailbox here by that name", NEVER),
        ("RCPT TO", 550, "no such mailbox", NEVER),
        ("RCPT TO", 550, "5.1.1 User unknown in relay recipient table", NEVER),
        ("RCPT TO", 501, "bad address", NEVER),
        ("RCPT TO", 550, "5.1.1.7 is the address of no server", NEVER),
        ("RCPT TO", 556, "5.1.10 The domain takes no mail", NEVER),
        ("DATA", 421, "4.4.2 timeout exceeded", ROUTE),
        ("DATA", 451, "local error in processing", ROUTE),
        ("DATA", 452, "insufficient system storage", ROUTE),
        ("DATA", 451, "4.3.0 queue file write error", ROUTE),
        ("DATA", 550, "5.4.5 Daily user sending limit exceeded", ROUTE),
        ("DATA", 550, "5.7.26 Unauthenticated sender", ROUTE),
        ("DATA", 554, "5.2.252 SendAsDenied; me@example.org not allowed to send as you@example.org", ROUTE),
        ("DATA", 550, "The from address does not match a verified Sender Identity", ROUTE),
        ("DATA", 550, "Messages per hour: sending limit reached", ROUTE),
        ("DATA", 550, "Rejected by the DMARC policy of example.org", ROUTE),
        ("DATA", 554, "Message rejected: Email address is not verified.", ROUTE),
        ("DATA", 550, "Message rejected: Email address is not verified.", ROUTE),
        ("DATA", 554, "transaction failed", ROUTE),
        ("DATA", 451, "4.7.1 Greylisted", LATER),
        ("DATA", 452, "4.2.2 Over quota", LATER),
        ("DATA", 550, "5.1.1 no such user", NEVER),
        ("DATA", 550, "no such user", NEVER),
        ("DATA", 552, "5.3.4 Message too big", NEVER),
        ("DATA", 554, "5.6.0 Message contains invalid header", NEVER),
        ("DATA", -1, "Malformed SMTP response line", ROUTE),
    ],
)
def test_replies(step: str, code: int, text: str, expected: type[MilepostError]) -> None:
    raised = error_for_reply(step, code, text, attempt=1, lone=False)
    assert type(raised) is expected
    assert str(raised).startswith(f"SMTP {step}: {code} ")
    assert "\n" not in str(raised)


@pytest.mark.parametrize(("code", "text"), [(550, "5.7.1 denied"), (421, "4.7.0 closing"), (554, "failed")])
def test_a_route_fault_that_meets_one_mail_alone_defers_that_mail(code: int, text: str) -> None:
    assert type(error_for_reply("RCPT TO", code, text, attempt=1, lone=True)) is Defer


def test_a_reply_that_is_not_utf8_can_be_answered_with() -> None:
    assert str(error_for_reply("RCPT TO", 550, "5.1.1 inconnu \udce0", attempt=1, lone=False)).encode()


def test_the_wait_of_a_mail_doubles_up_to_five_minutes() -> None:
    assert [retry_after(attempt) for attempt in (1, 2, 3, 7, 8, 10_000)] == [5, 10, 20, 300, 300, 300]


def test_every_rule_decides_some_reply() -> None:
    """No rule is hidden by an earlier one."""
    texts = [
        "",
        "relay denied",
        "5.1.0 sender",
        "5.2.252",
        *(f"{c}.{s}.{d}" for c in (4, 5) for s in range(1, 8) for d in range(20)),
    ]
    decided = {
        rule_for(step, code, text)
        for step in ("connection", "EHLO", "AUTH", "MAIL FROM", "RCPT TO", "DATA")
        for code in (*range(420, 460), *range(500, 560))
        for text in texts
    }
    assert decided == set(RULES)
    assert {rule.fault for rule in RULES} == set(Fault)
