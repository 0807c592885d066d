"""Progress of a build on the terminal, and the way to stop one."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Final

from tqdm import tqdm

_PER_MILLE: Final = 1000
_WIDTH: Final = 44
_LAYOUT: Final = "{desc}{percentage:3.0f}%|{bar}| {elapsed}"


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class BuildProgress:
    """Phases as a builder reports them: nested, and from several threads.

    Attributes:
        cancelled: set it to end the build at its next step.
    """

    def __init__(self, *, visible: bool) -> None:
        self.cancelled = threading.Event()
        self._lock = threading.Lock()
        self._phases: dict[str, _Phase] = {}
        self._visible = visible
        self._bar: tqdm[Any] | None = None

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins."""
        with self._lock:
            self._phases[name] = _Phase(parent, max(1, steps))
            title = f"{name[:_WIDTH]:<{_WIDTH}}"
            if self._visible and self._bar is None:
                self._bar = tqdm(total=_PER_MILLE, desc=title, bar_format=_LAYOUT, leave=False, miniters=0)
            if self._bar is not None:
                self._bar.set_description_str(title, refresh=False)
            self._show(name)

    def step(self, name: str, index: int) -> bool:
        """A step of a phase is done; returns whether to go on."""
        with self._lock:
            if name in self._phases:
                self._phases[name].done = index + 1
                self._show(name)
        return not self.cancelled.is_set()

    def finish(self, name: str) -> None:
        """A phase ends."""
        with self._lock:
            self._phases.pop(name, None)

    def close(self) -> None:
        """Clear the bar."""
        if self._bar is not None:
            self._bar.close()

    def _show(self, name: str) -> None:
        """Move the bar to where a phase and those around it are; it never goes back."""
        share, at = 0.0, self._phases.get(name)
        while at is not None:
            share = min(1.0, (at.done + share) / at.steps)
            if at.parent is None:
                break
            at = self._phases.get(at.parent)
        if self._bar is not None:
            # A phase whose parent has ended says nothing about the whole.
            reached = int(share * _PER_MILLE) if at is not None else 0
            self._bar.update(max(0, reached - self._bar.n))


def monitor_for(trt: Any, progress: BuildProgress) -> Any:
    """An `IProgressMonitor` of a TensorRT module that passes everything on; it must outlive the build."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            progress.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return progress.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            progress.finish(phase_name)

    return Monitor()
