"""Throws valid and invalid input at everything public, and compares what comes back with brute force. Not a test: `make fuzz SECONDS=600`.

Each case is drawn from the seed and its number, so `--seed 0 --case 17` is that case again, and `--spec` takes what is printed of a failure
after it was made as small as it goes. Exit status 1 where something was wrong."""
import argparse, ast, hashlib, inspect, io, itertools, json, math, os, random, resource, shutil, signal, subprocess, sys, tempfile, time, warnings
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np
import torch
from torch import nn

from batchbald_nbdev import command_line, experiments
from batchbald_nbdev.checks import listening
from everything import *

GOOD = {  # of every option: what may be passed, as source
    "num_samples": ["2**30", "10**20", "1", "3", "20", "np.int64(7)"], "max_bytes": ["1", "100", "2**20", "10**40",
        "torch.tensor(2**28)"], "k": ["1", "2", "3", "9", "10**20"],
    "temperature": ["0", "1e-3", "0.25", "1", "30", "math.inf", "10**400", "Fraction(1, 3)", "np.float32(0.5)"],
        "race_error": ["0", "1e-4", "0.4", "np.float64(0.1)"], "lazy": ["True", "False"],
    "tolerance": ["0", "0.1", "math.inf", "10**400"], "gain_share": ["0", "0.2", "1", "Fraction(1, 7)"],
        "ceiling_share": ["0", "0.9", "1"], "threshold": ["0", "0.1", "math.inf", "Decimal('0.2')"],
    "budget": ["0", "0.5", "math.inf", "10**400"], "dtype": ["None", "torch.float32", "torch.double"],
        "device": ["None", "'cpu'", "torch.device('cpu')"], "progress": ["False"], "atol": ["None", "0.1"],
    "M": ["1", "5", "500"], "M2": ["1", "5", "np.int64(50)"],
}  # fmt: skip
NOTHING = ["'3'", "b'3'", "True", "np.bool_(True)", "1j", "object()", "[]", "[1, 2]", "math.nan", "-1", "-10**20",
    "-10**400", "-math.inf", "torch.tensor([1, 2])", "torch.tensor(True)", "np.array('3')",
           "Decimal('nan')", "torch.tensor(1, device='meta')", "np.complex128(1)", "{}"]  # fmt: skip
COUNT, NUMBER = [*NOTHING, "None", "2.5", "3.0", "math.inf", "Decimal(3)", "torch.tensor(3.0)",
    "Fraction(4, 2)"], [*NOTHING, "None"]
BAD = {  # and what may not
    **{name: [*COUNT, "0"] for name in ("num_samples", "max_bytes", "k", "M", "M2")},
        **{name: COUNT for name in ("batch_size", "max_batch_size")}, "N": [*COUNT, "0", "10**12", "10**400"],
    **{name: NUMBER for name in ("temperature", "tolerance", "threshold", "budget")},
        **{name: [*NUMBER, "1.01", "10**400"] for name in ("gain_share", "ceiling_share")},
    "race_error": [*NUMBER, "0.5", "10**400"], "dtype": ["torch.float16", "'float32'", "torch.long", "3", "np.float32"],
        "device": ["'nope'", "'cuda:99'", "0.5", "[]", "-1"], "atol": NOTHING,
    "generator": ["0", "'seed'", "np.random.default_rng(0)", "True", "[]"],
    "pending": ["None", "3", "'0'", "b'0'", "[-1]", "[10**20]", "[10**400]", "[0.0]", "[True]", "[None]", "['0']",
        "[[0]] * 2 + [[0, 1]]", "np.array([True])", "torch.tensor([0.0])", "[math.nan]", "torch.tensor(0)"],
}  # fmt: skip
SPOIL = {  # of predictions: what is wrong with them
    "nan": lambda x: put(x, math.nan), "inf": lambda x: put(x, math.inf), "shifted": lambda x: x + 0.3,
        "one row": lambda x: put(x, 0.7), "probs": lambda x: x.exp(), "flat": lambda x: x[0],
    "deep": lambda x: x[None], "no points": lambda x: x[:0], "no samples": lambda x: x[:, :0],
        "no classes": lambda x: x[..., :0], "one class": lambda x: x[..., :1], "whole": lambda x: torch.zeros(x.shape, dtype=torch.long),
    "complex": lambda x: x.to(torch.complex64), "none": lambda x: None, "text": lambda x: "predictions",
        "words": lambda x: [["a"]], "ragged": lambda x: [[[0.0]], [[0.0], [0.0]]],
    "objects": lambda x: np.array([None] * 8).reshape(2, 2, 2), "sparse": lambda x: x.exp().to_sparse(),
        "meta": lambda x: x.to("meta"), "masked": lambda x: np.ma.masked_invalid(x.float().numpy()),
        "number": lambda x: 3.0,
    "too large": lambda x: [[[10**400]]],
}  # fmt: skip
MAKES = ["soft", "sharp", "hard", "certain", "copies", "equal"]
LAYOUTS = ["plain", "transposed", "strided", "numpy", "read-only", "fortran", "memory map", "gradient", "list"]
FOLDER = Path(tempfile.mkdtemp(prefix="fuzz."))


class Wrong(Exception):
    "A violation, in words."


class TooSlow(BaseException):
    "A case ran out of time."


def want(true, text):
    if not true: raise Wrong(text() if callable(text) else text)


def value(source):
    return eval(source, globals())


def put(x, number):
    x = x.clone()
    x[-1, -1, -1] = number
    return x


# Predictions, in every shape and form, and brute force


def make_probs(rng, make, N, K, C):
    probs = rng.dirichlet(np.full(C, {"sharp": 0.1}.get(make, 1.0)), (N, K))
    if make == "hard": probs[rng.random(probs.shape) < 0.4] = 0
    dead = probs.sum(-1) == 0
    if make == "certain": dead |= True
    probs[dead] = np.eye(C)[rng.integers(C, size=dead.sum())]
    if make == "copies": probs = probs[rng.integers(N, size=N)]
    if make == "equal": probs = np.repeat(probs[:, :1], K, 1)
    return probs / probs.sum(-1, keepdims=True)


def lay_out(x, layout):
    "The same numbers, and what holds them in memory: to see that they are not changed."
    if layout == "transposed": x = x.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    if layout == "strided":
        base = torch.full([2 * n + 1 for n in x.shape], math.nan, dtype=x.dtype)
        base[1::2, 1::2, 1::2] = x
        return base[1::2, 1::2, 1::2], lambda: base.view(torch.uint8).numpy().tobytes()
    if layout == "gradient": x = x.clone().requires_grad_()
    array = x.detach().numpy() if x.dtype != torch.bfloat16 else None
    if layout in ("numpy", "read-only", "fortran", "memory map", "list") and array is not None:
        array = np.asfortranarray(array) if layout == "fortran" else array.copy()
        if layout == "memory map":
            handle, name = tempfile.mkstemp(dir=FOLDER, suffix=".npy")
            np.save(name, array)
            array = np.load(name, mmap_mode="r")
            os.close(handle), os.unlink(name)
        if layout == "read-only": array.setflags(write=False)
        if layout == "list": return (found := array.tolist()), lambda: repr(found).encode()
        return array, array.tobytes
    return x, lambda: x.detach().contiguous().view(torch.uint8).numpy().tobytes()


def truth_of(x):
    "The probabilities that were passed, renormalised, in float64."
    x = torch.as_tensor(x).detach().double().exp().numpy()
    return x / x.sum(-1, keepdims=True)


def plogp(p):
    return -(p[p > 0] * np.log(p[p > 0])).sum()


def entropy(rows):
    "Joint entropy of labels by enumeration; rows may have different numbers of classes."
    table = np.ones((1, rows[0].shape[0])) if len(rows) else np.ones((1, 1))
    for row in rows: table = (table[:, None] * row.T).reshape(-1, row.shape[0])
    return plogp(table.mean(1))


def information(rows):
    return entropy(rows) - sum(plogp(row) / len(row) for row in rows)


def shared(rows, others):
    return entropy(rows) + entropy(others) - entropy([*rows, *others])


def kbald(rows, k):
    "Eq. 6 cut off: co-information of all sets of up to k labels, by inclusion and exclusion of joint entropies."
    total = sum(information([row]) for row in rows)
    for r in range(2, min(k, len(rows)) + 1):
        for members in itertools.combinations(rows, r):
            co = -sum((-1) ** s * entropy(list(some)) for s in range(1,
                r + 1) for some in itertools.combinations(members, s))
            total += (-1) ** (r + 1) * co
    return total


def mean_shared(rows, others):
    return np.mean([shared(rows, [other]) for other in others])


# What there is to call: what scores a set of points (None where nothing is greedy), and whether each score is of the set or of the point

OWN = {"get_bald_batch": lambda P, Q, o, i: information([P[i]]), "get_epig_batch": lambda P, Q, o,
    i: mean_shared([P[i]], Q)}
OWN |= dict.fromkeys(["get_softmaxbald_batch", "get_powerbald_batch", "get_softrankbald_batch",
    "get_conservativebald_batch"], OWN["get_bald_batch"])
OWN["get_softmaxepig_batch"] = OWN["get_epig_batch"]
SETS = dict.fromkeys(["get_batchbald_batch", "get_plain_batchbald_batch", "get_dynamic_batchbald_batch",
    "get_budgetbald_batch"], lambda P, Q, o, s: information(P[s]))
SETS |= {
    "get_kbald_batch": lambda P, Q, o, s: kbald(P[s], o.get("k", 2)), "get_dynamic_kbald_batch": lambda P, Q, o,
        s: kbald(P[s], 2),
    "get_largebatchbald_batch": lambda P, Q, o, s: sum(information([p]) for p in P[s]) - 2 * sum(shared([a], [b]) for a,
        b in itertools.combinations(P[s], 2)),
    "get_batchepig_batch": lambda P, Q, o, s: mean_shared(P[s], Q), "get_batchepigbald_batch": lambda P, Q, o,
        s: shared(P[s], Q),
}  # fmt: skip
SCORES = {
    "compute_bald": lambda P, Q, o: [information([p]) for p in P], "compute_entropy": lambda P, Q,
        o: [entropy([p]) for p in P],
    "compute_conditional_entropy": lambda P, Q, o: [plogp(p) / len(p) for p in P], "compute_variation_ratios": lambda P,
        Q, o: 1 - P.mean(1).max(-1), "compute_mean_std": lambda P, Q, o: P.std(1).mean(-1),
    "compute_epig": lambda P, Q, o: [mean_shared([p], Q) for p in P], "compute_epig_bald": lambda P, Q,
        o: [shared([p], list(Q)) for p in P],
    "compute_kbald": lambda P, Q, o: kbald(list(P), o.get("k", 2)), "compute_pair_information": lambda P, Q,
        o: [[shared([p], [q]) for q in P] for p in P],
    "compute_kbald_gains": lambda P, Q, o: [kbald([*P, p], o.get("k", 2)) - kbald(list(P), o.get("k", 2)) for p in P],
        "compute_joint_probs": lambda P, Q, o: entropy(list(P)),
    "ExactJointEntropy": lambda P, Q, o: entropy(list(P)), "WeightedJointEntropy": lambda P, Q, o: entropy(list(P)),
        "DynamicJointEntropy": lambda P, Q, o: entropy(list(P)),
    "SampledJointEntropy": lambda P, Q, o: entropy(list(P)), "check_log_probs": lambda P, Q, o: P.shape,
}  # fmt: skip
DRAWS = {"get_top_k_batch": None, "get_softmax_batch": lambda s, T: np.exp((s - s.max()) / T),
    "get_power_batch": lambda s, T: np.maximum(s, 0) ** (1 / T), "get_softrank_batch": None, "get_random_batch": None}
DYNAMIC = ("get_dynamic_batchbald_batch", "get_dynamic_kbald_batch", "get_conservativebald_batch",
    "get_budgetbald_batch")
ENTROPIES = {  # two calls, and a generator of their own
    "ExactJointEntropy": lambda log_probs_N_K_C, dtype=None: exact(log_probs_N_K_C, dtype),
        "compute_joint_probs": lambda log_probs_B_K_C: compute_joint_probs(log_probs_B_K_C),
    "WeightedJointEntropy": lambda log_probs_N_K_C, num_samples=2**30, dtype=None,
        generator=None: WeightedJointEntropy(num_samples, K_of(log_probs_N_K_C), dtype=dtype,
        generator=generator).add_variables(log_probs_N_K_C).compute(),
    "DynamicJointEntropy": lambda log_probs_N_K_C, M=2**30, dtype=None, generator=None: DynamicJointEntropy(M, 99,
        K_of(log_probs_N_K_C), C_of(log_probs_N_K_C), dtype, generator=generator).add_variables(log_probs_N_K_C).compute(),
    "SampledJointEntropy": lambda log_probs_N_K_C, M2=5, dtype=None,
        generator=None: SampledJointEntropy.empty(K_of(log_probs_N_K_C), dtype=dtype).add_variables(log_probs_N_K_C, M2,
        generator=generator).compute(),
}  # fmt: skip


def shape_of(x):
    try: found = np.shape(x)
    except ValueError: found = ()
    return found if len(found) == 3 and 0 not in found else (3, 3, 3)


def K_of(x): return shape_of(x)[1]


def C_of(x): return shape_of(x)[2]


def exact(x, dtype):
    state = ExactJointEntropy.empty(K_of(x), dtype=dtype).add_variables(x)
    return state.compute()


def function_of(name): return ENTROPIES.get(name) or globals()[name]


def parameters(name): return inspect.signature(function_of(name)).parameters


def draw(rng, kind):
    "A case that is `kind`: valid or invalid."
    name = rng.choice([*OWN, *SETS, *SCORES, *DRAWS])
    N, K, C, E = (rng.choice(sizes) for sizes in ((1, 2, 3, 5, 6), (1, 2, 3, 6), (2, 3, 4), (1, 2, 3)))
    if name in ("compute_kbald", "compute_kbald_gains", "compute_joint_probs", *ENTROPIES): N = min(N, 5)
    spec = {"call": name, "N": N, "K": K, "C": C, "E": E, "B": rng.choice([0, 1, 2, 3, N, N + 2, 10**20]),
        "seed": rng.randrange(1000), "make": rng.choice(MAKES),
            "dtype": rng.choice(["float64", "float64", "float32", "float16", "bfloat16"]),
                "layout": rng.choice(LAYOUTS), "given": [], "options": {}}  # fmt: skip
    if spec["layout"] == "list" and spec["dtype"].endswith("16"): spec["dtype"] = "float32"  # lists do not say that they were rounded
    known = [p for p in parameters(name) if p in GOOD and not (p == "k" and kind == "invalid")]
    spec["options"] = {p: rng.choice(GOOD[p]) for p in known if rng.random() < 0.5}
    if "pending" in parameters(name) and rng.random() < 0.5: spec["given"] = [rng.randrange(N) for _ in range(rng.randrange(N + 1))]
    if kind == "invalid":
        takes = [p for p in parameters(name) if p in BAD or p.startswith("log_probs") and p != "log_probs_after_N_K_C" or p == "scores_N"]
        wrong = rng.choice(takes)
        spec["bad"] = [wrong, rng.choice(list(SPOIL) if wrong.startswith("log_probs") else list(BAD_SCORES) if wrong == "scores_N" else BAD[wrong])]
        if spec["bad"] == ["log_probs_B_K_C", "no points"] and "log_probs_N_K_C" in takes: spec["bad"][1] = "nan"  # no picks yet
    return spec


BAD_SCORES = {"nan": lambda s: np.append(s, math.nan), "empty": lambda s: [], "deep": lambda s: s[None],
    "words": lambda s: ["a"], "none": lambda s: None, "huge": lambda s: [1, 10**20], "holes": lambda s: [None, 1.0],
              "number": lambda s: 3, "complex": lambda s: s.astype(complex), "text": lambda s: "0.5",
                  "set": lambda s: {0.5}}  # fmt: skip


def build(spec):
    "Arguments by name, what was passed as truth, and what tells whether arguments were changed."
    rng, name = np.random.default_rng(spec["seed"]), spec["call"]
    dtype = getattr(torch, spec["dtype"])
    N, K, C = spec["N"], spec["K"], spec["C"]
    clean = torch.from_numpy(make_probs(rng, spec["make"], N, K, C)).log().to(dtype)
    other = torch.from_numpy(make_probs(rng, "soft", spec["E"], K, 2 + spec["seed"] % 2)).log().to(dtype)
    scores = rng.choice([-1.0, 0.0, 0.25, 0.5, 3.0, 7.0], N) if spec["make"] == "copies" else rng.random(N) - 0.2 * (spec["make"] == "hard")
    takes, arguments, holds, bad = parameters(name), {}, [], spec.get("bad")
    truth = {}
    for p, x in (("log_probs_N_K_C", clean), ("log_probs_B_K_C", clean), ("log_probs_E_K_C", other)):
        if p not in takes: continue
        if bad and bad[0] == p: arguments[p] = SPOIL[bad[1]](clean if p != "log_probs_E_K_C" else other)
        else:
            arguments[p], hold = lay_out(x, spec["layout"])
            holds.append(hold)
        truth[p[10]] = truth_of(x if spec["layout"] != "list" else x.float())
    if "scores_N" in takes: arguments["scores_N"] = BAD_SCORES[bad[1]](scores) if bad and bad[0] == "scores_N" else scores.tolist() if spec["layout"] == "list" else scores
    if name == "get_random_batch": arguments["N"] = N
    for p in ("batch_size", "max_batch_size"):
        if p in takes: arguments[p] = spec["B"]
    if "generator" in takes: arguments["generator"] = torch.Generator().manual_seed(spec["seed"])
    if spec["given"]: arguments["pending"] = spec["given"]
    arguments |= {p: value(source) for p, source in spec["options"].items()}
    if bad and bad[0] in BAD: arguments[bad[0]] = value(bad[1])
    P = truth.get("N", truth.get("B"))
    return arguments, P, list(truth.get("E", [])), scores, holds


def outside():
    "What no call may touch."
    return torch.random.get_rng_state().numpy().tobytes(), repr(np.random.get_state()), random.getstate(), list(warnings.filters), torch.get_default_dtype(), torch.is_grad_enabled()


def flat(result):
    "Numbers of a result, to compare two."
    if isinstance(result, CandidateBatch): return [result.indices, result.scores, result.gains, result.standard_errors,
        result.ceiling]
    return result.tolist() if isinstance(result, torch.Tensor) else result


def check(spec, result, P, Q, scores, options):
    "A result against what can be said of it, and against brute force."
    name, N, given = spec["call"], spec["N"], sorted(set(spec["given"]))
    double = options.get("dtype") == torch.double or options.get("dtype") is None and spec["dtype"] == "float64" and spec["layout"] != "list" and name not in ENTROPIES
    slack = 1e-9 if double or name == "compute_joint_probs" else 3e-5
    exact = options.get("num_samples", 2**30) >= 2**30 and options.get("M",
        2**30) >= 2**30 and (name not in ("get_batchepig_batch", "compute_epig_bald",
        "get_batchepigbald_batch") or "num_samples" in options)
    if name in SCORES:
        if name == "check_log_probs": return want(tuple(result) == P.shape, f"{result}, not {P.shape}")
        found = np.array(flat(result))
        if name == "compute_joint_probs":
            want(abs(found.sum() - 1) < 1e-9 and (found >= 0).all() and found.shape == (spec["C"],) * N,
                "no distribution")
            found = np.array(plogp(found))
        want(np.isfinite(found).all(), lambda: f"not finite: {found}")
        if name not in ("compute_kbald", "compute_kbald_gains"): want((found >= -1e-12 * (name.endswith("Entropy") and 1)).all() or abs(found.min()) < slack, lambda: f"below 0: {found}")
        if exact and not (name == "SampledJointEntropy"):
            expected = np.array(SCORES[name](P, Q, options))
            want(found.shape == expected.shape and np.abs(found - expected).max(initial=0) < slack * (10 if "kbald" in name else 1), lambda: f"{found}, not {expected}")
        return
    want(isinstance(result, CandidateBatch), f"a {type(result).__name__}")
    room = min(spec["B"], N - len(given))
    want(len(result.indices) == len(result.scores) and (len(result.indices) == room or name in DYNAMIC and len(result.indices) <= room), lambda: f"{len(result.indices)} picks, not {room}")
    want(all(type(i) is int for i in result.indices) and len(set(result.indices)) == len(result.indices) and set(result.indices) <= set(range(N)) - set(given), lambda: f"picks {result.indices}")
    for part in (result.scores, result.gains or [], result.standard_errors or []): want(all(type(s) is float and math.isfinite(s) for s in part), lambda: f"not finite: {part}")
    if result.standard_errors is not None: want(min(result.standard_errors, default=0) >= 0, "standard errors below 0")
    if result.ceiling is not None and name in SETS and "kbald" not in name: want(max(result.scores,
        default=0) <= result.ceiling + slack and result.scores == sorted(result.scores),
        lambda: f"{result.scores} fall, or are above {result.ceiling}")
    if name in DRAWS:
        T = options.get("temperature", {"get_softmax_batch": 1 / 8, "get_power_batch": 1 / 4,
            "get_softrank_batch": 1}.get(name))
        if name == "get_random_batch": return want(set(result.scores) <= {0.0}, "scores of a random batch")
        want(result.scores == [float(scores[i]) for i in result.indices], "not the given scores")
        if T == 0 or name == "get_top_k_batch" and not options.get("tolerance"): want(result.indices == sorted(set(range(N)) - set(given),
            key=lambda i: (-scores[i], i))[:room], lambda: f"{result.indices} is not top-k")
        return
    if name in OWN:
        expected = np.array([OWN[name](P, Q, options, i) for i in range(N)])
        want(all(abs(s - expected[i]) < slack for s, i in zip(result.scores, result.indices)),
            lambda: f"{result.scores} of {result.indices}, not {expected}")
        left = set(range(N)) - set(given)
        if name in ("get_bald_batch", "get_epig_batch"):
            for i in result.indices:
                want(expected[i] >= max(expected[j] for j in left) - 3 * slack,
                    lambda: f"{result.indices} does not follow {expected}")
                left.remove(i)
        if name == "get_conservativebald_batch":
            near = [shared([P[i]], [P[j]]) for i, j in itertools.combinations(given + result.indices,
                2) if j in result.indices]
            want(max(near, default=0) <= float(options.get("threshold", 0.1)) + 3 * slack,
                lambda: f"picks share {max(near)}")
        return
    rows, score = list(P), lambda picks: SETS[name](np.array(rows), Q, options, list(picks))  # noqa: E731
    if not exact: return
    used = score(given) if given else 0.0
    for n, i in enumerate(result.indices, 1):
        got, before = result.scores[n - 1], given + result.indices[: n - 1]
        want(abs(got - (score([*before, i]) - used)) < 20 * slack,
            lambda: f"score {n} is {got}, not {score([*before, i]) - used}")
        if name in ("get_budgetbald_batch", "get_conservativebald_batch"): continue
        best = max(score([*before, j]) for j in range(N) if j not in before)
        want(score([*before, i]) >= best - 20 * slack, lambda: f"pick {n} of {result.indices} has {score([*before, i])}, the best has {best}")
        twins = [j for j in range(i) if j not in before and np.array_equal(rows[i], rows[j])]
        want(not twins, lambda: f"pick {n} of {result.indices} is a copy of {twins}, which come first")


DISAGREEING = ("compute_bald", "compute_mean_std", "compute_epig", "compute_epig_bald", "compute_kbald", "compute_pair_information",
    "compute_kbald_gains")


def identical_samples(spec, P, Q, warned):
    "One warning where no two samples of any point differ, none where some clearly do."
    apart = min(np.ptp(rows, axis=1).max() if isinstance(rows, np.ndarray) else max(np.ptp(row, axis=0).max() for row in rows)
        for rows in (P, Q) if len(rows))
    if spec["K"] == 1 or apart > 1e-5: want(warned == 0, "warned of samples that differ")
    elif apart == 0: want(warned == 1, f"{warned} warnings of identical samples")


def frequencies(spec, arguments, scores):
    "First picks of many draws against their probabilities."
    T, weights = float(arguments.get("temperature", 1 / 8 if "softmax" in spec["call"] else 1 / 4)), DRAWS[spec["call"]]
    w = weights(scores, T)
    p = w / w.sum() if w.sum() > 0 else np.full(len(w), 1 / len(w))
    generator, counts = torch.Generator().manual_seed(spec["seed"]), np.zeros(len(p))
    for _ in range(200): counts[globals()[spec["call"]](scores, 1, temperature=arguments.get("temperature", T),
        generator=generator).indices[0]] += 1
    want((np.abs(counts - 200 * p) <= 5.5 * np.sqrt(200 * p * (1 - p)) + 1).all(),
        lambda: f"drawn {counts}, expected {200 * p}")


def run(spec):
    "One case: nothing, or `Wrong`."
    if spec["call"] in FILES: return FILES[spec["call"]](spec)
    arguments, P, Q, scores, holds = build(spec)
    function, before, world = function_of(spec["call"]), [hold() for hold in holds], outside()
    draws = arguments["generator"].get_state() if isinstance(arguments.get("generator"), torch.Generator) else None
    if "bad" in spec:
        try: result = function(**arguments)
        except ValueError as e:
            message, name = str(e), spec["bad"][0]
            want(f"`{name}`" in message and "\n" not in message and len(message) < 600,
                f"does not name `{name}`: {message[:200]!r}")
            if draws is not None: want(torch.equal(arguments["generator"].get_state(), draws),
                "a refusal moved the generator on")
        except Exception as e: raise Wrong(f"{type(e).__name__}: {' '.join(str(e).split())[:200]}") from e
        else: raise Wrong(f"taken: {str(flat(result))[:100]}")
    else:
        said = []
        try:
            with listening(lambda message, category, stacklevel: said.append(category)): result = function(**arguments)
        except Exception as e: raise Wrong(f"{type(e).__name__}: {' '.join(str(e).split())[:300]}") from e
        if spec["call"] in (*OWN, *SETS, *DISAGREEING): identical_samples(spec, P, Q, said.count(IdenticalSamplesWarning))
        if draws is not None: arguments["generator"].set_state(draws)
        check(spec, result, P, Q, scores, arguments)
        again = function(**arguments)
        want(flat(again) == flat(result), lambda: f"not the same twice: {flat(result)}, {flat(again)}")
        if spec["call"] in ("get_softmax_batch", "get_power_batch") and 1e-3 < float(min(arguments.get("temperature",
            1), 10**9)) < 40 and spec["seed"] % 10 == 0 and not spec["given"]: frequencies(spec, arguments, scores)
    want(before == [hold() for hold in holds], "arguments were changed")
    want(world == outside(), "random state, warnings or defaults were changed")


# Both commands and the record files


def command(script, *args, process=False):
    "Status, what was printed, and what was said: within this process, or as one of its own."
    args = [str(a) for a in args]
    if process:
        done = subprocess.run([Path(sys.executable).parent / script, *args], capture_output=True, text=True,
            timeout=120, stdin=subprocess.DEVNULL)
        return done.returncode, done.stdout, done.stderr
    out, err, status, before = io.StringIO(), io.StringIO(), 0, sys.argv
    sys.argv = [script, *args]
    with redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
        try: getattr(command_line, script)()
        except SystemExit as e: status = e.code
    sys.argv = before
    return status, out.getvalue(), err.getvalue()


def listing(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def refused(script, got, before, folder):
    status, out, err = got
    want(status == 2 and not out and err.count("\n") == 1 and err.startswith(f"{script}: "),
        lambda: f"status {status}, {out[-200:]!r}, {err[-300:]!r}")
    want(listing(folder) == before, "something was written")


BAD_OPTIONS = ["--size -1", "--configs 0", "--method magic", "--method softmaxbald@-1", "--method softmaxbald@x",
    "--kind odds", "--pending pending.txt", "--pending none.txt", "--ids pending.txt", "--evaluation p.npy",
               "--method epig --evaluation none.npy", "--out picks.txt", "--out none/picks.json",
                   "--out p.npy"]  # fmt: skip
BAD_FILES = [b"", b"\x93NUMPY", b"PK\x03\x04", b"text", b"\x80\x04N.", b"[" * 100_000, "cut", "nan", "flat", "probs",
    "whole", "none"]
BAD_RUNS = ["--trials 0", "--size 0", "--samples 0", "--configs 0", "--budget 1", "--budget 10000000", "--repeats 0",
    "--noise -1", "--noise nan", "--noise inf", "--seed -1", "--steps 0", "--test_samples 0",
            "--methods magic", "--methods bald,bald", "--dataset none", "--preset none", "--device abacus",
                "--initial -1", "--initial paper", "--initial 1000", "--validation -1", "--validation 100000",
                "--together 0"]  # fmt: skip


def select(spec):
    "`batchbald_select` on a file."
    folder, rng = Path(tempfile.mkdtemp(dir=FOLDER)), random.Random(spec["seed"])
    probs, kind = make_probs(np.random.default_rng(spec["seed"]), spec["make"], spec["N"], spec["K"],
        spec["C"]), spec["options"]["kind"]
    x = torch.from_numpy(probs) if kind == "probs" else torch.from_numpy(probs).log() + (2.5 if kind == "logits" else 0)
    file = folder / f"p.{spec['options']['format']}"
    if file.suffix == ".pt": torch.save(x, file)
    else: np.save(file, x.numpy()) if file.suffix == ".npy" else np.savez(file, x=x.numpy())
    (folder / "pending.txt").write_text("".join(f"{i}\n" for i in spec["given"]) if "bad" not in spec else "x\nx\n")
    args, here = [file, "--kind", kind, "--method", spec["options"]["method"], "--size", spec["B"], "--configs", 20,
        "--seed", spec["seed"]], os.getcwd()
    os.chdir(folder)
    try:
        if "bad" in spec:
            wrong = spec["bad"]
            if isinstance(wrong, str) and wrong.startswith("--"): args += wrong.split()
            else: spoil(file, wrong, x)
            before = listing(folder)
            return refused("batchbald_select", command("batchbald_select", *args, process=spec["options"]["process"]),
                before, folder)
        status, out, err = command("batchbald_select", *args, "--pending", "pending.txt", "--out", "picks.json",
            process=spec["options"]["process"])
        want(status == 0 and out.count("\n") >= 2 and "Traceback" not in err, lambda: f"status {status}: {err[-300:]}")
        picks = json.loads((folder / "picks.json").read_text())["picks"]
        log_probs = as_log_probs(x, kind)
        direct = get_method(spec["options"]["method"])(Round(spec["B"], len(x), lambda i: log_probs,
            generator=derive_generator(spec["seed"], "select"), pending=spec["given"], num_samples=20))
        want([(p["position"], p["score"]) for p in picks] == list(zip(direct.indices, direct.scores)),
            lambda: f"{picks}, not {direct}")
        want(not set(direct.indices) & set(spec["given"]), "a given point was picked")
    finally:
        os.chdir(here)
        shutil.rmtree(folder)


def spoil(file, wrong, x):
    data = file.read_bytes()
    changed = {"nan": x * math.nan, "flat": x[0], "probs": x.exp() + 1,
        "whole": x.long()}.get(wrong) if isinstance(wrong, str) else None
    if changed is not None and file.suffix == ".npy": np.save(file, changed.numpy())
    elif changed is not None and file.suffix == ".npz": np.savez(file, x=changed.numpy())
    elif changed is not None: torch.save(changed, file)
    elif wrong == "none": file.unlink()
    else: file.write_bytes(data[: len(data) // 2] if wrong == "cut" else wrong)


TINY = "--dataset digits --methods random,bald --trials 1 --size 2 --samples 2 --configs 5 --budget 26 --repeats 1 --validation 0 --steps 2 --test_samples 2".split()


def timeless(data):
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in data.decode("utf-8-sig").splitlines()]


def finished():
    "A small run that nobody disturbed, made once."
    folder = FOLDER / "run"
    if not folder.exists():
        experiments.plot_learning_curves = lambda *_: type("Picture", (), {"savefig": staticmethod(lambda path,
            dpi: Path(path).write_bytes(b"picture"))})  # slow, and not what is tried here
        want(command("batchbald_compare", *tiny(folder))[0] == 0, "the undisturbed run failed")
    return folder


def tiny(folder): return [*TINY, "--out", folder]


def change(line, rng):
    "One field of a record as it cannot be."
    row = json.loads(line)
    key = rng.choice(list(row))
    wrong = rng.choice([None, math.nan, math.inf, "text", -1, 10**30, [], {}, True, [None], 0.5])
    if type(wrong) is type(row[key]) or key == "seconds" and wrong == {} or isinstance(row[key],
        (int, float)) and isinstance(wrong, (int, float)) and key in ("accuracy", "nll"): wrong = None
    if rng.random() < 0.2: del row[key]
    else: row[key] = wrong
    return json.dumps(row).encode()


def mutate(data, name, rng):
    "A file of records or a description that was torn, mixed up, or written by something else."
    lines = data.split(b"\n")
    at, i, j = rng.randrange(len(data)), rng.randrange(max(1, len(lines) - 1)), rng.randrange(max(1, len(lines) - 1))
    ways = [lambda: data[:at], lambda: data + b"x", lambda: b"[" * 200_000 + b"\n" + data,
        lambda: data[:at] + b"\0" + data[at:], lambda: b"\xef\xbb\xbf" + data, lambda: b"\n" + data,
        lambda: data + data, lambda: b"",
            lambda: data[:at] + b"\n" + data[at:], lambda: data.replace(b"\n", b"\r\n")]  # fmt: skip
    if name == "records.jsonl":
        ways += [lambda: b"\n".join([*lines[:i], *lines[i + 1 :]]), lambda: b"\n".join([*lines[:i], lines[j],
            *lines[i:]])] + 6 * [lambda: b"\n".join([*lines[:i], change(lines[i], rng), *lines[i + 1 :]])]
    else:
        ways += [lambda: data.replace(b'"seed": 0', b'"seed": 1'), lambda: b"null\n", lambda: b"[]\n",
            lambda: b'{"options": null, "machine": {}}', lambda: data.replace(b"26", b"null")]
    return rng.choice(ways)()


def records(spec):
    "`batchbald_compare --resume` after something happened to a file: refused and left alone, or the result of the run that nobody disturbed."
    whole, folder, rng = finished(), Path(tempfile.mkdtemp(dir=FOLDER)) / "run", random.Random(spec["seed"])
    try:
        shutil.copytree(whole, folder)
        if spec["options"].get("options"):
            shutil.rmtree(folder)
            args = [*tiny(folder), *spec["options"]["options"].split()]
            return refused("batchbald_compare", command("batchbald_compare", *args, process=spec["options"]["process"]),
                {}, folder.parent)
        file = folder / spec["options"]["file"]
        data = file.read_bytes()
        if "bad" in spec: file.write_bytes(mutate(data, file.name, rng))
        else: file.write_bytes(data[: rng.randrange(len(data) + 1)])  # torn while it was written
        before = listing(folder)
        status, out, err = command("batchbald_compare", *tiny(folder), "--resume", process=spec["options"]["process"])
        if status == 0:
            want(timeless((folder / "records.jsonl").read_bytes()) == timeless((whole / "records.jsonl").read_bytes()),
                "taken, and the result is another one")
        else:
            want("bad" in spec, f"refused: {err[-300:]}")
            refused("batchbald_compare", (status, out, err.splitlines(keepends=True)[-1] if err else ""), before,
                folder)
            want("Traceback" not in err, err[-300:])
    finally:
        shutil.rmtree(folder.parent)


FILES = {"select": select, "records": records}


def draw_files(rng, kind):
    process = rng.random() < 0.02
    if rng.random() < 0.6:
        spec = {"call": "select", "N": rng.choice([1, 2, 5]), "K": rng.choice([1, 2, 4]), "C": rng.choice([2, 3]),
            "B": rng.choice([0, 1, 3, 9]), "seed": rng.randrange(1000), "make": rng.choice(MAKES), "given": []}
        spec["given"] = [rng.randrange(spec["N"]) for _ in range(rng.randrange(3))]
        spec["options"] = {"format": rng.choice(["npy", "npz", "pt"]), "kind": rng.choice(["log_probs", "probs",
            "logits"]), "method": rng.choice([*methods, "softmaxbald@0.3"]), "process": process}
        if kind == "invalid": spec["bad"] = rng.choice([wrong for wrong in [*BAD_OPTIONS,
            *BAD_FILES] if wrong != "probs" or spec["options"]["kind"] != "logits"])
        return spec
    options = {"process": process, "file": "records.jsonl" if kind == "valid" else rng.choice(["records.jsonl",
        "records.jsonl", "run.json"])}
    if kind == "invalid" and rng.random() < 0.3: options["options"] = rng.choice(BAD_RUNS)
    return {"call": "records", "seed": rng.randrange(10**6), "options": options} | ({"bad": "file"} if kind == "invalid" else {})


# Running, and making small


def make_case(seed, number, kind):
    rng = random.Random(f"{seed} {number} {kind}")
    return draw_files(rng, kind) if rng.random() < 0.03 else draw(rng, kind)


def attempt(spec, seconds=10):
    "What was wrong, in words, or None."
    def stop(*_): raise TooSlow

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 12 * seconds if spec["call"] in FILES else seconds)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run(spec)
    except Wrong as e: return str(e)
    except Exception as e: return f"{type(e).__name__}: {' '.join(str(e).split())[:200]}"
    except TooSlow: return f"took longer than {seconds} s"
    finally: signal.setitimer(signal.ITIMER_REAL, 0)


def smaller(spec):
    "Specs with a little less in them."
    for key in ("N", "K", "C", "E", "B"):
        for n in {1, 0, spec.get(key, 0) // 2, spec.get(key, 0) - 1}:
            if n >= {"B": 0, "C": 2}.get(key, 1) and n < spec.get(key, 0): yield spec | {key: n,
                "given": [i for i in spec["given"] if i < n] if key == "N" else spec.get("given", [])}
    for key, plain in (("layout", "plain"), ("dtype", "float64"), ("make", "soft"), ("seed", 0)):
        if spec.get(key, plain) != plain: yield spec | {key: plain}
    for option in spec["options"] if spec["call"] not in FILES else (): yield spec | {"options": {k: v for k,
        v in spec["options"].items() if k != option}}
    for i in spec.get("given", []): yield spec | {"given": [j for j in spec["given"] if j != i]}


def shrink(spec, seconds=20):
    end, found = time.time() + seconds, attempt(spec)
    while time.time() < end:
        for less in smaller(spec):
            if time.time() < end and (message := attempt(less)):
                spec, found = less, message
                break
        else: break
    return spec, found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default, text in (("seconds", 600, "end after this long"), ("cases", 10_000,
        "of each kind, valid and invalid, at most"), ("seed", 0, "of the cases"), ("case", None, "run this one alone")):
        parser.add_argument(f"--{name}", type=int, default=default, help=text)
    parser.add_argument("--kind", default="valid,invalid", help="valid, invalid or both")
    parser.add_argument("--spec", type=ast.literal_eval, help="run this one, as it was printed")
    parser.add_argument("--most", type=int, default=20, help="end after this many violations")
    options = parser.parse_args()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if sys.platform == "linux" else 0
    if used: resource.setrlimit(resource.RLIMIT_AS, (used + 4 * 2**30,) * 2)  # what asks for much more than a case needs fails here
    try:
        finished()  # now, so that no case has to wait for it
        if options.spec:
            print(message := attempt(options.spec))
            return int(message is not None)
        counts, slowest, wrong, end = Counter(), (0, None), Counter(), time.time() + options.seconds
        for number in range(options.cases) if options.case is None else [options.case]:
            for kind in options.kind.split(","):
                spec, start = make_case(options.seed, number, kind), time.time()
                message = attempt(spec)
                slowest = max(slowest, (time.time() - start, f"--case {number} ({kind})"))
                counts[kind, "commands and records" if spec["call"] in FILES else "conversions and draws" if spec["call"] in DRAWS else "scores and joint entropies" if spec["call"] in SCORES else "selectors"] += 1
                if message:
                    fault = spec["call"], kind, message.split(":")[0][:30], str(spec.get("bad"))[:20]
                    wrong[fault] += 1
                    if wrong[fault] == 1:  # each once
                        print(f"--seed {options.seed} --case {number} --kind {kind}: {message}\n  {spec}", flush=True)
                        spec, message = shrink(spec)
                        print(f'  python tests/fuzz.py --spec "{spec}"\n    {message}', flush=True)
            if time.time() > end or len(wrong) >= options.most: break
        for kind, what in sorted(counts): print(f"{counts[kind, what]:7,} {kind:8} {what}")
        print(f"{sum(n for (kind, _), n in counts.items() if kind == 'valid'):7,} valid, {sum(n for (kind, _), n in counts.items() if kind == 'invalid'):,} invalid; {sum(wrong.values())} violations; slowest {slowest[0]:.1f} s, {slowest[1]}")
        return int(bool(wrong))
    finally: shutil.rmtree(FOLDER)


if __name__ == "__main__": sys.exit(main())
