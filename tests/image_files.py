"Small image sets in the formats in which they are published, with what is in them."
import gzip, hashlib, pickle, struct, tarfile, zipfile

import numpy as np

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def idx(array):
    "Bytes of an idx-ubyte file: two zeros, the type (8: unsigned byte), the number of axes, sizes in big-endian order, the data."
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()


FIRST_LABELS = {"MNIST": (5, 0, 4, 1, 9, 2, 1, 3, 1, 4), "FashionMNIST": (9, 0, 0, 3, 0, 2, 7, 2, 5, 5)}  # as published


def md5(path): return hashlib.md5(path.read_bytes()).hexdigest()


def images(n, side=28, classes=10, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    labels[:2] = 0, classes - 1
    return rng.integers(0, 256, (n, side, side)), labels


def write_mnist(kind, folder, monkeypatch, packed=True, place=None):
    "Four files as they are published, and what is in them."
    raw = place or folder / kind.__name__ / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    sets, sums = [], []
    for prefix, n, seed in (("train", 300, 0), ("t10k", 40, 1)):  # 300: more than one byte holds
        x, y = images(n, seed=seed)
        if prefix == "train": y[:10] = FIRST_LABELS[kind.__name__]
        sets.append((x, y))
        for name, array in ((f"{prefix}-images-idx3-ubyte", x), (f"{prefix}-labels-idx1-ubyte", y)):
            path = raw / (name + ".gz" * packed)
            path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
            sums.append((name + ".gz", md5(path)))
    if packed: monkeypatch.setattr(kind, "resources", sums)
    return sets


def write_full_sizes(place):
    "MNIST and balanced EMNIST with as many images as the real ones, of four pixels each."
    for folder, names, sizes, classes in (
        ("MNIST", ("train-{}-idx{}-ubyte", "t10k-{}-idx{}-ubyte"), (60_000, 10_000), 10),
        ("EMNIST", ("emnist-balanced-train-{}-idx{}-ubyte", "emnist-balanced-test-{}-idx{}-ubyte"), (112_800, 18_800), 47),
    ):
        (place / folder / "raw").mkdir(parents=True)
        for name, n in zip(names, sizes):
            x, y = images(n, side=2, classes=classes)
            if folder == "MNIST" and n == 60_000: y[:10] = FIRST_LABELS[folder]
            (place / folder / "raw" / name.format("images", 3)).write_bytes(idx(x))
            (place / folder / "raw" / name.format("labels", 1)).write_bytes(idx(y))


def write_emnist(kind, folder, monkeypatch):
    raw = folder / "EMNIST" / "raw"
    raw.mkdir(parents=True)
    sets = []
    with zipfile.ZipFile(raw / "gzip.zip", "w") as archive:
        for split, n, seed in (("train", 94, 0), ("test", 47, 1)):
            upright, labels = images(n, classes=47, seed=seed)
            sets.append((upright, labels))
            archive.writestr(f"gzip/emnist-balanced-{split}-images-idx3-ubyte.gz", gzip.compress(idx(upright.transpose(0, 2, 1))))
            archive.writestr(f"gzip/emnist-balanced-{split}-labels-idx1-ubyte.gz", gzip.compress(idx(labels)))
            archive.writestr(f"gzip/emnist-letters-{split}-labels-idx1-ubyte.gz", gzip.compress(idx(labels + 1)))  # other splits lie beside it
    monkeypatch.setattr(kind, "md5", md5(raw / "gzip.zip"))
    return sets


def write_cifar10(kind, folder, monkeypatch, tmp_path):
    "Pickles of rows with 1,024 red, 1,024 green and 1,024 blue values, in an archive."
    made = tmp_path / "cifar-10-batches-py"
    made.mkdir()
    sets, sums = [], {}
    rng = np.random.default_rng(0)
    for names in ([f"data_batch_{i}" for i in range(1, 6)], ["test_batch"]):
        parts = []
        for name in names:
            x, y = rng.integers(0, 256, (7, 3, 32, 32)).astype(np.uint8), rng.integers(0, 10, 7)
            (made / name).write_bytes(pickle.dumps({"batch_label": name, "labels": y.tolist(), "data": x.reshape(7, 3072), "filenames": ["x.png"] * 7}, protocol=2))
            sums[name] = md5(made / name)
            parts.append((x, y))
        sets.append(tuple(map(np.concatenate, zip(*parts))))
    (made / "batches.meta").write_bytes(pickle.dumps({"label_names": CLASSES, "num_cases_per_batch": 7, "num_vis": 3072}, protocol=2))
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / "cifar-10-python.tar.gz", "w:gz") as archive: archive.add(made, "cifar-10-batches-py")
    monkeypatch.setattr(kind, "train_list", [[o, sums[o]] for o in sums if o != "test_batch"])
    monkeypatch.setattr(kind, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": md5(made / "batches.meta")})
    monkeypatch.setattr(kind, "tgz_md5", md5(folder / "cifar-10-python.tar.gz"))
    return sets


def write_cinic10(folder):
    "PNG files in train/CLASS and so on; the images of each split, by class and then by name."
    from PIL import Image

    rng, sets = np.random.default_rng(0), {}
    for split, n in (("train", 2), ("valid", 1), ("test", 1)):
        x, y = [], []
        for c, name in enumerate(CLASSES):
            (folder / "CINIC-10" / split / name).mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / "CINIC-10" / split / name / f"cifar10-train-{i}.png")
                x.append(pixels.transpose(2, 0, 1))
                y.append(c)
        sets[split] = np.stack(x), np.array(y)
    return [tuple(map(np.concatenate, zip(sets["train"], sets["valid"]))), sets["test"]]
