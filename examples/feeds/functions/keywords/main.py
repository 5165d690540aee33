"""The stage keywords, the second on its channel: it gets every summary, as digest does."""

import re
from collections import Counter

from milepost import stage

from functions.payloads import Keywords, Summary

SHORTEST = 5
"""Letters of a word that says something."""

MOST = 5


def keywords(summary: Summary) -> Keywords:
    """The longer words that occur most often in a feed."""
    text = " ".join(f"{item.title} {item.text}" for item in summary.items).lower()
    words = Counter(word for word in re.findall(r"[^\W\d_]+", text) if len(word) >= SHORTEST)
    return Keywords(feed=summary.feed, words=tuple(word for word, _ in words.most_common(MOST)))


main = stage(keywords, inline=True)
