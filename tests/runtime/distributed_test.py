"""Tests of experiments.command.distributed, and runs of several processes."""

import signal
import time

from absl import flags
import numpy as np
import pytest

from experiments.command import distributed, parsing
from experiments.machine import interruption, processes as machine_processes
from tests.experiments import in_process
from tests.runtime import processes

# 3 cells in 12 chunks of one member on each of two devices.
FEW_SHOT = (
  *("--methods=vanilla,bean1", "--alphas=1,10", "--shots=1", "--seeds=8"),
  *("--epochs=4", "--batch_size=4", "--learning_rate=0.02"),
  "--members_per_chunk=1",
)
FULL_DATA = (
  *("--methods=bean1", "--alphas=1,10", "--seeds=4", "--epochs=4"),
  *("--batch_size=20", "--members_per_chunk=1", "--checkpoint_seconds=0"),
)
TABLE1 = (
  *("--datasets=digits", "--methods=vanilla,l1", "--shots=1", "--epochs=2"),
  *("--validate_every=1", "--seeds=2", "--selection_seeds=5-6"),
  "--members_per_chunk=1",
)
STUDY = (
  *("--dataset=digits", "--variants=usual,batch_full", "--epochs=2"),
  *("--validations=1", "--seeds=100-101", "--members_per_chunk=1"),
)
AT = "coordinator_address="
STOPPED = "stopped as asked; finished cells are kept, "


class TestFlags:
  @pytest.mark.parametrize(
    "args,message",
    (
      ("num_processes=2", "--coordinator_address: expected with --num_"),
      (
        f"{AT}a:1 process_id=0",
        "--num_processes: expected with --coordinator_address and --process_id",
      ),
      *(
        (
          f"{AT}{address} num_processes=2 process_id=0",
          "expected host:port, got",
        )
        for address in ("host", "host:x", ":1", "host:99999", "a/b:1")
      ),
      (f"{AT}a:1 num_processes=0 process_id=0", "--num_processes: expected"),
      (f"{AT}a:1 num_processes=2 process_id=2", "--process_id: expected"),
      ("distributed", "found no job of Slurm, "),
    ),
  )
  def test_refused(self, args, message, monkeypatch):
    def initialize(**_):
      raise ValueError("coordinator_address should be defined.")

    # The backend of the tests has started already.
    monkeypatch.setattr(distributed.jax.distributed, "initialize", initialize)
    monkeypatch.setattr(distributed.jax.config, "update", lambda *_: None)
    values = flags.FlagValues()
    distributed.define_flags(values)
    values(["script", *(f"--{arg}" for arg in args.split())])
    with (
      pytest.raises(parsing.ConfigError, match=message) as caught,
      distributed.joined(values),
    ):
      raise AssertionError
    assert "\n" not in str(caught.value)

  def test_without_them_there_is_one_process(self):
    values = flags.FlagValues()
    distributed.define_flags(values)
    values(["script"])
    for chosen in (values, flags.FlagValues(), None):
      with distributed.joined(chosen):
        assert machine_processes.share() == (0, 1)
        assert machine_processes.is_first()


def test_waiting_says_so_once_and_ends_with_a_request(monkeypatch, capsys):
  monkeypatch.setattr(machine_processes, "POLL_SECONDS", 0.001)
  monkeypatch.setattr(machine_processes, "PATIENCE_SECONDS", 0.01)
  until = time.monotonic() + 0.1
  monkeypatch.setattr(
    interruption, "stop_requested", lambda: time.monotonic() > until
  )
  with pytest.raises(interruption.Stopped):
    for _ in machine_processes.waiting("a file"):
      pass
  err = capsys.readouterr().err
  assert err.startswith("warning: waiting for a file; --output_dir has to ")
  assert err.count("\n") == 1


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """What one process gives, by script: its folder."""
  folders = {}

  def make(name, args):
    if name not in folders:
      folders[name] = tmp_path_factory.mktemp("whole")
      process = processes.start(name, *args, f"--output_dir={folders[name]}")
      assert processes.finish([process])[0][0] == 0
    return folders[name]

  return make


@pytest.mark.slow
class TestNumbers:
  """Equal to the bit for one member on each device, whatever their number."""

  @pytest.mark.parametrize(
    "num_processes,num_cores", ((1, 1), (1, 8), (2, 1), (2, 3), (4, 2))
  )
  def test_few_shot(self, num_processes, num_cores, whole, tmp_path):
    expected = whole("few_shot", FEW_SHOT)
    args = (*FEW_SHOT, f"--output_dir={tmp_path}")
    started = processes.start_all(
      "few_shot", *args, num_processes=num_processes, num_cores=num_cores
    )
    (status, out, err), *others = processes.finish(started)
    assert (status, err) == (0, "")
    assert "| BEAN-1" in out
    # One process speaks for all.
    assert others == [(0, "", "")] * (num_processes - 1)
    assert in_process.numbers(tmp_path) == in_process.numbers(expected)
    names = sorted(path.name for path in expected.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == names

  def test_other_widths_give_the_same_but_for_rounding(self, whole, tmp_path):
    expected = in_process.numbers(whole("few_shot", FEW_SHOT))
    args = (*FEW_SHOT, "--members_per_chunk=3", f"--output_dir={tmp_path}")
    process = processes.start("few_shot", *args)
    assert processes.finish([process])[0][0] == 0
    for name, (_, _, metrics) in in_process.numbers(tmp_path).items():
      for key in ("train_loss_curve", "validation_accuracy_curve"):
        # One image that is as good as undecided.
        atol = 1.01 / 50 if "accuracy" in key else 1e-3
        np.testing.assert_allclose(
          metrics[key], expected[name][2][key], atol=atol
        )

  def run_two(self, name, args, folder):
    started = processes.start_all(
      name, *args, f"--output_dir={folder}", num_processes=2
    )
    (status, out, err), other = processes.finish(started)
    assert (status, err, other) == (0, "", (0, "", ""))
    return out

  def test_full_data(self, whole, tmp_path):
    expected = whole("full_data", FULL_DATA)
    assert "| BEAN-1" in self.run_two("full_data", FULL_DATA, tmp_path)
    assert in_process.numbers(tmp_path) == in_process.numbers(expected)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 8

  @pytest.mark.parametrize(
    "name,args,folders",
    (
      ("table1", TABLE1, ("selection", "evaluation", "chosen")),
      ("study", STUDY, ("usual", "batch_full")),
    ),
  )
  def test_a_folder_for_each_run(self, name, args, folders, whole, tmp_path):
    expected = whole(name, args)
    out = self.run_two(name, args, tmp_path)
    table = (expected / "table.md").read_text()
    assert table in out
    assert (tmp_path / "table.md").read_text() == table
    for folder in folders:
      assert in_process.numbers(tmp_path / folder) == in_process.numbers(
        expected / folder
      )


@pytest.mark.slow
class TestFaults:
  """What was done is kept, and another run ends with the same bits."""

  def check_resumed(self, name, args, folder, whole):
    expected = whole(name, args)
    process = processes.start(name, *args, f"--output_dir={folder}")
    ((status, _, err),) = processes.finish([process])
    assert (status, err) == (0, "")
    assert in_process.numbers(folder) == in_process.numbers(expected)
    assert not (folder / "partial").exists()

  @pytest.mark.parametrize("number", (1, 2))
  @pytest.mark.parametrize(
    "name,args,pattern",
    (
      ("few_shot", FEW_SHOT, "partial/*/*.npz"),
      ("full_data", FULL_DATA, "checkpoints/*.npz"),
    ),
    ids=("few_shot", "full_data"),
  )
  def test_sigterm_to_one_stops_all(
    self, number, name, args, pattern, whole, tmp_path
  ):
    args_ = (*args, f"--output_dir={tmp_path}")
    started = processes.start_all(name, *args_, num_processes=number, pause=1.0)
    processes.wait_for(tmp_path, pattern, started)
    started[-1].send_signal(signal.SIGTERM)
    ends = processes.finish(started, seconds=60)
    for status, _, err in ends:
      assert status == 0
      assert STOPPED in err
      assert "Traceback" not in err
    assert not (tmp_path / "table.md").exists()
    self.check_resumed(name, args, tmp_path, whole)

  @pytest.mark.parametrize("victim", (0, 1))
  def test_death_of_one_ends_the_others(self, victim, whole, tmp_path):
    args = (*FEW_SHOT, f"--output_dir={tmp_path}")
    started = processes.start_all("few_shot", *args, num_processes=2, pause=2.0)
    processes.wait_for(tmp_path, "partial/*/*.npz", started)
    started[victim].kill()
    killed = time.monotonic()
    ends = processes.finish(started, seconds=120)
    assert time.monotonic() - killed < 60
    assert ends[victim][0] == -signal.SIGKILL
    status, out, err = ends[1 - victim]
    assert status != 0
    assert "| BEAN-1" not in out
    assert "another task died" in err
    self.check_resumed("few_shot", FEW_SHOT, tmp_path, whole)

  @pytest.mark.parametrize(
    "change,message",
    (
      ("--seeds=9", "--seeds: expected the same in all processes, got '8' in"),
      ("--noresume", "--resume: expected the same in all processes"),
    ),
  )
  def test_processes_that_do_not_belong_together(
    self, change, message, tmp_path
  ):
    started = processes.start_all(
      "few_shot",
      *FEW_SHOT,
      f"--output_dir={tmp_path}",
      num_processes=2,
      last=[change],
      pause=1.0,
    )
    (status, _, err), (other_status, _, other_err) = processes.finish(started)
    assert other_status == 2
    assert other_err.startswith(f"error: {message}")
    assert other_err.count("\n") == 1
    # It is told, instead of waiting for ever.
    assert status == 0
    assert STOPPED in err
    assert not list(tmp_path.glob("*.json"))

  def test_without_resume(self, tmp_path):
    args = (*FEW_SHOT, "--noresume", f"--output_dir={tmp_path}")
    started = processes.start_all("few_shot", *args, num_processes=2)
    for status, out, err in processes.finish(started):
      assert (status, out) == (2, "")
      assert err.startswith("error: --noresume: several processes ")
      assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())

  @pytest.mark.parametrize("seed", range(2))
  def test_random_faults(self, seed, whole, tmp_path):
    """Signals to random processes of runs by random numbers of them."""
    generator = np.random.default_rng(seed)
    deaths = 0
    while not (tmp_path / "table.md").exists():
      number = int(generator.integers(1, 4))
      args = (*FEW_SHOT, f"--output_dir={tmp_path}")
      started = processes.start_all(
        "few_shot", *args, num_processes=number, pause=0.5
      )
      victim = started[int(generator.integers(number))]
      kind = generator.choice([signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
      # Before anything is done (where Python itself answers Ctrl-C), in the
      # midst, or when all is over.
      before = len(list(tmp_path.rglob("*.json")))
      more = int(generator.integers(kind == signal.SIGINT, 4))
      deadline = time.monotonic() + 120
      while len(list(tmp_path.rglob("*.json"))) < before + more:
        if time.monotonic() > deadline or victim.poll() is not None:
          break
        time.sleep(0.01)
      victim.send_signal(kind)
      for status, _, err in processes.finish(started, seconds=120):
        deaths += status != 0
        assert "Traceback" not in err, err
    assert deaths
    self.check_resumed("few_shot", FEW_SHOT, tmp_path, whole)
