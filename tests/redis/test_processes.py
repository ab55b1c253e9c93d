"""Two processes beside a model: whatever is read and written, in whatever order, and by whichever process.

The model is a dictionary. A process that has invalidated reads the new value at once, and so does every later call in it; the other one
within the lag.
"""

import itertools

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.redis.worker import Worker

LAG = 1.0  # seconds, as promised

names = st.sampled_from(["red", "blue", "green"])
sides = st.sampled_from([0, 1])


def machine(workers):
    """Return the machine for two workers, which go on from one example to the next as real processes do."""
    values = itertools.count(1)
    truth = dict.fromkeys(["red", "blue", "green"], 0)
    due = dict.fromkeys(truth, 0.0)  # from when on nobody may see less

    def write(side, name, by):
        truth[name] = next(values)
        due[name] = workers[side].ask("put", name=name, value=truth[name], by=by)["ended"] + LAG

    class Processes(RuleBasedStateMachine):
        """Each rule is what a user does."""

        @initialize()
        def begin_anew(self):
            for side in range(len(workers)):
                for name in truth:
                    write(side, name, "everything")

        @rule(side=sides, name=names, by=st.sampled_from(["call", "tag", "function", "everything", "value"]))
        def put(self, side, name, by):
            write(side, name, by)
            assert workers[side].get(name) == truth[name]

        @rule(side=sides, name=names)
        def get(self, side, name):
            found = workers[side].ask("watch", name=name, value=truth[name], since=due[name])
            assert found["value"] == truth[name]

        @rule(name=names)
        def get_in_both_at_once(self, name):
            for worker in workers:
                worker.send("watch", name=name, value=truth[name], since=due[name])
            assert [worker.answer()["value"] for worker in workers] == [truth[name]] * 2

    return Processes


@pytest.fixture
def pair(own_redis, tmp_path):
    """Make two workers that hear each other."""
    workers = []

    def pair(fault=""):
        for name in ("red", "blue", "green"):
            (tmp_path / name).write_text("0")
        workers.extend(Worker(own_redis.url, tmp_path, fault=fault, timeout=5.0) for _ in range(2))
        for worker in workers:
            worker.get()
            assert worker.ask("ready")["connected"]
        return workers

    yield pair
    for worker in workers:
        worker.__exit__()


CHECKS = settings(
    max_examples=30,
    stateful_step_count=20,
    deadline=None,
    phases=[Phase.generate],  # a history of processes is not to be had again by the step
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
)

# The same histories each time; each goes on where the last has ended, so one more is another chance.
SEARCH = settings(CHECKS, max_examples=1_000, derandomize=True, database=None)


def test_two_processes_agree_with_a_dictionary(pair):
    """Whatever they do."""
    run_state_machine_as_test(machine(pair()), settings=CHECKS)


@pytest.mark.parametrize("fault", ["nobody hears anything", "nobody is told what is put"])
def test_the_model_notices_a_planted_fault(pair, fault):
    """However many histories it takes."""
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine(pair(fault)), settings=SEARCH)
