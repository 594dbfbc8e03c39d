"""Record what chapters read: the predictions behind `example_log_probs`, or the clicks of chapter 13.

    python tools/record_examples.py
    python tools/record_examples.py clicks

The first trains the network of the main job on 20 and on 100 digits (seed 0) and writes its predictions on 1,000 others,
under 100 consistent dropout masks, to batchbald_nbdev/data. The second answers 36 questions of the two learners of chapter 13
(seed 0) by the true labels, and writes their file of labels to records/clicks. Each takes some ten seconds on one thread.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from batchbald_nbdev.active_learning import derive_generator, evaluate, make_mlp, make_seeded, train_models
from batchbald_nbdev.collect import collect_log_probs
from batchbald_nbdev.datasets import get_balanced_indices, get_repeated_digits
from batchbald_nbdev.labelling import Labelling

SEED = 0


def record(labels: int, folder: Path) -> None:
    data = get_repeated_digits(repeats=1, noise=0.0, originals=1150, test=500, validation=100, generator=derive_generator(SEED, "data"))
    train = get_balanced_indices(data.pool_labels, labels // 10, generator=derive_generator(SEED, "initial"))
    others = [i for i in range(len(data.pool_labels)) if i not in set(train)][:1000]
    model = make_seeded(make_mlp, derive_generator(SEED, labels, "weights"))
    train_models([model], [data.pool_inputs[train]], [data.pool_labels[train]], [(SEED, labels)])
    log_probs_N_K_C = collect_log_probs(model, data.pool_inputs[others], 100, generator=derive_generator(SEED, labels, "masks"))
    accuracy, nll = evaluate(log_probs_N_K_C, data.pool_labels[others])
    path = folder / f"digits_{labels}.npz"
    np.savez_compressed(path, log_probs_N_K_C=log_probs_N_K_C.half().numpy(), labels_N=data.pool_labels[others].numpy().astype(np.uint8))
    print(f"{path.name}: trained on {labels} digits, accuracy {accuracy:.1%}, negative log-likelihood {nll:.3f}, {path.stat().st_size:,} bytes")


def record_clicks(path: Path, clicks: int = 36) -> None:
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    data = get_repeated_digits()
    start = {i: int(data.pool_labels[i]) for i in get_balanced_indices(data.pool_labels, 2)}
    known = dict(pool_labels=data.pool_labels, test_inputs=data.test_inputs, test_labels=data.test_labels)
    labelling = Labelling(data.pool_inputs, path, image_shape=(8, 8), start=start, seed=SEED, **known)
    for _ in range(clicks):
        labelling.label(int(data.pool_labels[labelling.current]))
        labelling.learn()
    print(f"{path.name}: {len(labelling.clicks)} clicks, {labelling.round} rounds learned, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    root = Path(__file__).resolve().parent.parent
    torch.set_num_threads(1)
    if sys.argv[1:] == ["clicks"]:
        record_clicks(root / "records" / "clicks" / "labels.jsonl")
    else:
        folder = root / "batchbald_nbdev" / "data"
        folder.mkdir(exist_ok=True)
        for labels in (20, 100):
            record(labels, folder)
