"""The paper's figures: each a module, or a row of `of_runs`, with the same functions.

TITLE; DATA: the data sets that it needs; SCALES: scale → settings; ``compute(settings, data,
progress)``: its arrays. From these alone come ``evidence``, ``caption`` and ``draw``, all of
``(arrays, settings)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from ...lab.data.load import Images

Arrays = Mapping[str, "np.ndarray"]
Data = Mapping[str, "Images"]
Progress = Any  # a bar of tqdm, whose total ``compute`` sets
