"Models of other people: what runs more slowly, what is asked for by name, what is refused and what is warned of."
import copy
import warnings
from collections import UserDict, namedtuple
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from batchbald_nbdev.bayesian_models import (
    ConsistentDropout,
    ConsistentDropout2d,
    dropout_features,
    dropout_layers,
    make_consistent,
)
from batchbald_nbdev.collect import collect_ensemble_log_probs, collect_log_probs


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make(factory, *args):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make_consistent(factory(*args)).eval()


@pytest.fixture
def sequences():
    return torch.randn(11, 5, 4, generator=seeded())


@pytest.fixture
def rows():
    return torch.randn(11, 8, generator=seeded())


@pytest.fixture
def silent():
    "Any warning is an error."
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@torch.no_grad()
def mask_by_mask(model, x, K, call=lambda model, x: model(x)):
    "The oracle: the same masks, one at a time, by hand."
    features = dropout_features(model, {}, x[:1])
    masks = {name: layer.draw_masks(K, features[name], seeded()) for name, layer in dropout_layers(model).items()}
    model, outputs = copy.deepcopy(model), []
    for k in range(K):
        for name, layer in dropout_layers(model).items():
            layer.mask = masks[name][k]
        outputs.append(call(model, x.clone()).log_softmax(-1))
    return torch.stack(outputs, 1).detach()


# Models that vmap cannot run


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.drop, self.inner, self.last = nn.Dropout(0.5), kind(4, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        return self.last(self.inner(self.drop(x))[0][:, -1])


class Odd(nn.Module):
    "Drops, and then does something that `vmap` cannot."

    def __init__(self, fn):
        super().__init__()
        self.first, self.drop, self.last, self.fn = nn.Linear(8, 6), nn.Dropout(0.5), nn.Linear(6, 3), fn

    def forward(self, x):
        return self.last(self.fn(self.drop(self.first(x))))


def branches(x):
    return x * 2 if x.sum() > 0 else x


def reads_a_number(x):
    return x / (1 + x.abs().max().item())


def writes_into_a_new_tensor(x):
    new = torch.zeros(len(x), 6)
    new[:, :3] = x[:, :3]
    return new


def indexes_by_a_mask(x):
    new = torch.zeros_like(x)
    new[x > 0] = x[x > 0]
    return new


def goes_through_numpy(x):
    return torch.from_numpy(np.tanh(x.numpy()))


ODD = [branches, reads_a_number, writes_into_a_new_tensor, indexes_by_a_mask, goes_through_numpy]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("max_bytes", [1, 2**28])
def test_recurrent_networks_run_mask_by_mask_with_one_warning(kind, max_bytes, sequences):
    model = make(Recurrent, kind)
    with pytest.warns(UserWarning, match="`vmap` cannot run `model` .*slower") as caught:
        got = collect_log_probs(model, sequences.split(4), 6, max_bytes=max_bytes)
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    assert_close(got, mask_by_mask(model, sequences, 6), atol=1e-6, rtol=1e-6)
    assert got.std(1).min() > 0 and all(layer.mask is None for layer in dropout_layers(model).values())


@pytest.mark.parametrize("fn", ODD)
def test_models_that_look_at_their_data_run_mask_by_mask(fn, rows):
    class Whole(nn.Module):  # a branch on one row cannot depend on the others
        def __init__(self):
            super().__init__()
            self.inner = Odd(fn)

        def forward(self, x):
            return torch.cat([self.inner(row) for row in x.split(1)])

    model = make(Whole)
    with pytest.warns(UserWarning, match="slower") as caught:
        got = collect_log_probs(model, DataLoader(rows, batch_size=4), 6)
    assert len(caught) == 1
    assert_close(got, mask_by_mask(model, rows, 6), atol=1e-6, rtol=1e-6)


def test_the_loop_gives_what_the_stack_gives(rows, monkeypatch):
    from batchbald_nbdev import collect

    model = make(Odd, torch.tanh)
    stacked = collect_log_probs(model, rows, 6, generator=seeded(3))

    def refuse(model, state, masks, x):
        raise ValueError("blamed on the inputs") from RuntimeError("so says a test")

    monkeypatch.setattr(collect, "_run_samples", refuse)
    monkeypatch.setattr(collect, "find_vmap_fault", lambda *args: "so says a test")
    with pytest.warns(UserWarning, match="so says a test"):
        looped = collect_log_probs(model, rows, 6, generator=seeded(3))
    assert_close(looped, stacked, atol=1e-6, rtol=1e-6)


def test_models_that_vmap_runs_do_not_warn(rows, silent):
    collect_log_probs(make(Odd, torch.tanh), rows, 3)


def test_the_loop_keeps_mode_random_state_and_inputs(sequences):
    model, before, state = make(Recurrent, nn.LSTM).train(), sequences.clone(), torch.random.get_rng_state()
    with pytest.warns(UserWarning, match="slower"):
        collect_log_probs(model, sequences, 3)
    assert model.training and model.inner.training and torch.equal(sequences, before)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_loop_writes_files_and_other_dtypes(sequences, tmp_path):
    model = make(Recurrent, nn.GRU)
    with pytest.warns(UserWarning, match="slower"):
        mapped = collect_log_probs(model, sequences, 3, dtype=torch.float16, out=tmp_path / "x.npy")
        double = collect_log_probs(copy.deepcopy(model).double(), sequences.double(), 3, dtype=torch.double)
    assert_close(torch.tensor(mapped).double(), double, atol=1e-2, rtol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_networks_run_on_another_device(kind, sequences):
    model = make(Recurrent, kind)
    with pytest.warns(UserWarning, match="slower"):
        there, here = (collect_log_probs(model, sequences, 4, device=device) for device in ("cuda", "cpu"))
    assert next(model.parameters()).device.type == "cpu"
    assert_close(there, here, atol=1e-4, rtol=1e-3)


def test_faults_of_the_inputs_are_still_blamed_on_them(sequences, silent):
    model = make(Recurrent, nn.LSTM)
    for bad in (sequences.double(), sequences[..., :3]):
        with pytest.raises(ValueError, match="`model` cannot be run on inputs of shape"):
            collect_log_probs(model, bad, 3)


def test_models_that_draw_are_refused_on_either_path(sequences):
    class Noisy(Recurrent):
        def forward(self, x):
            return super().forward(x) + torch.randn(len(x), 3)

    class AtFirst(Recurrent):
        def forward(self, x):
            return super().forward(x + torch.randn_like(x))

    for kind in (Noisy, AtFirst):
        with pytest.raises(ValueError, match="`model` .*draws random numbers"):
            collect_log_probs(make(kind, nn.LSTM), sequences, 3)


def test_stacked_lstms_with_dropout_inside_are_refused_and_the_advice_works(sequences):
    class Deep(nn.Module):
        def __init__(self, *layers):
            super().__init__()
            self.layers, self.last = nn.ModuleList(layers), nn.Linear(6, 3)

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)[0] if isinstance(layer, nn.LSTM) else layer(x)
            return self.last(x[:, -1])

    with pytest.raises(ValueError, match=r"dropout=0.3 inside LSTM \(layers.0\).*single layers with `nn.Dropout` between"):
        make_consistent(Deep(nn.LSTM(4, 6, 2, dropout=0.3, batch_first=True)))
    singles = nn.LSTM(4, 6, batch_first=True), nn.Dropout(0.3), nn.LSTM(6, 6, batch_first=True)
    with pytest.warns(UserWarning, match="slower"):
        assert collect_log_probs(make_consistent(Deep(*singles)), sequences, 3).std(1).min() > 0


# Several inputs


class Two(nn.Module):
    "Takes a mask that it can do without, as many models of text do."

    def __init__(self):
        super().__init__()
        self.embed, self.drop, self.last = nn.Embedding(20, 6), nn.Dropout(0.3), nn.Linear(6, 3)

    def forward(self, ids, mask=None, labels=None):
        mask_n_L = torch.ones_like(ids) if mask is None else mask
        x = self.drop(self.embed(ids)) * mask_n_L[..., None]
        return self.last(x.sum(1) / mask_n_L.sum(1, keepdim=True))


@pytest.fixture
def text():
    ids = torch.randint(20, (11, 7), generator=seeded())
    lengths = torch.randint(2, 6, (11,), generator=seeded(1))
    return SimpleNamespace(ids=ids, mask=(torch.arange(7) < lengths[:, None]).long(), labels=torch.arange(11) % 3)


def expected_of(text, K=4):
    model, ids = make(Two), text.ids
    call = lambda model, x: model(x, text.mask)  # noqa: E731
    features = dropout_features(model, {}, ids[:1])
    masks = model.drop.draw_masks(K, features["drop"], seeded())
    model, outputs = copy.deepcopy(model), []
    for mask in masks:
        model.drop.mask = mask
        outputs.append(call(model, ids).log_softmax(-1))
    return torch.stack(outputs, 1).detach()


def batches_of(text, *names, kind=dict, size=4):
    for start in range(0, 11, size):
        parts = {name: getattr(text, name)[start : start + size] for name in names}
        yield kind(parts) if kind in (dict, UserDict) else kind(parts.values())


@pytest.mark.parametrize("kind", [dict, UserDict])
@pytest.mark.parametrize("max_bytes", [1, 2**28])
def test_a_dictionary_passes_as_keywords_without_labels(kind, max_bytes, text):
    for names in (("ids", "mask"), ("ids", "mask", "labels"), ("labels", "mask", "ids")):
        got = collect_log_probs(make(Two), batches_of(text, *names, kind=kind), 4, max_bytes=max_bytes)
        assert_close(got, expected_of(text))
    for name in ("label", "targets"):
        named = [{"ids": text.ids, "mask": text.mask, name: text.labels}]
        assert_close(collect_log_probs(make(Two), named, 4), expected_of(text))
        assert_close(collect_log_probs(make(Two), [(named[0], text.labels)], 4), expected_of(text))


def test_inputs_says_what_of_a_batch_goes_into_the_model(text):
    ways = {
        lambda batch: (batch[0], batch[1]): ("ids", "mask", "labels"),
        lambda batch: {"mask": batch[1], "ids": batch[0]}: ("ids", "mask", "labels"),
        lambda batch: list(batch): ("ids", "mask"),
    }
    for inputs, names in ways.items():
        got = collect_log_probs(make(Two), batches_of(text, *names, kind=tuple), 4, inputs=inputs)
        assert_close(got, expected_of(text))
    member = make(Two)
    by_members = collect_ensemble_log_probs([member], batches_of(text, "ids", "mask", "labels"))
    assert_close(by_members[:, 0], member(text.ids, text.mask).log_softmax(-1).detach())
    pairs = batches_of(text, "ids", "mask", kind=tuple)
    assert torch.equal(collect_ensemble_log_probs([member], pairs, inputs=tuple), by_members)
    by_tensor = collect_log_probs(make(Two), text.ids, 4, inputs=lambda ids: (ids, text.mask[: len(ids)]))
    assert_close(by_tensor, expected_of(text))
    with pytest.raises(ValueError, match="`inputs` is 3; want a function"):
        collect_log_probs(member, text.ids, 4, inputs=3)
    with pytest.raises(ValueError, match="`inputs` gives a str"):
        collect_log_probs(member, text.ids, 4, inputs=lambda batch: "ids")


@pytest.mark.parametrize("collect", [
    lambda batches, **o: collect_log_probs(make(Two), batches, 3, **o), lambda batches, **o: collect_ensemble_log_probs([make(Two)], batches, **o),
])  # fmt: skip
def test_second_inputs_are_never_dropped_in_silence(collect, text):
    with pytest.raises(ValueError, match="`loader` gives 3 tensors .*`inputs=lambda batch:"):
        collect(batches_of(text, "ids", "mask", "labels", kind=tuple))
    with pytest.raises(ValueError, match="second .* no labels.*`inputs=lambda batch:"):
        collect(batches_of(text, "ids", "mask", kind=tuple))
    with pytest.raises(ValueError, match="second .* no labels.*`inputs=lambda batch:"):
        collect([(text.ids, [text.mask])])
    only = collect([text.ids])
    for labels in (text.labels, F.one_hot(text.labels), F.one_hot(text.labels).float(), list("abcdefghijk"), "words", 3, None, text.labels.numpy()):
        assert torch.equal(collect([(text.ids, labels)]), only)
        assert torch.equal(collect([[text.ids, labels]]), only)
    assert torch.equal(collect([(text.ids, text.labels, "where from")]), only)


def test_what_forward_asks_for_and_does_not_get_is_named(text):
    class Needs(Two):
        def forward(self, ids, mask):
            return super().forward(ids, mask)

    with pytest.raises(ValueError, match="missing .*'mask'.*`inputs=`"):
        collect_log_probs(make(Needs), [(text.ids, text.labels)], 3)
    with pytest.raises(ValueError, match="unexpected keyword argument 'idx'.*`inputs=`"):
        collect_log_probs(make(Needs), [{"ids": text.ids, "mask": text.mask, "idx": text.labels}], 3)
    with pytest.raises(ValueError, match=r"inputs `ids` of shape \(1, 7\), torch.int64 and `mask` of shape \(1, 5\)"):
        collect_log_probs(make(Needs), [{"ids": text.ids, "mask": text.mask[:, :5]}], 3)


def test_dictionaries_that_are_refused(text):
    for batch, message in (
        ({"ids": text.ids, "text": ["a"] * 11}, "`text`.* a list"), ({"labels": text.labels}, "nothing but labels"),
        ({"ids": text.ids, "mask": text.mask[:5]}, r"different numbers of inputs: `ids` 11, `mask` 5"), ({"ids": text.ids, "mask": torch.tensor(1)}, "`mask`"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"`loader` gives .*{message}"):
            collect_log_probs(make(Two), [batch], 3)
    with pytest.raises(ValueError, match=r"`loader` is a dict.*\[batch\]"):
        collect_log_probs(make(Two), {"ids": text.ids, "mask": text.mask}, 3)
    with pytest.raises(ValueError, match="`loader` gives .* after batches of"):
        collect_log_probs(make(Two), [{"ids": text.ids, "mask": text.mask}, {"ids": text.ids}], 3)


Named = namedtuple("Named", "logits aux")


@pytest.mark.parametrize("wrap", [
    lambda z: SimpleNamespace(logits=z, loss=None), lambda z: {"logits": z, "hidden": z[:, :2]}, lambda z: UserDict(logits=z), lambda z: (z,),
    lambda z: (z, (z[:, :2],)), lambda z: [z, z[:, None]], lambda z: Named(z, z[:, :2]),
])  # fmt: skip
def test_logits_are_found_in_what_a_model_returns(wrap, rows):
    class Wrapped(Odd):
        def forward(self, x):
            return wrap(super().forward(x))

    plain, wrapped = make(Odd, torch.tanh), make(Wrapped, torch.tanh)
    assert torch.equal(collect_log_probs(wrapped, rows, 4), collect_log_probs(plain, rows, 4))
    assert torch.equal(collect_ensemble_log_probs([wrapped], rows), collect_ensemble_log_probs([plain], rows))
    wrapped.fn = plain.fn = reads_a_number
    with pytest.warns(UserWarning, match="slower"):
        assert torch.equal(collect_log_probs(wrapped, rows, 4), collect_log_probs(plain, rows, 4))


def test_outputs_in_which_logits_cannot_be_told_are_refused(rows):
    for fn, message in (
        (lambda x: (x, x[:, :4]), "2 tensors .* that could be logits"), (lambda x: {"scores": x}, "a dict"), (lambda x: (), "a tuple"), (lambda x: ("a", x), "a tuple"),
        (lambda x: SimpleNamespace(logits=None), "a NoneType"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"`model` returns {message}"):
            collect_ensemble_log_probs([fn], rows)


def test_batches_padded_to_several_lengths_want_one_length(sequences, rows):
    each = nn.Sequential(nn.Linear(4, 6), nn.Dropout(), nn.Flatten(), nn.LazyLinear(3))  # masks for each position

    class Pooled(nn.Module):
        def __init__(self, drop):
            super().__init__()
            self.first, self.drop, self.last = nn.Linear(4, 6), drop, nn.Linear(6, 3)

        def forward(self, x):
            return self.last(self.drop(self.first(x)).mean(1))

    for lengths in ((5, 3), (3, 5), (1, 5), (5, 1)):
        batches = [sequences[:, :length] for length in lengths]
        with pytest.raises(ValueError, match="pad all batches to one length"):
            collect_log_probs(make(Pooled, nn.Dropout()), batches, 3)
    recurrent = make(Recurrent, nn.GRU)
    with pytest.warns(UserWarning, match="slower"), pytest.raises(ValueError, match="pad all batches to one length"):
        collect_log_probs(recurrent, [sequences, sequences[:, :3]], 3)
    assert each is not None

    class Late(Pooled):  # its masks do not know of lengths
        def forward(self, x):
            return self.last(self.drop(self.first(x).mean(1)))

    late = make(Late, nn.Dropout())
    both = collect_log_probs(late, [sequences, sequences[:, :3]], 3)
    assert_close(both[11:], collect_log_probs(late, sequences[:, :3], 3))


# Dropout that drops nothing, or is not reached


def test_layers_that_drop_nothing_are_refused_by_name(rows):
    model = make(lambda: nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.0), nn.Linear(8, 3), nn.Dropout1d(0.0)))
    with pytest.raises(ValueError, match=r"`model` drops nothing: p = 0 in 1 and 3, .*equal; set their `p`"):
        collect_log_probs(model, rows, 8)
    assert collect_log_probs(model, rows, 1).shape == (11, 1, 3)
    model[1].p = 0.5
    assert collect_log_probs(model, rows, 8).std(1).min() > 0


class Attention(nn.Module):
    "Its dropout layer is there for its p, and never called: so are those of BERT, GPT-2 and others."

    def __init__(self, p):
        super().__init__()
        self.dropout = nn.Dropout(p)

    def forward(self, x):
        weights = (x @ x.mT).softmax(-1)
        return F.dropout(weights, self.dropout.p if self.training else 0.0, self.training) @ x


class Blocks(nn.Module):
    def __init__(self, p=0.1, count=5):
        super().__init__()
        self.blocks = nn.ModuleList(Attention(p) for _ in range(count))
        self.drop, self.last = nn.Dropout(0.5), nn.Linear(4, 3)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.last(self.drop(x).mean(1))


def test_dropout_that_is_never_reached_is_warned_of_by_name(sequences):
    names = r"blocks.0.dropout, blocks.1.dropout, blocks.2.dropout and 2 more"
    with pytest.warns(UserWarning, match=rf"never calls {names}.*no part of the samples.*`p` to 0") as caught:
        collect_log_probs(make(Blocks), sequences.split(3), 4)
    assert len(caught) == 1


def test_dropout_that_is_never_reached_and_drops_nothing_is_silent(sequences, silent):
    collect_log_probs(make(Blocks, 0.0), sequences, 4)
    collect_log_probs(make(Blocks), sequences, 1)


# In place


class InPlace(nn.Module):
    "Calls its dropout and does not look at the result."

    def __init__(self, drop):
        super().__init__()
        self.first, self.drop, self.last = nn.Linear(8, 6), drop, nn.Linear(6, 3)

    def forward(self, x):
        z = self.first(x)
        self.drop(z)
        return self.last(z)


def test_dropout_in_place_whose_result_is_unused_drops(rows):
    model = make(InPlace, nn.Dropout(0.5, inplace=True))
    assert model.drop.inplace and "inplace" in repr(model.drop) and "inplace" not in repr(ConsistentDropout())
    with pytest.warns(UserWarning, match="in place.*slower"):
        got = collect_log_probs(model, rows.split(4), 6)
    assert got.std(1).min() > 0
    assert_close(got, mask_by_mask(model, rows, 6), atol=1e-6, rtol=1e-6)
    model.train()
    assert not torch.equal(model(rows), model(rows))
    model(rows).sum().backward()


def test_dropout_in_place_on_the_inputs_leaves_them(rows):
    model, before = make(lambda: nn.Sequential(nn.Dropout(0.5, inplace=True), nn.Linear(8, 3))), rows.clone()
    collect_log_probs(model, rows, 4)

    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop, self.last = nn.Dropout(0.5, inplace=True), nn.Linear(8, 3)

        def forward(self, x):
            self.drop(x)
            return self.last(x)

    with pytest.warns(UserWarning, match="slower"):
        got = collect_log_probs(make(First), rows, 6)
    assert torch.equal(rows, before)
    assert_close(got, mask_by_mask(make(First), rows, 6), atol=1e-6, rtol=1e-6)


def test_dropout_in_place_whose_result_is_used_is_as_fast_as_ever(silent):
    "As in torchvision's networks."
    x = torch.randn(9, 1, 8, 8, generator=seeded())

    def build(inplace):
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.Dropout2d(0.3, inplace), nn.ReLU(inplace), nn.Flatten(), nn.Linear(144, 8), nn.Dropout(0.5, inplace), nn.Linear(8, 3),
        )  # fmt: skip

    model = make(build, True)
    assert model[1].inplace and model[5].inplace
    assert torch.equal(collect_log_probs(model, x, 5), collect_log_probs(make(build, False), x, 5))
    assert model[1].inplace and model[5].inplace
    for layer in (ConsistentDropout2d(0.5, inplace=True), ConsistentDropout(0.5, inplace=True)):
        z = torch.ones(50, 4, 3)
        assert layer.train()(z) is z and set(z.unique().tolist()) == {0.0, 2.0}
        layer.eval().mask = torch.zeros(layer.mask_shape((4, 3)))
        assert layer(z) is z and not z.any()


# Members that draw


class FreshForEachRow(nn.Module):
    "As Flipout, or Baal's patched layers: equal rows of one call differ."

    def forward(self, x):
        return x[:, :3] + torch.randn(len(x), 3)


class FreshForEachCall(nn.Module):
    "As reparameterised weights: equal rows of one call agree, and the next call differs."

    def forward(self, x):
        return x[:, :3] @ torch.randn(3, 3)


class OneKey(nn.Module):
    "As dropout by a key in Flax: the same at every call, and another mask for each row."

    def forward(self, x):
        return x[:, :3] * torch.randn(len(x), 3, generator=seeded())


@pytest.mark.parametrize("kind", [FreshForEachRow, FreshForEachCall, OneKey])
@pytest.mark.parametrize("n", [1, 11])
def test_members_that_draw_are_refused(kind, n, rows):
    rows = rows[:n]
    fixed = nn.Linear(8, 3)
    for models in ([fixed, kind()], [lambda x: fixed(x), lambda x, model=kind(): model(x)]):
        with pytest.raises(ValueError, match=r"`models\[1\]` gives other outputs for equal inputs.*frozen.*`.eval\(\)`"):
            collect_ensemble_log_probs(models, rows.split(4))


def test_members_that_are_functions_are_taken(rows, silent):
    fixed = nn.Linear(8, 3).eval()
    draws = [torch.randn(3, 8, generator=seeded(k)) for k in range(4)]
    hard = lambda x: F.one_hot(x[:, :3].argmax(1), 3).float().log()  # noqa: E731
    members = [fixed, *(lambda x, w=w: F.linear(x, w) for w in draws), hard, lambda x: F.linear(x, draws[0]).half()]
    assert collect_ensemble_log_probs(members, rows.split(4)).shape == (11, 7, 3)


def test_members_that_want_one_batch_size_are_taken(rows, silent):
    def compiled(x):
        assert len(x) == 11
        return x[:, :3]

    assert collect_ensemble_log_probs([compiled], rows).shape == (11, 1, 3)


def test_members_are_looked_at_on_the_first_batch_only(rows):
    class Counting(nn.Module):
        seen = []

        def forward(self, x):
            self.seen.append(len(x))
            return x[:, :3]

    collect_ensemble_log_probs([Counting()], rows.split(5))
    assert sorted(Counting.seen) == [1, 4, 4, 5, 5]


# Layers of other libraries


class StochasticDepth(nn.Module):
    "As torchvision's, whose place in a network does nothing in `eval()`."

    def __init__(self, p):
        super().__init__()
        self.p = p

    def forward(self, x):
        return x * (torch.rand(len(x), 1) >= self.p) if self.training else x


def test_stochastic_depth_beside_dropout_is_warned_of(rows):
    model = make(lambda: nn.Sequential(nn.Linear(8, 8), StochasticDepth(0.2), nn.Dropout(), nn.Linear(8, 3)))
    with pytest.warns(UserWarning, match=r"`model` has StochasticDepth \(1\).*no part of the samples") as caught:
        collect_log_probs(model, rows.split(5), 3)
    assert len(caught) == 1


def test_stochastic_depth_of_torchvision_is_warned_of(rows):
    ops = pytest.importorskip("torchvision.ops")
    model = make(lambda: nn.Sequential(nn.Linear(8, 8), ops.StochasticDepth(0.2, "row"), nn.Dropout(), nn.Linear(8, 3)))
    with pytest.warns(UserWarning, match=r"`model` has StochasticDepth \(1\)"):
        collect_log_probs(model, rows, 3)


def test_stochastic_depth_that_drops_nothing_is_silent(rows, silent):
    model = make(lambda: nn.Sequential(nn.Linear(8, 8), StochasticDepth(0.0), nn.Dropout(), nn.Linear(8, 3)))
    collect_log_probs(model, rows, 3)


def test_dropout_layers_of_other_libraries_are_foreign(rows):
    class Foreign(nn.modules.dropout._DropoutNd):  # as Baal's `Dropout` and `ConsistentDropout`
        def forward(self, x):
            return F.dropout(x, self.p, True)

    Foreign.__name__, Foreign.__module__ = "ConsistentDropout", "baal.bayesian.consistent_dropout"
    model = nn.Sequential(nn.Linear(8, 8), Foreign(), nn.Linear(8, 3))
    for fn in (make_consistent, dropout_layers, lambda model: collect_log_probs(model, rows, 3)):
        with pytest.raises(ValueError, match=r"ConsistentDropout \(1\) of baal.bayesian.consistent_dropout.*`nn.Dropout`"):
            fn(model)


def test_models_that_cannot_be_copied_after_a_forward_pass_are_named(rows):
    class Bayesian(nn.Module):  # as Blitz, which keeps the weights that it drew
        def __init__(self):
            super().__init__()
            self.mean, self.drop = nn.Parameter(torch.zeros(8, 3)), nn.Dropout()

        def forward(self, x):
            self.drawn = self.mean + 1
            return self.drop(x @ self.drawn)

    model = Bayesian()
    make_consistent(model)
    model(rows)
    with pytest.raises(ValueError, match="`model`, a Bayesian, cannot be copied .*before the first forward pass"):
        make_consistent(model)


# The real ones, where they are installed


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_a_transformer_with_its_mask():
    transformers = pytest.importorskip("transformers")
    options = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, vocab_size=30, num_labels=4)
    model = make(lambda: transformers.BertForSequenceClassification(transformers.BertConfig(**options)))
    ids, labels = torch.randint(30, (9, 6), generator=seeded()), torch.arange(9) % 4
    mask = (torch.arange(6) < torch.randint(2, 6, (9, 1), generator=seeded(1))).long()
    batches = [{"input_ids": ids, "attention_mask": mask, "labels": labels}]
    with pytest.warns(UserWarning, match="never calls bert.encoder.layer.0.attention.self.dropout and bert.encoder.layer.1"):
        got = collect_log_probs(model, batches, 3)
    assert got.std(1).min() > 0
    for layer in dropout_layers(model).values():
        layer.p = 0.0
    eval_mode = model.eval()(input_ids=ids, attention_mask=mask).logits.log_softmax(-1).detach()
    assert_close(collect_log_probs(model, batches, 1)[:, 0], eval_mode, atol=1e-5, rtol=1e-5)
