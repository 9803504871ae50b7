"""Messages of European XFEL's Karabo bridge: trains of data over ZeroMQ.

Version 2.2 of the protocol (docs/protocol.rst of European-XFEL/karabo-bridge-py): a message has an even
number of parts, a header packed by msgpack before each part of data. For every source there is a header
``{"source", "content": "msgpack", "metadata"}`` before a map of its values, and one ``{"source", "content":
"array", "path", "dtype", "shape"}`` before each of its arrays, which is sent as it lies in memory. The
metadata have the number of the train, ``timestamp.tid``. A client either sends ``next`` for each message (REQ
and REP), or subscribes to all (SUB and PUB).
"""

import importlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from icobench.errors import InputError

__all__ = ["Train", "Trains", "pack_train", "serve", "unpack_train"]

NEXT = b"next"
TRAIN, IMAGES = "timestamp.tid", "image.data"
LONGEST_HEADER = 1 << 20
"""Bytes of a header; those of facilities have some hundred."""

MOST_HELD = 1 << 28
"""Bytes of trains that wait unread, about. ZeroMQ counts messages, a thousand by default, of any size."""

FEWEST_HELD = 2
"""Trains that may wait, at least."""

REPLAYED = "icobench/replay"
"""Name of the source that replays a file."""

FIRST_TRAIN = 10_000_000_001


class Train(NamedTuple):
    """One message.

    Attributes:
        source: name of the detector.
        number: of the train.
        images: as sent.
    """

    source: str
    number: int
    images: np.ndarray


def _library(name: str) -> Any:
    """A package that only streams need.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError('streams need pyzmq and msgpack; pip install "icobench[live]"') from error


def pack_train(data: Mapping[str, Mapping[str, Any]], metadata: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    """The parts of a message, from the values and the metadata of every source."""
    pack = _library("msgpack").packb
    parts: list[Any] = []
    for source, values in data.items():
        arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
        header = {"source": source, "content": "msgpack", "metadata": dict(metadata[source])}
        parts += [pack(header), pack({name: value for name, value in values.items() if name not in arrays})]
        for name, array in arrays.items():
            described = {"path": name, "dtype": str(array.dtype), "shape": list(array.shape)}
            parts += [
                pack({"source": source, "content": "array", **described}),
                np.ascontiguousarray(array).data,
            ]
    return parts


def unpack_train(parts: Sequence[Any]) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, dict[str, Any]]]:
    """The arrays and the metadata of every source of a message.

    Raises:
        InputError: it is no such message.
    """
    unpack = _library("msgpack").unpackb
    if len(parts) < 2 or len(parts) % 2:
        raise InputError(f"a message of {len(parts)} parts is none of version 2.2 of the Karabo bridge")
    arrays: dict[str, dict[str, np.ndarray]] = {}
    metadata: dict[str, dict[str, Any]] = {}
    try:
        for packed, content in zip(parts[::2], parts[1::2], strict=True):
            if len(packed) > LONGEST_HEADER:
                raise ValueError(f"a header of {len(packed):,} bytes")
            header = unpack(packed)
            source, kind = str(header["source"]), header["content"]
            if kind == "msgpack":
                metadata[source] = dict(header.get("metadata") or {})
            elif kind == "array":
                dtype, shape = np.dtype(header["dtype"]), [int(size) for size in header["shape"]]
                if dtype.kind not in "uifb" or min(shape, default=0) < 0:
                    raise ValueError(f"an array of {dtype} {tuple(shape)}")
                if math.prod(shape) * dtype.itemsize != len(content):
                    raise ValueError(f"an array of {dtype} {tuple(shape)} in {len(content):,} bytes")
                array = np.frombuffer(content, dtype).reshape(shape)
                arrays.setdefault(source, {})[str(header["path"])] = array
            else:
                raise ValueError(f"content {kind!r}")
    except InputError:
        raise
    except Exception as error:  # msgpack and NumPy raise many kinds for what comes from outside
        raise InputError(f"not a message of the Karabo bridge ({type(error).__name__}: {error})") from error
    return arrays, metadata


def _chosen(arrays: Mapping[str, Mapping[str, np.ndarray]], wanted: str | None) -> tuple[str, str]:
    """Source and key of the images.

    Args:
        arrays: of a message.
        wanted: ``KEY``, or ``SOURCE,KEY``; the only one with images by default.

    Raises:
        InputError: none, or several.
    """
    source, _, key = ("", "", "") if wanted is None else wanted.rpartition(",")
    there = [
        (name, path)
        for name, values in arrays.items()
        for path, array in values.items()
        if (array.ndim >= 2 if wanted is None else path == key.strip() and source.strip() in ("", name))
    ]
    if len(there) != 1:
        listed = "; ".join(f"{name},{path}" for name, path in there) or "none"
        raise InputError(f"which images of the stream? say --dataset SOURCE,KEY (there are: {listed})")
    return there[0]


class Trains:
    """The trains of a bridge, one after the other; a context manager.

    Args:
        address: ``tcp://host:port``.
        wanted: key of the images, or ``SOURCE,KEY``.
        subscribe: to a publisher, instead of asking for each train.

    Raises:
        InputError: no library, or an address that is none.
    """

    def __init__(self, address: str, wanted: str | None = None, subscribe: bool = False) -> None:
        self._zmq = _library("zmq")
        _library("msgpack")
        self.address, self.wanted, self.subscribe = address, wanted, subscribe
        self._context = self._zmq.Context()
        self._open()

    def _open(self) -> None:
        zmq = self._zmq
        self._socket = self._context.socket(zmq.SUB if self.subscribe else zmq.REQ)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._asked, self._bounded = False, not self.subscribe
        if self.subscribe:
            self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        self._lost = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        try:
            self._socket.connect(self.address)
        except zmq.ZMQError as error:
            raise InputError(f"{self.address}: no address of a stream ({error})") from error

    def __enter__(self) -> "Trains":
        return self

    def __exit__(self, *error: object) -> None:
        if not self._context.closed:
            self._close()
            self._context.term()

    def _close(self) -> None:
        self._socket.disable_monitor()
        for socket in (self._lost, self._socket):  # a context waits for sockets that are open
            socket.close(linger=0)

    def _bound(self, size: int) -> None:
        """Let few trains of so many bytes wait; those that wait already are lost."""
        self._bounded = True
        limit = self._zmq.RCVHWM
        if (most := _most_held(size)) < self._socket.getsockopt(limit):
            self._socket.setsockopt(limit, most)  # from the next connection on
            self._socket.disconnect(self.address)
            self._socket.connect(self.address)

    def next(self, seconds: float) -> Train | None:
        """The next train, None if there is none within so many seconds.

        Raises:
            InputError: not a message of a bridge, or no images in it.
        """
        if not self.subscribe and not self._asked:
            self._socket.send(NEXT)
            self._asked = True
        if not self._socket.poll(1000 * seconds):
            if self._asked and self._lost.poll(0):  # a new server does not know what the old one was asked
                self._close()
                self._open()
            return None
        parts = [part.buffer for part in self._socket.recv_multipart(copy=False)]
        self._asked = False
        if not self._bounded:
            self._bound(sum(map(len, parts)))
        arrays, metadata = unpack_train(parts)
        source, key = _chosen(arrays, self.wanted)
        number, images = metadata.get(source, {}).get(TRAIN), arrays[source][key]
        if not isinstance(number, int):
            raise InputError(f"{self.address}, {source}: a message without the number of its train ({TRAIN})")
        if images.ndim not in (2, 3):
            raise InputError(
                f"{self.address}, {source},{key}: expected images (y, x) or (pulses, y, x), "
                f"got {images.shape}"
            )
        return Train(source, number, images.reshape(-1, *images.shape[-2:]))


def _most_held(size: int) -> int:
    """Trains of so many bytes that may wait."""
    return max(FEWEST_HELD, MOST_HELD // max(size, 1))


def serve(
    read: Callable[[int, int], np.ndarray], count: int, port: int, rate: float, total: int,
    publish: bool = False, idle: float = 0.0, pulses: int = 1,
) -> int:  # fmt: skip
    """Send frames in trains, at a pace, as a bridge does.

    Args:
        read: the frames of a file: from start and stop to an array.
        count: frames of the file, which is repeated.
        port: where to listen.
        rate: frames a second; a client that asks more slowly gets fewer.
        total: frames to send.
        publish: to all that subscribe, instead of to one that asks; the first subscriber is waited for.
        idle: seconds without a client after which it ends; 0 for never.
        pulses: frames of a train; the last one, and the last before the file begins anew, have what is left.

    Returns:
        frames that were sent.

    Raises:
        InputError: no library, or a port that is not free.
    """
    zmq = _library("zmq")
    with zmq.Context() as context, context.socket(zmq.XPUB if publish else zmq.REP) as socket:
        socket.setsockopt(zmq.LINGER, 2000)
        most = _most_held(read(0, min(pulses, count)).nbytes)
        socket.setsockopt(zmq.SNDHWM, min(most, socket.getsockopt(zmq.SNDHWM)))
        try:
            socket.bind(f"tcp://127.0.0.1:{port}")
        except zmq.ZMQError as error:
            raise InputError(f"port {port}: cannot be listened at ({error})") from error
        begin, number, sent = 0.0, 0, 0
        while sent < total:
            if not publish or number == 0:
                if idle and not socket.poll(1000 * idle):
                    return sent
                socket.recv()
            begin = begin or time.monotonic()
            time.sleep(max(0.0, begin + sent / rate - time.monotonic()))
            place, now = sent % count, time.time()
            stop = min(place + pulses, count, place + total - sent)
            frames = read(place, stop)
            seconds, _, fraction = f"{now:.9f}".partition(".")
            stamp = {"timestamp": now, "timestamp.sec": seconds, "timestamp.frac": fraction.ljust(18, "0")}
            metadata = {"source": REPLAYED, TRAIN: FIRST_TRAIN + number, **stamp, "ignored_keys": []}
            images = {IMAGES: frames if pulses > 1 else frames[0]}
            socket.send_multipart(pack_train({REPLAYED: images}, {REPLAYED: metadata}), copy=False)
            number, sent = number + 1, sent + stop - place
    return total
