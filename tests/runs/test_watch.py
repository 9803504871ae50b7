"""Watching a file, a folder and a stream: no frame is lost or doubled, however a session ends.

The networks are left out: an answer is made up of the image, so that a row shows whose it is.
"""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from icobench.answer import MISS, Answer
from icobench.errors import InputError
from icobench.images import bridge, live
from icobench.images.bridge import FIRST_TRAIN, Train, Trains, pack_train, serve, unpack_train
from icobench.images.image_set import ImageSet
from icobench.images.live import Intervals, live_source
from icobench.images.prepare import prepare
from icobench.images.reading import Reading
from icobench.methods import METHODS
from icobench.reporting.live import LivePage
from icobench.runs import blocks, watch
from icobench.runs.fit_queue import FitQueue
from icobench.runs.watch import LitPixels, Watch

DATA = "/entry_1/data_1/data"
READING = Reading("counts")


def frames(count: int, first: int = 0) -> np.ndarray:
    """Frames (N, 64, 64) whose corner holds their number; every fifth has no other light."""
    stack = np.zeros((count, 64, 64), np.uint32)
    stack[:, 10:40, 10:40] = 1 + np.arange(30)
    stack[:, 20, 20] = 1
    numbers = first + np.arange(count)
    stack[numbers % 5 == 4, 10:40, 10:40] = 0
    stack[:, 32, 50] = 100 + numbers
    return stack


def number_of(images: torch.Tensor) -> torch.Tensor:
    return images[:, 32, 50].double() - 100


@pytest.fixture(autouse=True)
def made_up(monkeypatch):
    """Answers at once: the radius is 30 nm and the number of the frame; the error falls with it.

    Even frames show several bodies to the classifier.
    """

    def answer(self, block, report=None):
        number = number_of(block.images)
        missed = dict.fromkeys(block.numbers[number % 2 == 0].tolist(), "several (90%)")
        if self.sort and missed:
            rest = block.subset(number % 2 == 1)
            found = replace(self, sort=False).answer(rest) if len(rest) else ([], None)
            return [*found[0], Answer.failed(missed, MISS)], found[1]
        upright = torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64).repeat(len(number), 1)
        found = Answer(30 + number, upright, index=block.numbers)
        found.radius_std_nm = found.orientation_std_deg = 1 / (1 + number)
        return [found], block

    monkeypatch.setattr(blocks.Fitting, "answer", answer)
    monkeypatch.setattr(blocks.Fitting, "prepare", lambda self: None)
    monkeypatch.setattr(blocks.Fitting, "networks", None)
    monkeypatch.setattr(watch, "FLUSH", 0.05)
    monkeypatch.setattr(live, "SETTLED", 0.25)
    monkeypatch.setattr(live, "LOOKS", 0.05)
    monkeypatch.setattr(live, "FIRST_WAIT", 0.2)


def session(place, out, method="network", **more) -> Watch:
    opened = partial(prepare, reading=READING)
    source = live_source(str(place), opened, READING, more.pop("subscribe", False))
    return Watch(source, out, METHODS[method], LitPixels(100), 1, {"source": str(place)}, **more)


def run_until(watching: Watch, count: int, **more) -> Watch:
    """Run a session until so many rows are stored; a time only ends a test that would fail anyway."""
    add = watching.state.add

    def counted(rows) -> None:
        add(rows)
        if watching.state.frames >= count:
            watching.stop()

    watching.state.add = counted
    watching.run(idle=30, **more)
    return watching


def rows_of(out, count) -> pd.DataFrame:
    """The table, which must have each of so many frames once, with the answer of this frame."""
    table = pd.read_parquet(out)
    number = table["index"].where(table["train"] < 0, table["train"] - FIRST_TRAIN)
    assert sorted(number) == list(range(count))
    hit = number % 5 != 4
    assert (table.loc[hit, "radius_nm"] == 30 + number[hit]).all()
    assert table.loc[~hit, "status"].str.match(r"miss: \d+ lit pixels").all()
    assert not out.with_name(out.stem + ".pieces").exists()
    return table


WRITER = """
import os, sys, time, h5py, numpy as np
path, name, swmr = sys.argv[1], sys.argv[2], sys.argv[3] == "swmr"
stack = np.load(name)
with h5py.File(path, "w", libver="latest") as stream:
    data = stream.create_dataset("DATA", (0, 64, 64), "uint32", maxshape=(None, 64, 64), chunks=(1, 64, 64))
    if swmr:
        stream.swmr_mode = True
    for number, frame in enumerate(stack):
        data.resize(number + 1, axis=0)
        data[number] = frame
        data.flush()
        time.sleep(0.02)
        while swmr and number == 20 and not os.path.exists("gone-on"):
            time.sleep(0.02)
""".replace("DATA", DATA)


@pytest.mark.parametrize("mode", ["swmr", "locked"])
def test_a_file_that_grows(tmp_path, mode):
    """While its writer writes, where that is in SWMR mode; else when the writer has closed it."""
    np.save(tmp_path / "frames.npy", frames(40))
    path, out = tmp_path / "run.h5", tmp_path / "live.parquet"
    first = session(path, out)
    command = [sys.executable, "-c", WRITER, str(path), str(tmp_path / "frames.npy"), mode]
    with subprocess.Popen(command, cwd=tmp_path) as writer:
        if mode == "swmr":  # ended in the middle, and gone on with
            run_until(first, 1)
            assert 0 < len(pd.read_parquet(out)) < 40
            (tmp_path / "gone-on").touch()
        kept = len(pd.read_parquet(out)) if out.exists() else 0
        run_until(session(path, out), 40 - kept)
        assert writer.wait() == 0
    rows_of(out, 40)


def test_frames_are_added_to_a_closed_file(tmp_path):
    path, out = tmp_path / "run.h5", tmp_path / "live.parquet"

    def write(first, count):
        with h5py.File(path, "a") as stream:
            data = stream.require_dataset(
                DATA, (0, 64, 64), "uint32", maxshape=(None, 64, 64), chunks=(1, 64, 64)
            ) if DATA not in stream else stream[DATA]  # fmt: skip
            data.resize(first + count, axis=0)
            data[first:] = frames(count, first)

    write(0, 10)
    watching = session(path, out)
    thread = threading.Thread(target=run_until, args=(watching, 40))
    thread.start()
    for start in (10, 25):
        time.sleep(0.4)
        write(start, 15)
    thread.join()
    rows_of(out, 40)


def test_a_session_ends_although_more_is_there_than_it_can_answer(tmp_path, monkeypatch):
    """What was read is answered; the next session does the rest."""
    monkeypatch.setattr(watch, "HELD", 1)
    path, out = tmp_path / "run.h5", tmp_path / "live.parquet"
    with h5py.File(path, "w") as stream:
        stream[DATA] = frames(600)
    watching, answer = session(path, out), blocks.Fitting.answer

    def slow(self, block, report=None):
        time.sleep(0.1)
        watching.stop()
        return answer(self, block)

    monkeypatch.setattr(blocks.Fitting, "answer", slow)
    watching.run()
    assert 0 < len(pd.read_parquet(out)) < 600
    monkeypatch.setattr(blocks.Fitting, "answer", answer)
    run_until(session(path, out), 600 - len(pd.read_parquet(out)))
    rows_of(out, 600)


def test_a_folder_that_fills(tmp_path):
    """A file is taken when it is complete; one that is no image is said, and taken when it has become one."""
    folder, out = tmp_path / "frames", tmp_path / "live.parquet"
    folder.mkdir()
    np.save(folder / "a.npy", frames(10))
    (folder / "broken.npy").write_bytes(b"nothing")
    (folder / "log.txt").write_text("no image")
    watching, said = session(folder, out), []
    thread = threading.Thread(target=run_until, args=(watching, 20), kwargs={"say": said.append})
    thread.start()
    np.save(tmp_path / "b.npy", frames(7, 10))
    content = (tmp_path / "b.npy").read_bytes()
    for size in (len(content) // 2, len(content)):
        (folder / "slow.npy").write_bytes(content[:size])
        time.sleep(0.1)
    np.save(tmp_path / "c.npy", frames(3, 17))
    (tmp_path / "c.npy").rename(folder / "c.npy")
    thread.join()
    assert [line for line in said if "broken.npy" in line]
    np.save(folder / "broken.npy", frames(4, 20))
    run_until(session(folder, out), 4)
    table = pd.read_parquet(out)
    assert table.groupby("source").size().to_dict() == {
        "a.npy": 10,
        "slow.npy": 7,
        "c.npy": 3,
        "broken.npy": 4,
    }
    assert not table.duplicated(["source", "index"]).any()
    hits = table[table["radius_nm"].notna()]
    assert sorted(hits["radius_nm"] - 30) == [number for number in range(24) if number % 5 != 4]


def test_sorted_images_are_not_fitted(tmp_path):
    """By lit pixels, then by the classifier; neither counts as a failure."""
    np.save(tmp_path / "run.npy", frames(40))
    (folder := tmp_path / "images").mkdir()
    (tmp_path / "run.npy").rename(folder / "run.npy")
    out = tmp_path / "live.parquet"
    watching = run_until(session(folder, out, "network+lm", sort=True), 40)
    table = pd.read_parquet(out).set_index("index")
    dark, even = table.index % 5 == 4, table.index % 2 == 0
    assert table.loc[dark, "status"].str.match(r"miss: \d+ lit pixels").all()
    assert (table.loc[even & ~dark, "status"] == "miss: several (90%)").all()
    assert (table["radius_nm"].notna() == ~dark & ~even).all()
    assert set(table.loc[table["method"] == "network+lm"].index) <= set(table.index[~dark & ~even])
    assert (watching.state.hits, watching.state.failed) == (16, 0)


def free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.mark.parametrize("publish", [False, True])
def test_a_stream_and_its_page(tmp_path, publish):
    pytest.importorskip("zmq")
    stack, port, out = frames(60), free_port(), tmp_path / "live.parquet"
    server = threading.Thread(
        target=serve, args=(lambda a, b: stack[a:b], 60, port, 100.0, 60, publish), daemon=True
    )
    server.start()
    watching = session(f"tcp://127.0.0.1:{port}", out, subscribe=publish)
    with LivePage(0, watching.state.numbers) as page:
        run_until(watching, 60)
        with urllib.request.urlopen(page.address) as answer:
            assert b"<svg" in answer.read()
        with urllib.request.urlopen(page.address + "numbers.json") as answer:
            shown = json.load(answer)
        other = urllib.request.Request(page.address, headers={"Host": "elsewhere.example"})
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(other)
    table = rows_of(out, 60)
    assert (table["source"] == "icobench/replay").all()
    assert (shown["frames"], shown["hits"]) == (60, 48)
    assert sum(shown["radii"]) == sum(map(sum, shown["orientations"])) == 48
    assert len(shown["pictures"]) == 6
    assert "60 images" in watching.state.summary()
    # The server begins anew: its trains are known.
    server = threading.Thread(
        target=serve, args=(lambda a, b: stack[a:b], 60, port, 100.0, 60, publish), daemon=True
    )
    server.start()
    session(f"tcp://127.0.0.1:{port}", out, subscribe=publish).run(idle=0.5)
    rows_of(out, 60)


def test_trains_that_wait_are_read_together():
    """Each frame keeps its train, its place in it and its time; one of another size is left out alone."""
    stack, lengths = frames(60), [3, 1, 25, 1, 0, 1, 1, 12, 1]
    trains, pairs = [], []
    for train, length in enumerate(lengths):
        images = stack[len(pairs) : len(pairs) + length]
        trains.append(Train("DET", 100 + train, images[:, :40] if train == 5 else images))
        pairs += [(100 + train, place) for place in range(length)]
    waiting = list(trains)

    class Bridge:
        address = "bridge"

        def next(self, seconds):
            return waiting.pop(0) if waiting else None

    source = live.Stream(Bridge(), partial(prepare, reading=READING))
    source.known = {"DET": Intervals([101])}
    while source.open() is None:
        pass
    arrived = []
    while waiting or source.waiting():
        if (block := source.take(10)) is not None:
            arrived.append(block)
    assert [len(block.images) for block in arrived][:3] == [10, 10, 9]
    assert [block.last for block in arrived][:3] == [False, False, True]
    seen = [
        pair for block in arrived for pair in zip(block.trains.tolist(), block.places.tolist(), strict=True)
    ]
    assert seen == [pair for pair in pairs if pair[0] not in (101, 105)]
    numbers = np.concatenate([number_of(block.images.images) for block in arrived])
    assert numbers.tolist() == [pairs.index(pair) for pair in seen]
    for block in arrived:
        assert len(block.times) == len(block.images)
        assert (np.diff(block.times) >= 0).all()
    assert [line.split(":")[1] for line in source.troubles] == [" train 104", " train 105"]


def test_a_stream_has_trains_of_several_frames(tmp_path):
    pytest.importorskip("zmq")
    stack, port, out = frames(50), free_port(), tmp_path / "live.parquet"
    server = threading.Thread(
        target=serve, args=(lambda a, b: stack[a:b], 50, port, 1000.0, 120, False, 0.0, 16), daemon=True
    )
    server.start()
    run_until(session(f"tcp://127.0.0.1:{port}", out), 120)
    table = pd.read_parquet(out)
    # 50 frames are three trains of 16 and one of 2; the last 20 frames are one of 16 and one of 4.
    sizes = np.array([16, 16, 16, 2, 16, 16, 16, 2, 16, 4])
    assert (table.groupby("train").size() == sizes).all()
    first = np.cumsum(sizes) - sizes
    number = (first[table["train"] - FIRST_TRAIN] + table["index"]) % 50
    hit = number % 5 != 4
    assert (table.loc[hit, "radius_nm"] == 30 + number[hit]).all()
    assert table.loc[~hit, "status"].str.startswith("miss").all()


def test_fits_replace_answers_and_are_dropped_never_rows(tmp_path, monkeypatch):
    """Those with the largest predicted error come first."""
    path, out = tmp_path / "run.h5", tmp_path / "live.parquet"
    with h5py.File(path, "w") as stream:
        stream[DATA] = frames(60)
    taken = []

    class Pool:
        def __init__(self, *given): ...
        def __enter__(self):
            return self

        def __exit__(self, *error): ...
        def submit(self, function, job):
            from concurrent.futures import Future

            done = Future()
            if job[1] is None:
                done.set_result(None)
            else:
                images = pickle.loads(pickle.dumps(job[1]))
                number = number_of(images.images)
                taken.append(number.tolist())
                upright = torch.tensor([[1.0, 0, 0, 0]]).double().repeat(len(number), 1)
                answer = Answer(130 + number / 10, upright, index=images.numbers)
                done.set_result(watch._rows(answer, "network+lm"))
            return done

    monkeypatch.setattr(watch, "WorkerPool", Pool)
    monkeypatch.setattr(watch, "FIT_QUEUE", 12)
    monkeypatch.setattr(watch, "FIT_BLOCK", 4)
    watching = session(path, out, "network+lm")
    run_until(watching, 60)
    table = pd.read_parquet(out)
    assert sorted(table["index"]) == list(range(60))
    fitted = table["method"] == "network+lm"
    number = table["index"]
    np.testing.assert_allclose(table.loc[fitted, "radius_nm"], 130 + number[fitted] / 10)
    kept = ~fitted & table["radius_nm"].notna()
    assert (table.loc[kept, "radius_nm"] == 30 + number[kept]).all()
    assert watching.state.fits_dropped == kept.sum() > 0
    assert watching.state.fitted == fitted.sum() == sum(map(len, taken))
    assert all(sorted(block) == block for block in taken)  # the error falls with the number


def test_images_with_the_largest_errors_wait_for_fits(rng):
    """Against a sorted list; each image is taken with its own mask and number."""
    queue, waiting, number, given = FitQueue(20, 6), [], 0, 0
    for _ in range(200):
        if rng.random() < 0.5:
            count = int(rng.integers(1, 15))
            numbers = torch.arange(number, number + count)
            shown = numbers[:, None, None].expand(count, 8, 8).float().clone()
            found = Answer(numbers.double(), torch.zeros(count, 4).double())
            found.radius_std_nm = torch.from_numpy(rng.random(count))
            found.orientation_std_deg = torch.zeros(count).double()
            queue.add(ImageSet(shown, shown % 2 == 0, "counts", numbers=numbers), found)
            waiting += zip(found.radius_std_nm.tolist(), numbers.tolist(), strict=True)
            waiting = sorted(waiting, reverse=True)[:20]
            number, given = number + count, given + count
        else:
            taken = queue.take()
            expected, waiting = waiting[:6], waiting[6:]
            assert sorted([] if taken is None else taken.numbers.tolist()) == sorted(n for _, n in expected)
            if taken is not None:
                given -= len(taken)
                assert torch.equal(taken.images[:, 3, 3], taken.numbers.float())
                assert torch.equal(taken.mask[:, 3, 3], taken.numbers % 2 == 0)
        assert (len(queue), queue.dropped) == (len(waiting), given - len(waiting))
        assert sum(map(len, queue._sets)) <= 2 * len(queue)  # memory is let go


def counted(after: int, function):
    """The function, before whose call with this number the process is killed."""

    def called(*given, **more):
        if counted.done == after:
            os.kill(os.getpid(), signal.SIGKILL)
        counted.done += 1
        return function(*given, **more)

    return called


def killed(path, out, after: int) -> bool:
    """Whether a session in a child process was killed, before the change of a folder with this number."""
    child = os.fork()
    if child == 0:
        try:
            counted.done = 0
            for name in ("replace", "rename", "unlink", "rmdir", "mkdir"):
                setattr(os, name, counted(after, getattr(os, name)))
            session(path, out).run(idle=0.5)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize(
    "points", [(3, 8), pytest.param(tuple(range(40)), marks=pytest.mark.slow)], ids=["few", "all"]
)
def test_a_kill_at_any_change_of_a_folder_loses_and_doubles_nothing(tmp_path, monkeypatch, points):
    monkeypatch.setattr(watch, "FLUSH", 0.0)
    path = tmp_path / "run.h5"
    with h5py.File(path, "w") as stream:
        stream[DATA] = frames(100)
    for point in points:
        out = tmp_path / f"live-{point}.parquet"
        was_killed = killed(path, out, point)
        assert was_killed or point > 8
        session(path, out).run(idle=0.3)
        if len(pd.read_parquet(out)) < 100:  # a slow machine's first session ended before the last frame
            session(path, out).run(idle=2)
        rows_of(out, 100)
        assert not [left for left in tmp_path.iterdir() if left.name.endswith(".pieces")]


def test_a_table_of_another_source_is_refused(tmp_path):
    for name in ("one.h5", "two.h5"):
        with h5py.File(tmp_path / name, "w") as stream:
            stream[DATA] = frames(10)
    out = tmp_path / "live.parquet"
    session(tmp_path / "one.h5", out).run(idle=0.3)
    with pytest.raises(InputError, match="rows of another source, or by other settings"):
        session(tmp_path / "two.h5", out).run(idle=0.3)
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(InputError, match="not a table of icobench watch"):
        session(tmp_path / "one.h5", tmp_path / "other.parquet").run(idle=0.3)
    with pytest.raises(InputError, match="needs a method that begins with a network"):
        session(tmp_path / "one.h5", out, "dictionary+lm")
    with pytest.raises(InputError, match="only an HDF5 file grows"):
        session(tmp_path / "frames.npy", out)


def test_few_large_trains_wait_for_a_slow_subscriber(monkeypatch):
    """256 kB each: of some hundred that come while nobody asks only a few wait."""
    pytest.importorskip("zmq")
    monkeypatch.setattr(bridge, "MOST_HELD", 1 << 20)
    frame, port, numbers = np.ones((1, 256, 256), np.uint32), free_port(), []
    server = threading.Thread(target=serve, args=(lambda a, b: frame, 1, port, 600.0, 600, True), daemon=True)
    server.start()
    with Trains(f"tcp://127.0.0.1:{port}", subscribe=True) as trains:
        while (train := trains.next(2.0)) is not None:
            numbers.append(train.number - FIRST_TRAIN)
            if len(numbers) == 1:
                time.sleep(1)
    assert numbers == sorted(set(numbers))
    assert 4 <= len(numbers) < 500  # all would have waited


def test_messages_are_those_of_the_bridge_and_others_are_refused():
    """The layout as documents of the facility state it, packed by hand."""
    msgpack = pytest.importorskip("msgpack")
    image = np.arange(6, dtype=np.uint16).reshape(2, 3)
    metadata = {"timestamp.tid": 7}
    described = {"path": "image.data", "dtype": "uint16", "shape": [2, 3]}
    by_hand = [
        msgpack.packb({"source": "DET", "content": "msgpack", "metadata": metadata}),
        msgpack.packb({"a": 1.5}),
        msgpack.packb({"source": "DET", "content": "array", **described}),
        image.tobytes(),
    ]
    packed = pack_train({"DET": {"a": 1.5, "image.data": image}}, {"DET": metadata})
    assert [msgpack.unpackb(part) for part in packed[:3]] == [msgpack.unpackb(part) for part in by_hand[:3]]
    assert bytes(packed[3]) == by_hand[3]
    arrays, found = unpack_train(by_hand)
    np.testing.assert_array_equal(arrays["DET"]["image.data"], image)
    assert found == {"DET": metadata}
    header = {"source": "DET", "content": "array", "path": "a", "dtype": "uint16", "shape": [2, 4]}
    for parts, message in (
        ([b"x"], "a message of 1 parts"),
        ([b"\xc1", b""], "not a message of the Karabo bridge"),
        ([*by_hand[:2], msgpack.packb(header), by_hand[3]], "in 12 bytes"),
        ([*by_hand[:2], msgpack.packb(header | {"dtype": "O"}), by_hand[3]], "an array of object"),
    ):
        with pytest.raises(InputError, match=message):
            unpack_train(parts)


def test_a_stream_needs_its_libraries_and_a_sensible_address(monkeypatch):
    pytest.importorskip("zmq")
    with pytest.raises(InputError, match="no address of a stream"), ExitStack() as opened:
        opened.enter_context(Trains("tcp://nonsense"))
    monkeypatch.setitem(sys.modules, "zmq", None)
    with pytest.raises(InputError, match=r"pip install \"icobench\[live\]\""):
        Trains("tcp://127.0.0.1:4545")


def test_intervals_hold_what_they_were_made_of(rng):
    numbers = rng.choice(200, 90, replace=False)
    intervals = Intervals(numbers)
    assert [number for number in range(-2, 203) if number in intervals] == sorted(numbers.tolist())
    assert 3 not in Intervals()
    assert len(Intervals(range(1000)).starts) == 1
