"""The stages together."""

from pathlib import Path

from milepost.testing import LocalPipeline, load

from functions.payloads import Feed

PROJECT = Path(__file__).parents[1]
NEWS = (PROJECT / "samples" / "news.xml").read_text()
STAGES = [load(PROJECT / "functions" / name / "main.py") for name in ("summarise", "digest", "keywords")]


async def test_a_summary_goes_to_both_of_its_stages() -> None:
    async with LocalPipeline(*STAGES) as pipeline:
        event_id = await pipeline.publish(Feed(NEWS))
        digest = await pipeline.published("digest", event_id)
        keywords = await pipeline.published("keywords", event_id)
        assert digest.data["markdown"].startswith("# Harbour News\n\n- [The ferry is back]")
        assert keywords.data["words"][0] == "ferry"


async def test_a_bad_feed_is_a_dead_letter_and_holds_up_no_other() -> None:
    async with LocalPipeline(*STAGES) as pipeline:
        bad = await pipeline.publish(Feed("<rss/>"))
        good = await pipeline.publish(Feed(NEWS))
        await pipeline.published("digest", good)
        (letter,) = await pipeline.journal.admin.dead_letters("summarise")
        assert (letter.id, letter.status) == (bad, 422)
        assert "there is no channel" in letter.reason
