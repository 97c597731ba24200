"""Paths, subjects and names from outside become text that is safe, and paths come back exactly."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_git import git

from kitaru_fs.errors import UsageError
from kitaru_fs.quoting import printable, quote_path, slug, unquote_path

NAMES = st.one_of(
    st.binary(min_size=1, max_size=20),
    st.text(min_size=1, max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.text(alphabet='\t\n"\\ aé\x7f\u202e\u200b', min_size=1, max_size=9).map(str.encode),
)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quoting") / "repository"
    path.mkdir()
    git(path, "init", "-q")
    return path


def as_git_prints(repository: Path, names: list[bytes], setting: str) -> list[str]:
    blob = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    lines = b"".join(b"100644 blob %s\t%s\0" % (blob.encode(), name) for name in names)
    mktree = ["git", "mktree", "-z", "--missing"]
    made = subprocess.run(mktree, input=lines, cwd=repository, capture_output=True, check=True)
    tree = made.stdout.decode().strip()
    listed = subprocess.run(
        ["git", "-c", f"core.quotePath={setting}", "ls-tree", "--name-only", tree],
        cwd=repository,
        capture_output=True,
        check=True,
    )
    return listed.stdout.decode("utf-8", "surrogateescape").splitlines()


@given(names=st.sets(NAMES.filter(lambda name: not set(name) & {0, 47}), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_paths_are_quoted_as_git_does_and_come_back(repository: Path, names: set[bytes]) -> None:
    ordered = sorted(names)
    for name in ordered:
        quoted = quote_path(name)
        assert unquote_path(quoted) == name
        quoted.encode("utf-8")
        assert quoted.isprintable()
    escaped = as_git_prints(repository, ordered, "true")
    assert [unquote_path(line) for line in escaped] == ordered
    plain = [name for name in ordered if name.isascii() or is_plain_text(name)]
    if plain:
        shown = "\n".join(quote_path(name) for name in plain)
        assert shown == "\n".join(as_git_prints(repository, plain, "false"))


def is_plain_text(name: bytes) -> bool:
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character.isascii() for character in text)


@pytest.mark.parametrize("text", ['"', '"a', '"a"b"', r'"\q"', r'"\4', '"a"x', "\ud800"])
def test_a_torn_quoted_path_is_an_error(text: str) -> None:
    with pytest.raises(UsageError):
        unquote_path(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain and ünïcode", "plain and ünïcode"),
        ("two\nlines\r\n", "two lines"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("abc\u202etxt.exe", r"abc\u202etxt.exe"),
        ("a\u200bb\ud800", r"a\u200bb\ud800"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_what_does_not_show_is_made_visible(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(text=st.text(), limit=st.integers(min_value=0, max_value=80))
def test_printable_text_keeps_to_its_limit(text: str, limit: int) -> None:
    shown = printable(text, limit)
    assert len(shown) <= limit
    assert shown.isprintable()
    whole = printable(text)
    assert shown == whole or (shown.endswith("…") or limit == 0)


@given(name=st.text())
def test_a_slug_fits_a_path_and_a_ref(name: str) -> None:
    text = slug(name)
    assert re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,39}", text)
    assert not text.endswith((".lock", ".", "-"))
    assert ".." not in text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("search", "search"),
        ("Search the Web!", "search-the-web"),
        ("Écrire à la fin", "ecrire-a-la-fin"),
        (".git", "git"),
        ("../../etc/passwd", "etc-passwd"),
        ("--force", "force"),
        ("index.lock", "index-lock"),
        ("日本", "unnamed"),
        ("", "unnamed"),
    ],
)
def test_slugs_stay_readable(name: str, expected: str) -> None:
    assert slug(name) == expected
