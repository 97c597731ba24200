"""Finding secrets, and putting placeholders in their place and them in the placeholders'."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitaru_fs.errors import SecretMissingError
from kitaru_fs.redaction.credentials import Credentials, credential_in
from kitaru_fs.redaction.finder import Finder, Known
from kitaru_fs.redaction.forms import FORMS, spell, spellings
from kitaru_fs.redaction.redactor import FileWatch, Redactor
from kitaru_fs.redaction.vault import Vault

KEY = "sk-proj-AbCdEfGhIjKlMnOpQrStUvWx0123456789"
ODD = 'p@ss"wörd\\with/odd\nsigns'
PIN = "123456789012"
GITHUB = "ghp_" + "a1B2" * 9
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.AbCdEfGhIjKlMnOpQrStUvWxYz"
PEM = "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIE" * 16 + "\n-----END RSA PRIVATE KEY-----"
SPOOF = "{kitaru:secret:A_KEY}"


@pytest.fixture
def redactor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Redactor:
    for name, value in {"A_KEY": KEY, "ODD_PASSWORD": ODD, "PIN_TOKEN": PIN}.items():
        monkeypatch.setenv(name, value)
    return Redactor(Credentials(), Vault(tmp_path / "vault"))


def there_and_back(redactor: Redactor, value: Any) -> tuple[str, list[str]]:
    raw = json.dumps(value, ensure_ascii=False).encode()
    hidden, places = redactor.redact_json(raw, "output")
    assert json.loads(redactor.fill_json(hidden, places, "output", "it")) == value
    return hidden.decode(), places


@pytest.mark.parametrize(
    ("name", "value", "known"),
    [
        ("OPENAI_API_KEY", KEY, True),
        ("npm_config__authToken", "x1x2x3x4x5x6", True),
        ("PGPASSWORD", "twelve chars", True),
        ("SECRET_KEY_BASE", "0123456789abcdef", True),
        ("STRIPE_KEY_PROD", "0123456789abcdef", True),
        ("DB_PASS2", "0123456789abcdef", True),
        ("TOKEN", "elevenchars", False),
        ("A_KEY", "            short          ", False),
        ("A_KEY", "aaaaaaaaaaaaaaaa", False),
        ("SSH_KEY", "/usr/bin/../bin", False),
        ("SSH_KEY", "/no/such/path/at/all", True),
        ("OLDPWD", "/no/such/path/at/all", False),
        ("MONKEY", "0123456789abcdef", False),
        ("TOKEN_URL", "https://example.org/token", False),
        ("PASSWORD_STORE_DIR", "/no/such/path/at/all", False),
        ("STRIPE_PUBLISHABLE_KEY", "0123456789abcdef", False),
        ("TOKENIZERS_PARALLELISM", "0123456789abcdef", False),
        ("HOME", "0123456789abcdef", False),
    ],
)
def test_variables_that_hold_credentials(name: str, value: str, known: bool) -> None:
    assert (credential_in(name, value) is not None) == known


def test_settings_name_further_variables() -> None:
    assert credential_in("CUSTOMER", "acme", ["CUST*"]) == Known("CUSTOMER", "acme")
    assert credential_in("CUSTOMER", "abc", ["CUST*"]) is None


def test_the_password_in_a_url_is_a_credential() -> None:
    found = credential_in("DATABASE_URL", "postgres://u:p%40ssw0rd-long@host/db")
    assert found == Known("DATABASE_URL.password", "p@ssw0rd-long")
    assert credential_in("HOMEPAGE", "https://example.org/a:b@c") is None


@pytest.mark.parametrize(
    "text",
    [
        KEY,
        f"the key is {KEY}.",
        ODD,
        json.dumps({"password": ODD}),
        json.dumps({"password": ODD}, ensure_ascii=False),
        json.dumps(json.dumps({"password": ODD})),
        quote(ODD, safe=""),
        quote_plus(ODD),
        f"https://u:{quote(ODD)}@example.org",
        *(base64.b64encode(f"{'u' * n}:{KEY}:x".encode()).decode() for n in range(3)),
        *(base64.urlsafe_b64encode(f"{'u' * n}:{ODD}:ÿ".encode()).decode() for n in range(3)),
        KEY.encode().hex(),
        GITHUB,
        JWT,
        PEM,
        json.dumps(PEM),
        f"Authorization: Bearer {'z9' * 20}",
    ],
)
def test_secrets_in_their_spellings(redactor: Redactor, text: str) -> None:
    hidden, places = there_and_back(redactor, {"a": [text]})
    assert places == ["output/a/0"]
    for spelling in (*spellings(KEY), *spellings(ODD), GITHUB, JWT, "MIIEMIIE", "z9z9"):
        assert json.dumps(spelling)[1:-1] not in hidden


@pytest.mark.parametrize(
    "text",
    [
        "a task-list-of-many-things-that-have-to-be-done-today",
        "task-0123456789abcdef0123456789abcdef",
        "sk-fading-circle-animation-with-long-name",
        "AKIA",
        "-----BEGIN PUBLIC KEY-----",
        "bearer of bad news",
        "d41d8cd98f00b204e9800998ecf8427e",
    ],
)
def test_what_is_no_secret_stays(redactor: Redactor, text: str) -> None:
    raw = json.dumps(text).encode()
    assert redactor.redact_json(raw, "output") == (raw, [])
    assert redactor.mask_json(raw) is raw


def test_keys_of_objects_and_numbers_are_places_too(redactor: Redactor) -> None:
    value = {KEY: {"~/#": [int(PIN)]}, "x": float(f"{PIN}.5"), "y": 1}
    hidden, places = there_and_back(redactor, value)
    assert KEY not in hidden
    assert PIN not in hidden
    assert places == [
        "output/{kitaru:secret:A_KEY}#key",
        "output/{kitaru:secret:A_KEY}/~0~1~2/0#number",
        "output/x#number",
    ]


def test_a_placeholder_that_somebody_wrote_is_escaped(redactor: Redactor) -> None:
    hidden, places = there_and_back(redactor, [f"{SPOOF} and {KEY}", SPOOF * 2])
    assert json.loads(hidden)[0] == "{kitaru:secret:}A_KEY} and {kitaru:secret:A_KEY}"
    assert places == ["output/0", "output/1"]


def test_nothing_is_filled_in_at_a_place_that_is_not_listed(redactor: Redactor) -> None:
    raw = json.dumps([SPOOF, SPOOF]).encode()
    filled = redactor.fill_json(raw, ["output/1", "input/0"], "output", "it")
    assert json.loads(filled) == [SPOOF, KEY]


def test_overlapping_secrets_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = "abcdefghijklmnop", "klmnopqrstuvwxyz"
    monkeypatch.setenv("FIRST_KEY", first)
    monkeypatch.setenv("SECOND_KEY", second)
    redactor = Redactor(Credentials(), Vault(tmp_path / "vault"))
    hidden, _ = there_and_back(redactor, "abcdefghijklmnopqrstuvwxyz")
    assert hidden == '"{kitaru:secret:FIRST_KEY}{kitaru:secret:secret-1}"'


def test_a_mask_is_the_same_for_a_value_that_was_rotated(
    redactor: Redactor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = json.dumps({"a": KEY, "b": GITHUB}).encode()
    hidden, places = redactor.redact_json(raw, "output")
    redactor.save()
    masked = redactor.mask_json(raw)
    monkeypatch.setenv("A_KEY", "another value of it")
    for vault in (Vault(tmp_path / "vault"), Vault(tmp_path / "none")):
        later = Redactor(Credentials(), vault)
        other = json.dumps({"a": "another value of it", "b": GITHUB}).encode()
        assert later.mask_json(other) == masked
    later = Redactor(Credentials(), Vault(tmp_path / "vault"))
    assert later.mask_json(raw) == masked
    filled = json.loads(later.fill_json(hidden, places, "output", "it"))
    assert filled == {"a": "another value of it", "b": GITHUB}


def test_the_vault_fills_in_what_the_environment_has_not(
    redactor: Redactor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = json.dumps([KEY, GITHUB]).encode()
    hidden, places = redactor.redact_json(raw, "output")
    redactor.save()
    assert (tmp_path / "vault").stat().st_mode & 0o777 == 0o600
    monkeypatch.delenv("A_KEY")
    later = Redactor(Credentials(), Vault(tmp_path / "vault"))
    assert later.fill_json(hidden, places, "output", "it") == raw
    assert KEY.encode() not in later.redact_json(raw, "output")[0]
    with pytest.raises(SecretMissingError, match="the output of step 3 holds the secret A_KEY"):
        Redactor(Credentials(), Vault(tmp_path / "none")).fill_json(
            hidden, places, "output", "the output of step 3"
        )


def test_variables_that_are_set_later_are_known(
    redactor: Redactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert redactor.mask_text("a later secret") == "a later secret"
    monkeypatch.setenv("LATE_TOKEN", "a later secret")
    assert redactor.mask_text("a later secret") == "{kitaru:secret:LATE_TOKEN}"
    monkeypatch.delenv("LATE_TOKEN")
    assert redactor.mask_text("a later secret") == "{kitaru:secret:LATE_TOKEN}"


def test_a_cut_does_not_leave_a_piece(redactor: Redactor) -> None:
    text = f"key: {KEY} and more"
    assert text[: redactor.cut(text, 20)] == "key: "
    assert redactor.cut(text, 3) == 3
    assert redactor.cut(text, 500) == 500


def test_patterns_of_the_settings(tmp_path: Path) -> None:
    redactor = Redactor(Credentials((), (r"ACME-\S+", "^line two$")), Vault(tmp_path / "vault"))
    hidden, places = there_and_back(redactor, {"a": "x ACME-7\ny", "b": "line two", "c": 1})
    assert json.loads(hidden)["a"] == "x {kitaru:secret:pattern-1}\ny"
    assert places == ["output/a", "output/b"]


@pytest.mark.parametrize("size", [1, 7, 40, 1000])
def test_a_file_is_looked_at_across_its_pieces(size: int) -> None:
    finder = Finder([Known("A_KEY", KEY)])
    content = b"\0" * 333 + KEY.encode() + b"\xff" * 333
    watch = FileWatch(finder)
    for start in range(0, len(content), size):
        watch.look(content[start : start + size])
    assert watch.found == "A_KEY"


def test_tokens_of_others_do_not_keep_a_file_out() -> None:
    finder = Finder([Known("A_KEY", KEY)])
    assert finder.held_by(f"{GITHUB} {JWT} {PEM}".encode()) is None
    assert finder.held_by(base64.b64encode(f"x:{KEY}".encode())) == "A_KEY"


# Any JSON at all

SECRETS = st.sampled_from([KEY, ODD, PIN, GITHUB, JWT, PEM, SPOOF, "{kitaru:secret:}", "{kitaru:"])
SPELLED = st.builds(
    lambda value, form: spell(value, form),
    st.sampled_from([KEY, ODD, PIN]),
    st.sampled_from([*FORMS]),
)
TEXTS = st.lists(st.one_of(st.text(max_size=5), SECRETS, SPELLED), max_size=4).map("".join)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.just(int(PIN)), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=8,
)


@given(value=VALUES, ascii_only=st.booleans())
def test_filled_in_it_is_what_it_was(value: Any, ascii_only: bool) -> None:
    known = [Known("A_KEY", KEY), Known("ODD_PASSWORD", ODD), Known("PIN_TOKEN", PIN)]
    vault = Vault(Path("/nowhere/vault"))
    for one in known:
        vault.remember(one)
    redactor = Redactor(Credentials(), vault)
    raw = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    hidden, places = redactor.redact_json(raw, "output")
    for secret in (KEY, PIN, GITHUB):
        assert secret.encode() not in hidden
    assert json.loads(redactor.fill_json(hidden, places, "output", "it")) == value
    assert not places or "{kitaru:secret:" in hidden.decode()
    json.loads(redactor.mask_json(raw))
