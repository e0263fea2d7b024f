# SPDX-License-Identifier: Apache-2.0
"""YAML with lines: what it means, and that any text is either documents or one error."""

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from nodeagent.controlplane.documents import (
    MAX_DEPTH,
    Document,
    Mapping,
    Scalar,
    Sequence,
    Value,
    YamlError,
    parse_documents,
)


def plain(value: Value) -> object:
    match value:
        case Scalar():
            return value.value
        case Sequence():
            return [plain(item) for item in value.items]
        case Mapping():
            return {key: plain(item) for key, item in value.entries.items()}


def only(text: str) -> Document:
    (document,) = parse_documents(text)
    return document


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("8080", 8080),
        ("'8080'", "8080"),
        ("-3", -3),
        ("0x1F", 31),
        ("010", 8),
        ("0o10", 8),
        ("1_000", 1000),
        ("1.5", 1.5),
        ("1e3", 1000),
        ("5.", 5),
        ("5_e-1", 0.5),
        ("1e400", "1e400"),
        ("1e30", 1e30),
        ("0X1f", 31),
        ("0B11", 3),
        ("0O17", 15),
        ("08", 8),
        ("_1", "_1"),
        ("+_1", 1),
        ("18446744073709551615", 2**64 - 1),
        ("yes", True),
        ("y", True),
        ("N", False),
        ("Off", False),
        ("yEs", "yEs"),
        ("'n'", "n"),
        ("!!bool y", True),
        ("~", None),
        ("", None),
        ("12:30", "12:30"),
        ("2026-01-01", "2026-01-01"),
        ("10.0.0.1", "10.0.0.1"),
        ("0x__", "0x__"),
        ("089", 89),
        ("9" * 100, "9" * 100),
        ("!!str 12", "12"),
        ("!!int '12'", 12),
    ],
)
def test_scalars_are_read_as_kubernetes_reads_them(written: str, value: object) -> None:
    assert plain(only(f"key: {written}\nother: x").root) == {"key": value, "other": "x"}


@pytest.mark.parametrize(
    ("written", "key"),
    [("on", "true"), ("n", "false"), ("8080", "8080"), ("0x50", "80"), ("'on'", "on"), ("010", "8"), ("1.25", "1.25")],
)
def test_keys_are_what_they_are_in_json(written: str, key: str) -> None:
    assert plain(only(f"{written}: x").root) == {key: "x"}


@pytest.mark.parametrize("number", [".inf", "-.Inf", "+.INF", ".nan"])
def test_a_number_that_json_has_not_refuses_the_object(number: str) -> None:
    (problem,) = only(f"a: {number}\n").problems
    assert "no number that Kubernetes takes" in problem.message
    assert only(f"a: '{number}'\n").problems == []


def test_every_key_and_value_knows_its_line() -> None:
    document = only("# comment\na: 1\nb:\n- x\n- c:\n    d\n")
    root = document.root
    assert isinstance(root, Mapping)
    assert root.lines == {"a": 2, "b": 3}
    listed = root.entries["b"]
    assert isinstance(listed, Sequence)
    assert [item.line for item in listed.items] == [4, 5]
    inner = listed.items[1]
    assert isinstance(inner, Mapping)
    assert inner.lines == {"c": 5}
    assert inner.entries["c"].line == 6


def test_documents_are_told_apart_and_empty_ones_left_out() -> None:
    documents = parse_documents("---\na: 1\n---\n# nothing\n---\n\nb: 2\n...\n")
    assert [plain(document.root) for document in documents] == [{"a": 1}, {"b": 2}]
    assert [document.line for document in documents] == [2, 7]
    assert plain(only(documents[1].text).root) == {"b": 2}


def test_anchors_and_merge_keys() -> None:
    document = only(
        "base: &b {x: 1, w: 2}\nsame: *b\nmore: {<<: *b, w: 3}\nmany: {<<: [*b, {z: 4}]}\nquoted: {'<<': *b}\n"
    )
    assert plain(document.root) == {
        "base": {"x": 1, "w": 2},
        "same": {"x": 1, "w": 2},
        "more": {"x": 1, "w": 3},
        "many": {"x": 1, "w": 2, "z": 4},
        "quoted": {"<<": {"x": 1, "w": 2}},
    }
    assert document.problems == []


@pytest.mark.parametrize(
    ("text", "line", "path", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "a", "'a' occurs twice, first in line 1"),
        ("x:\n- y\n- z: {a: 1,\n  a: 2}\n", 4, "x[1].z.a", "'a' occurs twice, first in line 3"),
        ("a:\n  ? [x]\n  : 1\n", 2, "a", "a key has to be a text"),
        ("a: !secret x\n", 1, "a", "tag !secret"),
        ("a: 1\n~: 2\n", 2, "", "a key has to be a text"),
        ("- a: [b, !thing {}]\n", 1, "[0].a[1]", "tag !thing"),
    ],
)
def test_what_yaml_allows_and_we_do_not(text: str, line: int, path: str, words: str) -> None:
    (problem,) = only(text).problems
    assert (problem.line, problem.path, words in problem.message) == (line, path, True)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: [\n", 3),
        ("a: 1\n\tb: 2\n", 2),
        ("a: *nowhere\n", 1),
        ("a: &me [*me]\n", 1),
        ("a: \x00", 1),
        ("x: y: z", 1),
        ("[" * 100_000, 1),
        ("- " * 5_000, 1),
    ],
)
def test_what_is_no_yaml_is_one_error_with_its_line(text: str, line: int) -> None:
    with pytest.raises(YamlError) as raised:
        parse_documents(text)
    assert raised.value.line == line
    assert str(raised.value)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("a: [2001:db8::]", {"a": ["2001:db8::"]}),
        ("a: [10.0.0.1, fd00::, 2001:db8::,\n 'it''s']", {"a": ["10.0.0.1", "fd00::", "2001:db8::", "it's"]}),
        ("\u00e9: {to: 'x', ip: it's::}\r\n", {"\u00e9": {"to": "x", "ip": "it's::"}}),
        ("\ufeffa: [fd00::]", {"a": ["fd00::"]}),
        ("a: {b:}", {"a": {"b:": None}}),
        ("a: [fd00::/8, x:1]", {"a": ["fd00::/8", "x:1"]}),
    ],
)
def test_a_colon_before_a_bracket_belongs_to_the_text(text: str, read: object) -> None:
    """As in go-yaml's scanner (yaml_parser_scan_plain_scalar): a colon ends a text where a blank follows."""
    [document] = parse_documents(text)
    assert plain(document.root) == read
    assert document.text == text


def test_what_comes_after_such_a_colon_has_its_line() -> None:
    [document] = parse_documents("a: [fd00::]\nb: {c: [fd00::,\n  fd01::]}\nd: 1\n")
    assert isinstance(document.root, Mapping)
    assert document.root.lines == {"a": 1, "b": 2, "d": 4}
    with pytest.raises(YamlError) as raised:
        parse_documents("a: [fd00::]\nb: [fd00:::x\n  - {")
    assert raised.value.line == 3


def test_there_are_as_many_such_texts_in_a_file_as_it_is_read_again() -> None:
    assert len(parse_documents("a: [" + "fd00::," * 256 + "]")) == 1
    with pytest.raises(YamlError, match="found unexpected ':'"):
        parse_documents("a: [" + "fd00::," * 257 + "]")


def test_depth_has_a_limit() -> None:
    assert parse_documents("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    with pytest.raises(YamlError, match="nested"):
        parse_documents("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))


def test_a_billion_laughs_cost_nothing() -> None:
    text = "a: &a [x, x]\n" + "".join(
        f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefghijklmnopqrstuvw", "bcdefghijklmnopqrstuvwx", strict=True)
    )
    assert only(text).problems == []


_LEAVES = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=20)
_TREES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


class _Quoting(yaml.SafeDumper):
    """Quotes every text: PyYAML leaves `0E0` bare, which is a number to YAML 1.2 and so to Kubernetes and to us."""


_Quoting.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


@given(st.dictionaries(st.text(max_size=8), _TREES, min_size=1, max_size=4))
def test_what_was_written_is_read(tree: dict[str, object]) -> None:
    found = parse_documents(yaml.dump(tree, Dumper=_Quoting))
    assert [plain(document.root) for document in found] == [tree]


@given(st.text(alphabet=st.sampled_from("ab:-? []{}&*!|>'\"#%,\n\t0<~\\\x85\u2028é"), max_size=60))
@example("%YAML 1.2\n---\na")
@example("&a: *a")
@example("? - a\n  - b\n: c")
@example("---\n...\n---")
@example("!!int a: !!bool b")
def test_any_text_is_documents_or_one_error(text: str) -> None:
    documents, line = _attempt(text)
    assert 1 <= line <= text.count("\n") + text.count("\x85") + text.count("\u2028") + 2
    assert all(isinstance(plain(document.root), dict | list | str | int | float) for document in documents)


def _attempt(text: str) -> tuple[list[Document], int]:
    try:
        return parse_documents(text), 1
    except YamlError as error:
        return [], error.line
