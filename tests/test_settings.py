"""Settings: what is read, who wins, and that every mistake names its file, line and key."""

from __future__ import annotations

import os
import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitaru_fs.config.quantities import Cost, Cron, Duration, Size
from kitaru_fs.config.settings import DEFAULT_EXCLUDE, Settings, load_settings
from kitaru_fs.config.tomllines import key_lines
from kitaru_fs.errors import SettingsError
from kitaru_fs.scaffold import template_dir


def read(tmp_path: Path, text: str | bytes, **env: str) -> Settings:
    path = tmp_path / "kitaru.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_settings(path, env)


def refusal(tmp_path: Path, text: str | bytes, **env: str) -> str:
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, text, **env)
    assert caught.value.exit_status == 2
    return str(caught.value).replace(str(tmp_path) + "/", "")


def test_nothing_set_gives_the_defaults(tmp_path: Path) -> None:
    settings = load_settings(None, {})
    assert settings == read(tmp_path, "") == read(tmp_path, "# only a comment\n")
    assert settings.durability == "fsync"
    assert settings.linger == 2.0
    assert settings.files.max_file == 100_000_000
    assert settings.files.scan == "auto"
    assert {".env", "id_rsa", "id_ed25519", "*.pem", "__pycache__/"} <= set(DEFAULT_EXCLUDE)
    assert settings.files.exclude == DEFAULT_EXCLUDE
    assert settings.limits.per_run is None
    assert settings.schedule == ()


def test_every_key_can_be_set(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        """
        durability = "process"
        linger = "500ms"
        [files]
        exclude = ["*.bin", "build/"]
        max_file = "1.5 GiB"
        scan = "full"
        [limits]
        concurrency = 2
        per_run = "0.50 USD"
        per_day = "20 EUR"
        [redact]
        env = ["MY_*"]
        patterns = ['tok_[a-z]+']
        [models]
        fast = "openai:gpt-5-mini"
        "very smart" = "anthropic:claude"
        [[schedule]]
        flow = "digest"
        cron = "0 9 * * mon-fri"
        input = { topic = "git", n = 3 }
        [[schedule]]
        flow = "agents/x.py:y"
        cron = "@daily"
        """,
    )
    assert settings.durability == "process"
    assert settings.linger == 0.5
    assert settings.files.exclude == ("*.bin", "build/")
    assert settings.files.max_file == 1.5 * 2**30
    assert settings.files.scan == "full"
    assert settings.limits.concurrency == 2
    assert settings.limits.per_run == Cost(Decimal("0.5"), "USD")
    assert str(settings.limits.per_day) == "20 EUR"
    assert settings.redact.env == ("MY_*",)
    assert settings.redact.patterns == ("tok_[a-z]+",)
    assert settings.models == {"fast": "openai:gpt-5-mini", "very smart": "anthropic:claude"}
    assert [schedule.flow for schedule in settings.schedule] == ["digest", "agents/x.py:y"]
    assert settings.schedule[0].input == {"topic": "git", "n": 3}


def test_the_template_shows_every_key_with_its_default() -> None:
    template = (template_dir() / "kitaru.toml").read_text()
    assert load_settings(template_dir() / "kitaru.toml", {}) == Settings()
    examples = {"flows", "per_run", "per_day", "fast", "[[schedule]]", "flow", "cron"}
    examples |= {"timezone", "input"}
    lines = [line.removeprefix("#") for line in template.splitlines()]
    shown = [line for line in lines if (line and not line.startswith(" ")) or line[:4] == "    "]
    kept = [line for line in shown if line.split(" =")[0] not in examples]
    raw = tomllib.loads("\n".join(kept))
    for section in ("files", "limits", "logs", "redact", "up"):
        fields = set(getattr(Settings(), section).__struct_fields__) - examples
        assert set(raw[section]) == fields
    overrides = {
        f"{section}.{key}" if isinstance(values, dict) else section: value
        for section, values in raw.items()
        for key, value in (values.items() if isinstance(values, dict) else [("", values)])
    }
    assert load_settings(None, {}, overrides) == Settings()


def test_the_call_wins_over_the_environment_over_the_file(tmp_path: Path) -> None:
    text = 'linger = "1s"\ndurability = "process"\n[files]\nmax_file = "1KB"\nexclude = ["a"]\n'
    path = tmp_path / "kitaru.toml"
    path.write_text(text)
    env = {
        "KITARU_LINGER": "1m",
        "KITARU_FILES_MAX_FILE": "2KB",
        "KITARU_FILES_EXCLUDE": "b, c/ ,",
        "KITARU_LIMITS_CONCURRENCY": "9",
        "KITARU_LIMITS_PER_DAY": "3 USD",
        "KITARU_REDACT_ENV": "",
        "KITARU_UNRELATED": "x",
    }
    settings = load_settings(path, env)
    assert settings.durability == "process"
    assert settings.linger == 60
    assert settings.files.max_file == 2000
    assert settings.files.exclude == ("b", "c/")
    assert settings.limits.concurrency == 9
    assert str(settings.limits.per_day) == "3 USD"

    overrides = {"linger": 0.25, "files.max_file": "3KB", "durability": None, "files.exclude": ()}
    settings = load_settings(path, env, overrides)
    assert settings.linger == 0.25
    assert settings.files.max_file == 3000
    assert settings.files.exclude == ()
    assert settings.durability == "process"


def test_settings_in_force_can_be_handed_on_as_overrides() -> None:
    first = load_settings(None, {"KITARU_LIMITS_PER_RUN": "1.25 USD", "KITARU_LINGER": "90s"})
    again = load_settings(
        None,
        {},
        {
            "linger": first.linger,
            "files": first.files,
            "limits.per_run": first.limits.per_run,
            "redact": first.redact,
        },
    )
    assert again == first


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('\n\ndurablity = "fsync"\n', ['kitaru.toml:3: unknown key "durablity"', '"durability"']),
        ('[files]\n\n"exlude" = []\n', [':3: unknown key "files.exlude"', '"files.exclude"']),
        ("[file]\nscan = 'full'\n", [':1: unknown key "file"', '"files"']),
        ('x = 1\nmax_file = "1MB"\n', [':1: unknown key "x"']),
        ('max_file = "1MB"\n', ['Did you mean "files.max_file"']),
        ("files.max_fil = '1MB'\n", [':1: unknown key "files.max_fil"', '"files.max_file"']),
        ("files = {scan = 'auto',\nzzz = 1}\n", []),
        (
            "[[schedule]]\nflow='a'\ncron='@daily'\n[[schedule]]\nflow='b'\ncrn='@daily'\n",
            [':6: unknown key "schedule[1].crn"', '"schedule[1].cron"'],
        ),
        ("[[schedule]]\nflow='a'\n", [':1: schedule[0] lacks the key "cron"']),
        ("\nlinger = 2\n", [":2: linger must be a duration", "not 2"]),
        ("linger = '2 parsecs'\n", [":1: linger must be a duration"]),
        ("linger = true\n", [":1: linger must be a duration"]),
        ("linger = '-1s'\n", [":1: linger must be a duration"]),
        ("durability = 'fsnc'\n", [':1: durability must be "fsync" or "process"', '"fsnc"']),
        ("durability = 1\n", [":1: durability must be"]),
        ("files = 3\n", [":1: files must be a table, not 3"]),
        ("[[files]]\nscan = 'auto'\n", [":1: files must be a table"]),
        ("[files]\nmax_file = 1000\n", [":2: files.max_file must be a size", "not 1000"]),
        ("[files]\nexclude = '*.pem'\n", [":2: files.exclude must be a list"]),
        ("[files]\nexclude = [\n 'a', # ]\n\n 7,\n]\n", [":5: files.exclude[1] must be"]),
        ("[files]\nexclude = [\n'''\na\n''',\n '/']\n", [":6: files.exclude[1] must be"]),
        ("[files]\nexclude = ['!keep.pem']\n", [":2: files.exclude[0] takes no negation"]),
        ("[limits]\nconcurrency = 0\n", [":2: limits.concurrency must be a whole number"]),
        ("[limits]\nconcurrency = true\n", [":2: limits.concurrency", "not true"]),
        ("[limits]\nconcurrency = '4'\n", [":2: limits.concurrency", 'not "4"']),
        ("[limits]\nflows = 3\n", [":2: limits.flows must be a table of flows"]),
        ("[limits]\nflows = { a = 1, b = 0 }\n", [":2: limits.flows.b must be a whole"]),
        ("[limits.flows]\na = 1\nb = 'x'\n", [":3: limits.flows.b must be a whole number"]),
        ("[up]\ncrashes = 0\n", [":2: up.crashes must be a whole number"]),
        ("[up]\ngrace = 3\n", [":2: up.grace must be a duration"]),
        ("[limits]\nper_run = 5\n", [":2: limits.per_run must be a cost", "5 USD"]),
        ("[limits]\nper_run = '5'\n", [":2: limits.per_run must be a cost"]),
        ("[redact]\npatterns = ['a',\n'(']\n", [":3: redact.patterns[1] is no regular expres"]),
        ("[redact]\npatterns = ['a*']\n", [":2: redact.patterns[0] would match everywhere"]),
        ("[redact]\nenv = ['']\n", [":2: redact.env[0] must be the name"]),
        ("[models]\nok = 'm'\n'odd.name' = 3\n", [":3: models.odd.name must be the name of a"]),
        ("[models]\nempty = ''\n", [":2: models.empty must be"]),
        ("schedule = 'daily'\n", [":1: schedule must be a list of tables"]),
        ("schedule = [1]\n", [":1: schedule[0] must be a table"]),
        ("[[schedule]]\nflow='a'\ncron='61 * * * *'\n", [":3: schedule[0].cron has '61' as its"]),
        ("[[schedule]]\nflow='a'\ncron='* * *'\n", [":3: schedule[0].cron must be five cron"]),
        ("[[schedule]]\nflow='a'\ncron='*/0 * * * *'\n", [":3: schedule[0].cron has '*/0'"]),
        ("[[schedule]]\nflow='a'\ncron='0 0 31 feb *'\n", [":3: schedule[0].cron has '31' as"]),
        ("[[schedule]]\nflow='a'\ncron='0 0 * * * *'\n", [":3: schedule[0].cron must be five"]),
        ("[[schedule]]\nflow='a'\ncron='@noon'\n", [":3: schedule[0].cron must be five cron"]),
        ("[[schedule]]\nflow='a'\ncron=5\n", [":3: schedule[0].cron must be five cron fields"]),
        (
            "[[schedule]]\nflow='a'\ntimezone='Mars/Base'\ncron='@daily'\n",
            [":3: schedule[0].timezone must be a time zone", "'Mars/Base'"],
        ),
        (
            "[[schedule]]\nflow='a'\ntimezone='../../etc/passwd'\ncron='@daily'\n",
            [":3: schedule[0].timezone must be a time zone"],
        ),
        (
            "[[schedule]]\nflow='a'\ncron='@daily'\n[schedule.input]\nd = 2026-01-01\n",
            [":5: schedule[0].input.d has no JSON form"],
        ),
        ("a = \n", [":1: this is not valid TOML"]),
        ("[files]\nscan = 'auto'\nscan = 'full'\n", [":3: this is not valid TOML"]),
        ("[files]\nscan = 'auto'\n\nexclude = [\n'a',\n", [":5: this is not valid TOML"]),
        ("linger = 2s\n", [":1: this is not valid TOML"]),
        (b"# ok\n# caf\xe9\n", [":2: the file is not UTF-8 (byte 0xe9)"]),
        ("a = " + "[" * 100_000, ["nested too deeply"]),
        ("a = " + "9" * 5000, ["not valid TOML"]),
    ],
)
def test_a_mistake_names_file_line_and_key(
    tmp_path: Path, text: str | bytes, wanted: list[str]
) -> None:
    said = refusal(tmp_path, text)
    assert said.startswith("kitaru.toml")
    for part in wanted:
        assert part in said


def test_a_variable_that_is_wrong_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path, "", KITARU_LINGER="soon").startswith("KITARU_LINGER: linger must be")
    assert refusal(tmp_path, "", KITARU_LIMITS_CONCURRENCY="many").startswith("KITARU_LIMITS_CONC")
    assert "KITARU_REDACT_PATTERNS: redact.patterns[1]" in refusal(
        tmp_path, "", KITARU_REDACT_PATTERNS="ab,("
    )


def test_an_override_that_is_wrong_is_named() -> None:
    with pytest.raises(SettingsError, match=r'unknown key "lingr"\nDid you mean "linger"'):
        load_settings(None, {}, {"lingr": "1s"})
    with pytest.raises(SettingsError, match="linger must be a duration"):
        load_settings(None, {}, {"linger": float("nan")})
    with pytest.raises(SettingsError, match="files must be a table"):
        load_settings(None, {}, {"files": 3})


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is a directory"):
        load_settings(tmp_path, {})
    with pytest.raises(SettingsError, match=r"gone\.toml cannot be read: No such file"):
        load_settings(tmp_path / "gone.toml", {})
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(SettingsError, match="not a regular file"):
        load_settings(tmp_path / "pipe.toml", {})
    if os.geteuid() != 0:
        closed = tmp_path / "closed.toml"
        closed.touch(mode=0o000)
        with pytest.raises(SettingsError, match="Permission denied"):
            load_settings(closed, {})


def test_windows_line_ends_and_a_byte_order_mark_are_fine(tmp_path: Path) -> None:
    assert read(tmp_path, b'\xef\xbb\xbflinger = "3s"\r\n[files]\r\nscan = "full"\r\n').linger == 3
    assert ":3: " in refusal(tmp_path, b"[files]\r\n\r\nscn = 1\r\n")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2s", 2), ("500ms", 0.5), ("1m", 60), ("1h30m", 5400), ("0", 0), ("1.5d", 129600)],
)
def test_durations(text: str, seconds: float) -> None:
    assert Duration.parse(text) == seconds


@pytest.mark.parametrize(
    ("text", "count"),
    [("100MB", 10**8), ("64KiB", 65536), ("4096", 4096), ("1.5k", 1500), ("2 gb", 2 * 10**9)],
)
def test_sizes(text: str, count: int) -> None:
    assert Size.parse(text) == count


@pytest.mark.parametrize(
    "text", ["* * * * *", "*/5 0-6,22 1 jan-mar sun", "0 0 * * 7", "10-40/10 * * * *", "@hourly"]
)
def test_cron_expressions_that_are_right(text: str) -> None:
    assert Cron.parse(text) == text


@pytest.mark.parametrize(
    "text", ["", "@never", "* * * * * *", "5-1 * * * *", "1-2-3 * * * *", "* * 0 * *", "x * * * *"]
)
def test_cron_expressions_that_are_wrong(text: str) -> None:
    with pytest.raises(ValueError, match=r"cron fields|as its"):
        Cron.parse(text)


def test_lines_of_keys_in_every_form_of_toml() -> None:
    text = '''# first
title = """
[not.a.table]
x = 1\\""""
a.b."c d" = 'x # y'   # [no]

[one.two]  # comment
list = [ # x = 3
  "a", 'b]',
  [1,
   2],
  {k = 1, "q=" = [3]},
]
after = {deep = {er = 1}, z = "}"}
\'\' = 1979-05-27T07:32:00Z
[[many]]
n = 1
[many.sub]
m = \'\'\'
x'\'\'\'\'
[[many]]
n = -2.5e3'''
    lines = key_lines(text)
    assert tomllib.loads(text)
    wanted: dict[tuple[str | int, ...], int] = {
        ("title",): 2,
        ("a",): 5,
        ("a", "b", "c d"): 5,
        ("one",): 7,
        ("one", "two", "list"): 8,
        ("one", "two", "list", 1): 9,
        ("one", "two", "list", 2, 1): 11,
        ("one", "two", "list", 3, "q="): 12,
        ("one", "two", "after", "deep", "er"): 14,
        ("one", "two", ""): 15,
        ("many",): 16,
        ("many", 0, "n"): 17,
        ("many", 0, "sub", "m"): 19,
        ("many", 1): 21,
        ("many", 1, "n"): 22,
    }
    assert {path: lines.get(path) for path in wanted} == wanted


_words = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=6)
_values = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | _words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_words, inner, max_size=3),
    max_leaves=6,
)


def _paths(value: Any, path: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = {path}
    for key, inner in items:
        found |= _paths(inner, (*path, key)) if isinstance(inner, (dict, list)) else {(*path, key)}
    return found


def _toml(value: Any, multiline: bool) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        body = "".join(f"\\U{ord(char):08x}" if char in '"\\' else char for char in value)
        plain = all(char.isprintable() for char in body)
        escaped = "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in body)
        return f'"""\n{escaped}"""' if multiline and plain else f'"{escaped}"'
    if isinstance(value, list):
        between = ", # ]\n" if multiline else ", "
        return "[" + between.join(_toml(item, multiline) for item in value) + "]"
    pairs = (f"{_toml(key, False)} = {_toml(item, multiline)}" for key, item in value.items())
    return "{" + ", ".join(pairs) + "}"


@given(st.dictionaries(_words, _values, max_size=4), st.booleans())
def test_every_key_that_tomllib_reads_has_a_line(table: dict[str, Any], multiline: bool) -> None:
    text = "".join(
        f"{_toml(key, False)} = {_toml(value, multiline)}\n" for key, value in table.items()
    )
    assert tomllib.loads(text) == table
    lines = key_lines(text)
    assert set(lines) == _paths(table) - {()}
    starts = [lines[(key,)] for key in table]
    assert starts == sorted(set(starts))
