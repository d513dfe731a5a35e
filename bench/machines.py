"""Two and more real machines for benchmarks: sshd processes of our own, and an `ssh` command line that reaches them."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from skyward.testing.sshd import SSHServer, make_key


@contextmanager
def machines(count: int) -> Iterator[tuple[list[SSHServer], Path]]:
    """`count` machines and a directory with the key that opens them and the file that knows them."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        key = make_key(directory / "id_ed25519")
        servers = [stack.enter_context(SSHServer(identity=key)) for _ in range(count)]
        (directory / "known_hosts").write_text("".join(server.known_hosts_lines for server in servers))
        yield servers, directory


def ssh_command(server: SSHServer, directory: Path, *command: str) -> list[str]:
    return [
        "ssh", "-F", "none", "-o", f"UserKnownHostsFile={directory}/known_hosts", "-o", "StrictHostKeyChecking=yes",
        "-o", "BatchMode=yes", "-c", "aes128-gcm@openssh.com", "-i", str(directory / "id_ed25519"), "-p", str(server.port),
        f"{server.user}@{server.address}", *command,
    ]  # fmt: skip


def pipe(server: SSHServer, directory: Path, command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ssh_command(server, directory, command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
