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


def printable(data: bytes) -> str:
    """Bytes as text without control sequences; carriage returns that end a line are dropped, others end one."""
    text = data.decode("utf-8", "backslashreplace").replace("\r\n", "\n").replace("\r", "\n")
    return _CONTROL.sub("", text)
