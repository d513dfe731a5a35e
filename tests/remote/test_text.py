"""Text from machines, as people get to see it."""

from __future__ import annotations

from skyward.remote.text import last_words, printable

CRASH = """\
epoch 3
Fatal Python error: Segmentation fault

Current thread 0x00007f81da89bb80 (most recent call first):
  File "/usr/lib/python3.11/ctypes/__init__.py", line 519 in string_at
  File "/home/ubuntu/.cache/skyward/runs/pool-1-n0/project/train.py", line 45 in step
  File "<skyward node.worker>", line 256 in _run
  File "<skyward node.worker>", line 598 in main
  File "<skyward load>", line 28 in worker
  File "<string>", line 1 in <module>
"""


def test_of_a_crash_the_frames_of_the_user_are_told() -> None:
    assert last_words(CRASH) == [
        "Fatal Python error: Segmentation fault",
        '  File "/usr/lib/python3.11/ctypes/__init__.py", line 519 in string_at',
        '  File "/home/ubuntu/.cache/skyward/runs/pool-1-n0/project/train.py", line 45 in step',
    ]


def test_without_a_crash_the_last_lines_are_told() -> None:
    assert last_words("".join(f"line {n}\n\n" for n in range(9)), 2) == ["line 7", "line 8"]
    assert last_words("") == []


def test_control_sequences_are_taken_out_and_lines_stay_lines() -> None:
    assert printable(b"\x1b]0;title\x07a\x1b[31mb\rc\r\nd\xff\n\x00") == "ab\nc\nd\\xff\n"
