"""Every text file of a user's: its plain value, or one line that names the file and what is wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import featcircuits as fc
from featcircuits.errors import InputError, first_line, known, shortened
from featcircuits.files import reading
from featcircuits.files.reading import parse_json, read_json, read_text, read_toml, read_yaml

READERS: dict[str, Callable[[Path], Any]] = {"json": read_json, "toml": read_toml, "yaml": read_yaml, "txt": read_text}

BAD: list[tuple[str, str | bytes, str]] = [
    ("json", '{"k": 8, "k": 9}', "'k' is given twice; remove one of them"),
    ("json", '{"a": [{"b": {"k": 1, "k": 1}}]}', "'k' is given twice"),
    ("json", '{"\\u0061": 1, "a": 2}', "'a' is given twice"),
    ("json", "[NaN]", "NaN is not a number"),
    ("json", "-Infinity", "-Infinity is not a number"),
    ("json", "1e999", "inf is not a number"),
    ("json", '{"k": -1e400}', "-inf is not a number"),
    ("json", "9" * 5000, "a number has thousands of digits"),
    ("json", "9" * 400, "a number of about 400 digits is too large"),
    ("json", str(1 << 1023), "a number of about 308 digits is too large a number"),
    ("json", "[" * 100_000, "nested too deeply"),
    ("json", "[" * 65 + "]" * 65, "nested more than 64 deep"),
    ("json", '{"a":' * 70 + "1" + "}" * 70, "nested more than 64 deep"),
    ("json", "[" + "[]," * 2_000_000 + "1]", "more than 2000000 values"),
    ("json", r'"\ud800"', "half of a surrogate pair"),
    ("json", r'{"\udfff x": 1}', "half of a surrogate pair"),
    ("json", "{'a': 1}", "not valid JSON"),
    ("json", "", "not valid JSON"),
    ("json", b'{"a": "\xff"}', "not UTF-8 text (invalid start byte, byte 7)"),
    ("json", '{"a": 1}'.encode("utf-16"), "not UTF-8 text"),
    ("json", '{"a": 1}\0', "holds the character NUL"),
    ("txt", "a\0b", "holds the character NUL"),
    ("txt", b"\xed\xa0\x80", "not UTF-8 text"),
    ("toml", "k = 1\nk = 2", "not valid TOML"),
    ("toml", "[a]\n[a]", "not valid TOML"),
    ("toml", "k = nan", "nan is not a number"),
    ("toml", "k = [inf]", "inf is not a number"),
    ("toml", "k = " + "9" * 5000, "a number has thousands of digits"),
    ("toml", f"k = -{1 << 1023}", "too large a number"),
    ("toml", "k = " + "[" * 5000, "nested too deeply"),
    ("toml", ".".join("a" * 100_000) + " = 1", "a name has more than 64 parts"),
    ("toml", " . ".join(["'a b'"] * 100_000) + " = 1", "a name has more than 64 parts"),
    ("toml", "#" * (1 << 20) + "\n", "bytes are too many"),
    ("yaml", "k: 1\nk: 2", "'k' is given twice"),
    ("yaml", "a:\n  k: 1\n  k: 2", "'k' is given twice"),
    ("yaml", "a: &a [1, 1]\nb: *a", "*a is an alias; write out its value"),
    ("yaml", "a: &a {b: 1}\nc: {<<: *a}", "*a is an alias"),
    ("yaml", "a: &a [*a]", "*a is an alias"),
    ("yaml", "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)), "*a0 is an alias"),
    ("yaml", "k: " + "9" * 5000, "a number has thousands of digits"),
    ("yaml", "k: " + ":".join(["9"] * 4000), "too large a number"),
    ("yaml", "k: " + ":".join(["9"] * 40_000), "a value without quotes has 79999 characters"),
    ("yaml", "k: .inf", "inf is not a number"),
    ("yaml", "[" * 1000, "not valid YAML"),
    ("yaml", "k: " + "[1, " * 900, "nested more than 64 deep"),
    ("yaml", "k: !!python/name:os.system", "could not determine a constructor"),
    ("yaml", "? [a]\n: 1", "unhashable key, line 1"),
    ("yaml", "a: b: c", "mapping values are not allowed in this context, line 1"),
    ("yaml", "# " + "x" * (1 << 17), "bytes are too many"),
]


@pytest.mark.parametrize(("kind", "text", "message"), BAD, ids=range(len(BAD)))
def test_what_cannot_be_read_is_one_line_that_names_the_file(
    tmp_path: Path, kind: str, text: str | bytes, message: str
) -> None:
    path = tmp_path / f"file.{kind}"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as caught:
        READERS[kind](path)
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert message in said
    assert said.isprintable()
    assert len(said) < len(str(path)) + 200


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folder", "this is a folder; give a file"),
        ("missing", "no such thing"),
        ("file/below", "no such thing"),
        ("x" * 300, "file name too long"),
        ("a\0b", "a path cannot hold the character NUL"),
        ("pipe", "not an ordinary file"),
        ("loop", "symbolic links"),
        ("dangling", "no such thing"),
    ],
)
def test_what_is_no_file_is_one_line_that_names_it(tmp_path: Path, kind: str, name: str, message: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    reader: Any = READERS[kind]
    with pytest.raises(InputError, match=message) as caught:
        reader(tmp_path / name, what="thing")
    assert str(caught.value).startswith(str(tmp_path)[:40])
    assert str(caught.value).isprintable()


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may read everything."""
    path = tmp_path / "config.json"
    path.touch()

    def denied(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(InputError, match=r"config\.json: permission denied$"):
        read_json(path)


def test_what_is_right_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b'\xef\xbb\xbf{"a": [1, 2.5, null, true, "\xc3\xa9\xf0\x9f\x98\x80"]}')
    assert read_json(path) == read_yaml(path) == {"a": [1, 2.5, None, True, "é😀"]}
    path.write_bytes(b'\xef\xbb\xbfa = {b = [1, 2.5, "c.d"]}\n')
    assert read_toml(path) == {"a": {"b": [1, 2.5, "c.d"]}}
    path.write_bytes(b"\xef\xbb\xbfa line\r\nand another")
    assert read_text(path) == "a line\r\nand another"
    assert parse_json(r'"\ud83d\ude00"', "line 3") == "😀"
    assert parse_json(str((1 << 1023) - 1), "line 3") == 2**1023 - 1


def test_the_most_that_may_be_read_is_a_limit_of_the_caller(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("ten bytes.")
    assert read_text(path, most=10) == "ten bytes."
    with pytest.raises(InputError, match="10 bytes are too many; such a file may have 9"):
        read_text(path, most=9)


def nested(times: int) -> list[Any]:
    value: list[Any] = [0]
    for _ in range(times):
        value = [value] * 10
    return value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "'a'"),
        ("\x1b[0m\n\ud800", r"'\x1b[0m\n\ud800'"),
        (8.5, "8.5"),
        (True, "True"),
        (None, "None"),
        ([1, {"a": "b"}], "[1, {'a': 'b'}]"),
        (Path("/a\nb/c"), r"/a\nb/c"),
        (10**5000, "a number of about 5000 digits"),
        (-(10**400), "a number of about 400 digits"),
        ([10**5000], "a list that is too long to show"),
    ],
    ids=range(10),
)
def test_a_value_in_a_message(value: object, text: str) -> None:
    assert shortened(value) == text


@pytest.mark.parametrize(
    "value", ["x" * 10**6, nested(40), {i: i for i in range(1000)}, list(range(1000)), b"x" * 10**6, {"a" * 500: [1]}]
)
def test_a_long_value_in_a_message_is_cut(value: object) -> None:
    assert 20 < len(shortened(value, 60)) <= 60
    assert "..." in shortened(value, 60)


def test_names_that_were_meant() -> None:
    assert known(["resid_2", "mlp_2"], "resid2") == "known: resid_2, mlp_2; did you mean 'resid_2'?"
    assert known(["left", "gauss"], "zzz") == "known: left, gauss"
    assert known([], "zzz") == "known: none"
    many = [f"release-{i}" for i in range(100)]
    assert known(many, "release-7 ") == (
        "known: release-7, release-97, release-87, release-79, release-78 and 95 others; did you mean 'release-7'?"
    )
    assert known(["a"], "x" * 10**6) == "known: a"


def test_the_first_line_of_a_librarys_error() -> None:
    assert first_line(ValueError("\n \n\x1b[31mwrong\x1b[0m\r\nmore")) == "wrong"
    assert first_line(KeyError("name")) == "name"
    assert first_line(RuntimeError()) == "RuntimeError"
    assert first_line(OSError("a\x07b\ud800")) == r"a\x07b\ud800"
    assert len(first_line(ValueError("x" * 10**6))) == 200


STRINGS = st.text(alphabet='"\\[]{}a,é', max_size=8)
NESTED = st.recursive(
    st.none() | st.integers() | STRINGS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(STRINGS, inner, max_size=3),
    max_leaves=12,
)


def depth_of(value: object) -> int:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inside is None else 1 + max(map(depth_of, inside), default=0)


@given(value=NESTED, most=st.integers(0, 6), ascii_only=st.booleans())
def test_nesting_is_that_of_the_values(
    value: object, most: int, ascii_only: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Brackets and quotes inside of strings do not count."""
    path = tmp_path_factory.mktemp("nested") / "tokenizer.json"
    path.write_text(json.dumps(value, ensure_ascii=ascii_only), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_DEEPEST", most)
        if depth_of(value) <= most:
            reading.check_nesting(path)
        else:
            with pytest.raises(fc.InputError, match=f"nested {depth_of(value)} deep; {most} is the most"):
                reading.check_nesting(path)
