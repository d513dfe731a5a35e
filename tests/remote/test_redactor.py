"""No secret survives in a text, however it is written or wrapped; and texts without secrets stay readable."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import textwrap
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from skyward.remote.secrets import MASK, Redactor, is_secret, url_secrets

SECRET = st.text(alphabet="abcXYZ019+/=-_!$%&'\"\\ {}é", min_size=4, max_size=24).filter(
    lambda text: text.strip() == text and len(text) >= 4
)
TEXT = st.text(alphabet="abcXYZ019 \n:=", max_size=40)


@given(secrets=st.lists(SECRET, min_size=1, max_size=4), parts=st.lists(TEXT, min_size=5, max_size=5))
def test_no_value_is_left_in_a_text(secrets: list[str], parts: list[str]) -> None:
    text = "".join(part + secret for part, secret in zip(parts, secrets, strict=False)) + parts[-1]

    shown = Redactor(secrets).redact(text)

    assert not [secret for secret in secrets if secret in shown]


@given(SECRET, st.integers(1, 30), st.sampled_from(["\n", "\r\n", "\n    "]))
def test_a_value_wrapped_over_lines_is_found(secret: str, width: int, line_break: str) -> None:
    wrapped = line_break.join(secret[i : i + width] for i in range(0, len(secret), width))

    shown = Redactor([secret]).redact(f"token {wrapped} end")

    assert shown == f"token {MASK} end"


@given(SECRET)
def test_a_value_is_found_as_other_programs_write_it(secret: str) -> None:
    redactor = Redactor([secret])
    forms = [
        json.dumps({"v": secret}),
        json.dumps({"v": secret}, ensure_ascii=False),
        repr({"v": secret}),
        f"https://host/?q={quote(secret, safe='')}",
        base64.b64encode(secret.encode()).decode(),
    ]
    for form in forms:
        shown = redactor.redact(form)
        assert secret not in shown
        assert MASK in shown


@given(TEXT, SECRET)
def test_redacting_twice_changes_nothing(text: str, secret: str) -> None:
    redactor = Redactor([secret])
    assume(MASK not in text)

    once = redactor.redact(text)

    assert redactor.redact(once) == once


def test_wrapped_by_textwrap_with_indentation() -> None:
    secret = "correct-horse-battery-staple-0123456789"
    text = textwrap.fill(
        f"the key {secret} was refused", width=20, subsequent_indent="  ", break_on_hyphens=True
    )

    assert "battery" not in Redactor([secret]).redact(text)


def test_short_values_are_left_alone() -> None:
    assert Redactor(["abc", "", "1"]).redact("abc 1") == "abc 1"


def test_a_secret_that_begins_with_another_is_masked_whole() -> None:
    assert Redactor(["abcd", "abcd-efgh"]).redact("abcd-efgh abcd") == f"{MASK} {MASK}"


def test_each_line_of_a_long_secret_is_one_too() -> None:
    secret = "first-line-of-it\nsecond-line-of-it\nend"

    assert Redactor([secret]).redact("log: second-line-of-it") == f"log: {MASK}"


@pytest.mark.parametrize(
    "text",
    [
        "key AKIAIOSFODNN7EXAMPLE used",
        "token dop_v1_" + "0a" * 32,
        "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNza\n-----END OPENSSH PRIVATE KEY-----",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIcut off here",
        "Authorization: Bearer abcdef0123456789",
        "'authorization': 'Basic dXNlcjpwYXNz'",
        "ghp_" + "a1" * 18,
        "hf_" + "Ab1" * 10,
        "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        'PASSWORD="hunter2hunter2"',
        "https://user:hunter2hunter2@mirror/simple",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
    ],
)
def test_well_known_credentials_are_found_unasked(text: str) -> None:
    shown = Redactor().redact(text)

    assert MASK in shown
    for part in (
        "AKIA",
        "0a0a",
        "b3Blb",
        "MIIcut",
        "abcdef01",
        "dXNlcj",
        "a1a1",
        "Ab1Ab1",
        "wJalr",
        "hunter2",
        "c2lnbm",
    ):
        assert part not in shown


@pytest.mark.parametrize(
    "text",
    [
        "Resolved 12 packages in 4 ms",
        "error: No solution found when resolving dependencies",
        "https://pypi.org/simple/six/",
        "basic understanding of the bearer of tokens",
        "the token is not there",
        "/usr/lib/python3.11/secrets.py:12",
    ],
)
def test_ordinary_lines_stay_as_they_are(text: str) -> None:
    redactor = Redactor(env={"MODE": "train", "HOME": "/root", "WORKERS": "4", "DEBUG": "true"})

    assert redactor.redact(text) == text


def test_megabytes_without_an_end_are_not_read_again_from_every_letter() -> None:
    program = """
        from skyward.remote.secrets import Redactor
        for unit in ["x", "0123abcd", "a-", "eyJ-", "://a", "token ", "a b ", "sk-a-", "bearer ", "\\n"]:
            Redactor(["some-secret"]).redact(unit * (400_000 // len(unit)))
    """

    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], timeout=100, check=True)


def test_which_variables_are_secret() -> None:
    secret = {"API_KEY": "abcd", "DB_PASSWORD": "x", "HF_TOKEN": "train", "CANARY": "canary-7f3a", "DSN": "x"}
    harmless = {"MODE": "train", "HOME": "/root/data", "WORKERS": "16", "RATE": "0.5", "KEYBOARD": "us"}

    assert [name for name, value in secret.items() if not is_secret(name, value)] == []
    assert [name for name, value in harmless.items() if is_secret(name, value)] == []


def test_the_secrets_of_an_address() -> None:
    assert url_secrets("https://user:pass@host/x") == ("user:pass", "pass")
    assert url_secrets("https://token@host/x") == ("token", "token")
    assert url_secrets("https://host/x@y") == ()


def test_values_may_be_added_while_it_is_used() -> None:
    redactor = Redactor(["first-secret"])
    assert redactor.redact("first-secret second-secret") == f"{MASK} second-secret"

    redactor.add("second-secret")

    assert redactor.redact("first-secret second-secret") == f"{MASK} {MASK}"


def test_its_own_repr_tells_nothing() -> None:
    assert "hunter" not in repr(Redactor(["hunter2hunter2"]))
