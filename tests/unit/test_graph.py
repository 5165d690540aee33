from milepost.graph import Graph, Node

LINE = [Node("distance", "raw", "miles"), Node("store", "miles", "kept"), Node("email", "kept", "sent")]


def test_a_line_is_walked_from_its_first_channel() -> None:
    graph = Graph(LINE)
    assert graph.channels == ("raw", "miles", "kept", "sent")
    assert graph.reached("raw") == ("raw", "miles", "kept", "sent")
    assert graph.reached("kept") == ("kept", "sent")
    assert graph.ends("raw") == {"sent"}
    assert graph.in_order == ["distance", "store", "email"]


def test_a_fan_out_ends_at_each_branch_that_emits() -> None:
    graph = Graph([*LINE, Node("chart", "miles", "drawn"), Node("webhook", "miles", None)])
    assert graph.reached("raw") == ("raw", "miles", "kept", "drawn", "sent")
    assert graph.ends("raw") == {"sent", "drawn"}


def test_a_channel_that_a_last_stage_consumes_is_an_end() -> None:
    assert Graph([*LINE, Node("webhook", "sent", None)]).ends("raw") == {"sent"}
    assert Graph([Node("webhook", "raw", None)]).ends("raw") == frozenset()


def test_a_stage_may_consume_and_emit_several_channels() -> None:
    graph = Graph([Node("broker", ["raw", "miles"], ["miles", "kept"]), Node("judge", "kept", ["yes", "no"])])
    assert graph.reached("raw") == ("raw", "miles", "kept", "yes", "no")
    assert graph.ends("raw") == {"yes", "no"}


def test_a_circle_is_walked_once_and_has_no_end() -> None:
    graph = Graph([Node("there", "a", "b"), Node("back", "b", "a")])
    assert graph.reached("a") == ("a", "b")
    assert graph.ends("a") == frozenset()
    assert graph.in_order == ["there", "back"]


def test_stages_are_ordered_as_an_event_passes_them() -> None:
    assert Graph(reversed(LINE)).in_order == ["distance", "store", "email"]
    aside = Node("aside", "other", None)
    assert Graph([aside, *reversed(LINE)]).in_order == ["aside", "distance", "store", "email"]


def test_a_channel_that_two_stages_emit_is_found() -> None:
    graph = Graph([*LINE, Node("copy", "raw", "kept")])
    assert graph.emitted_twice == ["kept"]
    assert graph.emitters("kept") == ["store", "copy"]
    assert Graph(LINE).emitted_twice == []
