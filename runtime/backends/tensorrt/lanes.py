"""The lanes of an engine: whoever runs a batch takes one, and gives it back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from queue import LifoQueue

from algm_trt.runtime.backends.tensorrt.lane import Lane
from algm_trt.runtime.backends.tensorrt.plan import OpenPlan
from algm_trt.runtime.backends.tensorrt.profiles import Piece, capacity, pieces
from algm_trt.runtime.cuda import Device
from algm_trt.runtime.engine import EngineClosedError


class Lanes:
    """Lanes through one engine.

    Attributes:
        count: how many threads can run batches at the same time.
    """

    def __init__(self, plan: OpenPlan, device: Device, count: int) -> None:
        self.count = count
        self._profiles = plan.record.profiles
        self._device = device
        self._idle: LifoQueue[Lane | None] = LifoQueue()  # None: closed
        self._closed = False
        with ExitStack() as made:
            for _ in range(count):
                lane = Lane(plan, device)
                made.callback(lane.close)
                self._idle.put(lane)
            made.pop_all()

    def pieces(self, batch: int) -> list[Piece]:
        """How a batch is divided."""
        return pieces(batch, self._profiles)

    def capacity(self, batch: int) -> int:
        """What a lane must hold for batches of up to `batch` pictures."""
        return capacity(batch, self._profiles)

    @contextmanager
    def lane(self) -> Iterator[Lane]:
        """A lane; waits until one is idle. The engine's device is the thread's current one meanwhile.

        Raises:
            EngineClosedError: the engine is closed.
        """
        lane = self._idle.get()
        if lane is None:
            self._idle.put(None)  # for the next one that waits
            raise EngineClosedError("the engine is closed")
        try:
            with self._device.current():
                yield lane
        finally:
            try:
                lane.settle()
            finally:
                self._idle.put(lane)

    def close(self) -> None:
        """Wait for all lanes and free them."""
        if self._closed:
            return
        self._closed = True
        lanes = [self._idle.get() for _ in range(self.count)]
        self._idle.put(None)
        for lane in lanes:
            if lane is not None:
                lane.close()
