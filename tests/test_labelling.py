"Labelling by hand without a browser: the state behind the panel, its file, and the panel's own buttons."
import json
import multiprocessing
import os
import re
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from batchbald_nbdev import labelling as module
from batchbald_nbdev import records
from everything import *

CLASSES = 3


def pool(n=24, *shape, seed=0):
    "Images whose class is where they are bright; inputs and labels."
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % CLASSES
    inputs = torch.rand(n, *(shape or (6, 6)), generator=g)
    for x, c in zip(inputs, labels):
        x[..., 2 * c : 2 * c + 2, :] += 0.4
    return inputs, labels


INPUTS, LABELS = pool()
SHORT = dict(classes=CLASSES, batch_size=4, steps=4, samples=6)


def make(path=None, **options):
    return Labelling(INPUTS, path, **{**SHORT, **options})


def answer(labelling, clicks):
    for _ in range(clicks):
        labelling.label(int(LABELS[labelling.current]))
        labelling.learn()


def rounds(labelling):
    "All but the seconds."
    return [{k: v for k, v in record.items() if k != "seconds"} for record in labelling.rounds]


def state(labelling):
    return rounds(labelling), labelling.clicks, labelling.labels, labelling.todo


@pytest.fixture
def path(tmp_path):
    return tmp_path / "labels.jsonl"


# the file


def test_a_round_says_what_it_was_made_with(path):
    answer(make(path), 4)
    other = make(path, steps=5, batch_size=3)
    assert [r["settings"] for r in other.rounds] == [{"seed": 0, "steps": 4, "samples": 6, "batch_size": 4}] * 2  # read, not made again
    answer(other, len(other.todo))
    assert other.rounds[-1]["settings"] == {"seed": 0, "steps": 5, "samples": 6, "batch_size": 3}


def test_masks_by_design_are_asked_for_and_written_down(monkeypatch):
    seen = []
    def collect(*args, masks, **options):
        seen.append(masks)
        return collect_log_probs(*args, masks=masks, **options)
    monkeypatch.setattr(module, "collect_log_probs", collect)
    start = {i: int(LABELS[i]) for i in range(6)}
    plain, designed = [make(start=start, test_inputs=INPUTS[6:12], test_labels=LABELS[6:12], masks=masks) for masks in ("independent", "orthogonal")]
    assert set(seen[: len(seen) // 2]) == {"independent"} and set(seen[len(seen) // 2 :]) == {"orthogonal"}
    assert designed.rounds[0]["settings"] == plain.rounds[0]["settings"] | {"masks": "orthogonal"} and "masks" not in plain.rounds[0]["settings"]
    for wrong in ("hadamard", None, 3):
        with pytest.raises(ValueError, match="`masks` is .*; want one of: independent, balanced, orthogonal"): make(masks=wrong)


@pytest.mark.parametrize("clicks", [0, 1, 3, 4, 5, 11])
def test_a_new_object_on_the_same_file_has_the_same_state(path, clicks):
    first = make(path)
    answer(first, clicks)
    second = make(path)
    assert (second.rounds, *state(second)) == (first.rounds, *state(first)) and second.message == ""
    answer(first, 1)
    assert state(first) != state(second)


def test_each_click_is_on_the_disk_before_it_counts(path, monkeypatch):
    labelling, synced = make(path), []
    monkeypatch.setattr(records.os, "fsync", lambda handle: synced.append((os.fstat(handle).st_size, len(labelling.clicks))))
    for n in range(3):
        labelling.label(1)
        assert synced == [(path.stat().st_size, n)]
        record = json.loads(path.read_text().splitlines()[-1])
        assert record | {"time": ""} == {"kind": "label", "position": labelling.clicks[-1][1], "label": 1, "round": 0, "time": ""}
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", record["time"])
        synced.clear()


def test_a_failed_write_changes_nothing(path, monkeypatch):
    labelling = make(path)
    labelling.label(2)
    before, data = state(labelling), path.read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(records.os, "fsync", full)
        for change in (lambda: labelling.label(0), labelling.undo):
            with pytest.raises(OSError, match="No space"):
                change()
            assert (state(labelling), path.read_bytes()) == (before, data)
    labelling.label(0)
    assert len(make(path).clicks) == 2


def test_torn_anywhere_the_rest_is_kept(path, tmp_path):
    labelling = make(path)
    answer(labelling, 5)
    data = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(data) if byte == 10]
    for cut in {*range(len(data) - 200, len(data)), *range(0, ends[0] + 40, 7), *(e for e in ends), *(e - 1 for e in ends)}:
        copy = tmp_path / "copy.jsonl"
        copy.write_bytes(data[:cut])
        whole = max([e for e in ends if e <= cut], default=0)
        torn = make(copy)
        assert copy.read_bytes().startswith(data[:whole])
        assert torn.clicks == labelling.clicks[: data[:whole].count(b'"kind": "label"')]
        assert ("torn" in torn.message) == (cut > whole)
        if cut > whole:
            assert f"({cut - whole} bytes)" in torn.message
        answer(torn, 5 - len(torn.clicks))
        assert state(torn) == state(labelling) == state(make(copy))


@pytest.mark.parametrize("content", [b"position,label\n3,1\n", b"[]\n", b'{"kind": "stars"}\n', b"\x89PNG\r\n", b"{"[:1] * 3])
def test_a_file_of_something_else_is_left_alone(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match="`path`.*not a file of labels"):
        make(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "find, put",
    [
        (b'"label": 1', b'"label": 3'), (b'"label": 1', b'"label": -1'), (b'"label": 1', b'"label": "1"'), (b'"label": 1', b'"label": null'),
        (b'"kind": "label"', b'"kind": "lapel"'), (b'"round": 0, "time"', b'"round": 1, "time"'), (b'"position": ', b'"position": 7'),
        (b'{"kind": "label"', b'{"kind": label"'), (b'"known": []', b'"known": 7'),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused_and_left_alone(path, find, put):
    labelling = make(path)
    labelling.label(1)
    labelling.label(2)
    data = path.read_bytes().replace(find, put, 1)
    assert data != path.read_bytes()
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"`path`: line [23] of .*labels\.jsonl"):
        make(path)
    assert path.read_bytes() == data


@pytest.mark.parametrize("line", [b"[]", b"3", b"null", b"oops", b"\0\0", b""])
def test_a_line_that_is_no_record_is_torn_at_the_end_and_refused_elsewhere(path, line):
    labelling = make(path)
    labelling.label(1)
    data = path.read_bytes()
    path.write_bytes(data + line + b"\n")
    assert state(make(path)) == state(labelling) and path.read_bytes() == data
    path.write_bytes(data + line + b"\n" + data)
    with pytest.raises(ValueError, match="`path`: line 4 of .* is not a record"):
        make(path)


def test_a_file_of_other_images_or_learners_is_refused(path):
    make(path)
    for options, word in ((dict(classes=["a", "b", "c"]), "classes"), (dict(methods=["batchbald", "random"]), "methods"), (dict(start={0: 0}), "start")):
        with pytest.raises(ValueError, match=f"`path`.*other {word}"):
            make(path, **options)
    for inputs in (INPUTS.flip(0), INPUTS[:-1]):
        with pytest.raises(ValueError, match="`path`.*other pool"):
            Labelling(inputs, path, **SHORT)
    make(path, steps=9, samples=3, batch_size=2, pool_labels=LABELS)  # what later rounds are made with may change


def test_a_second_panel_catches_up_and_does_not_write(path):
    one, two = make(path), make(path)
    answer(one, 2)
    data = path.read_bytes()
    with pytest.raises(LabelsChanged, match="look again"):
        two.label(0)
    assert path.read_bytes() == data and state(two) == state(one)
    answer(two, 2)  # the round is over, and the next begins
    with pytest.raises(LabelsChanged):
        one.undo()
    assert state(one) == state(two)
    one.undo()
    with pytest.raises(LabelsChanged):
        two.label(0)
    assert state(one) == state(two) == state(make(path))


def test_two_panels_may_learn_the_same_round(path):
    one, two = make(path), make(path)
    answer(one, 3)
    with pytest.raises(LabelsChanged):
        two.label(1)
    one.label(0)
    assert one.is_due
    with pytest.raises(LabelsChanged):
        two.label(1)
    assert two.is_due
    two.learn()
    one.learn()
    assert one.round == two.round == 1 and one.rounds == two.rounds
    assert path.read_bytes().count(b'"kind": "round"') == 2


def test_a_file_that_was_cut_or_removed_while_open(path):
    labelling = make(path)
    labelling.label(1)
    before, data = state(labelling), path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(ValueError, match="shorter"):
        labelling.label(1)
    path.unlink()
    with pytest.raises(OSError):
        labelling.label(1)
    assert not path.exists() and state(labelling) == before
    path.write_bytes(data)
    labelling.label(1)
    path.write_bytes(path.read_bytes() + b"nonsense\n" * 2)
    before = state(labelling)
    with pytest.raises(ValueError, match="not a record"):
        labelling.undo()
    assert state(labelling) == before


def click_many(path, c, clicks):
    labelling = make(path, batch_size=24, methods=["batchbald"])
    while clicks and labelling.todo:
        try:
            labelling.label(c)
            clicks -= 1
        except LabelsChanged:
            pass


def test_processes_that_write_at_once_lose_nothing(path):
    make(path, batch_size=24, methods=["batchbald"])
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=click_many, args=(path, c, 10)) for c in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(180)
        assert worker.exitcode == 0
    labelling = make(path, batch_size=24, methods=["batchbald"])
    assert sorted(c for _, _, c in labelling.clicks) == [0] * 10 + [1] * 10
    assert len({i for _, i, _ in labelling.clicks}) == 20


def test_without_locks_it_still_works(path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "fcntl", None)  # as on Windows
    test_a_second_panel_catches_up_and_does_not_write(path)


def test_a_disk_that_takes_parts_gets_the_rest_and_a_full_one_gives_all_back(path):
    class Disk:
        "A file that takes ten bytes at a time, and no more than `room` in all."

        def __init__(self, file, room):
            self.file, self.room = file, room

        def write(self, data):
            if self.room <= 0:
                raise OSError(28, "No space left on device")
            n = min(10, self.room)
            self.room -= n
            return self.file.write(data[:n])

        def __getattr__(self, name):
            return getattr(self.file, name)

    rows = [{"a": 1, "b": "x" * 30}, {"a": 2}]
    with records.RecordFile(path) as file:
        disk = file.file
        file.file = Disk(disk, 1_000)
        size = file.append(rows)
        whole = path.read_bytes()
        assert size == len(whole) and [json.loads(line) for line in whole.splitlines()] == rows
        file.file = Disk(disk, 25)
        with pytest.raises(OSError, match="No space"):
            file.append(rows)
        assert path.read_bytes() == whole
        file.file = disk
        assert file.append(rows[1:]) == path.stat().st_size
    assert path.read_bytes() == whole + whole.splitlines(keepends=True)[1]


def test_a_panel_waits_for_the_lock_where_a_run_gives_up(path, monkeypatch):
    from fcntl import LOCK_EX, LOCK_NB

    asked = []
    monkeypatch.setattr("fcntl.flock", lambda f, how: asked.append(how))
    make(path)
    records.RecordFile(path).close()
    assert asked and set(asked[:-1]) == {LOCK_EX} and asked[-1] == LOCK_EX | LOCK_NB
    calls = []
    windows = SimpleNamespace(LK_NBLCK="try", LK_LOCK="wait", locking=lambda handle, how, n: calls.append((os.lseek(handle, 0, os.SEEK_CUR), how, n)))
    monkeypatch.setitem(sys.modules, "msvcrt", windows)
    monkeypatch.setattr(records, "sys", SimpleNamespace(platform="win32"))
    labelling = make(path)
    labelling.label(1)
    assert set(calls) == {(2**30, "wait", 1)} and make(path).clicks == labelling.clicks


# what nobody can tell


def test_a_skipped_image_has_no_label_and_is_not_asked_about_again(path):
    labelling = make(path, test_inputs=INPUTS, test_labels=LABELS)
    skipped = labelling.todo[2]
    answer(labelling, 2)
    assert labelling.current == skipped
    labelling.skip()
    record = json.loads(path.read_text().splitlines()[-1])
    assert record | {"time": ""} == {"kind": "skip", "position": skipped, "round": 0, "time": ""}
    assert labelling.skipped == {skipped} and skipped not in labelling.labels and labelling.current not in (skipped, None)
    answer(labelling, 1)
    assert labelling.round == 1 and {batch["labels"] for batch in labelling.batches.values()} == {3}  # one label less
    while labelling.current is not None:
        answer(labelling, 1)
        assert state(make(path, test_inputs=INPUTS, test_labels=LABELS)) == state(labelling)
    assert len(labelling.labels) == len(INPUTS) - 1 and [i for _, i, _ in labelling.clicks].count(skipped) == 1
    for record in labelling.rounds[1:]:
        assert all(skipped not in batch["indices"] for batch in record["learners"].values())


def test_undo_takes_a_skip_back_over_a_round_too(path):
    labelling = make(path, start={0: 0, 1: 1, 2: 2})
    while len(labelling.todo) > 1:
        answer(labelling, 1)
    before = state(labelling)
    labelling.skip()
    assert labelling.is_due  # a skip ends a round as a label does
    labelling.learn()
    assert labelling.round == 1 and state(make(path, start={0: 0, 1: 1, 2: 2})) == state(labelling)
    labelling.undo()
    assert state(labelling) == before == state(make(path, start={0: 0, 1: 1, 2: 2})) and labelling.skipped == set()
    answer(labelling, 1)
    assert labelling.round == 1


def test_a_skipped_label_trains_nobody():
    "With and without the image that nobody could tell: the same labels, the same networks."
    one, two = make(batch_size=4, seed=1, methods=["bald"]), make(batch_size=4, seed=1, methods=["bald"])
    answer(one, 3)
    one.skip()
    one.learn()
    skipped = next(iter(one.skipped))
    known = {i: c for i, c in one.labels.items()}
    two.start, two.rounds = known, one.rounds[:1]
    two.clicks = [(0, skipped, None)]
    assert two._next_round()["learners"] == {**one.rounds[1]["learners"]}


def test_all_of_a_first_batch_skipped_leads_to_another_draw():
    labelling = make(methods=["batchbald"])
    first = labelling.todo
    for _ in first:
        labelling.skip()
    labelling.learn()
    assert labelling.round == 1 and labelling.batches["batchbald"]["labels"] == 0 and not set(first) & set(labelling.todo)
    while labelling.current is not None:
        labelling.skip()
        labelling.learn()
    assert labelling.labels == {} and len(labelling.skipped) == len(INPUTS) and not labelling.is_due
    with pytest.raises(ValueError, match="no image"):
        labelling.skip()


def test_known_labels_do_not_answer_for_what_the_reader_skips(path):
    labelling = make(path, start={0: 0, 1: 1, 2: 2}, pool_labels=LABELS)
    both = [i for i in labelling.batches["batchbald"]["indices"] if i in labelling.batches["bald"]["indices"]]
    assert both
    while labelling.todo:
        labelling.skip() if labelling.current == both[0] else labelling.label(int(LABELS[labelling.current]))
    labelling.learn()
    assert both[0] not in labelling.labels and {name: batch["labels"] for name, batch in labelling.batches.items()} == {"batchbald": 6, "bald": 6}


@pytest.mark.parametrize("find, put", [(b'"kind": "skip"', b'"kind": "skips"'), (b'"round": 0, "time"', b'"round": 1, "time"'), (b'"kind": "skip", "position": ', b'"kind": "skip", "position": 7')])
def test_a_damaged_skip_is_refused(path, find, put):
    labelling = make(path)
    labelling.skip()
    labelling.label(1)
    data = path.read_bytes()
    at = data.index(b'{"kind": "skip"')
    path.write_bytes(data[:at] + data[at:].replace(find, put, 1))
    with pytest.raises(ValueError, match=r"`path`: line 3 of .* does not fit"):
        make(path)


# rounds


def test_the_same_seed_gives_the_same_rounds_and_another_one_others():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    runs = [make(seed=seed, start={0: 0, 1: 1, 2: 2}) for seed in (3, 3, 4)]
    for run in runs:
        answer(run, 9)
    assert state(runs[0]) == state(runs[1]) and rounds(runs[0]) != rounds(runs[2])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_undo_goes_back_over_rounds_and_the_same_clicks_lead_to_the_same_state(path):
    labelling = make(path, start={0: 0, 1: 1, 2: 2})
    states = [state(labelling)]
    while labelling.round < 3:
        answer(labelling, 1)
        states.append(state(labelling))
    for expected in states[-2::-1]:
        labelling.undo()
        assert state(labelling) == expected == state(make(path, start={0: 0, 1: 1, 2: 2}))
    for expected in states[1:]:
        answer(labelling, 1)
        assert state(labelling) == expected
    wrong = make()
    wrong.label(0)
    wrong.undo()
    with pytest.raises(ValueError, match="no click"):
        wrong.undo()


def test_a_changed_mind_changes_what_is_learned():
    one, two = make(), make()
    answer(one, 4)
    answer(two, 3)
    two.label((int(LABELS[two.current]) + 1) % CLASSES)
    two.learn()
    assert one.rounds[0]["learners"] == two.rounds[0]["learners"] and rounds(one)[1] != rounds(two)[1]


def test_each_learner_asks_for_what_its_method_picks():
    "Against the selectors, on a model trained by hand."
    start = {i: int(LABELS[i]) for i in range(6)}
    labelling = make(start=start, test_inputs=INPUTS[6:12], test_labels=LABELS[6:12], seed=2)
    x = (INPUTS - INPUTS.mean()) / INPUTS.std()
    model = make_seeded(lambda: make_mlp(36, classes=CLASSES), derive_generator(2, 0, "weights"))
    train_models([model], [x[:6]], [LABELS[:6]], [(2, 0)], steps=4)
    log_probs_N_K_C = collect_log_probs(model, x[6:], 6, generator=derive_generator(2, 0, "masks"))
    for name, select in (("bald", get_bald_batch), ("batchbald", get_batchbald_batch)):
        batch, picked = labelling.batches[name], select(log_probs_N_K_C, 4)
        assert batch["indices"] == [i + 6 for i in picked.indices]
        picks_B_K_C = log_probs_N_K_C[picked.indices]
        torch.testing.assert_close(torch.tensor(batch["scores"], dtype=torch.double), compute_bald(picks_B_K_C), rtol=0, atol=1e-5)
        torch.testing.assert_close(torch.tensor(batch["pairs"], dtype=torch.double), compute_pair_information(picks_B_K_C, picks_B_K_C), rtol=0, atol=1e-5)
        exact = ExactJointEntropy.empty(6, dtype=torch.double).add_variables(picks_B_K_C.double().log_softmax(-1))
        information = exact.compute().item() - compute_conditional_entropy(picks_B_K_C).sum().item()
        assert abs(batch["joint"][-1] - information) < 1e-4  # 81 configurations: exact
        assert batch["guesses"] == picks_B_K_C.exp().mean(1).argmax(1).tolist()
        assert batch["accuracy"] == evaluate(collect_log_probs(model, x[6:12], 6, generator=derive_generator(2, 0, "masks")), LABELS[6:12])[0]
        assert batch["labels"] == 6


def test_an_image_is_asked_for_once_whoever_wants_it():
    labelling = make(start={0: 0})
    while labelling.current is not None:
        answer(labelling, 1)
    asked = [i for _, i, _ in labelling.clicks]
    assert len(asked) == len(set(asked)) == len(INPUTS) - 1 and 0 not in asked
    assert labelling.labels == dict(enumerate(LABELS.tolist()))
    assert all(batch["indices"] == [] and batch["labels"] == 24 for batch in labelling.batches.values()) and not labelling.is_due
    for name in labelling.methods:
        bought = [i for record in labelling.rounds for i in record["learners"][name]["indices"]]
        assert sorted(bought) == list(range(1, 24))
    with pytest.raises(ValueError, match="no image"):
        labelling.label(0)


def test_known_labels_answer_for_all_learners_but_the_first(path):
    wrong = (LABELS + 1) % CLASSES
    labelling = make(path, start={0: 0, 1: 1, 2: 2}, pool_labels=wrong)
    for _ in range(3):
        first = labelling.batches["batchbald"]["indices"]
        assert set(labelling.todo) <= set(first)
        for i in set(labelling.batches["bald"]["indices"]) - set(first):
            assert i in labelling.labels
        while labelling.todo:
            labelling.label(int(LABELS[labelling.current]))
        labelling.learn()
    clicked = {i for _, i, _ in labelling.clicks}
    known = {i for record in labelling.rounds for i, _ in record["known"]}
    assert known and clicked
    for i, c in labelling.labels.items():
        assert c == (LABELS[i] if i in clicked or i in (0, 1, 2) else wrong[i])
    assert state(make(path, start={0: 0, 1: 1, 2: 2})) == state(labelling)  # the file has them


def test_a_batch_larger_than_the_pool_and_a_pool_without_anything_to_ask():
    all_at_once = make(batch_size=100, methods=["bald"])
    answer(all_at_once, 24)
    assert all_at_once.current is None and all_at_once.round == 1
    nothing = make(start=dict(enumerate(LABELS.tolist())))
    assert nothing.current is None and nothing.todo == []


@pytest.mark.parametrize("shape", [(6, 6), (1, 6, 6), (3, 6, 4)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.float64])
def test_images_of_any_kind(shape, dtype):
    inputs, labels = pool(12, *shape)
    inputs = (100 * inputs).to(dtype)
    options = dict(SHORT, start={0: 0, 1: 1}, test_inputs=inputs, test_labels=labels)
    labelling = Labelling(inputs, **options)
    flat = Labelling(inputs.flatten(1), image_shape=shape, **options | {"test_inputs": inputs.flatten(1)})
    assert flat.batches == labelling.batches and torch.equal(flat.images, labelling.images)
    assert Labelling(inputs.numpy(), **options).batches == labelling.batches
    assert plot_labelling(labelling)._repr_png_()[:4] == b"\x89PNG"


def test_a_network_of_ones_own():
    def make_cnn():
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Dropout2d(0.3), nn.Flatten(), nn.Linear(64, CLASSES))

    inputs, _ = pool(12, 1, 6, 6)
    labelling = Labelling(inputs, start={0: 0, 1: 1, 2: 2}, make_model=make_cnn, **SHORT)
    assert len(labelling.batches["batchbald"]["scores"]) == 4


@pytest.mark.parametrize(
    "options, word",
    [
        (dict(classes=1), "`classes`"), (dict(classes="abc"), "`classes`"), (dict(classes=["a", "b", "a"]), "`classes`"), (dict(classes=2.5), "`classes`"),
        (dict(methods=[]), "`methods`"), (dict(methods="bald"), "`methods`"), (dict(methods=["bald", "bald"]), "`methods`"), (dict(methods=["bold"]), "`methods`"),
        (dict(batch_size=0), "`batch_size`"), (dict(steps=0), "`steps`"), (dict(samples=0), "`samples`"), (dict(start={24: 0}), "`start`"), (dict(start={0: 3}), "`start`"), (dict(start={0: 1.5}), "`start`"), (dict(start=[0, 1]), "`start`"),
        (dict(pool_labels=LABELS[1:]), "`pool_labels`"), (dict(pool_labels=LABELS + 1), "`pool_labels`"), (dict(pool_labels=LABELS.float()), "`pool_labels`"),
        (dict(test_inputs=INPUTS), "`test_labels`"), (dict(test_inputs=INPUTS[:, 1:], test_labels=LABELS), "`test_inputs`"),
        (dict(test_inputs=INPUTS, test_labels=LABELS[1:]), "`test_labels`"), (dict(image_shape=(4, 9)), "`image_shape`"), (dict(path="no/such/folder/labels"), "`path`"),
        (dict(inputs=INPUTS[:0]), "`inputs`"), (dict(inputs=INPUTS / 0), "`inputs`"), (dict(inputs=torch.ones(5, 2, 2)), "`inputs`"),
        (dict(inputs=torch.rand(5, 6, 6, 3)), "channels"), (dict(inputs=INPUTS.flatten(1)), "`image_shape`"), (dict(inputs=INPUTS[0, 0]), "`inputs`"),
    ],
)  # fmt: skip
def test_wrong_input_is_named(options, word):
    with pytest.raises(ValueError, match=word):
        Labelling(**{"inputs": INPUTS, **SHORT, **options})


@pytest.mark.parametrize("label", [-1, 3, 1.0, "1", True, None])
def test_a_label_that_is_none_changes_nothing(path, label):
    labelling = make(path)
    data = path.read_bytes()
    with pytest.raises(ValueError, match="`label`"):
        labelling.label(label)
    assert path.read_bytes() == data and labelling.clicks == []


# the panel


def values(panel):
    return [(type(o).__name__, o.value) for o in panel.children if hasattr(o, "value")] + [(b.description, b.disabled) for b in (*panel.buttons, panel.undo_button)]


def status(panel):
    return panel.children[0].children[1].value


def message(panel):
    return re.sub("<.*?>", "", panel.children[3].value)


def test_buttons_label_undo_and_learn(path):
    panel = label_by_hand(INPUTS, path, **SHORT)
    assert status(panel).startswith("round 0: 0 of 4 labelled") and panel.undo_button.disabled
    first = panel.labelling.current
    panel.buttons[2].click()
    assert panel.labelling.labels == {first: 2} and status(panel).startswith("round 0: 1 of 4 labelled") and not panel.undo_button.disabled
    assert json.loads(path.read_text().splitlines()[-1])["label"] == 2
    panel.undo_button.click()
    assert panel.labelling.labels == {} and panel.labelling.current == first and panel.undo_button.disabled
    for _ in range(4):
        panel.buttons[int(LABELS[panel.labelling.current])].click()
    assert panel.labelling.round == 1 and "round 1: 0 of" in status(panel) and message(panel) == ""
    panel.undo_button.click()
    assert status(panel).startswith("round 0: 3 of 4 labelled")
    panel.buttons[int(LABELS[panel.labelling.current])].click()
    again = label_by_hand(INPUTS, path, **SHORT)
    assert values(again) == values(panel)


def test_the_panel_shows_every_image_its_label_and_what_it_was_taken_for():
    panel = label_by_hand(INPUTS, None, **{**SHORT, "classes": ["<cat>", "d&g", "owl"], "start": {0: 0, 1: 1, 2: 2}})
    labelling = panel.labelling
    rows = {name: next(o.value for o in panel.children if getattr(o, "value", "") and str(o.value).find(f"<b>{title}</b>") >= 0) for name, title in (("batchbald", "BatchBALD"), ("bald", "BALD (top-k)"))}
    for name, row in rows.items():
        assert [int(i) for i in re.findall(r"image (\d+) of the pool", row)] == labelling.batches[name]["indices"]
        assert row.count("data:image/png;base64,") == 4 and row.count("pixelated") == 4
        assert [float(o) for o in re.findall(r"<br>(\d\.\d\d)<br>", row)] == [round(o, 2) for o in labelling.batches[name]["scores"]]
    assert f"image {labelling.current} of the pool" in panel.children[1].value
    guess, said = labelling.batches["batchbald"]["guesses"][0], ["guessed &lt;cat&gt;", "guessed d&amp;g", "guessed owl"]
    panel.buttons[guess].click()
    assert panel.children[4].value.count(said[guess]) == 1
    panel.undo_button.click()
    panel.buttons[(guess + 1) % 3].click()
    text = panel.children[4].value
    assert "<cat>" not in text and "d&g" not in text and text.count(said[guess]) == 1


def test_cannot_tell(path):
    panel = label_by_hand(INPUTS, path, **SHORT)
    first = panel.labelling.current
    panel.skip_button.click()
    assert panel.labelling.skipped == {first} and panel.labelling.current != first
    assert status(panel).startswith("round 0: 0 of 3 labelled, 1 skipped; clicks in all: 1,") and panel.children[4].value.count("skipped") == 1
    assert not panel.undo_button.disabled and panel.children[0].children[0].max == 3
    panel.undo_button.click()
    assert status(panel).startswith("round 0: 0 of 4 labelled; clicks in all: 0,") and panel.labelling.current == first
    old = panel.skip_button
    for _ in range(4):
        old.click()
    assert panel.labelling.round == 1 and panel.skip_button is not old and panel.labelling.rounds[1]["learners"]["bald"]["labels"] == 0
    old.click()  # a second click that was on its way
    assert len(panel.labelling.clicks) == 4
    panel.buttons[0].click()
    assert values(label_by_hand(INPUTS, path, **SHORT)) == values(panel)
    assert plot_labelling(panel.labelling)._repr_png_()[:4] == b"\x89PNG"
    while panel.labelling.current is not None:
        panel.skip_button.click()
    assert panel.skip_button.disabled and "but for 23 that you skipped" in panel.children[1].value


def test_a_click_on_a_button_of_an_earlier_round_does_nothing():
    panel = label_by_hand(INPUTS, None, **SHORT)
    old = panel.buttons
    for _ in range(4):
        old[0].click()
    assert panel.labelling.round == 1 and not set(old) & set(panel.buttons)
    old[0].click()
    assert len(panel.labelling.clicks) == 4
    panel.buttons[0].click()
    assert len(panel.labelling.clicks) == 5


def test_buttons_are_off_while_the_networks_train(monkeypatch):
    panel, seen = label_by_hand(INPUTS, None, **SHORT), []

    def spy(*args, **kwargs):
        seen.append(([b.disabled for b in (*panel.buttons, panel.undo_button)], message(panel)))

    monkeypatch.setattr(module, "train_models", spy)
    for _ in range(4):
        panel.buttons[0].click()
    assert seen == [([True] * 4, "Learning from 4 labels ...")]
    assert not any(b.disabled for b in panel.buttons)


def test_what_goes_wrong_is_shown_and_nothing_is_lost(path, monkeypatch):
    one, two = label_by_hand(INPUTS, path, **SHORT), label_by_hand(INPUTS, path, **SHORT)
    one.buttons[0].click()
    two.buttons[1].click()
    assert "look again" in message(two) and "round 0: 1 of 4" in status(two)
    two.buttons[1].click()
    assert message(two) == "" and two.labelling.clicks[-1][2] == 1

    def broken(*args, **kwargs):
        raise RuntimeError("no memory <left>")

    two.buttons[1].click()
    with monkeypatch.context() as patched:
        patched.setattr(module, "train_models", broken)
        two.buttons[1].click()
        assert message(two) == "RuntimeError: no memory &lt;left&gt;" and all(b.disabled for b in two.buttons) and not two.undo_button.disabled
        assert "nothing was learned" in two.children[1].value and len(two.labelling.clicks) == 4
    two.undo_button.click()
    two.buttons[1].click()
    assert two.labelling.round == 1 and message(two) == ""
    path.write_bytes(path.read_bytes() + b'{"kind": "la')
    assert "torn" in message(label_by_hand(INPUTS, path, **SHORT))


def test_when_everything_has_a_label():
    panel = label_by_hand(INPUTS[:5], None, **{**SHORT, "methods": ["batchbald"]})
    for _ in range(5):
        panel.buttons[0].click()
    assert "Every image has its label" in panel.children[1].value and all(b.disabled for b in panel.buttons) and not panel.undo_button.disabled
    panel.undo_button.click()
    assert panel.labelling.current is not None and not any(b.disabled for b in panel.buttons)
