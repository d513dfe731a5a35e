"""What a machine runs when it boots: our host key, who may log in, and the switch that ends it. Nothing of the user's.

The format is cloud-init's "#cloud-config" (https://docs.cloudinit.io/en/latest/explanation/format.html and
https://docs.cloudinit.io/en/latest/reference/modules.html, read 2026-11-20); after its first line it is JSON, which is
YAML, so that nothing has to be quoted by hand.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence

from skyward.cloud import scripts
from skyward.cloud.hostkeys import KeyPair
from skyward.errors import ConfigError

LIMIT_BYTES = 16 * 1024
"""What EC2 takes, before it is encoded: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/user-data.html (2026-11-20)."""
HEADER = "#cloud-config\n"
_USER = re.compile(r"[a-z_][a-z0-9_.-]{0,31}")
_PUBLIC_KEY = re.compile(r"(?:[A-Za-z0-9@.,=\"-]+ )?(?:ssh|ecdsa|sk)-[a-z0-9@.-]+ [A-Za-z0-9+/=]+(?: .*)?")


def render(
    *,
    host_key: KeyPair,
    authorized_keys: Sequence[str],
    lifetime_s: float | None,
    lease_s: float | None,
    login_user: str = "",
) -> str:
    """The user data of the machines of one pool, as plain text.

    The first thing such a machine does is to arm the switch; see `switch_arguments` for the numbers. It then shows
    `host_key` and no other, and lets in who holds one of `authorized_keys` (OpenSSH lines), as its image's default
    user.

    Raises:
        ConfigError: a key or user that cannot be one, or more than `LIMIT_BYTES` of it all.
    """
    for line in authorized_keys:
        if not _PUBLIC_KEY.fullmatch(line) or not line.isprintable():
            raise ConfigError(f"not a public key that can log in: {line[:80]!r}", value=line)
    text = HEADER + json.dumps(
        {
            "ssh_deletekeys": True,
            "ssh_genkeytypes": [],
            "ssh_keys": {"ed25519_private": host_key.private, "ed25519_public": host_key.public},
            "ssh_pwauth": False,
            "ssh_authorized_keys": list(authorized_keys),
            "bootcmd": [
                [
                    *("sh", "-c", scripts.read("arm.sh"), "skyward-arm", scripts.read("switch.sh")),
                    *switch_arguments(lifetime_s, lease_s, login_user, name_of(host_key)),
                ],
            ],
        },
        ensure_ascii=False,  # YAML knows no pairs of surrogates
    )
    if len(text.encode()) > LIMIT_BYTES:
        raise ConfigError(
            f"user data has {len(text.encode())} bytes, and machines take {LIMIT_BYTES}: "
            f"authorize fewer than {len(authorized_keys)} keys",
            bytes=len(text.encode()),
            limit=LIMIT_BYTES,
        )
    return text


def switch_arguments(
    lifetime_s: float | None, lease_s: float | None, login_user: str, name: str
) -> tuple[str, str, str, str]:
    """What the switch is started with. Whole seconds, rounded up; None is never.

    `login_user` is who may renew the lease; "" is anybody on the machine. The age of the machine is kept under
    `name`, so that an image made of one machine does not make others old.

    Raises:
        ConfigError: a time that is not above zero, or a user that cannot be one.
    """
    lifetime, lease = _seconds("lifetime", lifetime_s), _seconds("lease", lease_s)
    if login_user and not _USER.fullmatch(login_user):
        raise ConfigError(f"not the name of a user: {login_user!r}", value=login_user)
    return str(lifetime), str(lease), login_user, name


def name_of(host_key: KeyPair) -> str:
    """Under which name the machines of one pool keep their age."""
    return hashlib.sha256(host_key.public.encode()).hexdigest()[:12]


def _seconds(what: str, seconds: float | None) -> int:
    if seconds is None:
        return 0
    if not seconds > 0 or math.isinf(seconds):
        raise ConfigError(
            f"a machine's {what} is more than zero seconds and finite, not {seconds!r}", value=seconds
        )
    return math.ceil(seconds)
