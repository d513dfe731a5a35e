"""Waits for the notice that this spot instance will be taken away, and writes it where Skyward's agent looks.

Runs on the instance as root, on any Python 3.8 or later, with the standard library alone. AWS gives about two minutes
and recommends to ask every five seconds:
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html (2026-11)
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request
from typing import Any, Dict, Optional

TOKEN_S = 21600
"""How long a token of the metadata service is good for; the longest it gives."""


def fetch(url: str, method: str = "GET", **headers: object) -> Optional[str]:
    """What the metadata service says; None for nothing."""
    named = {"X-aws-ec2-metadata-" + name.replace("_", "-"): str(value) for name, value in headers.items()}
    request = urllib.request.Request(url, method=method, headers=named)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=2) as reply:
            return str(reply.read().decode())
    except (OSError, ValueError):  # 404 is no notice, 401 an old token, and silence is silence
        return None


def read_notice(base: str) -> Optional[Dict[str, Any]]:
    token = fetch(base + "/latest/api/token", "PUT", token_ttl_seconds=TOKEN_S)
    text = token and fetch(base + "/latest/meta-data/spot/instance-action", token=token)
    try:
        notice = json.loads(text or "null")
    except ValueError:
        return None
    return notice if isinstance(notice, dict) and "action" in notice else None


def write(notice: Dict[str, Any], path: str) -> None:
    with open(path + ".new", "w") as file:
        json.dump({"action": str(notice["action"]), "time": str(notice.get("time", ""))}, file)
    os.chmod(path + ".new", 0o644)
    os.replace(path + ".new", path)


def main(base: str, path: str, interval_s: float) -> None:
    """Looks until there is a notice; then there is nothing more to wait for."""
    while True:
        notice = read_notice(base)
        if notice is not None:
            write(notice, path)
            return
        time.sleep(interval_s)


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/"), sys.argv[2], float(sys.argv[3]))
