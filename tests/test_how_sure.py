"What batches say about other parameter samples: errors, bias, and a second look."
import json, math, warnings

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from batchbald_nbdev.active_learning import derive_generator
from batchbald_nbdev.all import *
from batchbald_nbdev.information import IdenticalSamplesWarning, plogp
from batchbald_nbdev.kbald import compute_kbald
from batchbald_nbdev.plain_batchbald import BiasWarning, get_plain_batchbald_batch
from batchbald_nbdev.sampling_error import FEWEST, error_over_samples, leave_each_out, share_by_sample, tell_by_sample
from batchbald_nbdev.second_look import judge_batch

pytestmark = pytest.mark.filterwarnings("ignore::batchbald_nbdev.all.CeilingWarning")


def pool(N=20, K=8, C=3, seed=0, scale=2.0):
    return (scale * torch.randn(N, K, C, generator=torch.Generator().manual_seed(seed))).double().log_softmax(-1)


def information(log_probs_B_K_C):
    joint = ExactJointEntropy.empty(log_probs_B_K_C.shape[1], dtype=torch.double).add_variables(log_probs_B_K_C)
    return (joint.compute() + plogp(log_probs_B_K_C.exp()).sum() / log_probs_B_K_C.shape[1]).item()


def leave_out(score, x):
    "Pseudo-values by computing the score again without each sample."
    K = x.shape[1]
    without_K = torch.tensor([score(x[:, torch.arange(K) != k]) for k in range(K)], dtype=torch.double)
    return K * score(x) - (K - 1) * without_K


def hard(seed):
    "With labels that are certain, and a copy."
    x = pool(3, 6, 3, seed).exp()
    x[0] = torch.eye(3, dtype=torch.double)[torch.arange(6) % 3]
    x[2] = x[1]
    return x.log()


@pytest.mark.parametrize("x", [pool(3), pool(4, 30, 4, 1), pool(1, 5, 2), pool(2, 2, 2), pool(3, 9, 3, 2, 8.0), hard(3)], ids=range(6))
def test_closed_form_is_brute_force_while_all_configurations_are_there(x):
    joint = WeightedJointEntropy(10**4, x.shape[1], dtype=torch.double).add_variables(x)
    values_K, bias = leave_each_out(joint.weights_M, joint.posteriors_M_K)
    wanted_K = leave_out(information, x)
    assert_close(values_K, wanted_K, atol=1e-7, rtol=0)
    assert_close(bias.item(), wanted_K.mean().item() - information(x), atol=1e-7, rtol=0)
    assert bias >= -1e-12


def test_a_batch_reports_the_jackknife_of_its_picks_beyond_what_is_pending():
    x, pending = pool(12, 20, 3), [2, 7]
    batch = get_batchbald_batch(x, 3, 10**4, pending=pending)
    for b in range(3):
        both = [*pending, *batch.indices[: b + 1]]
        values_K = leave_out(lambda y: information(y[both]) - information(y[pending]), x)
        assert batch.sampling_errors[b] == pytest.approx(error_over_samples(values_K).item(), abs=1e-7)
        assert batch.debiased_scores[b] == pytest.approx(values_K.mean().item(), abs=1e-7)
    used = information(x[pending])
    assert batch.at_least == [used + score > math.log(20) / 2 for score in batch.scores]


def test_plain_fast_and_dynamic_searches_say_the_same():
    x = pool(40, 30, 4)
    fast, plain = (select(x, 6, 500) for select in (get_batchbald_batch, get_plain_batchbald_batch))
    assert fast.indices == plain.indices
    for name in ("sampling_errors", "debiased_scores"): assert np.allclose(getattr(fast, name), getattr(plain, name), atol=1e-3)
    assert fast.at_least == plain.at_least and fast.configuration_errors is fast.standard_errors
    some = get_dynamic_batchbald_batch(x, 6, 500, gain_share=0.6)
    assert {len(getattr(some, name)) for name in ("indices", "sampling_errors", "debiased_scores", "at_least")} == {len(some.indices)}


def test_many_machines_say_the_same():
    array = pytest.importorskip("dask.array")
    x = pool(40, 30, 4)
    whole = get_batchbald_batch(x, 5, 500)
    parts = get_distributed_batchbald_batch(array.from_array(x.numpy(), chunks=(15, -1, -1)), 5, 500)
    for name in ("sampling_errors", "debiased_scores", "at_least"): assert np.allclose(getattr(whole, name), getattr(parts, name), atol=1e-9)


def test_few_configurations_do_not_look_like_spread():
    x = pool(8, 100, 4, scale=1.5)
    few, many = (WeightedJointEntropy(M, 100).add_variables(x) for M in (1_000, 20_000))
    errors = [error_over_samples(leave_each_out(state.weights_M, state.posteriors_M_K)[0]).item() for state in (few, many)]
    assert 0.5 < errors[0] / errors[1] < 2


def test_the_error_is_the_spread_over_other_samples():
    "Samples are drawn anew from a population of predictions; three labels, so that all is exact."
    everyone = pool(3, 20_000, 4, scale=1.5)
    draws = [everyone[:, 40 * s : 40 * (s + 1)] for s in range(200)]
    scores = [information(x) for x in draws]
    said = []
    for x in draws[:40]:
        state = WeightedJointEntropy(10**4, 40, dtype=torch.double).add_variables(x)
        values_K, bias = leave_each_out(state.weights_M, state.posteriors_M_K)
        said.append((error_over_samples(values_K).item(), bias.item()))
    error, bias = np.mean(said, 0)
    assert 1 / 1.3 < error / np.std(scores) < 1.3
    truth = information(everyone[:, :5_000])
    assert abs(np.mean(scores) + bias - truth) < 0.4 * abs(np.mean(scores) - truth)


def test_one_sample_or_equal_ones_have_nothing_to_say():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one, same = get_batchbald_batch(pool(5, 1, 3), 3), get_batchbald_batch(pool(5, 1, 3).expand(5, FEWEST, 3), 3)
    assert one.sampling_errors is one.debiased_scores is one.at_least is None
    assert np.allclose(same.sampling_errors, 0, atol=1e-7) and np.allclose(same.debiased_scores, 0, atol=1e-6)
    assert get_batchbald_batch(pool(), 0).sampling_errors is None
    old = CandidateBatch([1.0], [2])
    assert old.configuration_errors is old.sampling_errors is old.debiased_scores is old.at_least is None


@pytest.mark.parametrize("size, category, words", [
    (3, BiasWarning, "about .*judge_batch"), (4, BiasWarning, "or more .*judge_batch"), (12, CeilingWarning, "than 95% of it, and picks after them say little.*judge_batch"),
])
def test_the_warning_has_the_numbers_of_the_batch(size, category, words):
    x = pool(40, 20, 4)
    with pytest.warns(CeilingWarning, match=words) as caught: batch = get_batchbald_batch(x, size)
    assert [w.category for w in caught] == [category] and caught[0].filename == __file__
    about, more = ("about ", "") if batch.scores[-1] <= 0.75 * batch.ceiling else ("", " or more")
    told = f"{about}{batch.debiased_scores[-1]:.2f}{more} (standard error {batch.sampling_errors[-1]:.2f} over samples)"
    assert f"scores {batch.scores[-1]:.2f} nats, without the bias of few samples {told}" in str(caught[0].message)


@pytest.mark.parametrize("K", [2, 3, FEWEST - 1])
def test_fewer_samples_say_nothing_of_their_own_error(K):
    x, y = pool(12, K, 4), pool(5, K, 3, 1)
    with pytest.warns(CeilingWarning, match=f"{K} samples are too few to say how much is missing"): batch = get_batchbald_batch(x, 6)
    for silent in (batch, get_kbald_batch(x, 3), get_epig_batch(x, y, 3), judge_batch(x, [1, 2])):
        assert silent.sampling_errors is silent.debiased_scores is silent.at_least is None


def test_nothing_is_said_where_all_is_pending_already():
    x = torch.cat([pool(3, FEWEST, 4)] * 2)  # copies tell nothing more
    with pytest.warns(CeilingWarning) as caught: batch = get_batchbald_batch(x, 1, 10**5, pending=[0, 1, 2])
    assert batch.scores[0] < 1 and "the first 1 of 1 picks and what is pending" in str(caught[0].message)


def test_pairs_and_single_labels():
    x = pool(6, 40, 3, scale=1.0)
    values_K, bias = tell_by_sample(x[0].exp())
    assert_close(values_K.mean(), compute_bald(x)[0])
    wanted_K = leave_out(lambda y: compute_bald(y)[0].item(), x)
    assert bias.item() == pytest.approx(wanted_K.mean().item() - compute_bald(x)[0].item(), rel=0.3)
    assert error_over_samples(values_K).item() == pytest.approx(error_over_samples(wanted_K).item(), rel=0.2)
    values_K, bias = share_by_sample(x[0].exp(), x[1:].exp())
    score = lambda y: 5 * compute_epig(y[:1], y[1:]).item()
    wanted_K = leave_out(score, x)
    assert values_K.mean().item() == pytest.approx(score(x), abs=1e-9)
    assert bias.item() < 0 and bias.item() == pytest.approx(wanted_K.mean().item() - score(x), rel=0.4)


@pytest.mark.parametrize("pending", [[], [4]])
def test_epig_and_two_bald_say_their_errors(pending):
    x, y = pool(12, 30, 3, 1, 1.0), pool(7, 30, 2, 2, 1.0)
    batch = get_epig_batch(x, y, 4, pending=pending)
    for i, error, debiased, score in zip(batch.indices, batch.sampling_errors, batch.debiased_scores, batch.scores):
        values_K, bias = share_by_sample(x[i].exp(), y.exp())
        assert error == pytest.approx(error_over_samples(values_K / 7).item(), rel=1e-6) and debiased == pytest.approx(score + bias.item() / 7, rel=1e-6)
    batch = get_kbald_batch(x, 4, 2, pending=pending)
    for b in range(4):
        wanted_K = leave_out(lambda z: compute_kbald(z[[*pending, *batch.indices[: b + 1]]]) - (compute_bald(z)[4].item() if pending else 0), x)
        assert batch.sampling_errors[b] == pytest.approx(error_over_samples(wanted_K).item(), rel=0.25)
        assert (batch.debiased_scores[b] - batch.scores[b]) == pytest.approx(wanted_K.mean().item() - batch.scores[b], rel=0.4, abs=0.01)
    assert get_kbald_batch(x, 4, 3).sampling_errors is None and get_kbald_batch(x, 2, 1).sampling_errors is not None


def test_a_second_look_is_the_joint_information():
    x = pool(10, 50, 3)
    judged = judge_batch(x, [4, 1, 7], num_configurations=20_000)
    for b in range(3):
        wanted = information(x[[4, 1, 7][: b + 1]])
        assert abs(judged.scores[b] - wanted) <= 5 * judged.standard_errors[b] + 1e-6
    batch = get_batchbald_batch(x, 3, 10**4)
    again = judge_batch(x, batch, num_configurations=20_000)
    assert again.indices == batch.indices and again.at_least == batch.at_least and again.ceiling == math.log(50)
    assert np.allclose(again.sampling_errors, batch.sampling_errors, rtol=0.1) and np.allclose(again.debiased_scores, batch.debiased_scores, atol=0.03)
    assert judge_batch(x, [4], 20).ceiling == math.log(20)
    assert judge_batch(x, iter([4, 1, 7]), num_configurations=20_000) == judged and judge_batch(x.numpy(), [4, 1, 7], num_configurations=20_000) == judged


def test_a_second_look_beyond_what_is_pending():
    x = pool(10, 50, 3)
    batch = get_batchbald_batch(x, 2, 10**4, pending=[3, 6])
    judged = judge_batch(x, batch, pending=[3, 6], num_configurations=20_000)
    for b in range(2):
        wanted = information(x[[3, 6, *batch.indices[: b + 1]]]) - information(x[[3, 6]])
        assert abs(judged.scores[b] - wanted) <= 5 * judged.standard_errors[b] + 1e-6
    assert np.allclose(judged.sampling_errors, batch.sampling_errors, rtol=0.2) and np.allclose(judged.debiased_scores, batch.debiased_scores, atol=0.05)
    assert judged.indices == batch.indices and judged.at_least == batch.at_least


def test_a_second_look_by_a_model_uses_the_inputs_at_the_picks():
    torch.manual_seed(0)
    model, inputs = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), ConsistentDropout(0.5), torch.nn.Linear(16, 3)), torch.randn(9, 4)
    seen = judge_batch(model, [5, 2], 400, inputs=inputs, generator=torch.Generator().manual_seed(3))
    listed = judge_batch(model, [5, 2], 400, inputs=list(inputs), generator=torch.Generator().manual_seed(3))
    assert seen == listed and seen.indices == [5, 2] and seen.ceiling == math.log(400)
    for given in (inputs.numpy(), TensorDataset(inputs), TensorDataset(inputs, torch.zeros(9))):
        assert judge_batch(model, [5, 2], 400, inputs=given, generator=torch.Generator().manual_seed(3)) == seen


@pytest.mark.parametrize("picks, options, name", [
    ([1, 1], {}, "picks"), ([99], {}, "picks"), ("ab", {}, "picks"), ([1], {"inputs": torch.zeros(3)}, "inputs"), ([1], {"num_samples": 0}, "num_samples"),
    ([1], {"num_configurations": 1}, "num_configurations"),
])
def test_a_second_look_refuses_by_name(picks, options, name):
    with pytest.raises(ValueError, match=f"`{name}`"): judge_batch(pool(), picks, **options)


def test_a_model_wants_inputs_and_predictions_are_of_the_pool():
    model = torch.nn.Linear(2, 2)
    for picks in ([0], []):
        with pytest.raises(ValueError, match="`inputs` is None"): judge_batch(model, picks)
    for wrong in (DataLoader(torch.zeros(3, 2)), iter(torch.zeros(3, 2))):
        with pytest.raises(ValueError, match=f"`inputs` is a {type(wrong).__name__}; want the inputs of the pool"): judge_batch(model, [0], inputs=wrong)
    for wrong in (None, lambda x: x, [[1.0]]):
        with pytest.raises(ValueError, match="`model_or_log_probs` is a .*; want a model with dropout, or predictions"): judge_batch(wrong, [0])
    with pytest.raises(ValueError, match=r"`picks`.*if these are the picks alone, their positions are `range\(2\)`"): judge_batch(pool(2, 30), [7, 9])


def test_the_command_judges_by_another_file(tmp_path):
    x = pool(20, 60, 3).numpy()
    np.save(tmp_path / "x.npy", x[:, :30]); np.save(tmp_path / "other.npy", x[:, 30:]); np.save(tmp_path / "less.npy", x[:5])
    rows = select_batch(tmp_path / "x.npy", size=3, judge=tmp_path / "other.npy", out=tmp_path / "picks.json")
    assert all(row["worth"] > 0 and 0 < row["worth_error"] < 0.3 and row["sampling_error"] > 0 for row in rows)
    told = json.loads((tmp_path / "picks.json").read_text())
    assert told["picks"] == rows and told["judge"].endswith("other.npy") and {"worth", "worth_error", "debiased_score", "at_least"} <= set(told["columns"])
    np.save(tmp_path / "few.npy", x[:, 30:40])
    wrong = {"less": "less.npy has 5 points", "few": "few.npy has 10 parameter samples; want 20 or more", "x": "holds the parameter sample with which `predictions` begins"}
    for name, message in wrong.items():
        with pytest.raises(ValueError, match=f"`judge`.*{message}"): select_batch(tmp_path / "x.npy", size=3, judge=tmp_path / f"{name}.npy")
    (tmp_path / "pending.txt").write_text("3\n4\n")
    beyond = select_batch(tmp_path / "x.npy", size=3, judge=tmp_path / "other.npy", pending=tmp_path / "pending.txt")
    judged = judge_batch(x[:, 30:], [row["position"] for row in beyond], pending=[3, 4], generator=derive_generator(0, "judge"))
    assert [row["worth"] for row in beyond] == judged.debiased_scores


def test_a_second_look_says_how_few_samples_there_are_and_that_they_are_all_the_same():
    with pytest.warns(UserWarning, match="`num_samples` is 500, and the predictions have K = 60, which are used"): assert judge_batch(pool(20, 60), [1, 2], 500).ceiling == math.log(60)
    same = pool(20, 1).expand(20, 60, 3)
    with pytest.warns(IdenticalSamplesWarning, match="`model_or_log_probs` has K = 60 identical parameter samples"): assert judge_batch(same, [1, 2]).scores[-1] < 1e-6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        judge_batch(pool(20, 60), [1, 2]); judge_batch(pool(20, 60), [1, 2], 30); judge_batch(pool(20, 1), [1, 2])


def test_the_command_names_its_option_for_a_second_look(tmp_path, call):
    np.save(tmp_path / "x.npy", pool(20, 30, 3, scale=6.0).numpy())
    _, err = call("batchbald_select", tmp_path / "x.npy", "--size", 12)
    assert "What picks are worth, --judge FILE says." in err and "judge_batch" not in err


def test_picks_that_are_pending_are_refused():
    with pytest.raises(ValueError, match="`pending` names 1 of `picks`"): judge_batch(pool(5, 30, 3), [0, 1], pending=[0, 4])


def test_samples_that_picked_are_found_in_any_order(tmp_path):
    x = np.random.default_rng(0).dirichlet(np.ones(3), (6, 25))
    np.save(tmp_path / "p.npy", x)
    np.save(tmp_path / "turned.npy", x[:, ::-1])
    with pytest.raises((ValueError, SystemExit), match="holds the parameter sample"):
        select_batch(tmp_path / "p.npy", kind="probs", size=2, judge=tmp_path / "turned.npy")
