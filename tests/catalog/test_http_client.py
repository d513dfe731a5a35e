"""The JSON client against a real server: retries, deadlines, bounds, and nothing leaked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import pytest
from fake_api import Answer, FakeAPI, Request, serving

from skyward.errors import (
    CapacityError,
    ConfigError,
    CredentialsError,
    ProviderError,
    QuotaError,
    RateLimitError,
    SkywardError,
)
from skyward.http import JSONClient, Reply

TOKEN = "canary-0123456789"


class Script:
    """Answers in order; the last one is repeated."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)

    def __call__(self, request: Request) -> Answer:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class Waits:
    """Time to wait is counted, not spent."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def client(api: FakeAPI, waits: Waits | None = None, **options: Any) -> JSONClient:
    return JSONClient(api.url, name="acme", token=TOKEN, sleep=waits or Waits(), **options)


def test_a_question_carries_the_token_and_its_parameters() -> None:
    with serving(Script(Answer({"n": 1}))) as api:
        found = client(api).get("/v2/x", params={"page": 2, "tag": ["a", "b"], "none": None})

    assert found == {"n": 1}
    (request,) = api.asked
    assert (request.path, request.params) == ("/v2/x", {"page": ["2"], "tag": ["a", "b"]})
    assert request.headers["authorization"] == f"Bearer {TOKEN}"


def test_a_body_is_sent_as_json_and_an_empty_answer_is_none() -> None:
    with serving(Script(Answer(b"", 204))) as api:
        assert client(api).post("/v2/x", {"a": [1]}) is None

    assert api.asked[0].json() == {"a": [1]}
    assert api.asked[0].headers["content-type"] == "application/json"


def test_plain_text_comes_as_a_string() -> None:
    with serving(Script(Answer(b"abc-123", headers={"Content-Type": "text/plain"}))) as api:
        assert client(api).post("/x") == "abc-123"


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
def test_what_passes_is_asked_again(status: int) -> None:
    waits = Waits()
    with serving(Script(Answer({}, status), Answer({}, status), Answer({"ok": 1}))) as api:
        assert client(api, waits).get("/x") == {"ok": 1}

    assert len(api.asked) == 3
    assert 0.25 <= waits.seconds[0] <= 0.5 <= waits.seconds[1] <= 1.0


def test_a_connection_that_breaks_is_tried_again_where_that_is_harmless() -> None:
    with serving(Script(Answer(status=0), Answer({"ok": 1}))) as api:
        assert client(api).get("/x") == {"ok": 1}
    with serving(Script(Answer(status=0), Answer({"ok": 1}))) as api:
        assert client(api).post("/x", {}, repeatable=True) == {"ok": 1}


@pytest.mark.parametrize("answer", [Answer(status=0), Answer({}, 503)])
def test_a_post_is_never_sent_twice_unasked(answer: Answer) -> None:
    with serving(Script(answer)) as api, pytest.raises(ProviderError):
        client(api).post("/launch", {})

    assert len(api.asked) == 1


def test_a_post_that_was_turned_away_is_sent_again() -> None:
    with serving(Script(Answer({}, 429), Answer({"ok": 1}))) as api:
        assert client(api).post("/launch", {}) == {"ok": 1}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, ProviderError),
        (401, CredentialsError),
        (402, QuotaError),
        (403, CredentialsError),
        (404, ProviderError),
        (429, RateLimitError),
        (500, ProviderError),
    ],
)
def test_a_status_is_an_error_of_its_kind(status: int, kind: type[ProviderError]) -> None:
    with (
        serving(Script(Answer({"message": "no such thing"}, status))) as api,
        pytest.raises(ProviderError) as raised,
    ):
        client(api, attempts=2).get("/x")

    assert type(raised.value) is kind
    assert str(raised.value) == f"acme: GET /x answered {status}: no such thing"
    assert raised.value.status == status  # type: ignore[attr-defined]


def test_the_pause_a_server_asks_for_is_kept() -> None:
    waits = Waits()
    dated = formatdate(time.time() + 7, usegmt=True)
    script = Script(
        Answer({}, 429, {"Retry-After": "3"}),
        Answer({}, 503, {"Retry-After": dated}),
        Answer({}, 503, {"Retry-After": "soon"}),
        Answer({}),
    )
    with serving(script) as api:
        client(api, waits).get("/x")

    assert waits.seconds[0] == 3
    assert 5 <= waits.seconds[1] <= 7
    assert waits.seconds[2] < 3


def test_a_pause_beyond_the_deadline_is_not_waited_for() -> None:
    waits = Waits()
    with serving(Script(Answer({}, 429, {"Retry-After": "3600"}))) as api, pytest.raises(RateLimitError):
        client(api, waits, deadline_s=5).get("/x")

    assert waits.seconds == []


def slow(seconds: float) -> Iterator[bytes]:
    for _ in range(1000):
        yield b" "
        time.sleep(seconds)


@pytest.mark.parametrize(
    "answer", [lambda: Answer(slow(0.05)), lambda: Answer(slow(5.0))], ids=["drips", "stalls"]
)
def test_an_answer_without_end_is_given_up_at_the_deadline(answer: Any) -> None:
    started = time.monotonic()
    with serving(lambda request: answer()) as api, pytest.raises(ProviderError, match="within the deadline"):
        client(api, deadline_s=0.5, attempts=1).get("/x")

    assert time.monotonic() - started < 3


def test_an_answer_that_is_too_large_is_not_read_on() -> None:
    with (
        serving(lambda request: Answer(b"1" * 100_000)) as api,
        pytest.raises(ProviderError, match="larger than"),
    ):
        client(api, largest_reply=10_000, attempts=1).get("/x")


def test_nobody_there_is_one_error() -> None:
    with serving(Script(Answer({}))) as api:
        url = api.url
    with pytest.raises(ProviderError, match="acme: GET /x: cannot connect"):
        JSONClient(url, name="acme", attempts=2, sleep=Waits()).get("/x")


def test_html_in_place_of_json_is_quoted_briefly_and_printable() -> None:
    with (
        serving(
            Script(
                Answer(
                    b"<html>\x1b[2J\n  bad gateway</html>" + b"x" * 5000,
                    headers={"Content-Type": "text/html"},
                )
            )
        ) as api,
        pytest.raises(ProviderError) as raised,
    ):
        client(api).get("/x")

    assert "<html>[2J bad gateway" in str(raised.value)
    assert "\x1b" not in str(raised.value)
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize("status", [400, 401, 500])
def test_no_secret_is_ever_in_an_error(status: int) -> None:
    with (
        serving(
            lambda request: Answer(
                {"message": f"you said {request.headers['authorization']} and hunter2"}, status
            )
        ) as api,
        pytest.raises(SkywardError) as raised,
    ):
        client(api, secrets=["hunter2"], attempts=1).get(f"/x/{TOKEN}")

    everything = repr(raised.value) + repr(raised.value.__cause__) + repr(raised.value.values)
    assert TOKEN not in everything
    assert "hunter2" not in everything
    assert "***" in everything


def test_a_redirect_is_not_followed_with_our_token() -> None:
    with serving(Script(Answer({"secret": 1}))) as elsewhere:
        away = Answer({}, 302, {"Location": f"{elsewhere.url}/x"})
        with serving(Script(away)) as api, pytest.raises(ProviderError, match="302"):
            client(api).get("/x")
    assert elsewhere.asked == []


def test_a_clouds_own_words_come_first_and_are_not_retried() -> None:
    def translate(reply: Reply) -> Exception | None:
        return CapacityError("acme: full") if "Not enough resources" in reply.text() else None

    with (
        serving(Script(Answer({"message": "Not enough resources"}, 503))) as api,
        pytest.raises(CapacityError),
    ):
        client(api, translate=translate).get("/x")

    assert len(api.asked) == 1


@pytest.mark.parametrize("url", ["http://api.example.com", "ftp://127.0.0.1", "api.example.com", "https://"])
def test_an_endpoint_that_could_be_listened_to_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="https://"):
        JSONClient(url, name="acme")


def test_a_certificate_nobody_signed_is_refused() -> None:
    import ssl
    import subprocess
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as name, serving(Script(Answer({}))) as plain:
        key, certificate = Path(name, "key.pem"), Path(name, "cert.pem")
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
             "-keyout", str(key), "-out", str(certificate)],
            check=True, capture_output=True,
        )  # fmt: skip
        import http.server
        import threading

        server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            with pytest.raises(ProviderError, match="certificate"):
                JSONClient(f"https://127.0.0.1:{server.server_address[1]}", name="acme", attempts=1).get("/x")
        finally:
            server.shutdown()
            server.server_close()
    assert plain.asked == []
