"""Damaged and hostile files: one line for each, no crash, no hang, no memory that a file does not deserve."""

import json
import os
import resource
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from PIL import Image
from safetensors.numpy import save_file

from icobench.errors import InputError
from icobench.images.prepare import prepare
from icobench.images.source import open_images
from icobench.network.checkpoint import FORMAT, load_trained, read_weights
from icobench.network.selection import SHIPPED
from icobench.storage import read_json, read_toml

DATA = "/entry_1/data_1/data"

READ = """
import sys, time
from pathlib import Path
from icobench.errors import InputError
from icobench.images.prepare import prepare
from icobench.network.checkpoint import load_trained
from icobench.network.recipe import read_recipe
from icobench.runs.settings import read_settings
from icobench.storage import read_json

def images(path):
    with prepare(path) as prepared:
        prepared.grid.read(range(min(4, len(prepared.grid))))

READERS = {".toml": read_settings, ".json": read_json, ".safetensors": load_trained}
for line in sys.stdin:
    path = Path(line.strip())
    print("begin", path.name, flush=True)
    start, verdict = time.perf_counter(), "read"
    try:
        READERS.get(path.suffix, images)(path)
    except InputError as error:
        verdict = "refused" if "\\n" not in str(error) else "two lines"
    except BaseException as error:
        verdict = f"{type(error).__name__}: {error}"
    if time.perf_counter() - start > 10:
        verdict = "slow"
    print("end", path.name, verdict, flush=True)
"""
"""Reads files as commands do, and says what came of each."""


def judged(files: list[Path]) -> dict[str, str]:
    """What came of each file, in a process of 4 GiB; a crash is that of the file under way."""
    verdicts: dict[str, str] = {}
    while files:

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", READ], input="\n".join(map(str, files)), text=True,
            capture_output=True, check=False, preexec_fn=limit, timeout=900,
            env={**os.environ, "OMP_NUM_THREADS": "1", "ICOBENCH_COMPILE": "0"},
        )  # fmt: skip
        begun = ""
        for line in done.stdout.splitlines():
            word, name, *rest = line.split(" ", 2)
            begun = name if word == "begin" else ""
            if word == "end":
                verdicts[name] = rest[0]
        if done.returncode == 0:
            break
        assert begun, done.stderr[-2000:]
        verdicts[begun] = f"crash ({done.returncode})"
        files = [file for file in files if file.name not in verdicts]
    return verdicts


def samples(folder: Path) -> list[Path]:
    """A small good file of every format."""
    rng = np.random.default_rng(0)
    frames = rng.poisson(3.0, (3, 16, 24)).astype(np.uint16) + 1
    with h5py.File(folder / "plain.h5", "w") as stream:
        stream[DATA] = frames
        stream["/entry_1/data_1/mask"] = np.zeros((16, 24), np.uint32)
        stream["/entry_1/instrument_1/source_1/energy"] = 1.4e-17
    with h5py.File(folder / "packed.cxi", "w") as stream:
        stream.create_dataset(DATA, data=frames, chunks=(1, 16, 24), compression="gzip", shuffle=True)
    np.save(folder / "a.npy", frames)
    np.savez_compressed(folder / "a.npz", data=frames, mask=frames[0] > 9)
    tifffile.imwrite(folder / "a.tif", frames, photometric="minisblack")
    tifffile.imwrite(folder / "b.tif", frames, photometric="minisblack", compression="zlib")
    Image.fromarray(frames[0]).save(folder / "a.png")
    from scipy.io import savemat

    savemat(folder / "a.mat", {"images": frames[0]}, do_compression=True)
    (folder / "a.toml").write_text('images = 4\ntest_sets = ["clean"]\nmethods = ["network"]\nseeds = 2\n')
    (folder / "a.json").write_text(json.dumps({"identity": {"seed": 0, "list": [1, 2.5, None, "x"]}}))
    card = read_weights(SHIPPED / "clean.safetensors").card
    metadata = {"format": FORMAT, "card": json.dumps(card)}
    save_file({"w": np.zeros((3, 4), np.float32)}, folder / "a.safetensors", metadata=metadata)
    return sorted(folder.iterdir())


def mutants(folder: Path, count: int, seed: int) -> list[Path]:
    """So many damaged copies of every sample: bytes changed, cut off, put in twice, numbers made large."""
    rng = np.random.default_rng(seed)
    source = folder / "good"
    source.mkdir()
    made = []
    for sample in samples(source):
        content = sample.read_bytes()
        for number in range(count):
            data = bytearray(content)
            head = min(len(data), 2048)
            way = number % 5
            if way == 0:  # anywhere
                for place in rng.integers(0, len(data), rng.integers(1, 9)):
                    data[place] = rng.integers(256)
            elif way == 1:  # in the header
                for place in rng.integers(0, head, rng.integers(1, 5)):
                    data[place] = rng.integers(256)
            elif way == 2:
                data = data[: rng.integers(0, len(data))]
            elif way == 3:  # a large number
                place = int(rng.integers(0, max(1, head - 8)))
                data[place : place + 8] = int(2 ** rng.integers(8, 63)).to_bytes(8, "little")
            else:
                low, high = sorted(rng.integers(0, len(data), 2))
                data = data[:high] + data[low:]
            path = folder / f"{sample.stem}-{number}{sample.suffix}"
            path.write_bytes(data)
            made.append(path)
    return made


def check(verdicts: dict[str, str], count: int) -> None:
    bad = {name: verdict for name, verdict in verdicts.items() if verdict not in ("read", "refused")}
    read = sum(verdict == "read" for verdict in verdicts.values())
    print(f"{len(verdicts)} files: {read} read, {len(verdicts) - read - len(bad)} refused, {len(bad)} bad")
    assert len(verdicts) == count
    assert not bad


def test_damaged_files_are_read_or_refused(tmp_path):
    files = mutants(tmp_path, 12, 0)
    check(judged(files), len(files))


@pytest.mark.slow
def test_thousands_of_damaged_files(tmp_path):
    files = mutants(tmp_path, 280, 1)
    check(judged(files), len(files))


def declared(path: Path, shape: tuple[int, ...], **more) -> Path:
    with h5py.File(path, "w") as stream:
        stream.create_dataset(DATA, shape, "f4", **more)
    return path


def header(shape: tuple[int, ...]) -> bytes:
    content = BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return content.getvalue() + bytes(5000)


def hostile(folder: Path) -> dict[Path, str]:
    """Files that declare what they do not hold, and what the message says of each."""
    layout = h5py.VirtualLayout((10_000_000, 64, 64), "f4")
    layout[:2] = h5py.VirtualSource("source.h5", "d", (2, 64, 64))
    with h5py.File(folder / "source.h5", "w") as stream:
        stream["d"] = np.ones((2, 64, 64), "f4")
    with h5py.File(folder / "virtual.h5", "w") as stream:
        stream.create_virtual_dataset(DATA, layout, fillvalue=1)
    with h5py.File(folder / "groups.h5", "w") as stream:
        for number in (1, 2):
            stream.create_dataset(f"entry_{number}/data_1/data", (10**5, 10**5), "f4", chunks=(100, 100))
    arrays = {
        "negative.npy": ((-1, 128, 128), "impossible shape"), "many.npy": ((10**20, 16, 16), "declares"),
        "wide.npy": ((4294967296, 4294967296), "larger than --max-pixels"),
    }  # fmt: skip
    for name, (shape, _) in arrays.items():
        (folder / name).write_bytes(header(shape))
    with zipfile.ZipFile(folder / "vast.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.npy", header((2_000_000, 1000, 1000)))
    with zipfile.ZipFile(folder / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.npy", header((1000, 100, 100)) + bytes(40_000_000))
    Image.new("L", (12_000, 9_000)).save(folder / "bomb.png")
    tifffile.imwrite(folder / "bomb.tif", np.zeros((9000, 9000), np.uint8), compression="zlib")
    return {
        declared(folder / "wide.h5", (1, 10**6, 10**6), chunks=(1, 100, 100)): "larger than --max-pixels",
        declared(folder / "long.h5", (1, 16, 10**9), chunks=(1, 16, 1000)): "larger than --max-pixels",
        declared(folder / "fill.h5", (10**7, 16, 16), chunks=(1, 16, 16), fillvalue=3): "declares 10.2 GB",
        folder / "virtual.h5": "declares 164 GB",
        folder / "groups.h5": "larger than --max-pixels",
        folder / "vast.npz": "declares 8e+03 GB",
        folder / "bomb.png": "larger than --max-pixels",
        folder / "bomb.tif": "larger than --max-pixels",
        **{folder / name: message for name, (_, message) in arrays.items()},
    }


def test_sizes_are_checked_before_memory_is_taken(tmp_path):
    cases = hostile(tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for path, message in cases.items():
        with pytest.raises(InputError, match="^.*" + message.replace("+", r"\+")):
            prepare(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024  # KiB


def test_a_larger_frame_can_be_allowed(tmp_path):
    from icobench.images.reading import Reading

    np.save(tmp_path / "a.npy", np.ones((100, 120), np.int32))
    with pytest.raises(InputError, match="--max-pixels 5,000"):
        open_images(tmp_path / "a.npy", reading=Reading(max_pixels=5000))
    with open_images(tmp_path / "a.npy", reading=Reading(max_pixels=12000)) as source:
        assert source.shape == (100, 120)


def test_archives_that_are_damaged_or_encrypted_are_not_taken_for_good(tmp_path):
    frames = np.random.default_rng(0).poisson(3.0, (3, 16, 24)).astype(np.uint16) + 1
    np.savez(tmp_path / "a.npz", data=frames)
    whole = bytearray((tmp_path / "a.npz").read_bytes())
    place = whole.index(frames[1].tobytes())
    whole[place] ^= 1
    (tmp_path / "a.npz").write_bytes(whole)
    with pytest.raises(InputError, match="Bad CRC-32"):
        open_images(tmp_path / "a.npz")
    whole[place] ^= 1
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        whole[whole.index(signature) + offset] |= 1
    (tmp_path / "a.npz").write_bytes(whole)
    with pytest.raises(InputError, match="encrypted"):
        open_images(tmp_path / "a.npz")


CARDS = [
    ("recipe", [], "recipe is no dictionary"),
    ("spread_factors", None, "spread_factors is no dictionary"),
    ("spread_factors", 3, "spread_factors is no dictionary"),
    ("spread_factors", "x", "spread_factors is no dictionary"),
    ("spread_factors", {"radius": "wide"}, "spread_factors.radius is 'wide'"),
    ("network", [], "network is no dictionary"),
    ("network.blocks", [], "blocks is"),
    ("network.widths", [10**6, 10**6, 10**6], "widths is"),
    ("network.hidden", 10**9, "hidden is"),
    ("network.blocks", [60, 60, 60], "is of shape|there is no"),
    ("experiment.centre_offset", [1], "centre_offset must be two numbers"),
    ("experiment", "x", "experiment is no dictionary"),
    ("architecture", 7, "architecture is no name"),
]


@pytest.mark.parametrize(("field", "value", "message"), CARDS)
def test_cards_of_weights(tmp_path, field, value, message):
    """One line that names the field, in no time."""
    stored = read_weights(SHIPPED / "clean.safetensors")
    card = json.loads(json.dumps(stored.card))
    part, _, name = field.rpartition(".")
    (card[part] if part else card)[name] = value
    metadata = {"format": FORMAT, "card": json.dumps(card)}
    weights = {name: tensor.numpy() for name, tensor in stored.weights.items()}
    save_file(weights, tmp_path / "a.safetensors", metadata=metadata)
    with pytest.raises(InputError, match=rf"a\.safetensors: not a network of icobench \(.*({message})"):
        load_trained(tmp_path / "a.safetensors")


def test_a_card_nested_deeply(tmp_path):
    metadata = {"format": FORMAT, "card": "[" * 100_000}
    save_file({"w": np.zeros(3, np.float32)}, tmp_path / "a.safetensors", metadata=metadata)
    with pytest.raises(InputError, match="not a network of icobench"):
        load_trained(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "text",
    ["a = " + "[" * 5000, "images = " + "9" * 5000, "\x00", "x = " + "1" * (5 << 20)],
)
def test_toml_that_is_too_much(tmp_path, text):
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(InputError, match=r"a\.toml: (not a TOML|larger than)"):
        read_toml(tmp_path / "a.toml")


def test_pipes_are_not_waited_for(tmp_path):
    for name in ("a.toml", "a.json", "a.npy", "a.h5"):
        os.mkfifo(tmp_path / name)
    for read in (
        lambda: read_toml(tmp_path / "a.toml"), lambda: read_json(tmp_path / "a.json"),
        lambda: prepare(tmp_path / "a.npy"), lambda: prepare(tmp_path / "a.h5"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=r"not a file|no such file"):
            read()
