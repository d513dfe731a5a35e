"""Text from machines, made safe for a terminal."""

from __future__ import annotations

import re

# CSI, OSC (also cut short), other escapes, then whatever else is a control character but tab and newline.
_CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"
    r"|\x1b[@-Z\\^_]?"
    r"|[\x00-\x08\x0b-\x1f\x7f\x80-\x9f]"
)


# How Python's fault handler names a frame of ours, and what introduces its frames.
_OUR_FRAME = re.compile(
    r' *File "<skyward [\w.]+>", line \d+ in \w+ *| *File "<string>", line 1 in <module> *'
    r"|Current thread 0x\w+ .*"
)


def last_words(text: str, count: int = 5) -> list[str]:
    """What a process said before it died, at most `count` lines: those of the crash where Python told of one, the
    user's frames nearest to it first, else the last."""
    lines = [line for line in text.splitlines() if line.strip() and not _OUR_FRAME.fullmatch(line)]
    crashes = [number for number, line in enumerate(lines) if line.startswith("Fatal Python error")]
    return lines[crashes[-1] :][:count] if crashes else lines[-count:]


def printable(data: bytes) -> str:
    """Bytes as text without control sequences; carriage returns that end a line are dropped, others end one."""
    text = data.decode("utf-8", "backslashreplace").replace("\r\n", "\n").replace("\r", "\n")
    return _CONTROL.sub("", text)
