"""``python mutations.py FIRST COUNT FOLDER...``: damage checkpoints in COUNT ways and read each.

Run as a program of its own, so that its memory can be limited. Each damage follows from its seed
alone. What a reader may do is read it, or refuse it in one line; a line for each folder says how
often it did which. Anything else is printed with its seed, and the status is 1.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load_file, save_file

from sllmbench.checkpoints import gguf, open_checkpoint
from sllmbench.checkpoints.hf import FolderCheckpoint
from sllmbench.errors import InputError

if TYPE_CHECKING:
    from sllmbench.checkpoints import Checkpoint

NASTY = [None, True, -1, 0, 1, 3, 7, 2**31, 2**63, 2**64, 10**30, 1e308, "", "x", "..", [], {}, [1]]
WORDS = [0, 1, 2, 31, 255, 2**16, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1]
DTYPES = ["F32", "F16", "BF16", "I32", "I64", "U8", "F64", "BOOL", "F8_E4M3", "Q9", 4, None]
SECONDS = 30
"""Of CPU time, after which one reading counts as hanging: it takes milliseconds."""


def flip_bits(file: Path, rng: random.Random) -> None:
    data = bytearray(file.read_bytes())
    end = min(len(data), 4096) if rng.random() < 0.6 else len(data)
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(end)] ^= 1 << rng.randrange(8)
    file.write_bytes(data)


def truncate(file: Path, rng: random.Random) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: rng.randrange(len(data))])


def append(file: Path, rng: random.Random) -> None:
    file.write_bytes(file.read_bytes() + rng.randbytes(rng.randint(1, 64)))


def overwrite_word(file: Path, rng: random.Random) -> None:
    """Put a count where no such count can be."""
    data = bytearray(file.read_bytes())
    at = rng.randrange(min(len(data), 4096) - 8)
    data[at : at + 8] = struct.pack("<Q", rng.choice(WORDS))
    file.write_bytes(data)


def leaves(value: Any) -> list[tuple[Any, Any]]:
    """Every place in a JSON value, as container and key."""
    keys = value.keys() if isinstance(value, dict) else range(len(value))
    found = [(value, key) for key in keys]
    for key in keys:
        if isinstance(value[key], dict | list):
            found += leaves(value[key])
    return found


def edit_json(text: str, rng: random.Random) -> str:
    value = json.loads(text)
    for _ in range(rng.randint(1, 3)):
        places = leaves(value)
        if not places:
            break
        container, key = rng.choice(places)
        action = rng.random()
        if action < 0.2:
            del container[key]
        elif action < 0.3 and isinstance(container, dict):
            container[f"{key}x"] = container.pop(key)
        else:
            container[key] = rng.choice(NASTY)
    edited = json.dumps(value)
    if rng.random() < 0.03:
        edited = "[" * 100_000 + edited
    return edited


def edit_json_file(file: Path, rng: random.Random) -> None:
    file.write_text(edit_json(file.read_text(), rng))


def edit_header(file: Path, rng: random.Random) -> None:
    """Change what a safetensors header says, its length kept true most times."""
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    name = rng.choice([key for key in header if key != "__metadata__"])
    entry = header[name]
    match rng.randrange(6):
        case 0:
            entry["dtype"] = rng.choice(DTYPES)
        case 1:
            axis = rng.randrange(len(entry["shape"]))
            entry["shape"][axis] = rng.choice([*WORDS, -1, "x", None])
        case 2:
            entry["shape"] = rng.choice([entry["shape"][::-1], [*entry["shape"], 1], [], [0], 4])
        case 3:
            entry["data_offsets"][rng.randrange(2)] = rng.choice([*WORDS, -1])
        case 4:
            header[f"{name}x"] = header.pop(name)
        case _:
            del header[name]
    said = json.dumps(header).encode()
    if rng.random() < 0.2:  # the same name twice
        said = said[:-1] + b"," + json.dumps({name: entry}).encode()[1:]
    count = rng.choice(WORDS) if rng.random() < 0.1 else len(said)
    file.write_bytes(struct.pack("<Q", count) + said + data[8 + length :])


def swap_tensors(file: Path, rng: random.Random) -> None:
    """Save a sound file whose tensors are not what they were."""
    tensors = load_file(file)
    one, other = rng.choice(sorted(tensors)), rng.choice(sorted(tensors))
    array = tensors[one]
    match rng.randrange(8):
        case 0:
            tensors[one], tensors[other] = tensors[other], array
        case 1:
            del tensors[one]
        case 2:
            tensors[f"{one}.{rng.choice(['qweight', 'bias', 'g_idx', 'weight_shape'])}"] = array
        case 3:
            noise = np.frombuffer(rng.randbytes(array.nbytes), array.dtype)
            tensors[one] = noise.reshape(array.shape)
        case 4:
            tensors[one] = array.astype(rng.choice([np.int64, np.float64, np.float16, np.uint8]))
        case 5:
            tensors[one] = np.ascontiguousarray(array.T) if array.ndim > 1 else array[:-1].copy()
        case 6:
            tensors[one] = np.full_like(array, rng.choice([0, -1, 127]))
        case _:
            tensors[one] = array[: len(array) // 2].copy()
    save_file(tensors, file, metadata={"format": "pt"})


def remove(file: Path, rng: random.Random) -> None:
    file.unlink()


Mutation = Callable[[Path, random.Random], None]
ANY: list[Mutation] = [flip_bits, truncate, append, remove]
BY_SUFFIX: dict[str, list[Mutation]] = {
    ".json": [edit_json_file] * 8 + ANY,
    ".safetensors": [edit_header] * 6 + [swap_tensors] * 6 + [flip_bits] * 2 + ANY,
    ".gguf": [overwrite_word] * 6 + [flip_bits] * 4 + [truncate, append],
}


def damage(folder: Path, seed: int) -> str:
    """Damage one file of ``folder`` and say which and how."""
    rng = random.Random(seed)
    files = sorted(file for file in folder.iterdir() if file.suffix in BY_SUFFIX)
    weights = [file for file in files if file.suffix != ".json"]
    file = rng.choice(weights if rng.random() < 0.6 else files)
    mutation = rng.choice(BY_SUFFIX[file.suffix])
    mutation(file, rng)
    return f"{mutation.__name__} of {file.name}"


def opened(folder: Path) -> Checkpoint:
    files = list(folder.glob("*.gguf"))
    return open_checkpoint(str(files[0] if files else folder))


def read_all(checkpoint: Checkpoint, tokenizer: bool) -> None:
    """Everything that loading reads, a few rows at a time."""
    checkpoint.config()
    if tokenizer and checkpoint.quality_unavailable is None:
        checkpoint.tokenizer()
    for name, shape in checkpoint.shapes().items():
        checkpoint.quantized(name)
        for start in range(0, shape[0], 16):
            checkpoint.rows(name, start, min(start + 16, shape[0]))


def attempt(folder: Path, tokenizer: bool = False) -> tuple[str, int]:
    """How the reader took it, and the most memory that it held at once."""
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        read_all(opened(folder), tokenizer)
        outcome = "read"
    except InputError as error:
        outcome = "refused" if "\n" not in str(error) else f"in several lines: {error!r}"
    except Exception as error:  # this is what is looked for
        outcome = repr(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return outcome, tracemalloc.get_traced_memory()[1] - before


def hangs(*_: object) -> None:
    raise TimeoutError(f"reading takes more than {SECONDS} s")


def read_damaged(sound: Path, seeds: range) -> bool:
    """Whether all went well with one folder, which must be sound; its name says what it is."""
    convert = gguf._converted
    if sound.name == "gguf":  # converting takes seconds and a process of its own: it is done once
        floats = FolderCheckpoint(sound / "floats", "floats")
        gguf._converted = lambda *_: floats
    read_all(opened(sound), tokenizer=True)  # imports what it needs
    tracemalloc.start()
    outcome, usual = attempt(sound, tokenizer=True)
    if outcome != "read":
        print(f"the sound {sound}: {outcome}")
        return False
    size = sum(file.stat().st_size for file in sound.iterdir() if file.is_file())
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = held + (256 << 20)  # what is not NumPy's or Python's own
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    counts = {"read": 0, "refused": 0}
    for seed in seeds:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(shutil.copytree(sound, Path(scratch) / "model"))
            how = damage(folder, seed)
            outcome, peak = attempt(folder, tokenizer="tokenizer" in how)
        if outcome not in counts or peak > usual + 2 * size:
            print(f"{sound.name}, seed {seed}, {how}: {outcome}; {peak} bytes, usually {usual}")
            counts["wrong"] = counts.get("wrong", 0) + 1
        else:
            counts[outcome] += 1
    print(json.dumps(counts))
    tracemalloc.stop()
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    gguf._converted = convert
    return "wrong" not in counts


if __name__ == "__main__":
    signal.signal(signal.SIGPROF, hangs)
    first, count = int(sys.argv[1]), int(sys.argv[2])
    well = [read_damaged(Path(name), range(first, first + count)) for name in sys.argv[3:]]
    sys.exit(0 if all(well) else 1)
