from milepost.graph import Graph, Node, nodes

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


def test_stages_that_an_event_comes_back_to_are_found() -> None:
    assert Graph([*LINE, Node("chart", "miles", "drawn"), Node("audit", "sent", None)]).circles == []
    assert Graph([*LINE, Node("retry", "sent", ["raw", "lost"])]).circles == ["distance", "store", "email", "retry"]
    assert Graph([*LINE, Node("self", "kept", ["kept", "out"]), Node("after", "out", "end")]).circles == ["self"]


def test_part_begins_on_a_channel_of_each_stage_that_has_made_it() -> None:
    graph = Graph([Node("split", "raw", ["item", "raw"]), Node("pack", "raw", "box"), Node("ship", "item", "shipped")])
    assert graph.begins(["item", "box", "shipped"]) == ["item", "box"]
    assert graph.begins(["raw"]) == ["raw"]
    assert graph.begins([]) == []
    circle = Graph([Node("there", "a", "b"), Node("back", "b", "a")])
    assert circle.begins(["b", "a"]) == ["b"]


def test_part_that_comes_back_to_its_stage_is_finished_when_its_own_parts_are() -> None:
    graph = Graph([Node("walk", "folder", ["folder", "file"])])
    assert graph.ahead("folder", ["folder"]) == ("file",)
    assert not graph.is_finished("folder", ["folder"], {"walk": False})
    assert graph.is_finished("folder", ["folder"], {"walk": True})


def test_a_channel_that_two_stages_emit_is_found() -> None:
    graph = Graph([*LINE, Node("copy", "raw", "kept")])
    assert graph.emitted_twice == ["kept"]
    assert graph.emitters("kept") == ["store", "copy"]
    assert Graph(LINE).emitted_twice == []


def test_event_is_finished_when_each_stage_has_emitted_one_of_its_channels() -> None:
    graph = Graph(
        [
            Node("decide", "raw", ["approved", "declined"]),
            Node("audit", "raw", "audited"),
            Node("ship", "approved", "shipped"),
            Node("log", "declined", None),
        ]
    )
    assert not graph.is_finished("raw", ["raw", "approved", "audited"])
    assert graph.is_finished("raw", ["raw", "approved", "shipped", "audited"])
    assert graph.is_finished("raw", ["raw", "declined", "audited"])
    assert not graph.is_finished("raw", ["raw", "declined"])
    assert graph.ahead("raw", ["raw"]) == ("approved", "declined", "audited", "shipped")
    assert graph.ahead("raw", ["raw", "declined"]) == ("audited",)
    assert graph.ahead("raw", ["raw", "approved"]) == ("audited", "shipped")


def test_event_in_a_circle_is_finished_when_a_stage_has_let_it_out() -> None:
    graph = Graph([Node("try", "raw", ["again", "done"]), Node("back", "again", "raw")])
    assert not graph.is_finished("raw", ["raw", "again"])
    assert graph.is_finished("raw", ["raw", "again", "done"])


def test_table_in_broker_mode_names_the_stages_behind_the_broker() -> None:
    behind = {
        "decide": {"consumes": ["raw"], "emits": "yes no", "beat": 90_000},
        "log": {"consumes": ["no"], "emits": "", "beat": 90_000},
        "gone": {"consumes": ["raw"], "emits": "old", "beat": 10_000},
    }
    row = {"consumes": ["raw", "no"], "emits": ["yes", "no"], "beat": 90_000, "behind": behind}
    assert list(nodes([("broker", row)])) == [Node("decide", ("raw",), ("yes", "no")), Node("log", ("no",), ())]
    for old in ({"decide": {"consumes": ["raw"], "beat": 90_000}}, {"decide": 7}, {}, 7):
        route = Node("broker", ["raw", "no"], ["yes", "no"])
        assert list(nodes([("broker", row | {"behind": old})])) == [route]


def test_event_that_a_stage_has_split_is_finished_when_its_parts_are() -> None:
    graph = Graph([Node("split", "raw", "item"), Node("ship", "item", "shipped"), Node("audit", "raw", "audited")])
    assert not graph.is_finished("raw", ["raw", "audited"])
    assert not graph.is_finished("raw", ["raw", "audited"], {"split": False})
    assert not graph.is_finished("raw", ["raw"], {"split": True})
    assert graph.is_finished("raw", ["raw", "audited"], {"split": True})
    assert graph.ahead("raw", ["raw"], ["split"]) == ("audited",)


def test_downstream_of_a_long_chain_is_found_in_linear_time() -> None:
    """Every event after a silence asks for it: looking through all stages at each stage took a second for 3,000."""

    class Counting(tuple[str, ...]):
        __slots__ = ()
        compared = 0

        def __contains__(self, channel: object) -> bool:
            Counting.compared += 1
            return super().__contains__(channel)

    names = [f"s{number}" for number in range(500)]
    graph = Graph(Node(name, f"c{number}", f"c{number + 1}") for number, name in enumerate(names))
    graph.consumes = {name: Counting(channels) for name, channels in graph.consumes.items()}
    assert graph.downstream(["s0"]) == names[1:]
    assert Counting.compared <= len(names)
