"""How tables, pictures and progress bars call a model at a threshold."""

from __future__ import annotations


def model_title(name: str, threshold: float | None) -> str:
    """Name of the model, and the threshold that it merges at; None for a dense model."""
    return name if threshold is None else f"{name} @ {threshold:g}"
