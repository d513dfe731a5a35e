"""SSH through Session Manager, for machines nobody can reach: `connection="ssm"`.

The `aws` command and its plugin carry the bytes; host keys are checked as ever.
https://docs.aws.amazon.com/systems-manager/latest/userguide/session-manager-getting-started-enable-ssh-connections.html
(2026-11)
"""

from __future__ import annotations

import shlex
import shutil

from skyward import ProviderError

_TOOLS = {
    "aws": "https://docs.aws.amazon.com/cli/latest/userguide/getting-started-install.html",
    "session-manager-plugin": (
        "https://docs.aws.amazon.com/systems-manager/latest/userguide/"
        "session-manager-working-with-install-plugin.html"
    ),
}


def check_tools() -> None:
    """
    Raises:
        ProviderError: a program that `connection="ssm"` needs is not installed.
    """
    missing = [name for name in _TOOLS if shutil.which(name) is None]
    if missing:
        raise ProviderError(
            f'aws: connection="ssm" needs {" and ".join(map(repr, missing))} on the PATH of this machine: install '
            f'{"them" if len(missing) > 1 else "it"}, or use connection="ssh"',
            hints=[f"install {name}: {_TOOLS[name]}" for name in missing],
            provider="aws",
            missing=tuple(missing),
        )


def proxy_command(instance: str, port: int, region: str, endpoint: str | None) -> str:
    """The command whose standard input and output are a connection to the SSH port of an instance."""
    words = [
        "aws",
        "ssm",
        "start-session",
        "--target",
        instance,
        "--document-name",
        "AWS-StartSSHSession",
        "--parameters",
        f"portNumber={port}",
        "--region",
        region,
        *(("--endpoint-url", endpoint) if endpoint else ()),
    ]
    return shlex.join(words)
