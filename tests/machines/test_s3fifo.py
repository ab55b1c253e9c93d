"""The laws of S3-FIFO."""

import random
from collections import OrderedDict, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paintkit.machines.s3fifo import S3FIFO, Node, Queue


class Key(Node):
    __slots__ = ("name",)

    def __init__(self, name):
        super().__init__()
        self.name = name

    def fingerprint(self):
        return self.name


class Machine:
    """The machine as a cache of names, told by one operation at a time."""

    def __init__(self, capacity):
        self.capacity = capacity
        self.policy: S3FIFO[Key] = S3FIFO()
        self.nodes: dict[object, Key] = {}

    def get(self, name):
        """Use a name, or take it in; tell whether it was there and who left for it."""
        node = self.nodes.get(name)
        if node is not None:
            node.hits += 1
            return True, []
        left = []
        while len(self.policy) >= self.capacity:
            node, remembered = self.policy.evict()
            assert remembered == self.policy.remembers(node.name)
            left.append(node.name)
            del self.nodes[left[-1]]
        self.nodes[name] = node = Key(name)
        self.policy.admit(node, name)
        return False, left

    def remove(self, name):
        node = self.nodes.pop(name, None)
        if node is not None:
            self.policy.remove(node)


class Model:
    """S3-FIFO as naively as it can be written: three lists and a dictionary of counts."""

    promotion = 1

    def __init__(self, capacity):
        self.capacity = capacity
        self.small: list[object] = []
        self.main: list[object] = []
        self.ghosts: list[object] = []
        self.uses: dict[object, int] = {}

    def get(self, name):
        if name in self.uses:
            self.uses[name] = min(3, self.uses[name] + 1)
            return True, []
        left = []
        while len(self.uses) >= self.capacity:
            if len(self.small) >= max(1, self.capacity // 10) or not self.main:
                head = self.small.pop(0)
                if self.uses[head] >= self.promotion:
                    self.uses[head] = 0
                    self.main.append(head)
                else:
                    left.append(head)
                    self.ghosts = [*(ghost for ghost in self.ghosts if ghost != head), head][-self.capacity :]
                    del self.uses[head]
            else:
                head = self.main.pop(0)
                if self.uses[head]:
                    self.uses[head] -= 1
                    self.main.append(head)
                else:
                    left.append(head)
                    del self.uses[head]
        self.uses[name] = 0
        if name in self.ghosts:
            self.ghosts.remove(name)
            self.main.append(name)
        else:
            self.small.append(name)
        return False, left

    def remove(self, name):
        if self.uses.pop(name, None) is not None:
            queue = self.small if name in self.small else self.main
            queue.remove(name)


operations = st.lists(
    st.tuples(st.sampled_from(["get", "get", "get", "remove"]), st.integers(0, 25)), max_size=300
)


def differ(capacity, steps, model):
    """Return the first step at which the machine and the model disagree, or `None`."""
    machine = Machine(capacity)
    for number, (operation, name) in enumerate(steps):
        if getattr(machine, operation)(name) != getattr(model, operation)(name):
            return number
        assert len(machine.policy) == len(machine.nodes) == len(model.uses)
        assert {node.name for node in machine.policy} == set(model.uses)
    return None


@given(st.integers(1, 24), operations)
def test_it_does_what_the_naive_model_does(capacity, steps):
    """Every decision equals that of the algorithm spelled out with lists."""
    assert differ(capacity, steps, Model(capacity)) is None


@pytest.mark.parametrize("capacity", [1, 2, 7, 12, 19, 25, 40, 119])
def test_it_does_what_the_naive_model_does_for_long(capacity):
    """Through many rounds, ghosts that come back, removals, and idols used more often than counts."""
    rng = random.Random(capacity)
    names = range(2 * capacity + 3)
    steps = [
        (operation, min(rng.choice(names), rng.choice(names)))
        for operation in rng.choices(["get", "remove"], [8, 1], k=6_000)
    ]
    assert differ(capacity, steps, Model(capacity)) is None


def test_the_model_catches_another_promotion_rule():
    """A machine that asked for two uses before it promotes, as the paper does, would be found out."""

    class Mutant(Model):
        promotion = 2

    rng = random.Random(5)
    steps = [("get", rng.randrange(20)) for _ in range(300)]
    assert differ(12, steps, Model(12)) is None
    assert differ(12, steps, Mutant(12)) is not None


@given(st.integers(1, 24), operations)
def test_it_never_holds_more_than_its_capacity(capacity, steps):
    """The bound holds after every operation, and ghosts are bounded too."""
    machine = Machine(capacity)
    for operation, name in steps:
        getattr(machine, operation)(name)
        assert len(machine.policy) <= capacity
        assert len(machine.policy._ghosts) <= capacity


def test_nothing_cannot_be_evicted():
    """Eviction from an empty policy is an error of who drives it."""
    with pytest.raises(LookupError, match=r"^nothing is in$"):
        S3FIFO().evict()


def test_a_node_that_is_not_in_is_left_alone():
    """Neither one that never was, nor one that was removed or evicted."""
    policy: S3FIFO[Key] = S3FIFO()
    removed, evicted, last = Key("removed"), Key("evicted"), Key("last")
    for node in (removed, evicted, last):
        policy.admit(node, node.name)
    policy.remove(removed)
    assert (evicted, True) == policy.evict()

    for node in (removed, evicted, Key("stranger")):
        assert node.queue is None
        policy.remove(node)

    assert [last] == list(policy)
    assert 1 == len(policy)


def test_a_queue_is_rebuilt_once_more_than_half_of_it_is_gone():
    """Up to then a removal only marks, so that it costs the same on average however long the queue is."""
    queue, nodes = Queue(), [Key(number) for number in range(8)]
    for node in nodes:
        queue.push(node)
    for node in nodes[2:6]:
        queue.remove(node)
    assert (8, 4) == (len(queue._nodes), queue.length)

    queue.remove(nodes[6])
    assert (3, 3) == (len(queue._nodes), queue.length)
    assert [nodes[0], nodes[1], nodes[7]] == list(queue)


def test_a_queue_counts_only_who_stands_in_it():
    """However many have vanished from its middle, and whether they have been skipped yet or not."""
    queue, nodes = Queue(), [Key(number) for number in range(20)]
    for node in nodes:
        queue.push(node)
    for node in nodes[1:4] + nodes[10:14]:
        queue.remove(node)
    order = [nodes[0], *nodes[4:10], *nodes[14:]]
    for left, node in zip(range(13, 0, -1), order, strict=True):
        assert left == queue.length
        assert node is queue.pop()
    assert 0 == queue.length


def test_removed_nodes_do_not_pile_up():
    """Keys that are removed before they are evicted leave no trace in the queues."""
    machine = Machine(100)
    for number in range(10_000):
        machine.get(number)
        machine.remove(number)
    assert len(machine.policy._small._nodes) + len(machine.policy._main._nodes) < 10


def test_uses_beyond_the_third_do_not_keep_a_key_longer():
    """What was popular once leaves after three more rounds at the most."""
    machine = Machine(10)
    machine.get("idol")
    machine.nodes["idol"].hits += 1_000_000
    for number in range(200):
        machine.get(number)
        machine.get(number)
        machine.get(number)
    assert "idol" not in machine.nodes


def zipf_with_scans(seed, accesses=60_000, names=5_000):
    """Return accesses of skewed popularity, interrupted by scans over names that are never asked for again."""
    rng = random.Random(seed)
    weights = [1 / rank for rank in range(1, names + 1)]
    trace = deque(rng.choices(range(names), weights, k=accesses))
    fresh = names
    mixed = []
    while trace:
        mixed += [trace.popleft() for _ in range(min(1_000, len(trace)))]
        mixed += range(fresh, fresh + 300)
        fresh += 300
    return mixed


def lru_hits(trace, capacity):
    held: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for name in trace:
        if name in held:
            hits += 1
            held.move_to_end(name)
        else:
            held[name] = None
            if len(held) > capacity:
                held.popitem(last=False)
    return hits


@pytest.mark.parametrize("capacity", [100, 500])
def test_it_beats_lru_on_popularity_with_scans(capacity):
    """On skewed accesses interrupted by scans more of them hit than under LRU, by a fair margin."""
    trace = zipf_with_scans(seed=7)
    machine = Machine(capacity)
    hits = sum(machine.get(name)[0] for name in trace)
    assert hits > 1.08 * lru_hits(trace, capacity)
