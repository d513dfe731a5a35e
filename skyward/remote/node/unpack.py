"""Archives on an instance: checked, unpacked, and put in their place at once. Standard library, any Python >= 3.8."""

from __future__ import annotations

import os

TYPE_CHECKING = False  # see `lean`
if TYPE_CHECKING:
    import zipfile
    from typing import Any


def check(source: str, digest: str) -> None:
    """
    Raises:
        ValueError: the archive is damaged, and gone now, so that it is sent anew.
        OSError: it cannot be read.
    """
    found = _sha256()
    with open(source, "rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            found.update(piece)
    if found.hexdigest() != digest:
        os.unlink(source)
        raise ValueError("archive %s is damaged" % digest[:12])


def unpack(source: str, target: str) -> None:
    """Makes `target` the directory of an archive's members, unless it is there. Others may do the same meanwhile.

    Raises:
        ValueError: this is no archive, or a member of it leaves the directory.
        OSError: there is no room.
    """
    if os.path.isdir(target):
        return
    import shutil
    import zipfile  # both take long, and most of the time there is nothing to unpack

    temporary = target + ".tmp%d" % os.getpid()
    try:
        with zipfile.ZipFile(source) as archive:
            for member in archive.infolist():
                _extract(archive, member, temporary)
        os.makedirs(temporary, exist_ok=True)
        os.rename(temporary, target)
    except zipfile.BadZipFile as error:
        raise ValueError(str(error)) from error
    except OSError:
        if not os.path.isdir(target):
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sha256() -> Any:
    """`hashlib` loads all of OpenSSL first."""
    for name in ("_sha2", "_sha256"):  # what it is called since Python 3.12, and before
        try:
            return __import__(name).sha256()
        except ImportError:
            pass
    import hashlib

    return hashlib.sha256()


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: str) -> None:
    """One member, with its mode, or as the symbolic link it is; a name that leaves the target is refused."""
    place = os.path.realpath(os.path.join(target, member.filename))
    if not place.startswith(os.path.realpath(target) + os.sep):
        raise ValueError("archive member %r leaves its directory" % member.filename)
    mode = member.external_attr >> 16
    if mode & 0o170000 == 0o120000:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        os.symlink(archive.read(member).decode(), os.path.join(target, member.filename))
        return
    archive.extract(member, target)
    if mode & 0o777:
        os.chmod(place, (mode & 0o777) | 0o600)
