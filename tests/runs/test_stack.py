"""Stacks of images: which are read when."""

import threading

import numpy as np
import torch

from icobench import reconstruct
from icobench.answer import Answer
from icobench.images.image_source import ImageSource
from icobench.runs import blocks, stack


def test_a_gpu_has_its_next_images_read_meanwhile(monkeypatch):
    """Each image is read once, in order, and the answers are the same."""
    frames = np.random.default_rng(3).poisson(5.0, (150, 64, 64)).astype(np.uint16)
    frames[:, 32, 50] = 100 + np.arange(150)
    reads = []

    def answer(self, block, report=None):
        upright = torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64).repeat(len(block), 1)
        return [Answer(block.images[:, 32, 50].double(), upright, index=block.numbers)], None

    def read(self, numbers, of_source=ImageSource.read):
        reads.append((list(numbers), threading.current_thread() is threading.main_thread()))
        return of_source(self, numbers)

    monkeypatch.setattr(blocks.Fitting, "answer", answer)
    monkeypatch.setattr(blocks.Fitting, "networks", None)
    monkeypatch.setattr(ImageSource, "read", read)
    found = []
    for on_gpu in (False, True):
        monkeypatch.setattr(stack, "on_gpu", lambda device, answer=on_gpu: answer)
        reads.clear()
        found.append(reconstruct(frames, kind="counts", method="network"))
        of_stack = [(numbers, main) for numbers, main in reads if len(numbers) > 4]
        assert [main for _, main in of_stack] == [True, *[not on_gpu] * 4]
        assert [number for numbers, _ in of_stack for number in numbers] == list(range(150))
    for answers in found:
        assert torch.equal(answers.radius_nm, 100 + torch.arange(150, dtype=torch.float64))
        assert torch.equal(answers.index, torch.arange(150))
