"""The stage summarise."""

from milepost import stage

from functions.payloads import Feed, Summary
from functions.summarise.rss import summary


def summarise(feed: Feed) -> Summary:
    """The items of an RSS document, each with its title, its link and the beginning of its text."""
    return summary(feed.root)


main = stage(summarise)
