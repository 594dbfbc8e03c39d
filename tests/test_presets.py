"The papers' experiments by name: what each preset asks for, and each of them from small files in the real formats to its records."
import json
import shlex
import sys
from dataclasses import replace

import pytest
import torch
from fastcore.script import anno_parser

from batchbald_nbdev import active_learning, command_line, experiments
from batchbald_nbdev.active_learning import derive_generator, run_trials
from batchbald_nbdev.networks import make_cinic10_vgg
from batchbald_nbdev.datasets import get_repeated_digits, mnist_initial_indices
from batchbald_nbdev.experiments import presets
from batchbald_nbdev.image_sets import image_sets
from batchbald_nbdev.methods import get_method, label_of_method, methods as named
from batchbald_nbdev.plots import _styles_of, plot_learning_curves
from image_files import idx, images, write_cifar10, write_cinic10, write_emnist, write_full_sizes, write_mnist

# By hand, from the papers and the settings that their code records:
# data set, copies, noise, methods, trials, acquisition size, K, K to measure, labels at the end, initial, validation images, (most epochs, images in each, batch)
MNIST, REPEATED, CIFAR10 = (30, 5_056, 64), (40, 5_056, 64), (120, 5_056, 128)
TABLE = {
    "repeated_mnist": ("mnist", 3, 0.1, "random bald batchbald varratios meanstd", 6, 10, 10, 10, 20 + 300, "paper", 3_072, REPEATED),
    "repeated_mnist_x2": ("mnist", 2, 0.1, "random bald batchbald", 6, 10, 10, 10, 20 + 300, "paper", 3_072, REPEATED),
    "repeated_mnist_x4": ("mnist", 4, 0.1, "random bald batchbald", 6, 10, 10, 10, 20 + 300, "paper", 3_072, REPEATED),
    "repeated_mnist_x5": ("mnist", 5, 0.1, "random bald batchbald", 6, 10, 10, 10, 20 + 300, "paper", 3_072, REPEATED),
    "mnist_size_1": ("mnist", 1, 0, "bald", 6, 1, 100, 100, 20 + 300, "paper", 1_024, MNIST),
    "mnist_size_5": ("mnist", 1, 0, "bald batchbald 2bald", 6, 5, 100, 100, 20 + 300, "paper", 1_024, MNIST),
    "mnist_size_10": ("mnist", 1, 0, "bald batchbald 2bald", 6, 10, 100, 100, 20 + 300, "paper", 1_024, MNIST),
    "mnist_size_20": ("mnist", 1, 0, "bald batchbald 2bald", 6, 20, 100, 100, 20 + 300, "paper", 1_024, MNIST),
    "mnist_size_40": ("mnist", 1, 0, "bald batchbald 2bald", 6, 40, 100, 100, 20 + 300, "paper", 1_024, MNIST),
    "mnist_k_10": ("mnist", 1, 0, "bald batchbald 2bald", 6, 10, 10, 10, 20 + 300, "paper", 1_024, MNIST),
    "mnist_k_20": ("mnist", 1, 0, "bald batchbald 2bald", 6, 10, 20, 20, 20 + 300, "paper", 1_024, MNIST),
    "mnist_k_50": ("mnist", 1, 0, "bald batchbald 2bald", 6, 10, 50, 50, 20 + 300, "paper", 1_024, MNIST),
    "mnist_k_100": ("mnist", 1, 0, "bald batchbald 2bald", 6, 10, 100, 100, 20 + 300, "paper", 1_024, MNIST),
    "emnist": ("emnist", 1, 0, "random bald batchbald", 6, 5, 10, 10, 300, 0, 18_800, (40, 20_224, 64)),
    "cinic10": ("cinic10", 1, 0, "bald batchbald", 7, 10, 50, 50, 200 + 1_200, 20, 20_000, (25, 15_360, 128)),
    "stochastic_mnist_x2": ("mnist", 2, 0.1, "bald epigbald batchbald batchepigbald softmaxbald softmaxepig", 5, 10, 100, 100, 20 + 300, "paper", 2_048, REPEATED),
    "softmax_temperatures": (
        "mnist", 2, 0.1, "bald softmaxbald@0.00390625 softmaxbald@0.015625 softmaxbald@0.0625 softmaxbald@0.25 softmaxbald@1 softmaxbald@4 softmaxbald@16 random",
        30, 5, 100, 100, 150, "paper", 2_048, REPEATED,
    ),
    "cifar10": ("cifar10", 1, 0, "random bald softmaxbald", 30, 2_500, 100, 100, 20_000, 500, 5_000, CIFAR10),
}
DIGITS, PAIRS = ("repeated_digits", "digits"), ("digit_pairs", "repeated_digit_pairs")
ALL = "random bald batchbald 2bald softmaxbald powerbald"  # after RepeatedMNIST, on images that need no download; the last number: originals
OURS = {
    "repeated_mnist5k": ("mnist5k", 3, 0.1, ALL, 3, 10, 10, 10, 200, 2, 500, 0),
    "mnist5k": ("mnist5k", 1, 0, ALL, 3, 10, 10, 10, 200, 2, 500, 0),
    "repeated_mnist5k_k_100": ("mnist5k", 3, 0.1, "batchbald", 3, 10, 100, 10, 200, 2, 500, 0),
    "repeated_fashionmnist": ("fashionmnist", 3, 0.1, "random bald batchbald", 3, 10, 10, 10, 200, 2, 1_000, 4_000),
}


def change_set(monkeypatch, name, **fields):
    "One registered image set is another for as long as a test lasts."
    monkeypatch.setitem(image_sets, name, replace(image_sets[name], **fields))


def timeless(path):
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in path.read_text().splitlines()]


@pytest.mark.parametrize("name", TABLE)
def test_a_preset_is_what_the_paper_says(name):
    options = presets[name]
    training = image_sets[options["dataset"]].training
    names = ("dataset", "repeats", "noise", "methods", "trials", "size", "samples", "test_samples", "budget", "initial", "validation")
    *expected, (epochs, of, batch_size) = TABLE[name]
    assert [options[key].replace(",", " ") if key == "methods" else options[key] for key in names] == expected
    assert (options["configs"], options["seed"], training["minibatch_size"]) == (10_000, 0, batch_size)  # M in section 4
    steps = round(of / batch_size + 1e-9)  # 39.5 for CIFAR-10
    assert (training["epoch_steps"], options["steps"]) == (steps, epochs * steps) or options["dataset"] == "cifar10" and (training["epoch_steps"], options["steps"]) == (40, 120 * 40)
    rate = {"cinic10": 1e-4}.get(options["dataset"], 1e-3)
    assert (training["learning_rate"], training["early_stopping"], training["patience"]) == (rate, "accuracy", 3)


@pytest.mark.parametrize("name", OURS)
def test_presets_after_the_paper_differ_in_the_data_alone(name):
    names = ("dataset", "repeats", "noise", "methods", "trials", "size", "samples", "test_samples", "budget", "initial", "validation", "originals")
    assert [presets[name][key].replace(",", " ") if key == "methods" else presets[name][key] for key in names] == [*OURS[name]]
    assert image_sets[presets[name]["dataset"]].training == image_sets["mnist"].training
    paper = presets["repeated_mnist"]
    assert all(presets[name][key] == paper[key] for key in ("size", "configs", "steps", "test_samples", "seed"))


def test_every_preset_is_in_the_table_and_has_options_that_are_valid():
    assert set(presets) == {*TABLE, *OURS, *DIGITS, *PAIRS} and not any(presets[name]["originals"] for name in (*TABLE, *DIGITS))
    for name, options in presets.items():
        assert list(options) == list(presets["repeated_digits"])
        checked = experiments._check_options(options)
        assert checked == options | {"methods": options["methods"].split(",")}
        for method in checked["methods"]: get_method(method)
    assert len({id(options) for options in presets.values()}) == len(presets)


@pytest.mark.parametrize("name, outputs", [
    ("mnist", 10), ("mnist5k", 10), ("fashionmnist", 10), ("emnist", 47), ("cifar10", 10), ("cinic10", 10),
])  # fmt: skip
def test_the_network_of_a_data_set_fits_its_images(name, outputs):
    if name.startswith("c"): pytest.importorskip("torchvision")
    known = image_sets[name]
    assert known.shape == {"c": (3, 32, 32)}.get(name[0], (1, 28, 28)) and known.num_classes == outputs
    assert known.network().eval()(torch.zeros(2, *known.shape)).shape == (2, outputs)


# From files to records


def write_weights(home):
    "What torchvision would have downloaded for VGG-16, of random numbers."
    folder = home / ".cache/torch/hub/checkpoints"
    folder.mkdir(parents=True)
    features = make_cinic10_vgg()[0].state_dict()
    torch.save({f"features.{name}": x for name, x in features.items()} | {"classifier.0.bias": torch.zeros(1)}, folder / "vgg16_bn-6c64b313.pth")
    return features


@pytest.fixture
def write_files(torchvision, monkeypatch, tmp_path):
    "Writes a small image set in its real format; says where."
    monkeypatch.delenv("TORCH_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def write(name):
        folder = tmp_path / "files"
        if name == "mnist": write_mnist(torchvision.MNIST, folder, monkeypatch)
        if name == "emnist": write_emnist(torchvision.EMNIST, folder, monkeypatch)
        if name == "cifar10": write_cifar10(torchvision.CIFAR10, folder, monkeypatch, tmp_path)
        if name == "cinic10":
            write_cinic10(folder)
            write_weights(tmp_path / "home")
        if name.startswith("c"):  # the large networks: fewer images in a step
            change_set(monkeypatch, name, training=image_sets[name].training | {"minibatch_size": 3})
        return folder

    return write


def tiny(name):
    "Options that make a preset small: two rounds, one step of training in each."
    few = "--trials 1 --samples 2 --test_samples 2 --configs 8 --steps 1 --size 3 --validation 12".split()
    return [*few, "--budget", 5] if presets[name]["initial"] == 0 else [*few, "--initial", 1, "--budget", 14]


def test_fashionmnist_runs_from_debian_s_files_alone(torchvision, monkeypatch, tmp_path, call):
    "As somebody types it whose machine has that package and no torchvision."
    place = tmp_path / "usr/share/datasets/fashion-mnist"
    write_mnist(torchvision.FashionMNIST, tmp_path, monkeypatch, place=place)
    monkeypatch.setattr("batchbald_nbdev.image_sets.FASHION_MNIST", place)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    options = ["--dataset", "fashionmnist", "--methods", "batchbald", "--repeats", 2, "--originals", 40, "--out", tmp_path / "out"]
    call("batchbald_compare", *options, *tiny("repeated_fashionmnist"))
    run, records = json.loads((tmp_path / "out/run.json").read_text()), (tmp_path / "out/records.jsonl").read_text().splitlines()
    assert run["options"]["originals"] == 40 and len(records) >= 2
    assert all(n < 80 for record in records for n in json.loads(record)["indices"])  # two copies of 40
    again, _ = call("batchbald_compare", *options, *tiny("repeated_fashionmnist"), "--resume")
    assert (tmp_path / "out/records.jsonl").read_text().splitlines() == records


def test_originals_of_the_digits():
    for originals, found in ((0, 600), (50, 50)):
        datasets, _ = experiments._load_data(presets["digits"] | {"originals": originals, "trials": 2}, None, False)
        assert [len(data.pool_labels) for data in datasets] == [found] * 2


def test_a_record_from_before_there_were_originals_is_gone_on_with(tmp_path, call):
    args = ["--preset", "digits", "--out", tmp_path, *tiny("digits"), "--methods", "random"]
    call("batchbald_compare", *args)
    run = json.loads((tmp_path / "run.json").read_text())
    del run["options"]["originals"]
    (tmp_path / "run.json").write_text(json.dumps(run))
    call("batchbald_compare", *args, "--resume")


@pytest.mark.parametrize("name", ["digit_pairs", "repeated_digit_pairs"])
def test_a_run_with_several_labels_goes_on_after_it_was_torn(name, tmp_path, call):
    args = ["--preset", name, "--out", tmp_path, *tiny(name), "--originals", 120, "--budget", 32]
    call("batchbald_compare", *args)
    lines, expected = (tmp_path / "records.jsonl").read_bytes().splitlines(keepends=True), timeless(tmp_path / "records.jsonl")
    assert all(len(label) == 12 for r in expected for label in r["classes"]) and len(expected) > 4
    (tmp_path / "records.jsonl").write_bytes(b"".join(lines[:4]) + lines[4][:50])
    call("batchbald_compare", *args, "--resume")
    assert timeless(tmp_path / "records.jsonl") == expected


PLAIN = ("repeated_mnist", "emnist")


@pytest.mark.parametrize("name", [name if name in PLAIN else pytest.param(name, marks=pytest.mark.slow) for name in TABLE])
def test_a_preset_runs_from_files_to_records(name, write_files, tmp_path, call):
    options, out = presets[name], tmp_path / "out"
    args = ["--preset", name, "--data", write_files(options["dataset"]), "--out", out, *tiny(name)]
    printed, _ = call("batchbald_compare", *args)
    assert sorted(p.name for p in out.iterdir()) == ["learning_curves.png", "records.jsonl", "run.json", "summary.csv"] and str(out) in printed
    records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    methods, first = options["methods"].split(","), records[0]["labels"]
    assert [r["method"] for r in records[: len(methods)]] == methods and {r["dataset"] for r in records} == {options["dataset"]}
    assert first == 0 if name == "emnist" else 7 <= first <= 10  # one of each class that is there
    assert {r["labels"] for r in records} == {first, *range(first + 3, records[-1]["labels"], 3), records[-1]["labels"]} and records[-1]["labels"] == (5 if name == "emnist" else 14)
    run = json.loads((out / "run.json").read_text())
    assert run["options"] == options | {"methods": methods, "trials": 1, "samples": 2, "test_samples": 2, "configs": 8, "steps": 1, "size": 3, "validation": 12,
                                        "initial": 0 if name == "emnist" else 1, "budget": 5 if name == "emnist" else 14}
    known = image_sets[options["dataset"]]
    assert run["training"]["learning_rate"] == known.training["learning_rate"] and "network" not in run["training"]
    # Resumed after the first round and a torn second one
    if name in PLAIN or name == "cifar10":
        lines, expected = (out / "records.jsonl").read_bytes().splitlines(keepends=True), timeless(out / "records.jsonl")
        (out / "records.jsonl").write_bytes(b"".join(lines[: len(methods)]) + lines[len(methods)][:50])
        call("batchbald_compare", *args, "--resume")
        assert timeless(out / "records.jsonl") == expected


def test_the_paper_s_initial_images_are_where_a_run_starts(write_files, monkeypatch, tmp_path, call):
    where = tuple(range(250, 210, -2))  # in place of the real ones: there are 300 images here
    change_set(monkeypatch, "mnist", initial=where)
    seen = []
    monkeypatch.setattr(experiments, "run_trials", lambda datasets, *args, **options: seen.append((datasets, options)) or run_trials(datasets, *args, **options))
    monkeypatch.chdir(tmp_path)
    args = "--preset repeated_mnist_x2 --trials 2 --methods random --samples 2 --test_samples 2 --steps 1 --validation 12 --budget 30".split()
    printed, _ = call("batchbald_compare", *args, "--data", write_files("mnist"))
    (datasets, options), = seen
    assert datasets[0] is datasets[1] and len(datasets) == 2  # one pool, however many trials
    assert datasets[0].pool_originals[options["initial"][0]].tolist() == datasets[0].pool_originals[options["initial"][1]].tolist() == list(where)
    assert len(datasets[0].pool_labels) == 2 * (300 - 12) and len(datasets[0].validation_labels) == 12 and len(datasets[0].test_labels) == 40
    assert {"together": 100, "steps": 1, "samples": 2, "test_samples": 2, "size": 10, "budget": 30, "seed": 0, "minibatch_size": 64, "epoch_steps": 79, "patience": 3}.items() <= options.items()
    records = [json.loads(line) for line in (tmp_path / "results/repeated_mnist_x2/records.jsonl").read_text().splitlines()]
    assert [r["labels"] for r in records] == [20, 20, 30, 30]
    training = json.loads((tmp_path / "results/repeated_mnist_x2/run.json").read_text())["training"]
    assert training == {"minibatch_size": 64, "learning_rate": 1e-3, "epoch_steps": 79, "early_stopping": "accuracy", "patience": 3}  # how many in a stack does not belong to it
    assert not {i for r in records for i in r["indices"]} & set(range(20)) and records[0]["indices"] != records[1]["indices"]


def test_pools_and_validation_sets_have_the_papers_sizes(write_files, monkeypatch, tmp_path):
    "On as many images as the real sets have, of four pixels each."
    write_files("nothing")
    write_full_sizes(tmp_path)
    for name in ("mnist", "emnist"): change_set(monkeypatch, name, shape=(1, 2, 2))
    for name, pool, validation in (("mnist_size_10", 60_000 - 1_024, 1_024), ("repeated_mnist", 3 * (60_000 - 3_072), 3_072), ("repeated_mnist_x5", 5 * (60_000 - 3_072), 3_072)):
        datasets, _ = experiments._load_data(presets[name], tmp_path, False)
        data, initial = datasets[5], experiments._get_initial(presets[name], datasets)
        assert (len(data.pool_labels), len(data.validation_labels), len(data.test_labels), data.num_classes) == (pool, validation, 10_000, 10)
        assert len(initial) == 6 and data.pool_originals[initial[5]].tolist() == list(mnist_initial_indices)
        copies = (data.pool_inputs[: pool // presets[name]["repeats"]] - data.pool_inputs[-pool // presets[name]["repeats"] :]).std().item()
        assert abs(copies - (0 if name == "mnist_size_10" else 0.1 * 2**0.5)) < 0.002
    datasets, _ = experiments._load_data(presets["emnist"], tmp_path, False)
    data = datasets[0]
    assert (len(data.pool_labels), len(data.validation_labels), len(data.test_labels), data.num_classes) == (94_000, 18_800, 18_800, 47)
    assert torch.equal(data.pool_originals, torch.arange(94_000)) and experiments._get_initial(presets["emnist"], datasets) == [[]] * 6
    change_set(monkeypatch, "mnist", first_labels=())
    (tmp_path / "MNIST/raw/train-labels-idx1-ubyte").write_bytes(idx(images(60_000, side=2, classes=3)[1]))
    (tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte").write_bytes(idx(images(10_000, side=2, classes=4)[1]))
    other, _ = experiments._load_data(presets["mnist_size_10"] | {"seed": 1}, tmp_path, False)
    assert other[0].num_classes == 10  # whatever labels there are
    assert not torch.equal(other[0].pool_originals, experiments._load_data(presets["mnist_size_10"], tmp_path, False)[0][0].pool_originals)


# What cannot be


def test_missing_files_are_named_and_nothing_is_written(write_files, monkeypatch, tmp_path, refused):
    def touched(*args, **options): raise AssertionError("went online")
    monkeypatch.setattr(torch.hub, "download_url_to_file", touched)
    monkeypatch.chdir(tmp_path)
    write_files("nothing")
    for name, message in (("repeated_mnist", "train-images-idx3-ubyte.gz"), ("emnist", "gzip.zip"), ("cifar10", "cifar-10-python.tar.gz"), ("cinic10", "CINIC-10.tar.gz")):
        refused("batchbald_compare", "--preset", name, "--data", "nowhere", message=message)
        if name != "cinic10":
            refused("batchbald_compare", "--preset", name, "--data", "nowhere", message="or add --download while online")
            refused("batchbald_compare", "--preset", name, "--data", "nowhere", "--download", message="refused")  # nobody answers
    assert not (tmp_path / "results").exists()
    write_cinic10(tmp_path / "files")
    refused("batchbald_compare", "--preset", "cinic10", "--data", tmp_path / "files", *tiny("cinic10"), message="vgg16_bn-6c64b313.pth into")
    refused("batchbald_compare", "--preset", "cinic10", "--data", tmp_path / "files", *tiny("cinic10"), message="or add --download")
    assert not (tmp_path / "results").exists()


def test_weights_are_downloaded_only_when_asked(write_files, monkeypatch, tmp_path):
    write_files("nothing")
    asked = []
    def download(url, file, *args, **options):
        asked.append(url)
        torch.save({f"features.{name}": x for name, x in make_cinic10_vgg()[0].state_dict().items()}, file)
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(OSError, match="`download` is False.*vgg16_bn.*pth into .*checkpoints, or pass"): make_cinic10_vgg(pretrained=True, download=False)
    assert not asked
    make_cinic10_vgg(pretrained=True)
    assert len(asked) == 1
    features = write_weights(tmp_path / "other")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "other/.cache/torch"))
    assert all(torch.equal(x, features[name]) for name, x in make_cinic10_vgg(pretrained=True, download=False)[0].state_dict().items())
    assert len(asked) == 1


def test_options_that_do_not_fit_are_refused_before_anything_is_written(write_files, monkeypatch, tmp_path, refused):
    monkeypatch.chdir(tmp_path)
    folder = write_files("mnist")
    for args, message in (
        ([], "`initial` is 'paper', whose images go up to position 59305, but there are 300 training images"),
        (["--initial", 1], "`validation` is 3072"), (["--initial", 1, "--validation", 300], "`validation`"), (["--initial", 1, "--validation", 0], "`validation`"),
        (["--initial", 200, "--validation", 12], "`initial` is 200; want at most"), (["--initial", -1], "`initial`"), (["--initial", "two"], "`initial`"),
        (["--initial", 1, "--validation", 12, "--budget", 9], "`budget` is 9; want from 10 (the initial labels) to 864 (the pool)"),
        (["--initial", 1, "--validation", 12, "--budget", 865], "`budget`"), (["--dataset", "emnist"], "`initial` is 'paper'"), (["--dataset", "imagenet"], "`dataset`"),
        (["--samples", 0], "`samples`"), (["--steps", 0], "`steps`"), (["--test_samples", 0], "`test_samples`"), (["--together", 0], "`together`"), (["--device", "abacus"], "`device`"),
        (["--methods", "random,bald@2"], "`methods` has 'bald@2'; want one of"), (["--methods", "softmaxbald@cold"], "`methods`"), (["--methods", ","], "`methods`"), (["--preset", "mnist"], "`preset`"),
    ):
        refused("batchbald_compare", "--preset", "repeated_mnist", "--data", folder, *args, message=message)
    refused("batchbald_compare", "--validation", 1_000, message="`validation` are 600, 500 and 1000")  # of digits
    refused("batchbald_compare", "--initial", 600, message="`initial` is 600; want at most")
    datasets, _ = experiments._load_data(presets["digits"], None, False)
    rarest = [int(data.pool_labels.bincount().min()) for data in datasets]
    assert min(rarest) < max(rarest)  # every trial has a pool of its own, and all of them need enough
    refused("batchbald_compare", "--preset", "digits", "--initial", max(rarest), message=f"want at most {min(rarest)}, as many")
    refused("batchbald_compare", "--initial", "paper", message="the paper's 20 images are MNIST's")
    change_set(monkeypatch, "mnist", shape=(1, 32, 32))
    refused("batchbald_compare", "--preset", "mnist_size_5", "--initial", 1, "--data", folder, message="`dataset`: the images of mnist are (1, 28, 28); want (1, 32, 32)")
    assert not (tmp_path / "results").exists()


# Runs of digits, with what is new


DIGIT_OPTIONS = "--methods random,softmaxbald@0.5 --trials 2 --samples 3 --steps 5 --test_samples 4 --initial 1 --validation 30 --budget 20 --repeats 1".split()


def test_digits_are_what_run_trials_does_by_itself(tmp_path, call):
    "So recorded runs keep their meaning."
    call("batchbald_compare", *"--methods random,batchbald --trials 2 --budget 40 --repeats 2 --samples 5 --configs 7 --seed 3".split(), "--out", tmp_path)
    datasets = [get_repeated_digits(2, 0.1, generator=derive_generator(3, trial, "data")) for trial in range(2)]
    def rows(configs):
        methods = {name: named[name] for name in ("random", "batchbald")}
        return [{k: v for k, v in row.items() if k != "seconds"} for rows in run_trials(datasets, methods, seed=3, budget=40, samples=5, configs=configs) for row in rows]
    assert timeless(tmp_path / "records.jsonl") == rows(7) != rows(1_000)


def test_the_folder_is_named_by_the_preset_unless_it_is_given(monkeypatch, refused):
    seen = []
    def compare(out, **options):
        seen.append(str(out))
        raise ValueError("enough")
    monkeypatch.setattr(command_line, "compare_methods", compare)
    for args in ([], ["--preset", "digits"], ["--preset", "emnist"], ["--preset", "emnist", "--out", "mine"]): refused("batchbald_compare", *args, message="enough")
    assert seen == ["results/digits", "results/digits", "results/emnist", "mine"]


def test_a_figure_says_what_was_run():
    def title(name, **options): return experiments._title(presets[name] | options)
    assert title("repeated_digits") == "Digits, 8 noisy copies of each; acquisition size 10, K = 50, seed 0"
    assert title("digits") == "Digits, 1 noisy copy of each; acquisition size 10, K = 50, seed 0"
    assert title("mnist_size_5", seed=2) == "MNIST; acquisition size 5, K = 100, seed 2"
    assert title("emnist", repeats=2) == "EMNIST, 2 copies of each; acquisition size 5, K = 10, seed 0"


def test_the_recorded_command_asks_for_the_same_run_again(tmp_path, call):
    call("batchbald_compare", *DIGIT_OPTIONS, "--out", tmp_path)
    run = json.loads((tmp_path / "run.json").read_text())
    parsed = vars(anno_parser(command_line.batchbald_compare.__wrapped__, "batchbald_compare").parse_args(shlex.split(run["command"])[1:]))
    assert experiments._check_options({key: parsed[key] for key in presets["digits"]}) == run["options"] and run["training"] == {}
    assert [r["labels"] for r in timeless(tmp_path / "records.jsonl")] == [10] * 4 + [20] * 4


def test_a_run_that_is_older_than_an_option_goes_on(tmp_path, call, refused):
    toy = "--methods random --trials 1 --samples 2 --budget 30 --repeats 1".split()
    call("batchbald_compare", *toy, "--out", tmp_path)
    run = json.loads((tmp_path / "run.json").read_text())
    for key in ("initial", "validation", "steps", "test_samples", "masks", "judge"): del run["options"][key]
    (tmp_path / "run.json").write_text(json.dumps(run))
    before = (tmp_path / "records.jsonl").read_bytes()
    call("batchbald_compare", *toy, "--resume", "--out", tmp_path)
    assert (tmp_path / "records.jsonl").read_bytes() == before
    refused("batchbald_compare", *toy, "--steps", 499, "--resume", "--out", tmp_path, message="steps is 499 and was 500")
    refused("batchbald_compare", *toy, "--masks", "orthogonal", "--resume", "--out", tmp_path, message="masks is 'orthogonal' and was 'independent'")
    refused("batchbald_compare", *toy, "--judge", 30, "--resume", "--out", tmp_path, message="judge is 30 and was 0")


def test_a_run_with_designed_masks(tmp_path, call, refused):
    "They choose and measure by other masks, from the same labels and networks; the run says so and goes on."
    toy = "--methods bald --trials 2 --samples 6 --budget 40 --repeats 1 --steps 20 --test_samples 6".split()
    call("batchbald_compare", *toy, "--out", tmp_path / "independent")
    for masks in ("balanced", "orthogonal"):
        call("batchbald_compare", *toy, "--masks", masks, "--out", tmp_path / masks)
        assert json.loads((tmp_path / masks / "run.json").read_text())["options"]["masks"] == masks
    expected, others = timeless(tmp_path / "orthogonal" / "records.jsonl"), [timeless(tmp_path / o / "records.jsonl") for o in ("independent", "balanced")]
    assert all(rows[0]["nll"] != expected[0]["nll"] for rows in others)
    lines = (tmp_path / "orthogonal" / "records.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "orthogonal" / "records.jsonl").write_bytes(b"".join(lines[:2]))
    call("batchbald_compare", *toy, "--masks", "orthogonal", "--resume", "--out", tmp_path / "orthogonal")
    assert timeless(tmp_path / "orthogonal" / "records.jsonl") == expected
    refused("batchbald_compare", *toy, "--masks", "hadamard", "--out", tmp_path / "new", message="`masks` is 'hadamard'; want one of: independent, balanced, orthogonal")
    assert not (tmp_path / "new").exists()
    assert experiments._title(presets["digits"] | {"masks": "orthogonal"}) == "Digits, 1 noisy copy of each; acquisition size 10, K = 50 orthogonal masks, seed 0"


def test_a_run_with_a_second_look(tmp_path, call, refused):
    "The same records with one field more; the run says so and goes on."
    toy = "--methods random,bald --trials 2 --samples 6 --budget 40 --repeats 1 --steps 20 --test_samples 6".split()
    call("batchbald_compare", *toy, "--out", tmp_path / "plain")
    call("batchbald_compare", *toy, "--judge", 25, "--out", tmp_path / "judged")
    path = tmp_path / "judged" / "records.jsonl"
    judged = timeless(path)
    assert [{k: v for k, v in row.items() if k != "judged"} for row in judged] == timeless(tmp_path / "plain" / "records.jsonl")
    assert all(row["judged"].keys() == {"worth", "error", "at_least"} and (row["judged"]["error"] > 0) == bool(row["indices"]) for row in judged)
    run = json.loads((tmp_path / "judged" / "run.json").read_text())
    assert run["options"]["judge"] == 25 and "--judge 25" in run["command"] and "judged" not in (tmp_path / "plain" / "records.jsonl").read_text()
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:5]))
    call("batchbald_compare", *toy, "--judge", 25, "--resume", "--out", tmp_path / "judged")
    assert timeless(path) == judged
    refused("batchbald_compare", *toy, "--judge", 26, "--resume", "--out", tmp_path / "judged", message="judge is 26 and was 25")
    for few in (1, 19): refused("batchbald_compare", *toy, "--judge", few, "--out", tmp_path / "new", message=f"`judge` is {few}; want 0 for no second look, or 20 parameter samples or more")
    assert not (tmp_path / "new").exists()


def test_smaller_stacks_are_not_another_run(tmp_path, call, monkeypatch):
    call("batchbald_compare", *DIGIT_OPTIONS, "--out", tmp_path)
    expected, stacks = timeless(tmp_path / "records.jsonl"), []
    lines = (tmp_path / "records.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "records.jsonl").write_bytes(b"".join(lines[:4]))
    train_models = active_learning.train_models
    monkeypatch.setattr(active_learning, "train_models", lambda models, *args, **options: stacks.append(len(models)) or train_models(models, *args, **options))
    call("batchbald_compare", *DIGIT_OPTIONS, "--resume", "--together", 3, "--out", tmp_path)
    assert stacks == [3, 1]
    for a, b in zip(timeless(tmp_path / "records.jsonl"), expected, strict=True):
        assert abs(a["nll"] - b["nll"]) < 1e-3 and a["labels"] == b["labels"]


def test_temperatures_are_named_and_drawn_apart():
    names = ["softmaxbald", "softmaxbald@0.25", "softmaxbald@4", "softmaxbald@16", "mine"]
    assert [label_of_method(name) for name in names] == ["SoftmaxBALD", "SoftmaxBALD, T = 0.25", "SoftmaxBALD, T = 4", "SoftmaxBALD, T = 16", "mine"]
    assert len({_styles_of(names)[name] for name in names}) == 5 and _styles_of(["mine"])["mine"] == ("#000000", "-")
    records = [{"method": name, "seed": 0, "trial": 0, "labels": n, "accuracy": 0.5, "distinct": 1} for name in [*names, "bald", "random", "batchbald"] for n in (20, 30)]
    few, many = (plot_learning_curves(records[:n]) for n in (14, 16))
    assert few.axes[0].get_legend() and not few.legends and many.legends and not many.axes[0].get_legend()  # many names do not cover the curves
    assert "SoftmaxBALD, T = 16" in [text.get_text() for text in many.legends[0].get_texts()]
    assert len({line.get_color() for line in many.axes[0].get_lines()[1:5]}) == 4
