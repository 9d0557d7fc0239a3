"""Hyper-parameter search with Optuna: a trial is a few runs of main.py, judged on validation data only.

    values: {model: magr, dataset: uiprmd, buffer_size: 10, validation: 25}     # of every run
    seeds: [100, 101]                                                           # each trial runs all of them
    space:
      lr: {from: 0.001, to: 0.3, scale: log}
      projector_hidden: [64, 256]                                               # one of these
    figure: srcc_pooled                                                         # of summary.json

All state is in the search's folder, on a file system that the workers share: Optuna's journal, and the run folders,
named after their settings. A worker that is stopped or killed loses nothing: its trial is taken up again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from datasets import get_dataset_class
from datasets.utils.continual_dataset import SCORE_SETTINGS
from utils.args import OPERATIONAL
from utils.conf import derive_seed, n_cores
from utils.config import read_yaml
from utils.errors import STOP_SIGNALS, Interrupted, RunError, TrainingError, UsageError
from utils.files import exclusive_lock, lock_is_held
from utils.fitting import evaluated_on
from utils.grids import alternatives, check_keys, check_words, product, run_id, to_words
from utils.launching import LOG, start
from utils.registry import nearest
from utils.stored_runs import StoredRun
from utils.sweeps import Line
from utils.tables import HEADLINES, LOWER_IS_BETTER

KEYS = ("values", "seeds", "space", "figure", "folder")
RESERVED = ("seed", "validation", "model", "dataset", "run_dir", *OPERATIONAL)


@dataclass(frozen=True)
class Search:
    """What a search file says.

    Attributes:
        name: of the file, without its suffix.
        values: options of every run; `validation` is among them.
        seeds: of the runs of a trial.
        space: for each option to choose, a list of alternatives or a range {from, to, scale, step}.
        figure: what is made as large, or as small, as possible.
        folder: of the journal and the runs.
    """

    name: str
    values: dict[str, Any]
    seeds: list[int]
    space: dict[str, Any]
    figure: str
    folder: Path

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        return "minimize" if self.figure in LOWER_IS_BETTER else "maximize"

    def lines(self, choice: dict[str, Any]) -> list[Line]:
        """The runs of a trial, one for each seed."""
        lines = []
        for seed in self.seeds:
            options = {**self.values, **choice, "seed": seed}
            run_dir = self.folder / "runs" / run_id(options)
            lines.append(Line(0, tuple(to_words({**options, "run_dir": str(run_dir)})), run_dir))
        return lines


def read_search(path: Path) -> Search:
    """Read and check a search file.

    Raises:
        UsageError: a part is missing or wrong, or the runs would be judged on test data.
    """
    content = read_yaml(path)
    check_keys(content, KEYS, str(path))
    for key in ("values", "space", "figure"):
        if not content.get(key):
            raise UsageError(f"{path}: '{key}' is missing; utils/search.py shows how a search is written")
    reserved = sorted(set(content["space"]) & set(RESERVED))
    if reserved:
        raise UsageError(f"{path}: {', '.join(reserved)} cannot be searched; set it under 'values' or leave it out")
    fixed = product({"data_source": "full", **content["values"]}, str(path))
    if len(fixed) > 1:
        raise UsageError(f"{path}: 'values' has one value for each option; alternatives belong under 'space'")
    folder = Path(content.get("folder") or Path("data/searches") / path.stem)
    seeds = alternatives(content.get("seeds", [0]), f"{path}: seeds")
    if not all(isinstance(seed, int) for seed in seeds):
        raise UsageError(f"{path}: seeds are whole numbers, not {', '.join(map(str, seeds))}")
    if content["figure"] not in HEADLINES:
        hint = ", ".join(nearest(str(content["figure"]), HEADLINES) or HEADLINES)
        raise UsageError(f"{path}: '{content['figure']}' is no figure to search by; known: {hint}")
    search = Search(path.stem, fixed[0], seeds, content["space"], str(content["figure"]), folder)
    for name in search.space:
        ends = _ends(search.space[name], f"{path}: {name}")
        for value in ends:
            choice = {**{other: _ends(search.space[other], str(path))[0] for other in search.space}, name: value}
            args = check_words(search.lines(choice)[0].words)
    if evaluated_on(args) != "validation":
        raise UsageError(
            f"{path}: without 'validation' under 'values' the search would choose on test data, with early stopping as "
            "well, which uses it up; give a percentage of the training data, e.g. validation: 20"
        )
    is_class_figure = search.figure.startswith(("class_il", "task_il"))
    if is_class_figure == (get_dataset_class(args).resolve_setting(args) in SCORE_SETTINGS):
        raise UsageError(f"{path}: {args.dataset} has no figure '{search.figure}'")
    return search


def work(search: Search, n_trials: int, worker: int, sampler_seed: int) -> None:
    """Run trials until the study has `n_trials` that came to an end.

    Raises:
        Interrupted: asked to stop; the trial at hand is taken up again by the next start.
        RunError: a run failed for another reason than its values.
    """
    study = open_study(search, worker, sampler_seed)
    import optuna

    with _registered(search.folder) as name:
        while True:
            # One worker after the other: two that count at once would both begin the last trial.
            with exclusive_lock(search.folder / "workers" / "turn", None):
                _take_up_abandoned(study, search, name)
                states = [trial.state for trial in study.get_trials(deepcopy=False)]
                counted = ("COMPLETE", "PRUNED", "RUNNING")
                if sum(state.name in counted for state in states) >= n_trials:
                    return
                trial = study.ask()
                trial.set_user_attr("worker", name)
            try:
                value = run_trial(search, trial)
            except optuna.TrialPruned as error:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                print(f"trial {trial.number}: pruned {error}", flush=True)
            except BaseException as error:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
                if isinstance(error, Interrupted | KeyboardInterrupt):
                    study.enqueue_trial(trial.params)
                raise
            else:
                study.tell(trial, value)
                print(f"trial {trial.number}: {search.figure} {value:.4g} {trial.params}", flush=True)


def open_study(search: Search, worker: int = 0, sampler_seed: int = 0) -> Any:
    """The study in the search's folder, made if absent.

    Raises:
        UsageError: Optuna is not installed, or the folder holds another search.
    """
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise UsageError("a search needs optuna: pip install -r requirements-sweeps.txt") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search.folder.mkdir(parents=True, exist_ok=True)
    backend = JournalFileBackend(str(search.folder / "journal.log"))
    study = optuna.create_study(
        study_name=search.name,
        storage=optuna.storages.JournalStorage(backend),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5),
        direction=search.direction,
        load_if_exists=True,
    )
    # Trials of another search cannot be compared with these.
    asked = {"values": search.values, "seeds": search.seeds, "space": search.space, "figure": search.figure}
    if study.user_attrs.get("asked", asked) != asked:
        differs = ", ".join(key for key in asked if study.user_attrs["asked"].get(key) != asked[key])
        raise UsageError(f"{search.folder} holds a search with other {differs}; name another folder under 'folder'")
    study.set_user_attr("asked", asked)
    # A search that goes on must not draw what it drew before.
    seed = derive_seed(sampler_seed, "sampler", worker, len(study.trials)) % 2**32
    study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    return study


def suggest(trial: Any, space: dict[str, Any]) -> dict[str, Any]:
    """The values of a trial."""
    choice: dict[str, Any] = {}
    for name, values in space.items():
        if isinstance(values, list):
            choice[name] = trial.suggest_categorical(name, values)
            continue
        low, high = _ends(values, name)
        log = values.get("scale") == "log"
        if isinstance(low, int) and isinstance(high, int):
            choice[name] = trial.suggest_int(name, low, high, step=int(values.get("step", 1)), log=log)
        else:
            step = float(values["step"]) if "step" in values else None
            choice[name] = trial.suggest_float(name, low, high, step=step, log=log)
    return choice


def run_trial(search: Search, trial: Any) -> float:
    """Run every seed of a trial; the mean of the figure. It is reported after each task, and may be pruned there."""
    import optuna

    values, step = [], 0
    for line in search.lines(suggest(trial, search.space)):
        n_reported = 0
        for sessions in _watch(line):
            for record in sessions[n_reported:]:
                if record.get(search.figure) is not None:
                    trial.report(record[search.figure], step)
                    if trial.should_prune():
                        raise optuna.TrialPruned(f"after {step + 1} tasks, {search.figure} {record[search.figure]:.4g}")
                step += 1
            n_reported = len(sessions)
        summary = StoredRun(line.run_dir).summary
        if summary.get("evaluated_on") != "validation":
            raise UsageError(f"{line.run_dir} was not evaluated on validation data; a search must not see test data")
        if search.figure not in summary:
            raise UsageError(f"'{search.figure}' is no figure of this stream; known: {', '.join(sorted(summary))}")
        if summary[search.figure] is None:
            raise optuna.TrialPruned(f"{search.figure} is undefined")
        values.append(float(summary[search.figure]))
    return sum(values) / len(values)


def _watch(line: Line) -> Iterator[list[dict[str, Any]]]:
    """Run a line to its end, giving the sessions it has recorded so far again and again; leaving the loop stops it."""
    import optuna

    while line.state == "running":
        time.sleep(1)
    if not line.is_done:
        with _signals() as received:
            process = start(line, n_cores())
            try:
                while process.poll() is None and not received:
                    time.sleep(0.1)
                    yield _sessions(line)
            finally:
                if process.poll() is None:
                    process.terminate()
                    process.wait()
        if received:
            raise Interrupted(f"stopped by {signal.Signals(received[0]).name}; start again to go on", received[0])
        if process.returncode == TrainingError.exit_code:
            raise optuna.TrialPruned("diverged")
        if process.returncode:
            raise RunError(f"a run ended with exit code {process.returncode}; its log: {line.run_dir / LOG}")
    yield _sessions(line)


def _sessions(line: Line) -> list[dict[str, Any]]:
    return [record for record in StoredRun(line.run_dir).records if record.get("event") == "session"]


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect signals that ask to stop instead of being ended by them."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    previous = {number: signal.signal(number, note) for number in STOP_SIGNALS}
    try:
        yield received
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


@contextlib.contextmanager
def _registered(folder: Path) -> Iterator[str]:
    """Hold a lock under this worker's name, by which others see that it lives."""
    name = f"{os.uname().nodename}-{os.getpid()}-{time.time_ns()}"
    path = folder / "workers" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(path, f"two workers are called {name}"):
        yield name
        path.unlink()


def _take_up_abandoned(study: Any, search: Search, own_name: str) -> None:
    """Give the trials of workers that were killed to whoever asks next; what their runs have done is kept."""
    import optuna

    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        worker = trial.user_attrs.get("worker", own_name)
        if worker != own_name and not lock_is_held(search.folder / "workers" / worker):
            with contextlib.suppress(ValueError):  # another worker was quicker
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                study.enqueue_trial(trial.params)


def _ends(values: Any, place: str) -> list[Any]:
    """Both ends of a range, whole numbers where both are written so; or all alternatives.

    Raises:
        UsageError: it is neither a list nor a range that goes upwards.
    """
    if isinstance(values, list) and values:
        return values
    if not isinstance(values, dict) or not {"from", "to"} <= set(values) <= {"from", "to", "scale", "step"}:
        raise UsageError(f"{place}: expected a list of alternatives or a range {{from, to, scale, step}}")
    if all(isinstance(values[key], int) for key in ("from", "to")) and float(values.get("step", 1)).is_integer():
        ends: list[Any] = [values["from"], values["to"]]
    else:
        try:
            ends = [float(values["from"]), float(values["to"])]
        except (TypeError, ValueError) as error:
            raise UsageError(f"{place}: a range is made of numbers: {error}") from error
    scale = values.get("scale", "linear")
    if ends[0] >= ends[1] or scale not in ("linear", "log"):
        raise UsageError(f"{place}: a range goes upwards, on a linear or a log scale")
    if scale == "log" and ("step" in values or ends[0] <= 0):
        raise UsageError(f"{place}: a range on a log scale starts above 0 and has no step")
    return ends
