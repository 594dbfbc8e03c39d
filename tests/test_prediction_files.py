"What `batchbald_select` reads: the same picks from every kind of file, and one line for what holds no predictions."

import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from batchbald_nbdev.command_line import select_batch
from batchbald_nbdev.datasets import example_log_probs
from batchbald_nbdev.prediction_files import _read_array

X = example_log_probs(20)[:40, :8].double().log_softmax(-1).numpy()
SCRIPTS = Path(sys.executable).parent


def write_parquet(path, columns):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    def lists(x):
        column = pa.array(x.reshape(-1))
        for size in reversed(x.shape[1:]):
            column = pa.FixedSizeListArray.from_arrays(column, size)
        return column

    pq.write_table(pa.table({name: x if isinstance(x, pa.Array) else lists(x) for name, x in columns.items()}), path)


def write_hdf5(path, arrays):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as f:
        for name, x in arrays.items():
            f[name] = x


def write_zarr(path, arrays):
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(str(path), mode="w")
    for name, x in arrays.items():
        group[name] = x


def write_safetensors(path, arrays):
    pytest.importorskip("safetensors.numpy").save_file(arrays, path)


WRITERS = {
    ".parquet": write_parquet,
    ".h5": write_hdf5,
    ".hdf5": write_hdf5,
    ".zarr": write_zarr,
    ".safetensors": write_safetensors,
}


def save_bfloat16(path, x):
    np.save(path, x.astype(pytest.importorskip("ml_dtypes").bfloat16))


SAVERS = {
    "big_endian.npy": (lambda p, x: np.save(p, x.astype(">f8")), 0),
    "big_endian_single.npy": (lambda p, x: np.save(p, x.astype(">f4")), 1e-6),
    "fortran.npy": (lambda p, x: np.save(p, np.asfortranarray(x)), 0),
    "long_double.npy": (lambda p, x: np.save(p, x.astype(np.longdouble)), 0),
    "big_endian_long_double.npy": (
        lambda p, x: np.save(p, x.astype(np.longdouble).astype(np.dtype(np.longdouble).newbyteorder(">"))),
        0,
    ),
    "bfloat16.npy": (save_bfloat16, 2**-8),
    "big_endian.npz": (lambda p, x: np.savez(p, x.astype(">f8")), 0),
    "compressed.npz": (lambda p, x: np.savez_compressed(p, x), 0),
    "plain.pth": (lambda p, x: torch.save(torch.tensor(x), p), 0),
    "parameter.pt": (lambda p, x: torch.save(torch.nn.Parameter(torch.tensor(x)), p), 0),
    "old.pth": (lambda p, x: torch.save(torch.tensor(x), p, _use_new_zipfile_serialization=False), 0),
    **{f"one{ending}": (lambda p, x, write=write: write(p, {"log_probs": x}), 0) for ending, write in WRITERS.items()},
    **{
        f"single{ending}": (lambda p, x, write=write: write(p, {"log_probs": x.astype(np.float32)}), 1e-6)
        for ending, write in WRITERS.items()
    },
}


@pytest.mark.parametrize("name", SAVERS)
def test_the_numbers_and_the_picks_are_those_that_were_saved(tmp_path, call, name):
    save, error = SAVERS[name]
    save(tmp_path / name, X)
    read = _read_array(tmp_path / name)
    assert tuple(read.shape) == X.shape
    np.testing.assert_allclose(
        torch.as_tensor(np.array(read) if isinstance(read, np.ndarray) else read).double().detach().numpy(),
        X,
        rtol=error,
        atol=0,
    )
    np.save(tmp_path / "plain.npy", X)
    expected = select_batch(tmp_path / "plain.npy", method="bald", size=5)
    call(
        "batchbald_select",
        tmp_path / name,
        "--method",
        "bald",
        "--size",
        5,
        "--out",
        tmp_path / "picks.json",
        "--kind",
        "logits" if error > 1e-3 else "log_probs",
    )
    picks = json.loads((tmp_path / "picks.json").read_text())["picks"]
    assert len(picks) == 5 and (
        error > 1e-3 or [row["position"] for row in picks] == [row["position"] for row in expected]
    )


def test_bfloat16_is_what_ml_dtypes_says(tmp_path):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    for x in (np.array([0.0, -0.0, 1.5, -np.inf, 3e38, 1e-40, np.nan]), X):
        np.save(tmp_path / "x.npy", x.astype(bfloat16))
        read = _read_array(tmp_path / "x.npy")
        assert read.dtype == torch.bfloat16
        np.testing.assert_array_equal(read.float().numpy(), x.astype(bfloat16).astype(np.float32))


def test_tensors_of_a_fixed_shape_in_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    write_parquet(tmp_path / "x.parquet", {"x": pa.FixedShapeTensorArray.from_numpy_ndarray(X)})
    np.testing.assert_array_equal(_read_array(tmp_path / "x.parquet"), X)


def test_an_array_of_its_own_in_zarr(tmp_path):
    zarr = pytest.importorskip("zarr")
    zarr.save_array(str(tmp_path / "x.zarr"), X)
    np.testing.assert_array_equal(_read_array(tmp_path / "x.zarr"), X)


@pytest.mark.parametrize("ending", WRITERS)
def test_several_arrays_are_named(tmp_path, refused, ending):
    WRITERS[ending](tmp_path / f"two{ending}", {"probs": X, "logits": X})
    refused("batchbald_select", tmp_path / f"two{ending}", message="holds 2 ")
    refused("batchbald_select", tmp_path / f"two{ending}", message="probs")
    refused("batchbald_select", tmp_path / f"two{ending}", message="logits")
    if ending != ".parquet":
        WRITERS[ending](tmp_path / f"none{ending}", {})
        refused("batchbald_select", tmp_path / f"none{ending}", message="holds 0 ")


def test_groups_in_hdf5(tmp_path, refused):
    write_hdf5(tmp_path / "deep.h5", {"a/b/log_probs": X})
    np.testing.assert_array_equal(_read_array(tmp_path / "deep.h5"), X)
    write_hdf5(tmp_path / "two.h5", {"a/x": X, "b/x": X})
    refused("batchbald_select", tmp_path / "two.h5", message="holds 2 arrays (a/x, b/x); want one")


@pytest.mark.parametrize(
    "ending, library",
    [(".safetensors", "safetensors"), (".parquet", "pyarrow"), (".zarr", "zarr"), (".h5", "h5py"), (".hdf5", "h5py")],
)
def test_a_library_that_is_missing_is_named(tmp_path, refused, monkeypatch, ending, library):
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    (tmp_path / f"x{ending}").write_bytes(b"anything")
    refused(
        "batchbald_select",
        tmp_path / f"x{ending}",
        message=f"is read by the library {library}, which is not installed; pip install {library}",
    )


# Files that hold no predictions


def header(shape, body=b""):
    "A `.npy` file whose header says this shape."
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (63 - (len(text) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body


SHAPES = [
    "(1000000, 1000000, 10)",
    "(-1, 8, 10)",
    "(3, -8, -10)",
    f"({10**30}, 8, 10)",
    f"(-{10**30}, 8, 10)",
    "(3.0, 8, 10)",
    "(True, 8, 10)",
    "('3', 8, 10)",
    "None",
    "[3, 8, 10]",
    "(" * 300 + ")" * 300,
    "()",
    "(240,)",
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape[:24])
def test_headers_that_lie(tmp_path, refused, shape):
    data = header(shape, X[:3].tobytes())
    (tmp_path / "x.npy").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", data)
    for name in ("x.npy", "x.npz"):
        refused("batchbald_select", tmp_path / name, message=f"`predictions`: {tmp_path / name}")
        np.save(tmp_path / "good.npy", X)
        refused(
            "batchbald_select",
            tmp_path / "good.npy",
            "--method",
            "epig",
            "--evaluation",
            tmp_path / name,
            message=f"`evaluation`: {tmp_path / name}",
        )


@pytest.mark.parametrize("ending", [".h5", ".zarr"])
def test_arrays_that_claim_more_than_memory(tmp_path, refused, ending):
    path = tmp_path / f"x{ending}"
    if ending == ".h5":
        with pytest.importorskip("h5py").File(path, "w") as f:
            f.create_dataset("x", (10**6, 10**6, 10), "f8", chunks=(1, 1000, 10))
    else:
        pytest.importorskip("zarr").open_group(str(path), mode="w").create_dataset(
            "x", shape=(10**6, 10**6, 10), dtype="f8", chunks=(1, 1000, 10)
        )
    refused(
        "batchbald_select", path, message="claims an array of 80,000,000,000,000 bytes, more than this machine's memory"
    )


def test_a_tensor_that_repeats_itself_beyond_memory(tmp_path, refused):
    path = tmp_path / "x.pt"
    torch.save(torch.tensor(X[:1, :1]).expand(10**6, 10**6, -1), path)
    refused("batchbald_select", path, message="more than this machine's memory")


def make_code(path):
    class Payload:
        def __reduce__(self):
            return (os.mkdir, (str(path.parent / "pwned"),))

    return Payload()


with_warnings = pytest.mark.filterwarnings("ignore")
TENSORS = {
    "coo": lambda: torch.tensor(X).to_sparse(),
    "csr": lambda: torch.tensor(X[0]).to_sparse_csr(),
    "meta": lambda: torch.empty(3, 2, 2, device="meta"),
    "complex": lambda: torch.tensor(X) + 0j,
    "whole": lambda: torch.ones(3, 2, 2).long(),
    "quantised": lambda: torch.quantize_per_tensor(torch.tensor(X).float(), 0.1, 0, torch.qint8),
    "float8": lambda: torch.tensor(X).to(torch.float8_e4m3fn),
    "nested": lambda: torch.nested.nested_tensor([torch.zeros(2, 2)]),
    "list": lambda: [torch.tensor(X)],
    "number": lambda: 3,
    "nothing": lambda: None,
    "names": lambda: {"probs": torch.tensor(X), "labels": torch.ones(3)},
}


@with_warnings
@pytest.mark.parametrize("ending", [".pt", ".pth"])
@pytest.mark.parametrize("kind", [*TENSORS, "raw pickle", "raw tensor", "code", "torn", "text", "script"])
def test_files_of_pytorch_that_hold_something_else(tmp_path, refused, kind, ending):
    path = tmp_path / f"x{ending}"
    if kind in TENSORS:
        torch.save(TENSORS[kind](), path)
    elif kind == "raw pickle":
        path.write_bytes(pickle.dumps({"a": 1}))
    elif kind == "raw tensor":
        path.write_bytes(pickle.dumps(torch.tensor(X)))
    elif kind == "code":
        path.write_bytes(pickle.dumps(make_code(path)))
    elif kind == "script":
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    elif kind == "text":
        path.write_text("1 2 3\n")
    else:
        torch.save(torch.tensor(X), path)
        path.write_bytes(path.read_bytes()[:-100])
    refused("batchbald_select", path, message=f"`predictions`: {path} ")
    with pytest.raises(ValueError, match="^`predictions`: "):
        select_batch(path)
    if kind == "names":
        with pytest.raises(ValueError, match=r"dict \(probs, labels\); want a single tensor"):
            select_batch(path)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("ending", [".npy", ".npz", *WRITERS])
@pytest.mark.parametrize("kind", ["text", "empty", "torn", "folder"])
def test_files_that_are_something_else(tmp_path, refused, ending, kind):
    path = tmp_path / f"x{ending}"
    if ending in WRITERS:
        WRITERS[ending](tmp_path / f"good{ending}", {"x": X})
    else:
        (np.save if ending == ".npy" else np.savez)(tmp_path / f"good{ending}", X)
    if kind == "folder":
        path.mkdir()
    elif kind != "torn":
        path.write_text({"text": "1 2 3\n", "empty": ""}[kind])
    elif ending == ".zarr":
        pytest.skip("a folder is not torn")
    else:
        path.write_bytes((tmp_path / f"good{ending}").read_bytes()[:-200])
    refused("batchbald_select", path, message=f"`predictions`: {path} ")


@pytest.mark.parametrize(
    "name, array",
    [
        ("object", np.array([[[None]]], dtype=object)),
        ("text", np.full((3, 2, 2), "a")),
        ("times", np.zeros((3, 2, 2), "M8[s]")),
        ("fields", np.zeros((3, 2, 2), [("a", "f4")])),
        ("bytes", np.zeros((3, 2, 2), "V3")),
        ("complex", np.zeros((3, 2, 2), complex)),
        ("flags", np.zeros((3, 2, 2), bool)),
        ("fields of two bytes", np.zeros((3, 2, 2), [("a", "i1"), ("b", "i1")])),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_arrays_that_are_no_numbers(tmp_path, refused, name, array):
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    np.savez(tmp_path / "x.npz", array)
    for path in (tmp_path / "x.npy", tmp_path / "x.npz"):
        refused("batchbald_select", path, message=f"`predictions`: {path} ")


def test_parquet_that_holds_no_array(tmp_path, refused):
    pa = pytest.importorskip("pyarrow")
    flat = X[:, 0, 0]
    for column, message in (
        (pa.array(X[:, 0].tolist()), "lists of any length"),
        (pa.FixedSizeListArray.from_arrays(pa.array(X[:, 0].tolist()), 4), "lists of any length"),
        (pa.array([None, *flat[1:]]), "null"),
        (pa.array(["a", "b"]), "tensor"),
        (pa.array(flat), "three non-empty axes"),
        (pa.array([[[0.0, None]], [[0.0, 0.0]]], pa.list_(pa.list_(pa.float64(), 2), 1)), "null"),
        (pa.array([None, [[0.0, 0.0]]], pa.list_(pa.list_(pa.float64(), 2), 1)), "null"),
    ):
        write_parquet(tmp_path / "x.parquet", {"x": column})
        refused("batchbald_select", tmp_path / "x.parquet", message=f"`predictions`: {tmp_path / 'x.parquet'} ")
        refused("batchbald_select", tmp_path / "x.parquet", message=message)


# Lists of names


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "mark"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", " \n", "\t\r\n", "\n\n"], ids=repr)
def test_names_as_other_systems_write_them(tmp_path, mark, end):
    np.save(tmp_path / "x.npy", X)
    names = [f"bild {i}\u2028ö" for i in range(len(X))]  # a separator that is no line's end
    (tmp_path / "ids.txt").write_bytes((mark + end.join([*names, ""])).encode())
    (tmp_path / "pending.txt").write_bytes((mark + end.join([names[0], names[7]])).encode())
    rows = select_batch(
        tmp_path / "x.npy", size=100, method="entropy", ids=tmp_path / "ids.txt", pending=tmp_path / "pending.txt"
    )
    assert {row["id"] for row in rows} == set(names) - {names[0], names[7]}
    (tmp_path / "pending.txt").write_bytes((mark + end.join(["0", "7"])).encode())
    rows = select_batch(tmp_path / "x.npy", size=100, method="entropy", pending=tmp_path / "pending.txt")
    assert {row["position"] for row in rows} == set(range(len(X))) - {0, 7}


@pytest.mark.parametrize("given", ["9" * 30, "9" * 10_000, "1.0", "-1", "0x1", "²"])
def test_positions_that_are_none(tmp_path, refused, given):
    np.save(tmp_path / "x.npy", X)
    (tmp_path / "pending.txt").write_text(given, encoding="utf-8")
    refused("batchbald_select", tmp_path / "x.npy", "--pending", tmp_path / "pending.txt", message="`pending` has ")


# The command itself


@pytest.mark.parametrize("reader", ["head -1", "true"])
def test_a_reader_that_goes(tmp_path, reader):
    np.save(tmp_path / "x.npy", X)
    command = f"set -o pipefail; '{SCRIPTS}/batchbald_select' x.npy --size 5 --out picks.json | {{ {reader}; }}"
    done = subprocess.run(
        ["bash", "-c", f"{command}; echo ${{PIPESTATUS[0]}}"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "0" and not [
        word for word in ("batchbald_select", "Broken", "Traceback") if word in done.stderr
    ], done
    assert len(json.loads((tmp_path / "picks.json").read_text())["picks"]) == 5


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_full_disk_is_one_line(tmp_path):
    np.save(tmp_path / "x.npy", X)
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [SCRIPTS / "batchbald_select", "x.npy"], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "No space left" in done.stderr


COUNTS = {
    "batchbald_select": ["size", "configs", "seed"],
    "batchbald_compare": [
        "trials",
        "size",
        "samples",
        "configs",
        "budget",
        "repeats",
        "seed",
        "validation",
        "steps",
        "test_samples",
        "together",
        "judge",
    ],
}


@pytest.mark.parametrize("script", COUNTS)
def test_options_that_cannot_be_are_one_line_that_names_them(tmp_path, refused, monkeypatch, script):
    monkeypatch.chdir(tmp_path)
    first = ["x.npy"] * (script == "batchbald_select")
    for option in COUNTS[script]:
        for value in ("ten", "1.5", "", "nan", "0x10", "1e3"):
            refused(
                script, *first, f"--{option}", value, message=f"{script}: `{option}` is {value!r}; want a whole number"
            )
        refused(script, *first, f"--{option}", message=f"{script}: `{option}`: expected one argument")
    if script == "batchbald_compare":
        refused(script, "--noise", "loud", message=f"{script}: `noise` is 'loud'; want a number")
    refused(script, *first, "--sise", 3, message="--sise")
    refused(script, *first, "--overwrite=yes", message="`overwrite`")
    refused(script, *first, "more", "words", message="more words")
    assert not [*tmp_path.iterdir()]


def test_predictions_that_are_left_out(refused):
    refused("batchbald_select", message="predictions")


@pytest.mark.parametrize("name", ["picks.json", "picks.csv"])
@pytest.mark.parametrize("how", [(), ("--overwrite",)], ids=str)
def test_a_link_that_leads_nowhere_is_not_replaced(tmp_path, refused, name, how):
    np.save(tmp_path / "x.npy", X)
    (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    refused("batchbald_select", tmp_path / "x.npy", *how, "--out", tmp_path / name, message="which does not exist")
    assert (tmp_path / name).is_symlink() and not (tmp_path / "elsewhere").exists()
