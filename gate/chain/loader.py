"""Loads a chain from a manifest, a folder or a single file, and reports all that is wrong at once."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from gate.chain.action import Action, Code
from gate.chain.manifest import MANIFEST, Entry, Manifest, read_manifest
from gate.chain.python import ActionFileError, load_python
from gate.chain.runner import Chain
from gate.chain.secrets import FILE_SUFFIX, SecretError, SecretSource, variable
from gate.errors import ChainError
from gate.model.readonly import Secrets, freeze_object

LANGUAGES: Final[Mapping[str, Callable[..., Code]]] = {".py": load_python}
"""What turns a file into an action's code, by suffix."""


def load_chain(path: Path, *, secrets_dir: Path | None = None, environ: Mapping[str, str] | None = None) -> Chain:
    """Load a chain; raises ChainError with every problem, each as `file:line: what; mend`.

    `path` is a manifest, a folder that holds `chain.toml`, or an action's file: a chain of one, named by the file's stem.
    """
    source = SecretSource(os.environ if environ is None else environ, secrets_dir)

    if os.path.isdir(path):  # the method of Path raises where a folder on the way may not be read
        path /= MANIFEST

    content = _read(path)

    if path.suffix in LANGUAGES:
        manifest, content = Manifest(entries=(Entry(name=path.stem, file=path, line=1),)), b""
    else:
        try:
            manifest = read_manifest(path, content.decode())
        except UnicodeDecodeError:
            suffixes = " or ".join(LANGUAGES)
            raise ChainError([f"{path}:1: not UTF-8; a manifest is a TOML file, an action's name ends in {suffixes}"]) from None

    return _build(path, content, manifest, source)


def chain_files(path: Path, *, secrets_dir: Path | None = None) -> list[Path]:
    """Return the files that a chain is made of as it would be loaded now, as far as they can be told."""
    if os.path.isdir(path):  # the method of Path raises where a folder on the way may not be read
        path /= MANIFEST

    files = [path]

    if path.suffix not in LANGUAGES:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            files += [entry.file for entry in read_manifest(path, path.read_text("utf-8")).entries]

    if secrets_dir is not None:
        with contextlib.suppress(OSError):
            files += sorted(secrets_dir.iterdir())

    return files


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        mend = f"name a folder with {MANIFEST}, a manifest, or an action's file"
        raise ChainError([f"{path}: the chain cannot be read: {error.strerror}; {mend}"]) from None


def _build(path: Path, content: bytes, manifest: Manifest, source: SecretSource) -> Chain:
    found = [*manifest.problems, *_shared_variables(path, manifest.entries)]
    digest = hashlib.sha256()
    _add(digest, b"", content)
    actions: list[Action] = []

    for entry in manifest.entries:
        code, file = _load_code(path, entry, found)
        secrets = _find_secrets(path, entry, source, found)
        _add(digest, entry.name.encode(), file)

        if code is not None:
            actions.append(
                Action(
                    name=entry.name,
                    code=code,
                    version="sha256:" + hashlib.sha256(file).hexdigest()[:12],
                    file=entry.file,
                    timeout_s=entry.timeout_s,
                    retries=entry.retries,
                    backoff_s=entry.backoff_s,
                    on_error=entry.on_error,
                    when=entry.when,
                    secrets=secrets,
                    config=freeze_object(entry.config),
                )
            )

    if found:
        for action in actions:
            action.code.release()

        raise ChainError(list(dict.fromkeys(found)))  # a file named twice has its problems once

    return Chain(actions, timeout_s=manifest.timeout_s, hash="sha256:" + digest.hexdigest())


def _load_code(path: Path, entry: Entry, problems: list[str]) -> tuple[Code | None, bytes]:
    load = LANGUAGES.get(entry.file.suffix)

    if load is None:
        problems.append(f"{path}:{entry.line}: {entry.file.name} is not an action; its name must end in {' or '.join(LANGUAGES)}")
        return None, b""

    try:
        content = entry.file.read_bytes()
    except OSError as error:
        problems.append(f"{path}:{entry.line}: {entry.file} cannot be read: {error.strerror}; paths are relative to the manifest")
        return None, b""

    try:
        return load(entry.file, content, name=entry.name), content
    except ActionFileError as bad:
        problems.append(f"{entry.file}:{bad.line}: {bad}")
        return None, content


def _find_secrets(path: Path, entry: Entry, source: SecretSource, problems: list[str]) -> Secrets:
    values: dict[str, str] = {}

    for key in entry.secrets:
        try:
            values[key] = source.find(entry.name, key)
        except SecretError as missing:
            problems.append(f"{path}:{entry.secrets_line}: {missing}")

    return Secrets(values)


def _shared_variables(path: Path, entries: Sequence[Entry]) -> list[str]:
    """Find secrets that one environment variable would set, though they are two."""
    problems: list[str] = []
    owners: dict[str, tuple[str, str]] = {}

    for entry in entries:
        for key in dict.fromkeys(entry.secrets):
            for name in (variable(entry.name, key), variable(entry.name, key) + FILE_SUFFIX):
                owner = owners.setdefault(name, (entry.name, key))

                if owner != (entry.name, key):
                    both = f"secret {key} of action {entry.name} and secret {owner[1]} of action {owner[0]}"
                    problems.append(f"{path}:{entry.secrets_line}: {both} would both be read from {name}; rename one of them")

    return problems


def _add(digest: hashlib._Hash, name: bytes, content: bytes) -> None:
    """Add a file to the hash so that no two different chains can give the same bytes."""
    for part in (name, content):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
