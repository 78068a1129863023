"""A film or a picture strip of one episode."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

_MILLISECONDS = 600


class Film:
    """A series of pictures of a world."""

    def __init__(self):
        self._frames: list[Image.Image] = []
        self._step = -1

    def shoot(self, world: Any) -> None:
        """Add a picture of the current state, unless the step has not changed since the last picture."""
        if world.step_count == self._step:
            return
        self._step = world.step_count
        figure = Figure(figsize=(5, 5), dpi=100, layout="constrained", facecolor="white")
        canvas = FigureCanvasAgg(figure)
        world.plot(figure.add_subplot())
        # Every frame gets a title line, so that all plots have the same size.
        figure.suptitle(f"shock: {world.shock} {world.magnitude}" if world.shocked else " ", color="#D55E00")
        canvas.draw()
        self._frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))

    def develop(self, suffix: str) -> bytes:
        """Return all frames as a `.gif`, or four frames from the first to the last in two rows as a `.png`."""
        buffer = io.BytesIO()
        if suffix == ".gif":
            # The frames have few colours, and the adaptive palette keeps letters sharp.
            frames = [frame.quantize(64) for frame in self._frames]
            frames[0].save(
                buffer, format="gif", save_all=True, append_images=frames[1:], duration=_MILLISECONDS, loop=0
            )
        else:
            last = len(self._frames) - 1
            chosen = [self._frames[round(part * last / 3)] for part in range(4)]
            width, height = chosen[0].size
            strip = Image.new("RGB", (2 * width, 2 * height))
            for place, frame in enumerate(chosen):
                strip.paste(frame, (place % 2 * width, place // 2 * height))
            strip.save(buffer, format="png")
        return buffer.getvalue()
