"""URI Templates match what they can expand to (RFC 6570), checked with another implementation."""

from __future__ import annotations

import itertools
import random
import time
import tracemalloc
from typing import Any

import pytest
import uritemplate

from mercure_hub.protocol.matching.uri_template import compile_template, read_template

Value = str | list[str] | dict[str, str] | None


def matches(template: str, text: str) -> bool:
    pattern = compile_template(template)
    assert pattern is not None, "not a template"
    return pattern.fullmatch(text) is not None


# The variables of RFC 6570, section 3.2, and some more.
VARIABLES: dict[str, Any] = {
    "count": ["one", "two", "three"], "dom": ["example", "com"], "dub": "me/too", "hello": "Hello World!",
    "half": "50%", "var": "value",
    "who": "fred", "base": "http://example.com/home/", "path": "/foo/bar", "list": ["red", "green", "blue"],
    "keys": {"semi": ";", "dot": ".", "comma": ","}, "v": "6", "x": "1024", "y": "768", "empty": "",
    "empty_keys": {}, "undef": None,
    "umlaut": "äöü", "emoji": "😀😀", "mixed": "aé%/?#[]@!$&'()*+,;=~",
}  # fmt: skip

_RFC_6570 = """
{count} {count*} {/count} {/count*} {;count} {;count*} {?count} {?count*} {&count*} {var} {hello} {half}
O{empty}X O{undef}X {x,y} {x,hello,y} ?{x,empty} ?{x,undef} ?{undef,y} {var:3} {var:30} {list} {list*}
{keys} {keys*} {+var} {+hello} {+half} {base}index {+base}index O{+empty}X O{+undef}X {+path}/here
here?ref={+path} up{+path}{var}/here {+x,hello,y} {+path,x}/here {+path:6}/here {+list} {+list*} {+keys}
{+keys*} {#var} {#hello} {#half} foo{#empty} foo{#undef} {#x,hello,y} {#path,x}/here {#path:6}/here {#list}
{#list*} {#keys} {#keys*} {.who} {.who,who} {.half,who} www{.dom*} X{.var} X{.empty} X{.undef} X{.var:3}
X{.list} X{.list*} X{.keys} X{.keys*} X{.empty_keys} X{.empty_keys*} {/who} {/who,who} {/half,who}
{/who,dub} {/var} {/var,empty} {/var,undef} {/var,x}/here {/var:1,var} {/list} {/list*} {/list*,path:4}
{/keys} {/keys*} {;who} {;half} {;empty} {;v,empty,who} {;v,bar,who} {;x,y} {;x,y,empty} {;x,y,undef}
{;hello:5} {;list} {;list*} {;keys} {;keys*} {?who} {?half} {?x,y} {?x,y,empty} {?x,y,undef} {?var:3}
{?list} {?list*} {?keys} {?keys*} {&who} {&half} ?fixed=yes{&x} {&x,y,empty} {&x,y,undef} {&var:3} {&list}
{&list*} {&keys} {&keys*} {umlaut} {umlaut:2} {+umlaut:2} {emoji:1} {?emoji:1} {mixed} {+mixed} {#mixed}
{/mixed} {;mixed} {mixed:3} https://example.com/books/{v} https://example.com/users/foo/{?base}
{/who,list*,keys*} {?x,list*,keys*,y} {;keys*,list*} {v}{x}{y} é{v} %C3%A9{v}
"""


@pytest.mark.parametrize("template", _RFC_6570.split())
def test_matches_what_it_expands_to(template: str) -> None:
    assert matches(template, uritemplate.expand(template, VARIABLES))


OPERATORS = ["", "+", "#", ".", "/", ";", "?", "&"]
MODIFIERS = ["", "*", ":1", ":3", ":9999"]
VALUES: list[Value] = [
    None, "", "a", "abc", "a b", "a/b?c#d", "é", "日本語", "😀x", "%", "%41", "a,b;c=d", "~-._", ["a"], ["a",
        "b/c"], ["", "é"], ["a", "", "c"], {"k": "v"},
    {"k": "", "é": "ü/", "m": "n"},
]  # fmt: skip


def _holds_nothing(value: Value) -> bool:
    return isinstance(value, list | dict) and "" in (value.values() if isinstance(value, dict) else value)


@pytest.mark.parametrize("modifier", MODIFIERS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_every_operator_modifier_and_value(operator: str, modifier: str) -> None:
    failures = []
    for template in (
        f"{{{operator}one{modifier}}}",
        f"a{{{operator}one{modifier},two}}b",
        f"{{{operator}two,one{modifier}}}",
    ):
        for one, two in itertools.product(VALUES, VALUES[::4] if "two" in template else [None]):
            if modifier.startswith(":") and not isinstance(one, str | None):
                continue  # undefined in the RFC
            if operator == ";" and modifier == "*" and _holds_nothing(one):
                continue  # ;one=;one=b by uritemplate, ;one;one=b by the RFC (section 3.2.1, ifemp)
            expanded = uritemplate.expand(template, {"one": one, "two": two})
            if not matches(template, expanded):
                failures.append((template, one, two, expanded))
    assert failures == []


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("/books/{id}", "/books/1/2"),
        ("/books/{id}", "/books/1?x"),
        ("/books/{id}", "/books/1#x"),
        ("/books/{id}", "/Books/1"),
        ("/books/{id}", "/books"),
        ("/books/{id}", "x/books/1"),
        ("/books/{id}", "/books/1\n"),
        ("/books/{id}", "/books/a b"),
        ("/books/{id}", "/books/%"),
        ("/books/{id}", "/books/%4"),
        ("/books/{id}", "/books/%zz"),
        ("/books/{id}", "/books/{id}"),
        ("/books/{id}.json", "/books/1xjson"),
        ("/books/{id}/x", "/books/1/2/x"),
        ("{var:3}", "valu"),
        ("{var:3}", "%41%42%43%44"),
        ("{var:2}", "%C3%A9%C3%A9%C3%A9"),
        ("{/a}", "a"),
        ("{/a}", "/a/b"),
        ("{/a}x", "/a"),
        ("{?a}", "?b=1"),
        ("{?a}", "?a"),
        ("{?a}", "a=1"),
        ("{?a,b}", "?b=1&a=2"),
        ("{?a,b}", "?a=1&c=2"),
        ("{?a,b}", "&a=1"),
        ("{&a}", "?a=1"),
        ("{;a}", ";b"),
        ("{;a}", "a"),
        ("{#a}", "a"),
        ("{.a}", "a"),
        ("{a*}", "a/b"),
        ("{+a}", "a b"),
        ("{+a}", 'a"b'),
        ("é{a}", "ex"),
        ("a+b{c}", "aab1"),
        ("a.b{c}", "axb1"),
        ("[ab]{c}", "a1"),
        ("https://example.com/users/foo/{?topic}", "https://example.com/users/foo/?topic=a&x=b"),
    ],
)
def test_texts_that_a_template_does_not_match(template: str, text: str) -> None:
    assert not matches(template, text)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("/books/{id}", "/books/"),  # undefined or empty
        ("/books/{id}", "/books/é"),  # an IRI, not yet encoded
        ("é/{id}", "%C3%A9/1"),
        ("é/{id}", "%c3%a9/1"),
        ("https://example.com/users/foo/{?topic}",
            "https://example.com/users/foo/?topic=https%3A%2F%2Fexample.com%2Fbooks%2F1"),
        ("{a}{b}", "ab"),
        ("(ab)*+?$.{c}", "(ab)*+?$.x"),
        ("{a.b}", "x"),
        ("{%41}", "x"),
        ("{a_1}", "x"),
        ("{var:2}", "éé"),
    ],
)  # fmt: skip
def test_other_texts_that_a_template_matches(template: str, text: str) -> None:
    assert matches(template, text)


@pytest.mark.parametrize(
    "template",
    [
        "", "/books", "{", "}", "{}", "{a", "a}", "{a}}", "{{a}", "{a}{", "{a}{b", "{ a}", "{a }", "{a b}",
            "{a,}", "{,a}", "{a,,b}", "{a:}",
        "{a:0}", "{a:03}", "{a:10000}", "{a:-1}", "{a:b}", "{a:3*}", "{a*:3}", "{a**}", "{*a}", "{=a}",
        "{!a}", "{@a}", "{|a}", "{,}", "{?}",
        "{+}", "{a..b}", "{.a.}", "{a.}", "{%4}", "{%zz}", "{a-b}", "{é}", "{$a}", "{a}%", "{a}%4",
        "{a}%zz", "{a} ", "{a}\\", "{a}^", "{a}`",
        '{a}"', "{a}<b>", "a|{b}", "{a}\n", "{a}\t", "(?i){a}\\d",
    ],
)  # fmt: skip
def test_texts_that_are_not_templates(template: str) -> None:
    assert compile_template(template) is None


PATHOLOGICAL = [
    "{a}" * 60,
    "{a,b,c,d,e,f}",
    "{a*,b*,c*,d*}",
    "{/a*,b,c*}x",
    "{?a,b,c,d,e,f,g,h}",
    "{;a*,b*}{?c*,d*}",
    "{+a}{+b}{+c}{+d}",
    "{a:150}{b:20}",
]


@pytest.mark.parametrize("template", PATHOLOGICAL)
@pytest.mark.parametrize(
    "unit", ["a", ",", "a,", "a=b,", "%41", "/a", "?a=b", "&a=b", ";a=b", "é", "a=", "%"]
)
def test_matching_is_linear(template: str, unit: str) -> None:
    pattern = compile_template(template)
    assert pattern is not None
    text = (unit * 2048)[:2048] + "\n"
    best = 9.0
    for _ in range(3):
        start = time.thread_time()
        assert pattern.fullmatch(text) is None
        best = min(best, time.thread_time() - start)
    assert best < 0.3


COMPACT = [
    "{id}", "https://example.com/books/{id}", "/books/{id}", "{id}.json", "/a/{x}/b/{y}", "/a/{x}/b/{y}.json",
    "/a/{x}?q={y}", "/a/{x};{y}:{z}", "urn:{x}:{y}", "a{x}b", "{x}/", "/{x}", "{x}/{y}", "/%41/{x}", "{a.b}",
    "{1}", "{a_b.c}", "https://example.com/{x}/%2F/{y}/", "/a(b)*{x}", "{x}:41", "%41{x}41", "{x}%41", "{x},",
    "/.well-known/mercure/subscriptions/{topic}/{subscriber}", "$ref{x}", "{x}[{y}]",
]  # fmt: skip
OTHERS = [
    "", "a", "/books", "{", "}", "{}", "{{x}}", "{x", "x}", "{x}}", "{{x}", "{x}{y}", "{x}-{y}", "{x},{y}",
    "{x}a{y}", "{x}%2F{y}", "{x,y}", "{x*}", "{x:3}", "{+x}", "{#x}", "{.x}", "{/x}", "{;x}", "{?x}", "{&x}",
    "{x..y}", "{.}", "{x.}", "{%41}", "{x y}", "é{x}", "{x}é", "a b{x}", "%{x}", "%4{x}", "{x}%", "<{x}",
    "{é}", "{x}\n",
    "\\{x}", "'{x}", '"{x}', "^{x}", "`{x}", "|{x}", "{x}/é/{y}", "a{x}a/{y}a",
]  # fmt: skip

_PIECES = [
    "", "", "a", "b", "/", "/", "a/b", ".json", "%41", "%4", "%", "41", ",", "-", "é", "日本", " ", "\n",
    "?q=", ":", ";", "\0", "{x}", "1", "~", "_", "\x7f", "\x80", "😀", "https://example.com/books/",
    "/a/", "/b/",
    "urn:", "subscriptions", "(b)*", "$ref", "[", "]",
]  # fmt: skip


@pytest.mark.parametrize("template", COMPACT)
def test_it_matches_what_the_expression_matches(template: str) -> None:
    choose = random.Random(template)
    compact, expression = read_template(template), compile_template(template)
    assert compact is not None and expression is not None
    matching = 0
    for _ in range(3000):
        text = "".join(choose.choice(_PIECES) for _ in range(choose.randrange(5)))
        if choose.random() < 0.8:  # near to what matches
            text = template
            for name in ("{x}", "{y}", "{z}", "{id}", "{topic}", "{subscriber}", "{a.b}", "{1}", "{a_b.c}"):
                text = text.replace(name, "".join(choose.choice(_PIECES) for _ in range(choose.randrange(3))))
            if choose.random() < 0.2 and text:
                place = choose.randrange(len(text))
                text = text[:place] + text[place + 1 :]
        expected = expression.fullmatch(text) is not None
        assert compact.matches(text) is expected, text
        matching += expected
    assert matching > 100


@pytest.mark.parametrize("template", OTHERS)
def test_what_is_left_to_expressions(template: str) -> None:
    assert read_template(template) is None


def test_a_compact_template_takes_little_memory() -> None:
    values = [f"https://example.com/users/{number}/{{id}}" for number in range(500)]
    tracemalloc.start()
    made = [read_template(value) for value in values]
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert None not in made
    assert size / len(made) < 400


@pytest.mark.parametrize("length", [2000, 2048])
def test_hostile_ones_take_no_time(length: int) -> None:
    """All of these are quadratic or worse with an expression that goes back."""
    started = time.process_time()
    for hostile in (
        "{" + "a" * length,
        "{" + "a." * (length // 2),
        "{a" * (length // 2),
        "{a}" * (length // 3),
    ):
        assert read_template(hostile) is None
    many = read_template("/{a}" * (length // 4))
    assert many is not None
    for text in ("/" * length, "/a" * (length // 2), "/" + "%41" * (length // 3), "/" + "a" * length + "\n"):
        many.matches(text)
        single = read_template("/{a}")
        assert single is not None
        single.matches(text)
    assert time.process_time() - started < 1
