"""Why some mutants of the scripts survive: the change makes no difference that a promise is about.

Each reason is for the changes of one script that a pattern finds. A change names the line and the new text.
"""

import re
from collections.abc import Mapping

SLOWER = "Redis does more work, and finds the same"
EQUAL = "it decides between two equal values, or about one millisecond"
KEYS_ALONE = "the table is read by its keys alone"
FIRST_ROW = "it asks for one row more, and the first is read"
UNREAD = "the number is read as true or false, or for a line of the log"
MORE = "one more command, which finds or changes nothing"
BOUND = "a bound without an exact meaning"
PLAIN = "no letter of the text is special in a pattern"
BRACE = "an event begins with `{`, and a name or its end follows"
TOGETHER = "the values come in twos or fours"

REASONS: Mapping[str, Mapping[str, str]] = {
    "adopt": {r"^true → false in .*channels\[message": KEYS_ALONE},
    "beat": {
        r"^< → <= in if stage.beat < now\(\)": EQUAL,
        r"^> → >= in for .*stage.beat > now\(\)": EQUAL,
        r"^true → false in .*channels\[channel": KEYS_ALONE,
        r"^1 → 2 in return 1": UNREAD,
    },
    "bury_given_up": {r"^16 →": BOUND},
    "common": {
        r"^10000 → .*MOST_UNCONSUMED": BOUND,
        r"^true → false in if string.find\(fault, text\)": "test_refusal_of_a_node_without_our_keys_is_of_the_server "
        "finds it, but runs the line in a text of its own",
        r"^1 → 2 in local dash": "an entry begins with a digit",
        r"^true → false in local dash": PLAIN,
        r"^1 → 2 in local row = redis.call\('XRANGE', stream, from, to.*\]$": FIRST_ROW,
        r"^[01] → [12] in return since < math.huge": EQUAL,
        r"^1 → 2 in local found = unless_gone\('XPENDING'": FIRST_ROW,
        r"^1 → 2 in ranges\[row.stream\]": BOUND,
        r"^(<|>) → .*range\.(first|last)": EQUAL,
        r"^1 → 2 in range.count = ": BOUND,
        r"^> → >= in if range.count > 1": SLOWER,
        r"^4 → 5 in .*range.count \* 4": BOUND,
        r"^< → <= in if not time or time < HOUR": EQUAL,
        r"^60000 → .*'PTTL', status": BOUND,
        r"^< → <= in .*'PTTL', status": EQUAL,
        r"^> → >= in stage.served": EQUAL,
        r"^(< → <=|0 → 1) in if left < 0": EQUAL,
        r"^<= → < in if bytes <= MOST_KEPT": MORE,
        r"^0 → 1 in return type\(bytes\)": BOUND,
        r"^1 → 2 in local member = .*'LIMIT', 0, 1\)\[$": FIRST_ROW,
        r"^deleted: keys = \{\}": MORE,
        r"^true → false in .*names\[name\]": KEYS_ALONE,
    },
    "complete": {r"^true → false in channels\[": KEYS_ALONE},
    "depth": {r"^0 → 1 in local since = .*\(2\)$": FIRST_ROW},
    "forget": {
        r"^< → <= in .*row.beat < fresh": EQUAL,
        r"^true → false in .*channels\[": KEYS_ALONE,
    },
    "forget_journal": {r"^1 → 2 in .*return -1": UNREAD},
    "keep_statuses": {
        r"^1 → 2 in .*'COUNT', 1\)": FIRST_ROW,
        r"^'\(' → '' in return": "it looks at one entry twice",
    },
    "lease": {
        r"^> → >= in if left": EQUAL,
        r"^10 → 11 in if left": BOUND,
    },
    "park": {
        r"^>= → > in .*row.since >= deadline": EQUAL,
        r"^<= → < in .*due <= now\(\)": EQUAL,
    },
    "publish": {
        r"^> → >= in .*> trusted": EQUAL,
        r"^true → false in channels\[": KEYS_ALONE,
        r"^> → >= in if added > 0": MORE,
    },
    "read_ordered": {
        r"^1 → 2 in if string.find\(event, '\\\\', 1, true\)": BRACE,
        r"^true → false in if string.find\(event, '\\\\', 1, true\)": PLAIN,
        r"^1 → 2 in local from": BRACE,
        r"^deleted: from = string.find\(event, '\{', 2, true\)": SLOWER,
        r"^2 → 3 in from = string.find\(event, '\{', 2, true\)": BRACE,
        r"^true → false in from = string.find\(event, '\{', 2, true\)": PLAIN,
        r"^(- → \+|8 → 9) in .*string.sub\(event, from - 8": SLOWER,
        r"^1 → 2 in .*string.sub\(event, from - 8": SLOWER,
        r"^\+ → - in local to = string.find\(event, bracket": SLOWER,
        r"^< → <= in if to and to < at": EQUAL,
        r"^true → false in local to = string.find\(event, '\"'": PLAIN,
        r"^and → or in if key and places\[key\] == nil": SLOWER,
        r"^0 → 1 in local plain, other, moved, bytes = .*\(2\)$": BOUND,
        r"^0 → 1 in if #(begun|waiting) > 0": TOGETHER,
        r"^1 → 2 in local page = redis.call\('XRANGE'": FIRST_ROW,
        r"^> → >= in if room > 0": MORE,
        r"^0 → 1 in redis.call\('ZADD', held, 'XX', 0, ''": MORE,
        r"^< → <= in while .*\(2\)$": EQUAL,
    },
    "reap": {
        r"^> → >= in if other.name .*idle > idle": EQUAL,
        r"^1 → 2 in reaped": UNREAD,
    },
    "release": {r"^1 → 2 in return 1": UNREAD},
    "renew": {
        r"^1 → 2 in local mine": FIRST_ROW,
        r"^0 → 1 in redis.call\('XCLAIM'": EQUAL,
    },
    "replay": {
        r"^0 → 1 in local found, .*bytes = .*\(2\)$": BOUND,
        r"^> → >= in if bytes > 8000000": BOUND,
    },
    "retry_due": {
        r"^1 → 2 in local moved": UNREAD,
        r"^> → >= in if bytes > 8000000 and.*once$": EQUAL,
        r"^0 → 1 in .*'ZRANGE', parked.*\(2\)$": FIRST_ROW,
        r"^< → <= in if next_due < 0.*\(2\)$": EQUAL,
    },
    "split": {r"^true → false in channels\[": KEYS_ALONE},
    "stats": {r"^(- → \+|1 → 2) in .*time - 1": EQUAL},
    "switch": {
        r"^0 → 1 in return not stages_of": "neither 0 nor 1 is more than one stage",
        r"^0 → 1 in local events, bytes.*\(2\)$": BOUND,
        r"^(> → >=|1 → 2) in if entries > 0 then bytes": BOUND,
        r"^> → >= in if events > MOST": BOUND,
        r"^true → false in .*channels\[channel\]": KEYS_ALONE,
        r"^1000000 →": BOUND,
    },
    "take_over": {r"^1 → 2 in local deliveries.*\(3\)$": FIRST_ROW},
    "trim": {
        r"^(100000|5000|1000|256) →": BOUND,
        r"^< → <= in return a_ms .*\(2\)$": EQUAL,
        r"^< → <= in .*idle < fresh": EQUAL,
        r"^1 → 2 in for _ = 1, 256": BOUND,
        r"^1 → 2 in local entry = .*'COUNT', 1\).*\]$": FIRST_ROW,
        r"^(> → >=|0 → 1) in if redis.call\('PTTL', journal\) > 0": EQUAL,
    },
    "unblock_lost": {
        r"^1 → 2 in for _ = 1, most": BOUND,
        r"^1 → 2 in local member = .*[^)]$": FIRST_ROW,
    },
}


def reason(script: str, change: str) -> str | None:
    """Return why a mutant of this script may survive, or None."""
    return next((why for pattern, why in REASONS.get(script, {}).items() if re.search(pattern, change)), None)
