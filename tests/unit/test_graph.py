from milepost.graph import Graph, Stage

LINE = [Stage("distance", "raw", "miles"), Stage("store", "miles", "kept"), Stage("email", "kept", "sent")]


def test_a_line_is_walked_from_its_first_channel() -> None:
    graph = Graph(LINE)
    assert graph.channels == ("raw", "miles", "kept", "sent")
    assert graph.reached("raw") == ("raw", "miles", "kept", "sent")
    assert graph.reached("kept") == ("kept", "sent")
    assert graph.ends("raw") == {"sent"}
    assert graph.in_order == ["distance", "store", "email"]


def test_a_fan_out_ends_at_each_branch_that_emits() -> None:
    graph = Graph([*LINE, Stage("chart", "miles", "drawn"), Stage("webhook", "miles", None)])
    assert graph.reached("raw") == ("raw", "miles", "kept", "drawn", "sent")
    assert graph.ends("raw") == {"sent", "drawn"}


def test_a_channel_that_a_last_stage_consumes_is_an_end() -> None:
    assert Graph([*LINE, Stage("webhook", "sent", None)]).ends("raw") == {"sent"}
    assert Graph([Stage("webhook", "raw", None)]).ends("raw") == frozenset()


def test_a_stage_may_consume_and_emit_several_channels() -> None:
    graph = Graph([Stage("broker", ["raw", "miles"], ["miles", "kept"]), Stage("judge", "kept", ["yes", "no"])])
    assert graph.reached("raw") == ("raw", "miles", "kept", "yes", "no")
    assert graph.ends("raw") == {"yes", "no"}


def test_a_circle_is_walked_once_and_has_no_end() -> None:
    graph = Graph([Stage("there", "a", "b"), Stage("back", "b", "a")])
    assert graph.reached("a") == ("a", "b")
    assert graph.ends("a") == frozenset()
    assert graph.in_order == ["there", "back"]


def test_stages_are_ordered_as_an_event_passes_them() -> None:
    assert Graph(reversed(LINE)).in_order == ["distance", "store", "email"]
    aside = Stage("aside", "other", None)
    assert Graph([aside, *reversed(LINE)]).in_order == ["aside", "distance", "store", "email"]


def test_a_channel_that_two_stages_emit_is_found() -> None:
    graph = Graph([*LINE, Stage("copy", "raw", "kept")])
    assert graph.emitted_twice == ["kept"]
    assert graph.emitters("kept") == ["store", "copy"]
    assert Graph(LINE).emitted_twice == []
