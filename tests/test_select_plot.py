"What `batchbald_select --plot` draws: the batch's own numbers, the points, a file that is whole, and one line where that cannot be."
import itertools
import json
import math
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from batchbald_nbdev import batch_picture, command_line, prediction_files
from batchbald_nbdev.bald import CandidateBatch, compute_bald, get_bald_batch
from batchbald_nbdev.batch_picture import plot_batch
from batchbald_nbdev.batchbald import get_batchbald_batch
from batchbald_nbdev.command_line import select_batch
from batchbald_nbdev.datasets import example_log_probs
from batchbald_nbdev.kbald import compute_pair_information
from batchbald_nbdev.methods import Method, methods

SCRIPTS = Path(sys.executable).parent
X = example_log_probs(20)[:30].double().log_softmax(-1)


@pytest.fixture
def predictions(tmp_path):
    np.save(tmp_path / "p.npy", X.numpy())
    return tmp_path / "p.npy"


@pytest.fixture
def figures(monkeypatch):
    "The figures that the command draws, and the batches that it drew."
    seen = []

    def spy(batch, *args, **options):
        seen.append((plot_batch(batch, *args, **options), batch))
        return seen[-1][0]

    monkeypatch.setattr(command_line, "plot_batch", spy)
    return seen


def tiny(seed, N=5, K=3, C=2):
    return torch.from_numpy(np.random.default_rng(seed).dirichlet(np.ones(C), (N, K))).log()


def information(log_probs_B_K_C):
    "I(y_1, ..., y_B; w), by all label configurations."
    B, K, C = log_probs_B_K_C.shape
    p, joint, conditional = log_probs_B_K_C.exp().numpy(), 0.0, 0.0
    for labels in itertools.product(range(C), repeat=B):
        each_K = np.prod([p[b, :, c] for b, c in enumerate(labels)], axis=0) if B else np.ones(K)
        joint -= each_K.mean() * math.log(each_K.mean())
        conditional -= (each_K * np.log(each_K)).mean()
    return joint - conditional


def bars(figure):
    "What each pick adds, and what it shares."
    return tuple(np.array([bar.get_height() for bar in part]) for part in figure.axes[0].containers)


def curve(figure, label):
    line, = [line for line in figure.axes[1].lines if label in line.get_label()]
    return np.array(line.get_ydata())


def texts(figure):
    return [text for ax in figure.axes for text in ax.texts]


def drawn_images(figure):
    return [np.array(image.get_array()) for ax in figure.axes if not ax.axison for image in ax.images]


@pytest.mark.parametrize("pending", [[], [4], [3, 1]])
@pytest.mark.parametrize("method", methods)
def test_the_numbers_are_those_of_brute_force(method, pending, tmp_path, figures):
    x = tiny(len(method))
    np.save(tmp_path / "tiny.npy", x.numpy())
    (tmp_path / "pending.txt").write_text("".join(f"{i}\n" for i in pending))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # EPIG methods say that their evaluation inputs are the pool
        rows = select_batch(tmp_path / "tiny.npy", method=method, size=3, pending=tmp_path / "pending.txt", plot=tmp_path / "p.png")
    (figure, batch), = figures
    picks = [row["position"] for row in rows]
    if not picks: return
    far = [information(x[pending + picks[:i]]) for i in range(len(picks) + 1)]
    own = np.array([information(x[[i]]) for i in picks])
    adds, shares = bars(figure)
    np.testing.assert_allclose(adds, np.diff(far), atol=1e-9)
    np.testing.assert_allclose(shares, own - np.diff(far), atol=1e-9)
    assert (own - np.diff(far) >= -1e-9).all() and (shares >= 0).all()
    np.testing.assert_allclose(curve(figure, "together"), np.subtract(far[1:], far[0]), atol=1e-9)
    np.testing.assert_allclose(adds.sum(), far[-1] - far[0], atol=1e-9)
    np.testing.assert_allclose(curve(figure, "added up"), own.cumsum(), atol=1e-9)
    np.testing.assert_allclose(curve(figure, "ceiling"), math.log(3) - far[0], atol=1e-9)
    if len(picks) > 1:
        pairs = np.array(figure.axes[2].images[0].get_array().filled(np.nan))
        for i, j in itertools.product(range(len(picks)), repeat=2):
            if j >= i: assert np.isnan(pairs[i, j])
            else: np.testing.assert_allclose(pairs[i, j], own[i] + own[j] - information(x[[picks[i], picks[j]]]), atol=1e-9)


@pytest.mark.parametrize("method", methods)
def test_every_method_is_drawn_with_its_own_scores(predictions, method, tmp_path, call, figures):
    out, plot = tmp_path / "picks.json", tmp_path / "picks.png"
    call("batchbald_select", predictions, "--method", method, "--size", 8, "--configs", 200, "--plot", plot, "--out", out)
    (figure, batch), = figures
    written = json.loads(out.read_text())
    scores = [row["score"] for row in written["picks"]]
    assert Image.open(plot).format == "PNG" and "plot" not in written
    assert methods[method].label in figure.subfigs[0].texts[0].get_text()
    adds, shares = bars(figure)
    own = compute_bald(X[batch.indices]).numpy()
    np.testing.assert_allclose(np.maximum(adds, own), adds + shares, atol=1e-9)
    said = [ax for ax in figure.axes if ax.get_ylabel() == "score"]
    if said:
        line = said[0].lines[0]
        assert line.get_label() == methods[method].score_text and np.allclose(line.get_ydata(), scores, rtol=0, atol=0)
        assert said[0].get_ylim()[0] <= 0
    else:
        assert method == "random" or np.allclose(scores, own, rtol=2e-3) or np.allclose(scores, curve(figure, "together"))
    assert bool(said) == (method in "2bald 3bald largebatchbald dynamic2bald epig batchepig softmaxepig epigbald batchepigbald entropy varratios meanstd".split())


@pytest.mark.parametrize("method", ["batchbald", "dynamicbatchbald", "budgetbald"])
def test_a_batch_of_joint_information_keeps_its_own_numbers(predictions, method, tmp_path, figures):
    rows = select_batch(predictions, method=method, size=7, configs=50, plot=tmp_path / "p.svg")
    (figure, _), = figures
    assert bars(figure)[0].tolist() == pytest.approx([row["gain"] for row in rows], abs=1e-15)
    assert curve(figure, "together").tolist() == [row["score"] for row in rows]
    assert bars(figure)[0].sum() == pytest.approx(rows[-1]["score"])
    assert (curve(figure, "ceiling") == math.log(100)).all()


def test_known_coins():
    heads = torch.tensor([[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 1.0, 0.0]]).double()
    x = torch.stack([heads, 1 - heads], -1).log()
    for batch in (get_bald_batch(x, 3), CandidateBatch([0.0] * 3, [0, 1, 2])):
        adds, shares = bars(plot_batch(batch, x))
        np.testing.assert_allclose(adds, [math.log(2), 0, math.log(2)], atol=1e-9)
        np.testing.assert_allclose(shares, [0, math.log(2), 0], atol=1e-9)
    figure = plot_batch(CandidateBatch([0.0], [2]), x, pending=[0])
    np.testing.assert_allclose(curve(figure, "ceiling"), math.log(2), atol=1e-9)
    assert "less what is pending = 0.69" in figure.axes[1].lines[0].get_label()


@pytest.mark.parametrize("size", [0, 1, 2, 5, 11, 40, 100, 130])
@pytest.mark.parametrize("images", [False, True])
def test_any_number_of_picks(size, images, tmp_path, figures):
    np.save(tmp_path / "p.npy", example_log_probs(20)[:140, :20].numpy())
    np.save(tmp_path / "images.npy", np.zeros((140, 4, 4), np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # log K
        select_batch(tmp_path / "p.npy", size=size, configs=20, plot=tmp_path / "p.png", images=tmp_path / "images.npy" if images else None)
    (figure, _), = figures
    width, height = Image.open(tmp_path / "p.png").size
    assert width == 1200 and height < 4000
    if not size:
        assert "nothing to pick" in figure.subfigs[0].texts[0].get_text() and not figure.axes
        return
    listed = texts(figure)
    assert len(listed) == 1 + min(size, 100) and len(bars(figure)[0]) == size
    assert ("first 100" in listed[0].get_text()) == (size > 100)
    assert len(drawn_images(figure)) == (min(size, 100) if images else 0)


def test_nothing_to_pick_and_nothing_to_tell(tmp_path, call, figures):
    x = np.log(np.full((4, 3, 2), 0.5))
    np.save(tmp_path / "same.npy", x)
    np.save(tmp_path / "one.npy", x[:, :1])
    (tmp_path / "all.txt").write_text("0\n1\n2\n3\n")
    _, err = call("batchbald_select", tmp_path / "same.npy", "--method", "random", "--size", 2, "--plot", tmp_path / "same.png")
    assert err == ""  # nobody asked whether the samples differ
    _, err = call("batchbald_select", tmp_path / "same.npy", "--method", "bald", "--size", 2, "--plot", tmp_path / "same2.png")
    assert err.count("\n") == 1 and "identical" in err
    _, err = call("batchbald_select", tmp_path / "one.npy", "--size", 2, "--plot", tmp_path / "one.png")
    assert err.count("\n") == 1 and "(K = 1)" in err
    assert all((adds == 0).all() and (shares == 0).all() for adds, shares in (bars(figure) for figure, _ in figures))
    call("batchbald_select", tmp_path / "same.npy", "--method", "random", "--size", 2, "--pending", tmp_path / "all.txt", "--plot", tmp_path / "none.png")
    assert not figures[-1][0].axes and (tmp_path / "none.png").exists()


ODD = [r"cost_$5$_and_$6$", r"\frac{a}{b}", "$", "a_b^c", "%d {x}", "<b>&amp;", "\u5317\u4eac", "tab\there", "x" * 300, "scan/" + "deep/" * 30 + "7.png"]


def test_odd_ids_are_text(tmp_path, figures):
    np.save(tmp_path / "p.npy", X[:10].numpy())
    (tmp_path / "ids.txt").write_text("\n".join(ODD) + "\n", encoding="utf-8")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")
        for ending in ("png", "svg", "pdf"):
            rows = select_batch(tmp_path / "p.npy", size=10, ids=tmp_path / "ids.txt", plot=tmp_path / f"p.{ending}")
    listed = texts(figures[-1][0])[1:]
    for i, (text, row) in enumerate(zip(listed, rows), 1):
        number, shown = text.get_text().split(maxsplit=1)
        assert int(number) == i and not text.get_parse_math()
        start, _, end = shown.partition("…")
        name = row["id"].replace("\t", " ")
        assert name.startswith(start) and name.endswith(end) and len(text.get_text()) <= 104
        assert ("…" in shown) == (len(name) > 96)


def test_words_of_methods_are_text(tmp_path):
    batch = CandidateBatch([3.0, 2.0], [0, 1])
    figure = plot_batch(batch, X, title=r"my_$method$ \frac", score_text=r"$\frac$ of it_all $")
    figure._repr_png_()
    assert figure.axes[4].get_legend().get_texts()[0].get_text() == r"$\frac$ of it_all $"


LAYOUTS = {  # shape of one image, from (H, W, 3)
    "grey": lambda x: x[..., 0], "first": lambda x: np.moveaxis(x, -1, 1), "last": lambda x: x,
    "first_grey": lambda x: x[:, None, :, :, 0], "last_grey": lambda x: x[..., :1],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["uint8", "float32", "float16", "float64", ">f4", "bool", "standardised", "uint16", "int64", "pt", "bfloat16"])
def test_images_of_the_picks_in_any_layout(predictions, tmp_path, figures, layout, kind):
    eight_bits = np.random.default_rng(0).integers(0, 256, (30, 6, 9, 3), dtype=np.uint8)
    x = LAYOUTS[layout](eight_bits)
    plain, path = x / 255, tmp_path / "images.npy"
    if kind in ("pt", "bfloat16"):
        path = tmp_path / "images.pt"
        plain = torch.from_numpy(plain).bfloat16().double().numpy() if kind == "bfloat16" else plain
        torch.save(torch.from_numpy(plain).bfloat16() if kind == "bfloat16" else torch.from_numpy(x), path)
    elif kind == "standardised": np.save(path, plain * 4 - 2)
    elif kind == "bool":
        plain = (x > 127).astype(float)
        np.save(path, x > 127)
    elif kind in ("uint16", "int64"): np.save(path, x.astype(kind) * 100 + 3)
    else:
        plain = plain if kind == "uint8" else plain.astype(kind).astype(float)
        np.save(path, x if kind == "uint8" else plain.astype(kind))
    rows = select_batch(predictions, size=4, images=path, plot=tmp_path / "p.png")
    (figure, _), = figures
    shown = drawn_images(figure)
    assert len(shown) == 4
    for pixels, row in zip(shown, rows):
        at = row["position"]
        expected = plain[at]
        expected = np.moveaxis(expected, 0, -1) if layout.startswith("first") else expected
        expected = np.broadcast_to(expected if expected.ndim == 3 else expected[..., None], (6, 9, 3))
        if kind in ("standardised", "uint16", "int64"):  # each stretched by itself
            expected = (expected - expected.min()) / (expected.max() - expected.min())
        np.testing.assert_allclose(pixels, expected, atol=1e-6)


def test_images_of_the_same_kind_but_constant_are_drawn(predictions, tmp_path, figures):
    np.save(tmp_path / "images.npy", np.full((30, 3, 3), -7.0))
    select_batch(predictions, size=2, images=tmp_path / "images.npy", plot=tmp_path / "p.png")
    assert all((pixels == 0).all() for pixels in drawn_images(figures[0][0]))


def colour(i): return (8 * i, 255 - 8 * i, 100)


@pytest.fixture
def folders(tmp_path, predictions):
    "Images of one colour for each point, by id and by position, in many formats."
    (tmp_path / "by_id" / "sub").mkdir(parents=True)
    (tmp_path / "by_position").mkdir()
    ids = []
    for i in range(30):
        image = Image.new("RGB", (5, 3 + i), colour(i))
        name = f"sub/scan_$_{i}" if i % 2 else f"scan {i}"
        ending = (".png", ".bmp", ".tiff", ".gif", ".webp")[i % 5]
        image.save(tmp_path / "by_id" / f"{name}{ending}", **({"lossless": True} if ending == ".webp" else {}))
        ids.append(f"{name}{ending}" if i % 3 else name)
        image.save(tmp_path / "by_position" / f"{i:0{3 if i % 2 else 1}}.png")
    (tmp_path / "by_position" / "README.txt").write_text("no image")
    (tmp_path / "ids.txt").write_text("\n".join(ids) + "\n")
    return tmp_path


@pytest.mark.parametrize("by", ["id", "position"])
def test_a_folder_of_images(folders, predictions, by, figures):
    rows = select_batch(predictions, size=9, ids=folders / "ids.txt" if by == "id" else None, images=folders / f"by_{by}", plot=folders / "p.png")
    for pixels, row in zip(drawn_images(figures[0][0]), rows, strict=True):
        i = row["position"]
        assert pixels.shape == (3 + i, 5, 3)
        np.testing.assert_allclose(255 * pixels, np.broadcast_to(colour(i), pixels.shape), atol=1e-6)


def test_images_of_any_mode(tmp_path):
    red = Image.new("RGB", (1000, 500), "red")
    for name, image in {
        "clear.png": Image.new("RGBA", (4, 4), (0, 0, 0, 0)), "palette.png": red.quantize(4), "grey.png": red.convert("L"),
        "photo.jpg": red, "print.jpg": red.convert("CMYK"), "bits.png": red.convert("1"), "both.png": red.convert("LA"),
        "sixteen.png": Image.fromarray(np.array([[0, 65535]], dtype=np.uint16)), "float.tiff": Image.fromarray(np.array([[0.0, 2.5]], dtype=np.float32)),
    }.items():
        image.save(tmp_path / name)
    read = {path.name: prediction_files._open_image(str(path)) for path in tmp_path.iterdir()}
    assert (read["clear.png"] == 255).all()
    assert read["sixteen.png"].tolist() == [[0, 65535]] and read["float.tiff"].tolist() == [[0, 2.5]]
    assert {read[name].shape for name in ("palette.png", "grey.png", "photo.jpg", "print.jpg", "bits.png", "both.png")} == {(200, 400, 3)}
    for name in ("palette.png", "photo.jpg", "print.jpg"): np.testing.assert_allclose(read[name][0, 0], [255, 0, 0], atol=3)
    turned = Image.Exif()
    turned[0x0112] = 6  # a camera that was held upright
    red.save(tmp_path / "turned.jpg", exif=turned)
    assert prediction_files._open_image(str(tmp_path / "turned.jpg")).shape == (400, 200, 3)


def test_what_cannot_be_drawn_is_refused_before_anything_is_picked(predictions, folders, refused, monkeypatch):
    monkeypatch.chdir(folders)
    monkeypatch.setattr(command_line, "_pick", None)
    for name, array in {
        "rows": np.zeros((30, 64)), "few": np.zeros((29, 4, 4)), "video": np.zeros((30, 2, 3, 4, 4)), "two": np.zeros((30, 2, 4, 4)), "flat": np.zeros((30, 0, 4)),
        "either": np.zeros((30, 3, 5, 3)), "complex": np.zeros((30, 4, 4), complex), "words": np.full((30, 4, 4), "x"), "one": np.zeros(()),
    }.items():
        np.save(folders / f"{name}.npy", array)
    for name in ("holes", "twice", "empty"): (folders / name).mkdir()
    for i in range(29): (folders / "holes" / f"{i}.png").touch()
    for name in ("7.png", "007.jpg"): (folders / "twice" / name).touch()
    (folders / "there.png").write_text("mine")
    (folders / "link.png").symlink_to(folders / "gone.png")
    (folders / "folder.png").mkdir()
    before = sorted(p.name for p in folders.rglob("*"))
    plot = ["--plot", "new.png"]
    for args, message in (
        (["--plot", "p.jpg"], "`plot`: p.jpg has the ending '.jpg'; want .png, .svg or .pdf"), (["--plot", "p"], "want .png, .svg or .pdf"),
        (["--plot", "there.png"], "`plot`: there.png exists; add --overwrite"), (["--plot", "link.png"], "`plot`: link.png is a link to"),
        (["--plot", "folder.png", "--overwrite"], "`plot`: folder.png exists"), (["--plot", "no/p.png"], "`plot`: the folder no does not exist"),
        (["--images", "few.npy"], "`images` are for the picture that `plot` names; add --plot FILE"),
        ([*plot, "--images", "gone.npy"], "`images`: gone.npy does not exist"), ([*plot, "--images", "gone"], "`images`: gone has the ending ''"),
        ([*plot, "--images", "rows.npy"], "`images`: rows.npy has shape (30, 64); want (N, H, W)"), ([*plot, "--images", "one.npy"], "has shape ()"),
        ([*plot, "--images", "video.npy"], "has shape (30, 2, 3, 4, 4)"), ([*plot, "--images", "flat.npy"], "has shape (30, 0, 4)"),
        ([*plot, "--images", "few.npy"], "few.npy has 29 images and `predictions` 30 points; want an image for each point"),
        ([*plot, "--images", "two.npy"], "two.npy has images of shape (2, 4, 4); want (H, W), (C, H, W) or (H, W, C) with C = 1 or 3"),
        ([*plot, "--images", "either.npy"], "with channels first or last"), ([*plot, "--images", "complex.npy"], "complex.npy"), ([*plot, "--images", "words.npy"], "words.npy"),
        ([*plot, "--images", "holes"], "`images`: holes has no file for 29; want 0.png"), ([*plot, "--images", "empty"], "no file for 0 and 29 more"),
        ([*plot, "--images", "twice"], "are both for position 7; want one of them"),
        ([*plot, "--images", "by_position", "--ids", "ids.txt"], "`images`: by_position has no file for 'scan 0' and 29 more; want for each id a file of that name"),
    ):
        refused("batchbald_select", predictions, *args, message=message)
    assert sorted(p.name for p in folders.rglob("*")) == before and (folders / "there.png").read_text() == "mine"


def test_an_image_that_cannot_be_read_leaves_nothing(predictions, folders, call):
    for path in (folders / "by_position").glob("*.png"): path.write_bytes(b"\x89PNG torn")
    _, err = call("batchbald_select", predictions, "--images", folders / "by_position", "--plot", folders / "p.png", "--out", folders / "p.json", status=2)
    assert err.count("\n") == 1 and "`images`: " in err and "cannot be read as an image" in err
    assert not [p for p in folders.iterdir() if p.name.startswith((".p", "p.")) and p != predictions]


def test_files_are_whole_and_replaced_only_when_asked(predictions, tmp_path, call, refused, monkeypatch):
    plot, out = tmp_path / "p.png", tmp_path / "p.csv"
    call("batchbald_select", predictions, "--size", 3, "--plot", plot, "--out", out)
    first = plot.read_bytes()
    refused("batchbald_select", predictions, "--size", 4, "--plot", plot, message="`plot`: ")
    call("batchbald_select", predictions, "--size", 4, "--plot", plot, "--out", out, "--overwrite")
    assert plot.read_bytes() != first and out.read_text().count("\n") == 5
    monkeypatch.setattr(command_line, "write_whole", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    _, err = call("batchbald_select", predictions, "--size", 4, "--plot", plot, "--overwrite", status=2)
    assert err == f"batchbald_select: `plot`: {plot} cannot be written (No space left on device)\n"


def test_formats_by_ending_equal_for_equal_requests_and_light(predictions, tmp_path, call):
    np.save(tmp_path / "images.npy", np.zeros((30, 3, 3), np.uint8))
    for ending, start in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        files = [tmp_path / f"{i}.{ending}" for i in range(2)]
        for path in files:
            call("batchbald_select", predictions, "--method", "softmaxbald", "--size", 3, "--images", tmp_path / "images.npy", "--plot", path)
        a, b = (path.read_bytes() for path in files)
        assert a.startswith(start)
        assert a == b or ending == "svg"  # where names of paths may follow addresses in memory
    pixels = np.asarray(Image.open(tmp_path / "0.png").convert("RGBA"))
    assert (pixels[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()


def test_it_needs_no_display_and_minds_no_style_and_without_it_matplotlib_is_not_imported(predictions, tmp_path):
    (tmp_path / "matplotlibrc").write_text("figure.facecolor: black\nsavefig.facecolor: black\ntext.color: white\naxes.facecolor: black\nfont.size: 30\n")
    env = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND")}
    for name, more in (("plain", {}), ("dark", {"MATPLOTLIBRC": str(tmp_path), "MPLBACKEND": "TkAgg"})):
        command = [SCRIPTS / "batchbald_select", predictions, "--size", "3", "--plot", tmp_path / f"{name}.png"]
        result = subprocess.run(command, env=env | more, capture_output=True, text=True, timeout=300)
        assert (result.returncode, result.stderr) == (0, ""), result.stderr
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "dark.png").read_bytes()
    code = "import sys; from batchbald_nbdev.command_line import batchbald_select as f; f(sys.argv[1], size=2); assert 'matplotlib' not in sys.modules and 'PIL' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, predictions], check=True, capture_output=True, timeout=300)


def test_estimated_shares_are_never_negative_and_the_picks_stay(predictions, tmp_path):
    for seed in range(3):
        with_plot = select_batch(predictions, size=9, configs=4, seed=seed, plot=tmp_path / f"{seed}.svg")
        assert with_plot == select_batch(predictions, size=9, configs=4, seed=seed)
    batch = get_batchbald_batch(X, 12, 4)
    adds, shares = bars(plot_batch(batch, X, num_samples=4))
    assert (shares >= 0).all() and adds.tolist() == pytest.approx(batch.gains)
    pairs = compute_pair_information(X[batch.indices], X[batch.indices]).numpy()
    drawn = plot_batch(batch, X, num_samples=4).axes[2].images[0].get_array()
    np.testing.assert_allclose(drawn[np.tri(12, k=-1, dtype=bool)], pairs[np.tri(12, k=-1, dtype=bool)])
    assert batch_picture.SHOWN == 100


def test_a_method_from_outside_is_drawn_whatever_it_fills_in(predictions, tmp_path, figures, monkeypatch):
    for name, more in {
        "bare": {}, "gains": {"gains": [1.0, 2.0], "ceiling": math.log(100)}, "endless": {"ceiling": math.inf},
        "falling": {"scores": [-1.0, -3.0]}, "own ceiling": {"ceiling": 9.0, "standard_errors": [0.1, 0.1], "gains": [2.0, 1.0]},
    }.items():
        fields = {"scores": [2.0, 3.0], "indices": [3, 4]} | more
        method = Method(name.replace(" ", ""), name, lambda round, fields=fields: CandidateBatch(**fields), "$ anything _")
        monkeypatch.setitem(methods, method.name, method)
        select_batch(predictions, method=method.name, size=2, plot=tmp_path / f"{method.name}.png")
        figure, _ = figures[-1]
        score, = [ax for ax in figure.axes if ax.get_ylabel() == "score"]
        assert score.lines[0].get_ydata().tolist() == fields["scores"] and len(score.lines) == 1 + (name in ("gains", "own ceiling"))
        np.testing.assert_allclose(bars(figure)[0], np.diff([0, *(information(X[[3, 4][:i]]) for i in (1, 2))]), atol=1e-6)


@pytest.mark.parametrize("options, message", [
    ({"ids": ["a", "b"]}, "`ids` has 2 entries; want one for each of the 30 points"), ({"images": np.zeros((31, 2, 2))}, "`images` has 31 entries"),
    ({"images": np.zeros((30, 2))}, r"`images` has images of shape \(2,\)"), ({"images": np.zeros((30, 1, 5, 3))}, "`images` .*channels first or last"), ({"pending": [30]}, "`pending`"),
])
def test_plot_batch_refuses_what_is_of_another_pool(options, message):
    with pytest.raises(ValueError, match=message): plot_batch(get_bald_batch(X, 2), X, **options)
    with pytest.raises(ValueError, match="`batch` has positions outside the pool of 2 points"): plot_batch(CandidateBatch([0.0], [2]), X[:2])
