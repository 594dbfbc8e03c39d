"""Are designed masks better than independent ones? How far a score, a joint and a batch change from one set of K masks to the next.

    python benchmarks/masks.py [--full]

1. The variance over sets of masks of BALD (mean over points), of the joint information of ten points that BatchBALD chose, and of ten random ones,
   for each design of `collect_log_probs`, on networks trained on 20 labels: one hidden layer and two hidden layers on digits, and the
   convolutional network on MNIST's, with masks of channels and of features.
2. Batches of ten from a pool: how many of two sets' picks are the same, and what a batch is worth, judged by many other masks.
3. Seconds of the processor to draw masks and to collect predictions.

A row is written as soon as it is there, and a run that was stopped goes on where it stopped: rows that the record has are not made again.
Quick: 60 sets of masks for the dense networks, 24 for the convolutional one (some five minutes). Full: more K, and networks trained on 100 labels.
"""

import json
import time
import warnings
from functools import cache, partial
from itertools import combinations

import common
import torch
from torch import Tensor, nn

from batchbald_nbdev.active_learning import derive_generator, make_seeded
from batchbald_nbdev.all import (
    ConsistentDropout,
    WeightedJointEntropy,
    collect_log_probs,
    compute_bald,
    compute_conditional_entropy,
    get_balanced_indices,
    get_batchbald_batch,
    get_repeated_digits,
    load_images,
    make_mlp,
    make_mnist_cnn,
    train_models,
)
from batchbald_nbdev.bayesian_models import dropout_features, dropout_layers
from batchbald_nbdev.mask_designs import DESIGNS, choose_design, draw_masks

ALL, TWO = DESIGNS, ("independent", "orthogonal")
FORMS = {
    "tiny": dict(
        tasks=[("one hidden layer", 20, 6, ALL), ("MNIST CNN", 20, 4, TWO)],
        repeats=(2, 2), picks=(2, 2), points=(2, 2), pool=(22, 22), judges=(8, 8), configs=20, steps=2, timed=1,
    ),
    "quick": dict(
        tasks=[
            ("one hidden layer", 20, 256, ALL), ("MNIST CNN", 20, 256, TWO), ("one hidden layer", 20, 100, TWO), ("two hidden layers", 20, 256, TWO),
            ("one hidden layer", 20, 30, TWO), ("MNIST CNN", 20, 100, TWO), ("one hidden layer", 100, 100, TWO), ("one hidden layer", 20, 10, TWO),
            ("one hidden layer", 100, 30, TWO), ("two hidden layers", 20, 512, TWO),
        ],
        repeats=(60, 24), picks=(8, 4), points=(60, 10), pool=(300, 80), judges=(2_000, 500), configs=1_000, steps=200, timed=5,
    ),
}  # fmt: skip
FULL = [(net, labels, K, ALL) for net in ("one hidden layer", "two hidden layers", "MNIST CNN") for labels in (20, 100) for K in (10, 50, 100, 256, 512, 1_000)]
FORMS["full"] = dict(tasks=FULL, repeats=(60, 30), picks=(12, 12), points=(60, 60), pool=(2_000, 600), judges=(10_000, 4_000), configs=4_000, steps=500, timed=7)


def make_two_layers() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), ConsistentDropout(), nn.Linear(128, 128), nn.ReLU(), ConsistentDropout(), nn.Linear(128, 10))


SIZES = 2, 5, 10, 20
NETWORKS = {"one hidden layer": make_mlp, "two hidden layers": make_two_layers, "MNIST CNN": make_mnist_cnn}


@cache
def get_images(network: str, seed: int, tiny: bool) -> tuple[Tensor, Tensor]:
    "Training images and their classes: digits of 8 x 8, or of MNIST. (The tiny form has the former blown up, and needs no file.)"
    if network == "MNIST CNN" and not tiny:
        images, labels = load_images("mnist5k")[0]
        order = torch.randperm(len(labels), generator=derive_generator(seed, "images"))
        return images[order].float() / 255, labels[order]
    data = get_repeated_digits(repeats=1, noise=0.0, originals=1150, test=500, validation=100, generator=derive_generator(seed, "data"))
    images = data.pool_inputs
    return (nn.functional.interpolate(images.unflatten(1, (1, 8, 8)), 28) if network == "MNIST CNN" else images), data.pool_labels


@cache
def train(network: str, labels: int, pool: int, seed: int, steps: int, tiny: bool) -> tuple[nn.Module, Tensor]:
    "A network trained on some images, and a pool of others."
    images, classes = get_images(network, seed, tiny)
    chosen = get_balanced_indices(classes, labels // 10, generator=derive_generator(seed, "initial"))
    others = torch.ones(len(classes), dtype=torch.bool)
    others[chosen] = False
    model = make_seeded(NETWORKS[network], derive_generator(seed, labels, "weights"))
    train_models([model], [images[chosen]], [classes[chosen]], [(seed, labels)], steps=steps)
    return model, images[others][:pool]


def get_joint(log_probs_B_K_C: Tensor, configs: int) -> float:
    "By one run of the estimator; its own noise is small beside that of the masks."
    joint = WeightedJointEntropy(configs, log_probs_B_K_C.shape[1]).add_variables(log_probs_B_K_C).compute()
    return (joint - compute_conditional_entropy(log_probs_B_K_C).sum()).item()


def spread(values_R_n: Tensor) -> list[float]:
    "For each set its squared distance from the mean over sets, averaged over what was measured; their mean is the variance."
    R = len(values_R_n)
    return [float(f"{v:.4g}") for v in ((values_R_n - values_R_n.mean(0)) ** 2).mean(1) * R / (R - 1)]


def measure_spread(collect, inputs: Tensor, points: int, repeats: int, configs: int) -> dict:
    "`inputs` are points for BALD, ten chosen ones, ten random ones."
    bald, joints = [], []
    for r in range(repeats):
        log_probs_N_K_C = collect(inputs, r)
        bald.append(compute_bald(log_probs_N_K_C[:points]))
        joints.append([get_joint(batch, configs) for batch in log_probs_N_K_C[points:].split(10)])
    joints_R_2 = torch.tensor(joints)
    found = {"bald": torch.stack(bald), "chosen": joints_R_2[:, :1], "random": joints_R_2[:, 1:]}
    return {f"{name}_{what}": value for name, o in found.items() for what, value in (("mean", o.mean().item()), ("spread", spread(o)))}


def measure_picks(collect, judge, pool: Tensor, repeats: int, configs: int) -> dict:
    """Batches of up to 20 from sets of masks. Of the first 2, 5, ... picks: how many two sets have in common, and, for each set, their joint information
    under its own masks, under those of the next set, and under many others."""
    sets = [collect(pool, 1_000 + r) for r in range(repeats)]
    batches = [get_batchbald_batch(log_probs_N_K_C, SIZES[-1], configs) for log_probs_N_K_C in sets]
    shown = sorted({i for batch in batches for i in batch.indices})
    judged = dict(zip(shown, judge(pool[shown])))
    found = {}
    for B in SIZES:
        picks = [batch.indices[:B] for batch in batches]
        same = [len(set(a) & set(b)) for a, b in combinations(picks, 2)]
        found[B] = {
            "same": sum(same) / len(same),
            "reported": [batch.scores[B - 1] for batch in batches],
            "elsewhere": [get_joint(sets[(r + 1) % repeats][o], configs) for r, o in enumerate(picks)],
            "worth": [get_joint(torch.stack([judged[i] for i in o]), configs) for o in picks],
        }
    return {"batches": found}


def measure_seconds(model: nn.Module, pool: Tensor, K: int, designs: list[str], repeats: int) -> dict[str, dict]:
    "Seconds of the processor, the shortest of some calls in turn, to draw K masks and to predict 100 inputs under them."
    features, taken = dropout_features(model, {}, pool[:1]), {}
    def draw(design): draw_masks(dropout_layers(model), features, K, derive_generator(0), design)
    def collect(design): collect_log_probs(model, pool[:100], K, masks=design)
    for _ in range(repeats):
        for design in designs:
            for part in (draw, collect):
                begun = time.process_time()
                part(design)
                taken.setdefault((design, part.__name__), []).append(time.process_time() - begun)
    return {o: {f"{part}_seconds": min(taken[o, part]) for part in ("draw", "collect")} for o in designs}


def measure_design(args, form: dict, network: str, labels: int, K: int, design: str) -> dict:
    cnn, configs = network == "MNIST CNN", form["configs"]
    repeats, picks, points, judges = (form[key][cnn] for key in ("repeats", "picks", "points", "judges"))
    model, pool = train(network, labels, form["pool"][cnn], args.seed, form["steps"], args.form == "tiny")
    reference = collect_log_probs(model, pool, min(K, 200), generator=derive_generator(args.seed, "reference"))
    chosen = get_batchbald_batch(reference, 10, configs).indices
    random = torch.randperm(len(pool), generator=derive_generator(args.seed, "random"))[: points + 10].tolist()
    def collect(x, r): return collect_log_probs(model, x, K, masks=design, generator=derive_generator(args.seed, network, labels, K, design, r))
    def judge(x): return collect_log_probs(model, x, judges, generator=derive_generator(args.seed, "judges"))
    row = measure_spread(collect, pool[random[10:] + chosen + random[:10]], points, repeats, configs)
    row |= measure_picks(collect, judge, pool, picks, configs)
    F = sum(mask[0].numel() for mask in draw_masks(dropout_layers(model), dropout_features(model, {}, pool[:1]), 1, derive_generator(0)).values())
    return {"features": F, "array": list(choose_design(K, F)), "N": len(pool), **row}


def show(rows: list[dict]) -> None:
    def mean(values): return sum(values) / len(values)
    table = []
    for row in rows:
        first = next(o for o in rows if all(o[k] == row[k] for k in ("network", "labels", "K")) and o["design"] == "independent")
        ratios = [f"{mean(first[f'{name}_spread']) / max(mean(row[f'{name}_spread']), 1e-12):.2f}" for name in ("bald", "chosen", "random")]
        ten = {int(B): o for B, o in row["batches"].items()}[10]
        worth = torch.tensor(ten["worth"])
        told = [f"{ten['same']:.1f}", f"{worth.mean():.3f} +- {worth.std() / len(worth) ** 0.5:.3f}", f"{mean(ten['reported']):.2f}"]
        seconds = [f"{1e3 * row[k]:.1f}" for k in ("draw_seconds", "collect_seconds")]
        table.append([row["network"], row["labels"], row["K"], row["design"], *ratios, *told, *seconds])
    header = ["network", "labels", "K", "masks", "BALD: variance of independent over this", "joint of ten chosen", "of ten random", "same picks", "worth", "reported", "draw, CPU ms", "collect, CPU ms"]
    common.print_table(header, table)


def read_rows(args, form: dict) -> list[dict]:
    "Rows of a run that was stopped, if it was the same one."
    if not args.out.exists():
        return []
    record = json.loads(args.out.read_text())
    same = record.get("seed") == args.seed and all(record.get(k) == json.loads(json.dumps(v)) for k, v in form.items() if k not in ("tasks", "timed"))
    return record["rows"] if same else []


def main(argv: list[str] | None = None) -> None:
    args = common.parse("masks", __doc__, argv, {"tiny": 60, "quick": 10_000, "full": 100_000})
    common.ignore_ceiling()
    warnings.filterwarnings("ignore", message=".*standard error")
    form, start = FORMS[args.form], time.perf_counter()
    facts = {k: v for k, v in form.items() if k != "tasks"}
    rows = read_rows(args, form)
    for network, labels, K, designs in form["tasks"]:
        def found(): return {o["design"]: o for o in rows if (o["network"], o["labels"], o["K"]) == (network, labels, K)}

        for design in designs:
            if design in found() or time.perf_counter() - start > args.limit:
                continue
            begun = time.perf_counter()
            row = measure_design(args, form, network, labels, K, design)
            rows.append({"network": network, "labels": labels, "K": K, "design": design, **row, "seconds": time.perf_counter() - begun})
            common.save_record(args, common.make_record(args, rows, **facts))
            common.say(f"{network}, {labels} labels, K = {K}, {design}: {time.perf_counter() - begun:.0f} s")
        if any("collect_seconds" not in row for row in found().values()):
            model, pool = train(network, labels, form["pool"][network == "MNIST CNN"], args.seed, form["steps"], args.form == "tiny")
            seconds = measure_seconds(model, pool, K, list(found()), form["timed"])
            for design, row in found().items():
                row.update(seconds[design])
    rows = [row for row in rows if "collect_seconds" in row]
    show(rows)
    common.write_record(args, rows, **facts)


if __name__ == "__main__":
    main()
