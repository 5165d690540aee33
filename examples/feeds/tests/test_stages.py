"""Each stage alone."""

from pathlib import Path
from typing import ClassVar

import pytest
from milepost.testing import Problem, example, load, run
from milepost.testing.contract import StageContract

from functions.payloads import Digest, Feed, Item, Keywords, Summary

PROJECT = Path(__file__).parents[1]
NEWS = (PROJECT / "samples" / "news.xml").read_text()
SUMMARY = Summary(
    feed="Harbour News",
    items=(
        Item(
            title="The ferry is back",
            link="https://news.example.org/ferry",
            text="After a winter in dock the ferry sails again, from Monday & every hour.",
        ),
        Item(
            title="New lights at the pier",
            link="https://news.example.org/lights",
            text="The ferry finds the pier by night, too.",
        ),
    ),
)
LAUGHS = (
    """<!DOCTYPE rss [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]><rss><channel><title>&b;</title></channel></rss>"""
)
ELSEWHERE = (
    """<!DOCTYPE rss [<!ENTITY a SYSTEM "file:///etc/hostname">]><rss><channel><title>&a;</title></channel></rss>"""
)

summarise, digest, keywords = (
    load(PROJECT / "functions" / name / "main.py") for name in ("summarise", "digest", "keywords")
)


def feed(*items: str) -> Feed:
    return Feed(f"<rss><channel><title>T</title>{''.join(f'<item>{item}</item>' for item in items)}</channel></rss>")


def test_a_feed_is_summarised() -> None:
    assert run(summarise, Feed(NEWS)) == SUMMARY


def test_long_texts_are_cut_between_words_and_lists_short() -> None:
    item = f"<title>t</title><link>https://a.example/</link><description>{'word ' * 100}</description>"
    made = run(summarise, feed(*[item] * 60))
    assert isinstance(made, Summary)
    assert len(made.items) == 50
    assert made.items[0].text.endswith("word word…")
    assert len(made.items[0].text) <= 280


def test_an_item_without_a_link_that_can_be_followed_is_left_out() -> None:
    links = ("javascript:alert(1)", "", "https://a.example/1", "https://a.example/ b")
    made = run(summarise, feed(*(f"<title>t</title><link>{link}</link>" for link in links)))
    assert isinstance(made, Summary)
    assert [item.link for item in made.items] == ["https://a.example/1"]


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (LAUGHS, "declares an entity"),
        (ELSEWHERE, "declares an entity"),
        ("<rss><channel>", "no XML"),
        ("hello", "no XML"),
        ("<rss/>", "no channel"),
        ("<rss><channel><item><title>t</title></item></channel></rss>", "no item"),
        ("<a>" * 60_000, "no XML"),
        (f"<rss>{'<a>' * 60_000}{'</a>' * 60_000}</rss>", "no channel"),
    ],
    ids=["billion laughs", "a file", "half", "text", "no channel", "no link", "deep", "deep and whole"],
)
def test_document_that_is_no_feed_is_rejected_with_the_reason(document: str, reason: str) -> None:
    with pytest.raises(Problem, match=reason) as refused:
        run(summarise, Feed(document))
    assert refused.value.status == 422


def test_a_digest_is_markdown_in_which_nothing_of_the_feeds_is_markup() -> None:
    made = run(digest, Summary(feed="A *b*", items=(Item(title="[x]", link="https://a.example/>", text="<b>"),)))
    assert made == Digest(title="A *b*", markdown="# A \\*b\\*\n\n- [\\[x\\]](<https://a.example/%3E>)  \n  \\<b\\>\n")


def test_the_most_frequent_long_words_are_the_keywords() -> None:
    made = run(keywords, SUMMARY)
    assert isinstance(made, Keywords)
    assert made.words[0] == "ferry"
    assert made == run(keywords, SUMMARY)


class TestSummarise(StageContract):
    stage = "summarise"
    consumes = "feed"
    emits = "summary"
    data = NEWS
    invalid: ClassVar = [({}, "data"), ("", "data")]


class TestDigest(StageContract):
    stage = "digest"
    consumes = "summary"
    emits = "digest"
    data = example(Summary)
    invalid: ClassVar = [({"feed": "T", "items": []}, "items")]


class TestKeywords(StageContract):
    stage = "keywords"
    consumes = "summary"
    emits = "keywords"
    data = example(Summary)
    invalid: ClassVar = [({"items": [1]}, "feed")]
