"""The harness of the benchmarks: what it counts, and what it refuses."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from benchmarks import harness, training
from benchmarks.rows import ROWS


class Scripted:
    """A worker whose units are given."""

    def __init__(self, *others, loss=1.0, wall=1.0, cores=2.0):
        self.others, self.loss, self.wall, self.cores = list(others), loss, wall, cores
        self.closed = self.killed = False

    def unit(self):
        others = self.others.pop(0) if self.others else 0.0
        return {
            "wall": self.wall,
            "processor": self.cores * self.wall,
            "others": others,
            "losses": {"loss": self.loss},
        }

    def close(self):
        self.closed = True

    def kill(self):
        self.killed = True


def test_units_beside_which_others_ran_are_measured_again():
    busy, free = Scripted(0.0, 2.0, 0.1), Scripted()
    units = harness.in_turn({"busy": busy, "free": free}, 3)
    assert [unit["clean"] for unit in units["busy"]] == [False, True, True, True]
    assert len(units["free"]) == 3 and busy.closed and free.closed
    assert harness.clean(units["busy"], "wall") == [1.0] * 3


def test_too_few_clean_units_are_no_measurement():
    units = harness.in_turn({"busy": Scripted(*[2.0] * 30)}, 3)
    with pytest.raises(SystemExit, match="Only 0 of 9 units"):
        harness.clean(units["busy"], "wall")


def test_nothing_is_measured_while_the_cores_are_busy(monkeypatch):
    seconds = iter([0.0, 1.5])
    monkeypatch.setattr(harness, "busy_seconds", lambda: next(seconds))
    with pytest.raises(SystemExit, match=r"keep 1\.5 of"):
        harness.refuse_unless_free(1.0)


def test_a_process_that_fails_ends_the_measurement():
    other = Scripted()
    workers = {"other": other, "bad": harness.Worker("no_such_module", "dense AE", "float32")}
    with pytest.raises(SystemExit, match="no_such_module .* exit code 1"):
        harness.in_turn(workers, 1)
    assert other.killed and workers["bad"].process.returncode == 1


@pytest.mark.parametrize(("loss", "told"), [(1.04, False), (1.06, True), (float("nan"), True)])
def test_a_faster_loop_that_learns_otherwise_is_refused(loss, told):
    units = {training.TORCH: Scripted(), "kerasunsup": Scripted(loss=loss)}
    units = harness.in_turn(units, 3)
    if not told:
        training._check_losses("dense AE", units)
        return
    with pytest.raises(SystemExit, match="do not train the same model"):
        training._check_losses("dense AE", units)


def test_tables_give_ratios_to_the_plain_loop():
    headings = [one for one in training.VARIANTS if one not in training.DENSE_ONLY]
    walls = {training.TORCH: 2.0, "PyTorch, compiled": 1.5, "kerasunsup": 0.5}
    workers = {one: Scripted(wall=walls.get(one, 4.0)) for one in headings}
    text = training.tables({"conv AE": harness.in_turn(workers, 3)})
    speeds, _, claims = text.split("\n\n")
    assert f"{ROWS['conv AE'].images // 2:,} images/s" in speeds and "4.00 (4.00-4.00)" in speeds
    assert claims.splitlines()[-1] == "| conv AE | 4.00 | 3.00 | 8.00 | 1.00 |"
    workers[training.KERAS].cores = 0.3
    claims = training.tables({"conv AE": harness.in_turn(workers, 3)}).split("\n\n")[2]
    assert claims.splitlines()[-1] == "| conv AE | 4.00 | 3.00 | waited | 1.00 |"


@pytest.mark.parametrize("old", ["", "old\n"])
def test_tables_go_between_their_marks(old, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"a\n<!-- speed -->\n{old}<!-- /speed -->\nb\n")
    harness.write(page, "speed", harness.table(["x", "y"], [["1", "2"]]))
    wanted = "| x | y |\n| --- | --- |\n| 1 | 2 |"
    assert page.read_text() == f"a\n<!-- speed -->\n{wanted}\n<!-- /speed -->\nb\n"


def test_an_unknown_table_is_named():
    command = [sys.executable, "-m", "benchmarks", "sped"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=harness.ROOT)
    assert done.returncode == 2 and "tables are training" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "module"),
    [
        *((name, "run_kerasunsup") for name in ROWS),
        ("dense VAE", "run_keras"),
        ("WGAN-GP", "run_keras"),
    ],
)
def test_workers_train_units(name, module, tmp_path):
    row = ROWS[name]
    images = np.random.default_rng(0).integers(0, 256, (2 * row.images_per_step, 28, 28, 1))
    np.save(tmp_path / "images.npy", images.astype("uint8"))
    worker = harness.Worker(module, name, "float32", tmp_path / "images.npy")
    units = [worker.unit() for _ in range(2)]
    worker.close()
    worker.kill()
    assert all(np.isfinite(value) for unit in units for value in unit["losses"].values())
    assert all(unit["wall"] > 0 and unit["memory"] > 1e8 for unit in units)
