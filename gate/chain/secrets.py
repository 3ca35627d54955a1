"""Finds the secrets that actions declare: in the environment, in a file it names, or in a secrets folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PREFIX: Final = "GATE_SECRET_"
FILE_SUFFIX: Final = "_FILE"


def variable(action: str, key: str) -> str:
    """Return the environment variable of a secret: GATE_SECRET_<ACTION>_<KEY>, upper-cased, other characters as _."""
    return PREFIX + re.sub(r"[^A-Z0-9]", "_", f"{action}_{key}".upper())


class SecretError(Exception):
    """A secret is not there; the message names its variable and where it was looked for, and holds nothing of any secret."""


@dataclass(frozen=True, repr=False)
class SecretSource:
    """Where secrets come from."""

    environ: Mapping[str, str]
    folder: Path | None

    def __repr__(self) -> str:
        return f"<SecretSource environment{'' if self.folder is None else f' and {self.folder}'}>"

    def find(self, action: str, key: str) -> str:
        """Return a secret; raises SecretError.

        Looked up in this order: the variable itself, the file that the variable with `_FILE` appended names, the file
        of the variable's name in the secrets folder. A line end at the end of a file is not part of the secret.
        """
        name = variable(action, key)

        if self.environ.get(name):  # an empty one is as good as missing: somebody forgot to fill it in
            return self.environ[name]

        if self.environ.get(name + FILE_SUFFIX):
            return _read(Path(self.environ[name + FILE_SUFFIX]), f"named by {name}{FILE_SUFFIX}")

        if self.folder is not None and (self.folder / name).exists():
            return _read(self.folder / name, "in the secrets folder")

        folder = "set GATE_SECRETS_DIR to a folder that holds it" if self.folder is None else f"put it into {self.folder / name}"
        raise SecretError(
            f"secret {key} of action {action} is missing; set {name}, or {name}{FILE_SUFFIX} to a file, or {folder}"
        )


def _read(path: Path, where: str) -> str:
    try:
        secret = path.read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise SecretError(f"secret file {path} ({where}) cannot be read: {reason}") from None

    if not secret:  # as with a variable: somebody forgot to fill it in, or is about to
        raise SecretError(f"secret file {path} ({where}) is empty; write the secret into it")

    return secret
