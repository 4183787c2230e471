# SPDX-License-Identifier: Apache-2.0
"""`describe()` says what Kafka Streams says of the same topology.

The expectations were printed by Kafka Streams 4.1 itself: see kafka_streams_descriptions/Descriptions.java.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kafkaproc as kp
from kafkaproc.topology.handoff import plan_handoffs

FIXTURES = Path(__file__).parent / "kafka_streams_descriptions"
EXPECTED = {
    title: text
    for title, _, text in (
        block.partition("\n") for block in (FIXTURES / "descriptions.txt").read_text().split("=== ")[1:]
    )
}


def same(value: Any) -> Any:
    return value


def pair(key: Any, value: Any) -> tuple[Any, Any]:
    return key, value


class Forwarding(kp.Processor[Any, Any]):
    def process(self, key: Any, value: Any, ctx: kp.Context) -> None:
        ctx.forward(value)


class ForwardingValues(kp.Processor[Any, Any]):
    def process(self, value: Any, ctx: kp.Context) -> None:
        ctx.forward(value)


def linear(app: kp.App) -> None:
    app.stream("in").map_values(same).filter(same).to("out")


def operators(app: kp.App) -> None:
    changed = app.stream("in").map(pair).flat_map(lambda k, v: [(k, v)]).flat_map_values(lambda v: [v])
    changed.filter_not(same).select_key(lambda k, v: v).peek(same).foreach(same)


def split(app: kp.App) -> None:
    branches = app.stream("in").split().branch(same).branch(same).default_branch()
    for name in sorted(branches):
        branches[name].to(f"out-{name}")


def named_split(app: kp.App) -> None:
    split = app.stream("in").split(name="kind-").branch(same, name="a").branch(same, name="b")
    branches = split.no_default_branch()
    branches["a"].map_values(same).to("out-a")
    branches["b"].to("out-b")


def merge(app: kp.App) -> None:
    x, y = app.stream("x"), app.stream("y")
    x.merge(y).to("out")


def two_subtopologies(app: kp.App) -> None:
    app.stream("a").to("b")
    app.stream("b").map_values(same).to("c")


def numbering(app: kp.App) -> None:
    a, b, c = app.stream("a"), app.stream("b"), app.stream("c")
    a.to("pa")
    b.to("qa")
    c.merge(a).to("ra")


def same_topic_twice(app: kp.App) -> None:
    app.stream("a").to("b")
    app.stream("a").map_values(same).to("c")


def pattern_process(app: kp.App) -> None:
    app.stream(pattern="in-.*").process(Forwarding).to("out")


def named(app: kp.App) -> None:
    source = app.stream("in", name="source")
    source.process_values(ForwardingValues).map_values(same, name="score").to("out", name="sink")


def named_process(app: kp.App) -> None:
    app.stream("in", name="source").process(Forwarding, name="proc").filter(same).to("out")


def several_topics(app: kp.App) -> None:
    app.stream(["t1", "t2", "t3"]).to("out")


def diamond(app: kp.App) -> None:
    top = app.stream("in")
    left, right = top.filter(same), top.map_values(same).peek(same)
    left.merge(right).to("out")
    right.to("right")


def lonely(app: kp.App) -> None:
    app.stream("lonely")


def everything(app: kp.App) -> None:
    values = app.stream("a").merge(app.stream("b")).map_values(same)
    values.split(name="s-").branch(same, name="one").default_branch(name="rest")["one"].to("o")


GREEK = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "zeta",
    "eta",
    "theta",
    "iota",
    "kappa",
    "lambda",
    "mu",
    "nu",
    "xi",
    "omicron",
]


def wide(app: kp.App) -> None:
    source = app.stream(GREEK)
    everything: Any = None
    for width in range(12):
        stream = source
        for depth in range(1 + width * 5 % 4):
            stream = stream.map_values(same) if depth % 2 == 0 else stream.filter(same)
        if width % 3 == 0:
            stream.to(f"side-{width}")
        if everything is None:
            everything = stream
        else:
            everything = everything.merge(stream) if width % 2 == 0 else stream.merge(everything)
    everything.to("all")


BUILDERS = [
    linear, operators, split, named_split, merge, two_subtopologies, numbering, same_topic_twice, pattern_process,
    named, named_process, several_topics, diamond, lonely, everything, wide,
]  # fmt: skip


def without_order_on_arrow_lines(text: str) -> str:
    return re.sub(r"(-->|<--) (.*)", lambda m: f"{m[1]} {sorted(m[2].split(', '))}", text)


@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
def test_describe_is_kafka_streams_own_text(build: Callable[[kp.App], None]) -> None:
    app = kp.App("app")
    build(app)
    ours, kafkas = app.build().describe(), EXPECTED[build.__name__.replace("_", "-")]
    if build is wide:  # twelve neighbours: see description.py
        ours, kafkas = without_order_on_arrow_lines(ours), without_order_on_arrow_lines(kafkas)
    assert ours == kafkas


def test_every_printed_description_is_compared() -> None:
    assert set(EXPECTED) == {build.__name__.replace("_", "-") for build in BUILDERS}


async def slow(value: Any) -> Any:
    return value


def topic_of(key: Any, value: Any) -> str:
    return "out"


def test_async_stages_are_marked_on_a_line_of_their_own() -> None:
    app = kp.App("app")
    stage = app.stream("in").map_values(slow, max_in_flight=5, timeout="2s", null_key="partition")
    stage.filter(kp.blocking(same)).to(topic_of)
    text = app.build().describe()
    marks = [line for line in text.splitlines() if line.startswith("      ~~~ ")]
    assert marks == [
        "      ~~~ async (max_in_flight=5, timeout=2000ms, null_key=partition)",
        "      ~~~ blocking",
    ]
    assert "(extractor class: topic_of (test_description.py:" in text

    # What is left without the marks has no line that the usual parsers of Kafka's format could not place.
    kafkas_line = re.compile(
        r"Topologies:| *Sub-topology: \d+| +(Source|Processor|Sink): \S+ \(.*\)| +(-->|<--) \S.*|"
    )
    assert all(kafkas_line.fullmatch(line) for line in text.splitlines() if line not in marks)


def test_a_hand_off_says_why_on_a_line_like_that_of_its_stage() -> None:
    app = kp.App("app")
    orders = app.stream("orders")
    orders.to("audit")
    orders.map_values(slow, name="score").to("scored")
    planned = plan_handoffs(app.build(), "app")
    reason = (
        "hand-off: beside it, the same record leads from KSTREAM-SOURCE-0000000000 to KSTREAM-SINK-0000000001 "
        "(topic audit)"
    )
    lines = planned.describe().splitlines()
    score = lines.index("    Processor: score (stores: [])")
    assert lines[score + 2 : score + 5] == [
        "      <-- score-handoff-source",
        "      ~~~ async",
        f"      ~~~ {reason}",
    ]
    assert "    Source: score-handoff-source (topics: [app-score-handoff])" in lines
    assert "    Sink: score-handoff-sink (topic: app-score-handoff)" in lines
    assert f'{{{{"score<br/>async<br/>{reason}"}}}}:::async' in planned.mermaid()
    assert f'label="score\\nasync\\n{reason}"' in planned.dot()


def two_stage_app() -> kp.App:
    app = kp.App("app")
    app.stream("a").map_values(slow, max_in_flight=5).to("b")
    app.stream("b").to(topic_of)
    app.stream(pattern="c-.*").foreach(same)
    return app


def test_mermaid_joins_subtopologies_by_topics_and_marks_async_stages() -> None:
    text = two_stage_app().build().mermaid()
    assert text.startswith("flowchart TD\n")
    assert [line.split()[1] for line in text.splitlines() if "subgraph" in line] == ["s0", "s1", "s2"]
    assert 'n1{{"KSTREAM-MAPVALUES-0000000001<br/>async (max_in_flight=5)"}}:::async' in text
    written = re.search(r"n2 --> (t\d)\n", text)  # sub-topology 0's sink and 1's source share topic b
    assert written is not None and f"{written[1]} --> n3\n" in text
    assert '[("/c-.*/")]' in text


def test_dot_is_balanced_and_marks_async_stages() -> None:
    text = two_stage_app().build().dot()
    assert text.count("{") == text.count("}") == 4
    assert "n1 [shape=hexagon, color=orange" in text
    assert all(line.count('"') % 2 == 0 for line in text.splitlines())


def test_diagrams_escape_what_a_name_may_hold() -> None:
    app = kp.App("app")
    app.stream(pattern=r'a"\d').foreach(same)
    assert r'label="/a\"\\d/"' in app.build().dot()
    assert '[("/a#quot;\\d/")]' in app.build().mermaid()
