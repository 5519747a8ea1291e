"""The same bits on 1, 2 and 4 threads: each result of the engine, and the weights it trains."""

from __future__ import annotations

import json
from pathlib import Path

from scripts import run_script

THREADS = (1, 2, 4)  # more than the cores, perhaps: each count has a process of its own


def test_results_and_weights_have_the_same_bits_on_any_number_of_threads(tmp_path: Path) -> None:
    found = {}
    for threads in THREADS:
        file = tmp_path / f"{threads}.json"
        run_script("threads_run.py", str(file), NUMBA_NUM_THREADS=str(threads))
        found[threads] = json.loads(file.read_text())
    one = found[1]
    assert len(one) > 200
    for threads in THREADS[1:]:
        assert found[threads].keys() == one.keys()
        differ = [name for name, digest in found[threads].items() if digest != one[name]]
        assert not differ, f"{threads} threads: {differ}"
