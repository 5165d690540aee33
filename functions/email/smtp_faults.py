"""Decide from an SMTP server's reply whether the route is at fault, or one mail alone.

A fault of the route (our account, our settings, the relay) meets every mail: the stage answers 503, and all events
wait. A fault of the mail (its recipient) harms no other: with a reply 4xx the mail is tried again later (409), with 5xx
it is buried (422). The first rule that fits decides. Enhanced status codes: RFC 3463 and IANA's registry of them.
"""

import re
from enum import StrEnum
from typing import NamedTuple

from milepost.errors import Defer, Reject, Unavailable

ROUTE_RETRY_AFTER = 5.0
"""Seconds until the route is tried again."""

FIRST_RETRY_AFTER, LONGEST_RETRY_AFTER = 5.0, 300.0
"""Seconds until one mail is tried again: doubled at each attempt, to the most that the bridge honours."""

FIRST_RESEND_AFTER = 60.0
"""Seconds until a message is sent again that the server has got and not answered: doubled each time, so that at most
eleven copies are sent within the deadline of 24 h.
"""


class Fault(StrEnum):
    """The route, which every mail takes, or this mail alone."""

    ROUTE = "route"
    MAIL = "mail"


class Rule(NamedTuple):
    """A row of the table. `replies` are codes, with x for any digits: basic ones (`53x`), or enhanced (`x.1.7`).
    A rule with `words` is for replies whose text has one of them, one of basic codes if there is no enhanced code.
    """

    steps: str
    replies: str
    fault: Fault
    examples: str
    words: str = ""

    def fits(self, step: str, basic: str, enhanced: str, text: str) -> bool:
        """Whether a reply at this step falls under the rule."""
        if self.steps != "any" and step not in self.steps.split(", "):
            return False
        if self.words and ((enhanced and "." not in self.replies) or not re.search(self.words, text, re.IGNORECASE)):
            return False
        return self.replies == "any" or any(
            re.fullmatch(code.replace(".", r"\.").replace("x", r"\d+"), enhanced if "." in code else basic)
            for code in self.replies.split(", ")
        )


BEFORE = "connection, EHLO, AUTH, MAIL FROM"
AFTER = "RCPT TO, DATA"

WORDS = (
    r"\brelay(ing)?\b|rcpthosts|authenti|client host|\bsenders?\b|not verified|from address"
    r"|\b(helo|ehlo)\b|fully.qualified|\b(sending|sent|daily|hourly|rate)\b.{0,20}\b(quota|limits?)\b"
    r"|black.?list|block.?list|spamhaus|dnsbl|reputation|\b(spf|dkim|dmarc)\b|\byour (ip|host|server|domain|account)\b"
)
"""Words of a refusal that is about us and not about the recipient, in replies without an enhanced code."""

RULES = (
    Rule("any", "421, 454, 53x", Fault.ROUTE, "the server closes; TLS or a login is missing or refused; relay denied"),
    Rule(BEFORE, "any", Fault.ROUTE, "the sender's address, the account's quota, the name in EHLO"),
    Rule(AFTER, "x.1.7, x.1.8", Fault.ROUTE, "the sender's address or its domain"),
    Rule(AFTER, "x.1.0", Fault.ROUTE, "the sender's address, as Postfix refuses it", words=r"\bsender\b"),
    Rule(AFTER, "x.1.x", Fault.MAIL, "no such mailbox or domain"),
    Rule(AFTER, "x.2.252, x.2.254", Fault.ROUTE, "the account may not send as MAIL_FROM, at Microsoft 365"),
    Rule(AFTER, "x.2.x", Fault.MAIL, "mailbox full or disabled; greylisting as 4.2.0"),
    Rule(AFTER, "x.3.4", Fault.MAIL, "message too large"),
    Rule(AFTER, "x.3.x", Fault.ROUTE, "the relay is full, or takes no mail now"),
    Rule(AFTER, "x.4.2, x.4.5", Fault.ROUTE, "bad connection; congestion, or a sending quota as 5.4.5"),
    Rule(AFTER, "x.4.x", Fault.MAIL, "the recipient's server cannot be found or reached"),
    Rule(AFTER, "x.5.x", Fault.ROUTE, "protocol: need fully-qualified hostname as 5.5.2"),
    Rule(AFTER, "x.6.x", Fault.MAIL, "an address or content that cannot be carried to this recipient"),
    Rule(AFTER, "4.7.x", Fault.MAIL, "greylisting as 4.7.1"),
    Rule(AFTER, "5.7.2, 5.7.17, 5.7.18", Fault.MAIL, "a closed mailing list; the mailbox or domain has a new owner"),
    Rule(AFTER, "5.7.x", Fault.ROUTE, "relay denied, not authenticated, not authorised"),
    Rule(
        AFTER,
        "5xx",
        Fault.ROUTE,
        "relaying denied, authentication required, sender not verified, a daily quota, our address on a blocklist, SPF",
        words=WORDS,
    ),
    Rule("RCPT TO", "450, 451, 452", Fault.MAIL, "greylisting, mailbox full"),
    Rule("RCPT TO", "501, 550, 551, 552, 553, 556", Fault.MAIL, "no such mailbox"),
    Rule("DATA", "450, 550, 552, 553", Fault.MAIL, "no such mailbox, mailbox full"),
    Rule("any", "any", Fault.ROUTE, "anything else: a local error, a transaction that failed, a command not known"),
)

_ENHANCED = re.compile(r"(?:^#?|\(#)[245]\.(\d{1,3})\.(\d{1,3})(?!\.?\d)", re.MULTILINE)
"""At the begin of a line; qmail has it in parentheses at the end."""


def rule_for(step: str, code: int, text: str) -> Rule:
    """Return the first rule that fits a reply. `text` is the reply without its basic codes, one line for each."""
    found = _ENHANCED.search(text)
    # "Other or undefined", of anything or of the protocol, says nothing: Outlook has 550 5.5.0 for an unknown mailbox.
    says_something = found and found[1] != "0" and found.groups() != ("5", "0")
    enhanced = f"{code // 100}.{found[1]}.{found[2]}" if found and says_something else ""
    return next(rule for rule in RULES if rule.fits(step, str(code), enhanced, text))


def retry_after(attempt: int) -> float:
    """Return the seconds until a mail that was refused for now is tried again. The first attempt is 1."""
    return min(FIRST_RETRY_AFTER * 2.0 ** min(attempt - 1, 10), LONGEST_RETRY_AFTER)


def resend_after(unanswered: int) -> float:
    """Return the seconds until a message is sent again. `unanswered`: how often the server did not answer it."""
    return FIRST_RESEND_AFTER * 2.0 ** min(unanswered - 1, 10)


def error_for_silence(reason: str, wait: float, *, lone: bool) -> Defer | Unavailable:
    """Make the exception for a message that the server has got and not answered; it is sent again after `wait` seconds.

    Unless it is `lone`, the bridge sends one request at a time only, as a probe (rule 6 in bridge/concurrency.py). A
    probe may be a batch. Each of its mails may be out, and be sent again, as well.
    """
    error = Defer if lone else Unavailable
    return error(reason, retry_after=min(wait, LONGEST_RETRY_AFTER))


def error_for_route(reason: str, *, attempt: int, lone: bool) -> Defer | Unavailable:
    """Make the exception for a fault of the route. `lone`: since the relay refused this mail, it took another one.

    A fault of the route would have met that one too, so the fault is this mail's, and may pass.
    """
    if lone:
        return Defer(reason, retry_after=retry_after(attempt))
    return Unavailable(reason, retry_after=ROUTE_RETRY_AFTER)


def error_for_reply(step: str, code: int, text: str, *, attempt: int, lone: bool) -> Defer | Reject | Unavailable:
    """Make the exception for a reply that refuses a mail."""
    plain = " ".join(text.encode(errors="replace").decode().split())
    reason = f"SMTP {step}: {code} {plain}"
    if rule_for(step, code, text).fault is Fault.ROUTE:
        return error_for_route(reason, attempt=attempt, lone=lone)
    return Reject(reason) if code >= 500 else Defer(reason, retry_after=retry_after(attempt))
