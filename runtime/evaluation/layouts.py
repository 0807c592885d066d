"""Names of the data-set layouts that algm-eval and algm-bench read; apart from `sets`, so that --help stays fast."""

from __future__ import annotations

from typing import Final

LAYOUTS: Final = ("ade20k", "cityscapes", "pascal_context", "coco_stuff", "coco_panoptic", "camvid", "folder")
