"""What options and --help name: how pictures can go through a model, how far, and whose. Standard library only."""

from __future__ import annotations

from typing import Final

MODES: Final = ("slide", "whole")
LAYOUTS: Final = ("ade20k", "cityscapes", "pascal_context", "coco_stuff", "coco_panoptic", "camvid", "folder")
"""Data sets that algm-eval and algm-bench read, by how they lie on disk; `evaluation.sets` has what opens each."""

MAX_WORKERS: Final = 8
"""Threads that read, and as many that finish, unless more are asked for."""

DEFAULT_MAX_PIXELS: Final = 100_000_000
"""Larger pictures are refused before they are decoded, unless they are asked for."""

MAX_CANVAS_PIXELS: Final = 2**28
"""The largest canvas that windows are cut from."""
