"""Why some mutants of the scripts survive: the change makes no difference that a promise is about.

Each reason is for the changes that a pattern finds, in one script or in all. A change says what became of which line.
"""

import re

SHORTCUT = "a shortcut: entries that it does not find are looked at one by one"
EQUAL = "it decides between two equal values, or about one millisecond"
KEYS_ALONE = "the table is read by its keys alone"
FIRST_ROW = "it asks for one row more, and the first is read"
UNREAD = "the number is read as true or false, or for a line of the log"
MORE = "one more command, which finds or changes nothing"
BOUND = "a bound without an exact meaning"

REASONS = [
    ("common", r"first = entry|range\.(first|last|count)|pending\[stream\]\[row\[1\]\]", SHORTCUT),
    ("common", r" orders\[row\[1\]\] = fields_of", SHORTCUT),
    ("common", r"^1 → 2 in .*'XRANGE', stream, entry, entry", FIRST_ROW),
    (
        "common",
        r"^true → false in if string.find\(fault, text\)",
        "test_refusal_of_a_node_without_our_keys_is_of_the_server finds it, but runs the line in a text of its own",
    ),
    ("common", r"^96 → 97", "only the order of the letters matters"),
    ("retry_due", r"set_parked, stage, channel, order|^negated: order$", SHORTCUT),
    ("common", r"deleted: journaled\[channel\] = journal", SHORTCUT),
    (".*", r"^(<|>|<=|>=) → .*(now\(\)|time|idle|beat|due|left|oldest|trusted|deadline)", EQUAL),
    ("common", r"^[01] → [12] in return since|^0 → 1 in if left < 0", EQUAL),
    ("hand_back|renew", r"^0 → 1 in redis.call\('XCLAIM'", EQUAL),
    ("stats", r"time - 1", EQUAL),
    ("read_ordered", r"^0 → 1 in redis.call\('ZADD', held, 0|^>= → > in if bytes|^6 → 7|^0 → 1 in if #begun", EQUAL),
    ("read_ordered", r"^> → >= in if moved|^(and → or|> → >=) in if moved == 0|^< → <= in if room", MORE),
    ("read_ordered", r"^- → \+ in (if room|local found)|^and → or in if not read or at_end", MORE),
    ("read_ordered", r"deleted: last_retry = row\[1\]", MORE),
    ("read_ordered", r"in local (name|from) = |(find|sub)\(event, |field ~= ''|negated: not from or", SHORTCUT),
    ("common", r" in local dash, sub|^1 → 2 in return key \.\. '/'", "no number of an entry has 20 digits, or none"),
    ("common", r"deleted: keys = \{\}|^and → or in if channel and redis.call\('EXISTS', in_hand", MORE),
    ("lease", r"^10 → 11 in if left", BOUND),
    ("trim", r"^< → <= in return a_ms .*\(2\)$", EQUAL),
    ("publish", r"^> → >= in if added > 0", EQUAL),
    ("keep_statuses", r"^'\(' → '' in return", "it looks at one entry twice"),
    (".*", r"^true → false in .*(channels|names)\[", KEYS_ALONE),
    (".*", r"^1 → 2 in .*(, 1\)|, 1, consumer\)|'COUNT', 1\))", FIRST_ROW),
    (".*", r"^0 → 1 in .*'ZRANGE', parked.*\(2\)$", FIRST_ROW),
    ("beat|release", r"^1 → 2 in return 1", UNREAD),
    ("ensure", r"local made|made = made", UNREAD),
    ("forget_journal", r"^1 → 2 in .*return -1", UNREAD),
    ("reap", r"^1 → 2 in reaped", UNREAD),
    ("retry_due", r"^1 → 2 in local moved", UNREAD),
    ("unblock_lost", r"^0 → 1 in .*return \{ '', 0 \}.*\(2\)", UNREAD),
    ("switch", r"^0 → 1 in .*'served'", UNREAD),
    ("common", r"MOST_|LONGEST_|60000 →", BOUND),
    ("bury_given_up", r"^16 →", BOUND),
    ("retry_due", r"60000 →|8000000|bytes", BOUND),
    ("read_ordered", r"^32 →|^0 → 1 in local last, moved, bytes|^1 → 2 in room = room - 1", BOUND),
    ("unblock_lost", r"^1 → 2 in for _ = 1, most", BOUND),
    ("unblock_lost", r"^1 → 2 in local member", FIRST_ROW),
    ("trim", r"^1 → 2 in for _ = 1, 256", BOUND),
    ("switch", r"^1000000 →", BOUND),
    ("trim", r"^(100000|5000|1000|256) →", BOUND),
]


def reason(script: str, change: str) -> str | None:
    """Return why a mutant of this script may survive, or None."""
    for scripts, changes, why in REASONS:
        if re.fullmatch(scripts, script) and re.search(changes, change):
            return why
    return None
