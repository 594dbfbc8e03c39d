"What other libraries give, by running them: `make test-doors` has them all, and without a library its tests are skipped."
import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from batchbald_nbdev.bald import compute_bald
from batchbald_nbdev.batchbald import get_batchbald_batch
from batchbald_nbdev.bayesian_models import dropout_features, dropout_layers, make_consistent
from batchbald_nbdev.collect import collect_ensemble_log_probs, collect_log_probs
from batchbald_nbdev.datasets import get_repeated_digits
from batchbald_nbdev.doors import as_two_classes, collect_sklearn_log_probs
from batchbald_nbdev.information import as_log_probs, check_log_probs

DATA = get_repeated_digits(1, noise=0.0, originals=260, generator=torch.Generator().manual_seed(0))
X, Y = DATA.pool_inputs[:100], DATA.pool_labels[:100]
POOL, LABELS = DATA.pool_inputs[100:], DATA.pool_labels[100:]
pytestmark = [pytest.mark.filterwarnings(f"ignore::{o}") for o in ("DeprecationWarning", "FutureWarning", "PendingDeprecationWarning")]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def train(net, steps=80, inputs=X, targets=Y):
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(net(inputs), targets).backward()
        optimizer.step()
    return net.eval()


@pytest.fixture
def net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return train(nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)))


def frozen(model, k):
    def member(x):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(k)
            return model(x)

    return member


def usable(log_probs_N_K_C, least=0.6):
    "Predictions to batch, as a new user would look at them."
    N, K, C = check_log_probs(log_probs_N_K_C)
    mean = log_probs_N_K_C.double().exp().mean(1).argmax(1)
    assert (mean == LABELS[:N] % C).double().mean() > least
    assert compute_bald(log_probs_N_K_C).max() > 1e-4
    batch = get_batchbald_batch(log_probs_N_K_C, 3)
    assert len(set(batch.indices)) == 3 and 0 < batch.scores[0] < batch.scores[-1] <= batch.ceiling + 1e-9


# laplace-torch


@pytest.fixture
def la(net):
    laplace = pytest.importorskip("laplace")
    la = laplace.Laplace(net, "classification", subset_of_weights="last_layer", hessian_structure="full")
    la.fit(DataLoader(TensorDataset(X, Y), batch_size=50))
    return la


def twins(net, weights_K_P):
    for weights_P in weights_K_P:
        twin = copy.deepcopy(net)
        nn.utils.vector_to_parameters(weights_P, twin[-1].parameters())
        yield twin


def test_laplace_weights_of_sample_are_parameter_samples(la, net):
    usable(collect_ensemble_log_probs(twins(net, la.sample(40)), POOL.split(50)))


def correlations(x_N_K):
    return torch.corrcoef(x_N_K)[np.triu_indices(len(x_N_K), 1)]


def test_laplace_glm_samples_of_any_two_inputs_correlate_at_one(la, net):
    "And those of `la.sample` do not."
    torch.manual_seed(0)
    glm_K_N_C = la.functional_samples(POOL[:40], pred_type="glm", n_samples=500).detach()
    weights_K_N_C = torch.stack([twin(POOL[:40]) for twin in twins(net, la.sample(500))]).detach()
    assert correlations(glm_K_N_C[..., 0].T).min() > 0.999
    assert correlations(weights_K_N_C[..., 0].T).median() < 0.9
    assert_close(glm_K_N_C.mean(0), weights_K_N_C.mean(0), atol=1.0, rtol=0.2)  # each input alone is right
    glm, weights = (as_log_probs(x, "logits", axes="KNC") for x in (glm_K_N_C, weights_K_N_C))
    picks = get_batchbald_batch(weights, 5, 10_000).indices
    claimed, held = (get_batchbald_batch(x[picks], 5, 10_000).scores[-1] for x in (glm, weights))
    assert claimed < held - 0.2


def test_laplace_samples_of_networks_draw_at_each_call(net):
    "Of all weights; for those of the last layer laplace-torch 0.3 raises."
    la = pytest.importorskip("laplace").Laplace(net, "classification", subset_of_weights="all", hessian_structure="diag")
    la.fit(DataLoader(TensorDataset(X, Y), batch_size=50))
    first, second = (la.functional_samples(POOL[:5], pred_type="nn", n_samples=3) for _ in range(2))
    assert first.shape == (3, 5, 10) and not torch.equal(first, second)


# Networks that draw at each call


PRIORS = {"prior_mu": 0.0, "prior_sigma": 1.0, "posterior_mu_init": 0.0, "posterior_rho_init": -3.0, "moped_enable": True, "moped_delta": 0.2}


def bayesian_torch(net, kind):
    convert = pytest.importorskip("bayesian_torch.models.dnn_to_bnn").dnn_to_bnn
    net = copy.deepcopy(net)
    convert(net, {**PRIORS, "type": kind})
    return net.eval()


def blitz(net):
    layer = pytest.importorskip("blitz.modules").BayesianLinear
    first, last = layer(64, 32, prior_sigma_1=0.1), layer(32, 10, prior_sigma_1=0.1)
    for own, trained in ((first, net[0]), (last, net[2])):
        own.weight_mu.data.copy_(trained.weight)
        own.bias_mu.data.copy_(trained.bias)
        own.weight_rho.data.fill_(-3.0)
        own.bias_rho.data.fill_(-3.0)
    return nn.Sequential(first, nn.Tanh(), last).eval()


MAKES = {"bayesian-torch": lambda net: bayesian_torch(net, "Reparameterization"), "Blitz": blitz}


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES.keys())
def test_networks_that_draw_weights_at_each_call_are_refused_and_a_seed_freezes_them(make, net):
    model = make(net)
    with pytest.raises(ValueError, match=r"`models\[0\]` gives other outputs .* K frozen draws"):
        collect_ensemble_log_probs([model], POOL)
    whole = collect_ensemble_log_probs([frozen(model, k) for k in range(20)], POOL)
    usable(whole)
    assert_close(collect_ensemble_log_probs([frozen(model, k) for k in range(20)], POOL.split(7)), whole)


def test_flipout_draws_for_every_row_and_no_seed_freezes_it(net):
    model = bayesian_torch(net, "Flipout")
    for member in (model, frozen(model, 0)):
        with pytest.raises(ValueError, match="gives other outputs for equal inputs"):
            collect_ensemble_log_probs([member], POOL)


def test_blitz_after_a_forward_pass_is_named_and_not_copied(net):
    model = nn.Sequential(blitz(net), nn.Dropout(0.1))
    model(POOL[:3])
    with pytest.raises(ValueError, match="`model`, a Sequential, cannot be copied"):
        make_consistent(model)


def test_baal_s_layers_are_foreign_and_its_arrays_have_axes_nck(net):
    dropout = pytest.importorskip("baal.bayesian.dropout")
    patched = dropout.patch_module(nn.Sequential(net[0], nn.Dropout(0.5), net[2]), inplace=False)
    with pytest.raises(ValueError, match="of baal.bayesian.dropout"):
        make_consistent(patched)
    with pytest.raises(ValueError, match="K frozen draws"):
        collect_ensemble_log_probs([patched], POOL)


# Chains and guides


def test_posteriors_draws_of_a_chain_are_functions(net):
    posteriors = pytest.importorskip("posteriors")

    def log_posterior(weights, batch):
        logits = functional_call(net, weights, (batch[0],))
        return -F.cross_entropy(logits, batch[1]) - sum((w**2).sum() for w in weights.values()) / 2 / len(X), logits

    chain = posteriors.sgmcmc.sghmc.build(log_posterior, lr=1e-3, temperature=1 / len(X))
    torch.manual_seed(0)
    state, draws = chain.init({name: w.detach().clone() for name, w in net.named_parameters()}), []
    for _ in range(10):
        for _ in range(10):
            state, _ = chain.update(state, (X, Y))
        draws.append({name: w.detach().clone() for name, w in state.params.items()})
    usable(collect_ensemble_log_probs([lambda x, w=w: functional_call(net, w, (x,)) for w in draws], POOL.split(50)))


def test_pyro_draws_of_a_guide_are_functions(net):
    pyro = pytest.importorskip("pyro")
    from pyro import distributions as dist
    from pyro.infer.autoguide import AutoNormal, init_to_value

    trained = {name.replace(".", "_"): w.detach() for name, w in net.named_parameters()}

    def model(x, y=None):
        drawn = {name: pyro.sample(name, dist.Normal(w * 0, 1.0).to_event(w.ndim)) for name, w in trained.items()}
        logits = functional_call(net, {name: drawn[name.replace(".", "_")] for name, _ in net.named_parameters()}, (x,))
        pyro.sample("y", dist.Categorical(logits=logits).to_event(1), obs=y)

    pyro.clear_param_store()
    guide = AutoNormal(model, init_loc_fn=init_to_value(values=trained), init_scale=0.05)
    torch.manual_seed(0)
    guide(X, Y)
    draws = [{name: guide()[name.replace(".", "_")].detach() for name, _ in net.named_parameters()} for _ in range(10)]
    usable(collect_ensemble_log_probs([lambda x, w=w: functional_call(net, w, (x,)) for w in draws], POOL.split(50)))


# Boosting


QUIET = {"iterations": 60, "posterior_sampling": True, "verbose": False, "random_seed": 0, "thread_count": 1, "allow_writing_files": False}


def catboost_model(y):
    catboost = pytest.importorskip("catboost")
    return catboost.CatBoostClassifier(**QUIET).fit(X.numpy(), y.numpy())


def virtual(model, K):
    return model.virtual_ensembles_predict(POOL.numpy(), prediction_type="VirtEnsembles", virtual_ensembles_count=K)


def test_catboost_s_virtual_ensembles_are_nested_prefixes_and_the_last_is_the_whole():
    model = catboost_model(Y)
    got = as_log_probs(virtual(model, 6), "logits")
    usable(got, 0.5)
    assert got.shape == (160, 6, 10)
    whole = torch.from_numpy(model.predict_proba(POOL.numpy()))
    off_K = (got.exp() - whole[:, None]).abs().sum(-1).mean(0)
    assert off_K[-1] < 1e-6 and (off_K.diff() < 0).all()
    options = model.get_all_params()  # each round shrinks all earlier ones, which is undone for a prefix
    shrink = options["model_shrink_rate"] * options["learning_rate"]
    for k, end in enumerate(range(35, 61, 5)):
        prefix = model.predict(POOL.numpy(), prediction_type="RawFormulaVal", ntree_end=end)
        np.testing.assert_allclose(virtual(model, 6)[:, k], prefix / (1 - shrink) ** (60 - end), atol=1e-5)


def test_catboost_s_one_column_for_two_classes_becomes_two():
    model = catboost_model(Y % 2)
    raw = virtual(model, 4)
    assert raw.shape == (160, 4, 1)
    with pytest.raises(ValueError, match="one class"):
        as_log_probs(raw, "logits")
    got = as_two_classes(raw)
    usable(got)
    np.testing.assert_allclose(got[:, -1].exp(), model.predict_proba(POOL.numpy()), atol=1e-6)


@pytest.mark.parametrize("name", ["catboost.CatBoostClassifier", "xgboost.XGBClassifier", "xgboost.XGBRFClassifier", "lightgbm.LGBMClassifier"])
def test_boosting_of_other_libraries_is_refused_because_rounds_are_additive(name):
    library, kind = name.split(".")
    options = {"verbose": 0, "iterations": 2, "allow_writing_files": False} if library == "catboost" else {"n_estimators": 2, "n_jobs": 1}
    model = getattr(pytest.importorskip(library), kind)(**options)
    for fitted in (model, model.fit(X.numpy(), Y.numpy())):
        with pytest.raises(ValueError, match=rf"is a {kind}: its rounds add up to one model"):
            collect_sklearn_log_probs(fitted, POOL)


@pytest.mark.parametrize("name", ["catboost.CatBoostRegressor", "xgboost.XGBRegressor", "lightgbm.LGBMRegressor"])
def test_regressors_of_other_libraries_are_refused_by_name(name):
    library, kind = name.split(".")
    model = getattr(pytest.importorskip(library), kind)()
    with pytest.raises(ValueError, match=rf"is a {kind}: regression is not supported"):
        collect_sklearn_log_probs(model, POOL)


# transformers


def texts(n=12, length=9):
    ids = torch.randint(1, 30, (n, length), generator=seeded())
    mask = (torch.arange(length) < torch.randint(2, length, (n, 1), generator=seeded(1))).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def language_model(name, **more):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, "initializer_range": 0.5}
    if name == "DistilBert":
        sizes = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 16}
    if name == "GPT2":
        sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2}
    config = getattr(transformers, f"{name}Config")(vocab_size=30, num_labels=4, pad_token_id=0, **sizes, **more)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return getattr(transformers, f"{name}ForSequenceClassification")(config).eval()


def test_a_masked_text_model_gives_its_own_forward_with_the_mask_under_the_same_dropout_masks():
    model, batch = make_consistent(language_model("Bert", hidden_dropout_prob=0.3)), texts()
    with pytest.warns(UserWarning, match="never calls"):
        got = collect_log_probs(model, [{**batch, "labels": torch.arange(12)}], 4)
    features = dropout_features(model, {}, {name: o[:1] for name, o in batch.items()})
    generator = seeded()
    masks = {name: layer.draw_masks(4, features[name], generator) for name, layer in dropout_layers(model).items() if name in features}
    for k in range(4):
        for name, mask in masks.items():
            dropout_layers(model)[name].mask = mask[k]
        with torch.no_grad():
            assert_close(model(**batch).logits.log_softmax(-1), got[:, k], atol=1e-5, rtol=1e-5)
            unmasked = model(input_ids=batch["input_ids"]).logits.log_softmax(-1)
        assert (unmasked - got[:, k]).abs().max() > 1e-3  # without the mask it says something else


@pytest.mark.parametrize("name", ["Bert", "Roberta", "DistilBert", "GPT2", "Electra", "Albert"])
def test_attention_dropout_of_language_models_is_warned_of_where_it_is_never_reached(name):
    more = {"attention_probs_dropout_prob": 0.1} if name == "Albert" else {}
    more |= {"hidden_dropout_prob": 0.1, "classifier_dropout_prob": 0.1} if name == "Albert" else {}
    model = make_consistent(language_model(name, **more))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        got = collect_log_probs(model, [texts()], 3)
    said = [str(o.message) for o in caught if "never calls" in str(o.message)]
    assert len(said) == 1 and ("att" in said[0] or "attn" in said[0]) and got.std(1).max() > 0


def test_batches_that_a_tokenizer_pads_to_different_lengths_want_one_length():
    model = make_consistent(language_model("Bert"))
    batches = [texts(), {name: o[:, :6] for name, o in texts().items()}]
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="pad all batches to one length"):
        collect_log_probs(model, batches, 3)


def test_second_inputs_of_a_text_model_are_not_dropped_from_tuples():
    model, batch = make_consistent(language_model("Bert")), texts()
    loader = [(batch["input_ids"], batch["attention_mask"], torch.arange(12) % 4)]
    with pytest.raises(ValueError, match="3 tensors in a batch"):
        collect_log_probs(model, loader, 3)
    named = {"inputs": lambda b: {"input_ids": b[0], "attention_mask": b[1]}}
    with pytest.warns(UserWarning, match="never calls"):
        got = collect_log_probs(model, loader, 3, **named)
        assert torch.equal(got, collect_log_probs(model, [batch], 3))


# Others


def test_timm_s_transformer_with_default_rates_drops_nothing_and_its_attention_can_be_unfused():
    timm = pytest.importorskip("timm")
    options = {"img_size": 8, "patch_size": 4, "in_chans": 1, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 10}
    images = POOL.unflatten(1, (1, 8, 8))[:5]
    with pytest.raises(ValueError, match="drops nothing|no ConsistentDropout"):
        collect_log_probs(make_consistent(timm.models.VisionTransformer(**options)), images, 3)
    fused = make_consistent(timm.models.VisionTransformer(**options, attn_drop_rate=0.2, drop_rate=0.2))
    with pytest.warns(UserWarning, match="never calls blocks.0.attn.attn_drop"):
        collect_log_probs(fused, images, 3)
    timm.layers.set_fused_attn(False)
    try:
        unfused = make_consistent(timm.models.VisionTransformer(**options, attn_drop_rate=0.2, drop_rate=0.2))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            collect_log_probs(unfused, images, 3)
    finally:
        timm.layers.set_fused_attn(True)


def test_node_models_whose_rows_depend_on_each_other_are_refused():
    "As those of PyTorch Geometric: nodes, and edges between them."

    class Nodes(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.drop, self.last = nn.Linear(8, 6), nn.Dropout(0.5), nn.Linear(6, 3)

        def forward(self, x, edge_index):
            z = self.drop(self.first(x))
            return self.last(z.index_add(0, edge_index[1], z[edge_index[0]]))

    torch.manual_seed(0)
    graph = {"x": torch.randn(9, 8), "edge_index": torch.randint(9, (2, 20))}
    with pytest.raises(ValueError, match=r"different numbers of inputs: `x` 9, `edge_index` 2"):
        collect_log_probs(make_consistent(Nodes()), [graph], 3)


# Arrays as libraries give them


def test_arrays_of_samples_first_as_numpyro_gpytorch_and_stacked_members_give_them():
    x = torch.randn(5, 30, 4, generator=seeded()).double().log_softmax(-1)
    expected = x.transpose(0, 1)
    assert torch.equal(as_log_probs(x, axes="KNC"), expected)
    assert torch.equal(as_log_probs(x[:, None], axes="KKNC"), expected)  # deterministic sites, (K, 1, N, C)
    assert torch.equal(as_log_probs(x.permute(0, 2, 1), axes="KCN"), expected)  # GPyTorch
    assert torch.equal(as_log_probs(x.permute(1, 2, 0), axes="NCK"), expected)  # Baal


def test_a_key_of_flax_that_masks_each_row_for_itself_is_refused():
    "The same function of inputs and key at each call; rows of one call differ."

    def member(x, key=3):
        mask = (torch.rand(len(x), 64, generator=seeded(key)) > 0.5) * 2.0
        return (x * mask) @ torch.ones(64, 3)

    with pytest.raises(ValueError, match="gives other outputs for equal inputs"):
        collect_ensemble_log_probs([member], POOL)


def test_pixels_and_tokens_are_points_and_positions_lead_back():
    maps_N_K_C_H_W = torch.randn(3, 7, 4, 2, 5, generator=seeded()).double()
    points = as_log_probs(maps_N_K_C_H_W.permute(0, 3, 4, 1, 2).flatten(0, 2), "logits")
    assert points.shape == (30, 7, 4)
    for p in range(30):
        n, row, column = np.unravel_index(p, (3, 2, 5))
        assert_close(points[p], maps_N_K_C_H_W[n, :, :, row, column].log_softmax(-1))
    tokens_N_K_C_L, mask = maps_N_K_C_H_W[..., 0, :], torch.arange(5) < torch.tensor([[5], [2], [3]])
    kept = as_log_probs(tokens_N_K_C_L.permute(0, 3, 1, 2).flatten(0, 1), "logits")[mask.flatten()]
    back = mask.flatten().nonzero().flatten()
    for at, p in enumerate(back.tolist()):
        assert_close(kept[at], tokens_N_K_C_L[p // 5, :, :, p % 5].log_softmax(-1))
    assert len(kept) == 10


def test_positions_of_a_shorter_pool_lead_back_to_the_data():
    x = torch.randn(40, 6, 3, generator=seeded()).double().log_softmax(-1)
    origin, asked = np.arange(40), []
    for _ in range(4):
        batch = get_batchbald_batch(x[origin], 3)
        whole = get_batchbald_batch(x, 40, 1_000).indices  # of the data, by its own positions
        assert set(origin[batch.indices]) <= set(whole) - set(asked)
        for score, i in zip(compute_bald(x[origin])[batch.indices], origin[batch.indices]):
            assert_close(score, compute_bald(x)[i])
        asked += origin[batch.indices].tolist()
        origin = np.delete(origin, batch.indices)
    assert len(set(asked)) == 12 and sorted([*asked, *origin]) == list(range(40))
