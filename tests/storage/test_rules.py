"""Which rule an update belongs to, and whom it concerns what rules discard."""

from __future__ import annotations

import pytest

from mercure_hub.protocol.matching.matcher import Matcher, make
from mercure_hub.protocol.topics import MatcherType
from mercure_hub.storage.interface import Discarded, Retention, Rule
from mercure_hub.storage.rules import Interest, Rules, rules_from

BASE = Retention().base
ORIGIN = "https://hub.example/.well-known/mercure"
ANSWERS = Rule("urlpattern", "/answers/:id", max_age=3600)
ORDERS = Rule("urlpattern", "/orders/*", max_age=86400 * 30)
GAUGES = Rule("urlpattern", "/gauges/:name", size_per_topic=1)
RULES = Rules([ANSWERS, ORDERS, GAUGES], BASE)


def matchers(*written: str) -> list[Matcher]:
    """Patterns begin with ``~``, URI Templates with ``=``."""
    types = {"~": MatcherType.URLPATTERN, "=": MatcherType.TEMPLATE}
    return [make(types.get(one[0], MatcherType.EXACT), one.lstrip("~="), ORIGIN) for one in written]


@pytest.mark.parametrize(
    ("topics", "number", "matched"),
    [
        (["/answers/7"], 1, ["/answers/7"]),
        (["/orders/7/items"], 2, ["/orders/7/items"]),
        (["/orders"], 0, []),
        (["/gauges/a", "/gauges/b", "x"], 3, ["/gauges/a", "/gauges/b"]),
        (["/gauges/a", "/answers/7"], 1, ["/answers/7"]),
        (["x", "/orders/1"], 2, ["/orders/1"]),
        (["urn:x"], 0, []),
    ],
)
def test_an_update_belongs_to_the_first_rule_that_matches_a_topic(
    topics: list[str], number: int, matched: list[str]
) -> None:
    found, by = RULES.of(tuple(topics))
    assert (found, list(by)) == (number, matched)


def test_order_decides() -> None:
    everything = Rule("exact", "*", size=3)
    assert Rules([everything, ORDERS], BASE).of(("/orders/1",))[0] == 1
    assert Rules([ORDERS, everything], BASE).of(("/orders/1",))[0] == 1
    assert Rules([ORDERS, everything], BASE).of(("/x",))[0] == 2


def test_relative_patterns_belong_to_the_base() -> None:
    assert Rules([ORDERS], ORIGIN).of(("https://hub.example/orders/1",))[0] == 1
    assert Rules([ORDERS], ORIGIN).of(("https://other.example/orders/1",))[0] == 0


def test_rules_are_the_same_after_being_stored() -> None:
    again = rules_from(RULES.text)
    assert (again.rules, again.text) == (RULES.rules, RULES.text)
    assert again.of(("/answers/7",))[0] == 1
    assert rules_from("").rules == Rules((), BASE).rules == ()
    assert Rules((), BASE).text == ""


@pytest.mark.parametrize(
    ("written", "reached"),
    [
        # rest, answers, orders, gauges
        (["/orders/7"], "0010"),
        (["/orders/7", "/answers/1"], "0110"),
        (["/orders/7", "/else"], "1010"),
        (["~/orders/:id"], "0010"),
        (["~/orders/*"], "0010"),
        (["~/orders/:id/items"], "0010"),
        (["~/orders/../answers/:id"], "1100"),
        (["~/gauges/:name"], "0001"),
        (["~/gauges/:other"], "1001"),
        (["~/gauges/a:rest"], "1001"),
        (["~/rooms/:id"], "1000"),
        (["~/answers2/:id"], "1000"),
        (["~/:kind/:id"], "1111"),
        (["~https://hub.example/orders/:id"], "1010"),
        (["~/orders/:id", "~/rooms/:id"], "1010"),
        (["~/orders/:id?secret"], "1111"),
        (["*"], "1111"),
        (["=/orders/{id}"], "1010"),
        (["=https://hub.example/answers/{id}"], "1100"),
        (["={+path}"], "1111"),
    ],
)
def test_what_a_subscriber_may_get(written: list[str], reached: str) -> None:
    assert "".join(str(int(one)) for one in RULES.reached_by(matchers(*written))) == reached


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ("/a/:x", "~/a/b", True),
        ("/a/b", "~/a/:x", True),
        ("/a/b/:x", "~/a/:x", True),
        ("/a/b/:x", "~/a/c/:x", False),
        ("https://a.example/x/:y", "~https://b.example/x/:y", False),
        ("https://a.example/x/:y", "~/x/:y", True),
        ("/:x", "~/a/:y", True),
    ],
)
def test_patterns_that_may_match_one_topic(one: str, other: str, meet: bool) -> None:
    assert Rules([Rule("urlpattern", one)], BASE).reached_by(matchers(other))[1] is meet


def discarded(**values: object) -> Discarded:
    by_rule = ((50, 0), (20, 0), (90, 40))
    return Discarded(RULES.text, by_rule, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("written", "values", "newest"),
    [
        (["/orders/7"], {}, 0),
        (["/orders/7"], {"of_topics": 15}, 15),
        (["/orders/7"], {"of_topics": 15, "forgotten": 5}, 15),
        # Up to where topics are forgotten the rules tell, with what had other topics too.
        (["/orders/7"], {"forgotten": 99}, 40),
        (["/orders/7"], {"forgotten": 10}, 10),
        (["/gauges/a"], {"forgotten": 99}, 90),
        (["/else"], {"forgotten": 99}, 40),
        (["/else"], {"forgotten": 99, "before": 60}, 60),
        (["/else"], {"before": 60}, 0),
        (["~/orders/:id"], {}, 40),
        (["~/orders/:id", "/answers/1"], {}, 50),
        (["~/answers/:id"], {"of_topics": 7}, 50),
        (["~/rooms/:id"], {"before": 60}, 60),
        (["*"], {}, 90),
    ],
)
def test_the_newest_that_a_subscriber_may_miss(
    written: list[str], values: dict[str, int], newest: int
) -> None:
    assert Interest(matchers(*written)).newest(discarded(**values)) == newest


def test_the_rest_concerns_whoever_listens_to_a_topic_without_rule() -> None:
    assert not Interest(matchers("/orders/1", "~/answers/*" if False else "/answers/1")).has_rest(discarded())
    assert Interest(matchers("/orders/1", "/else")).has_rest(discarded())


def test_other_rules_are_looked_at_anew() -> None:
    interest = Interest(matchers("/orders/1"))
    assert interest.newest(discarded(forgotten=99)) == 40
    others = Rules([ORDERS], BASE)
    assert interest.newest(Discarded(others.text, ((70, 0),), forgotten=99)) == 70
    assert interest.newest(Discarded("", (), before=30, forgotten=99)) == 30
