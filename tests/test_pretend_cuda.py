"Does the pretend device refuse what CUDA refuses, allow what CUDA allows, and count?"
import numpy as np
import pytest
import torch

from pretend_cuda import CUDA, Counts, PretendCuda, PretendGenerator, count_work, to_device, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


@pytest.fixture
def gpu():
    with PretendCuda() as device: yield device


MAKERS = {
    "tensor": lambda d: torch.tensor([1.0], device=d),
    "as_tensor": lambda d: torch.as_tensor(np.ones(2), device=d),
    "arange": lambda d: torch.arange(3, device=d),
    "full": lambda d: torch.full((2,), 1.0, device=d),
    "empty": lambda d: torch.empty(2, device=d),
    "zeros_like": lambda d: torch.zeros_like(torch.ones(2), device=d),
    "to": lambda d: torch.ones(2).to(d),
    "new_tensor": lambda d: torch.ones(2, device=d).new_tensor([1, 2]),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("device", ["cuda", "cuda:0", torch.device("cuda"), CUDA], ids=["cuda", "cuda:0", "device", "device:0"])
def test_makes_tensors_there(gpu, name, device):
    made = MAKERS[name](device)
    assert made.device == CUDA and made.is_cuda and (made + 1).is_cuda and made.new_ones(2).is_cuda
    assert made.cpu().device == made.to("cpu").device == torch.device("cpu")


MIXED = {
    "add": lambda x, c, i: x + c, "add a number": lambda x, c, i: c + x[0], "in place": lambda x, c, i: c.add_(x[0]),
    "cat": lambda x, c, i: torch.cat([x, c]), "stack": lambda x, c, i: torch.stack([x[0], c[0]]), "product": lambda x, c, i: x @ c,
    "index_select": lambda x, c, i: x.index_select(0, i), "gather": lambda x, c, i: x.gather(0, i),
    "index_add": lambda x, c, i: x.index_add(0, i, x[:2]), "masked_fill": lambda x, c, i: x.masked_fill(c > 0, 0.0),
    "where": lambda x, c, i: torch.where(c > 0, x, x), "searchsorted": lambda x, c, i: torch.searchsorted(x, c),
    "assignment": lambda x, c, i: x.__setitem__(i, c[:2]),
}
ELSEWHERE = {
    "read by an index from there": (lambda x, c, i: c[i.cuda()], "indices should be"),
    "written by an index from there": (lambda x, c, i: c.__setitem__(i.cuda(), 0.0), "indices should be"),
    "generator of the CPU": (lambda x, c, i: torch.rand(3, generator=torch.Generator(), device="cuda"), "for generator"),
    "generator of the device": (lambda x, c, i: torch.rand(3, generator=PretendGenerator()), "for generator"),
    "numpy": (lambda x, c, i: x.numpy(), "can't convert cuda:0"),
    "asarray": (lambda x, c, i: np.asarray(x), "can't convert"),
    "another device": (lambda x, c, i: torch.empty(0, device="cuda:7"), "invalid device ordinal"),
}
REFUSED = {name: (call, "same device") for name, call in MIXED.items()} | ELSEWHERE


def three():
    return torch.rand(3, device="cuda"), torch.rand(3), torch.tensor([0, 2])


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(gpu, name):
    call, said = REFUSED[name]
    with pytest.raises((RuntimeError, TypeError), match=said): call(*three())


ALLOWED = {
    "a number of the CPU": lambda x, c, i: x + c[0], "in place": lambda x, c, i: x.add_(c[0]),
    "an index of the CPU": lambda x, c, i: x[i], "a mask of the CPU": lambda x, c, i: x[c > 0.5], "a list": lambda x, c, i: x[[0, 1]],
    "where with a number": lambda x, c, i: torch.where(x > 0, 0, x),
    "a generator of the device": lambda x, c, i: torch.rand(3, generator=PretendGenerator(), device="cuda"),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_allows(gpu, name):
    assert ALLOWED[name](*three()).is_cuda


def test_is_written_in_place(gpu):
    x, c, i = three()
    x[i] = -1.0
    x[:2] = c[:2]
    assert x.tolist() == [*c[:2].tolist(), -1.0]
    y = torch.ones(3, 1, device="cuda").squeeze_(1)
    assert y.shape == (3,) and (y + 1).tolist() == [2, 2, 2]


def test_shares_no_memory_with_the_cpu(gpu):
    c = torch.ones(3)
    x = c.cuda()
    x.add_(1)
    assert c.tolist() == [1, 1, 1] and x.cpu().numpy().tolist() == x.numpy(force=True).tolist() == [2, 2, 2]


def test_a_model_moves(gpu):
    model = torch.nn.Linear(3, 2)
    weight = model.weight
    model.to("cuda")
    assert model.weight is weight and weight.is_cuda
    model.cpu()
    assert not weight.is_cuda


WORK = {  # what is asked of x, c and i -> kernels, reads, copies
    "a view": (lambda x, c, i: x.view(3, 1).T[0, 1:], (0, 0, 0)),
    "an operator": (lambda x, c, i: x.exp(), (1, 0, 0)),
    "two": (lambda x, c, i: (x + 1).sum(), (2, 0, 0)),
    "another dtype": (lambda x, c, i: x.double(), (1, 0, 0)),
    "a number": (lambda x, c, i: x[0].item(), (0, 1, 0)),
    "a truth": (lambda x, c, i: bool(x.max() > 0), (2, 1, 0)),
    "numbers": (lambda x, c, i: x.tolist(), (0, 1, 0)),
    "to the CPU": (lambda x, c, i: x.cpu(), (0, 1, 0)),
    "what is not zero": (lambda x, c, i: x.nonzero(), (1, 1, 0)),
    "a mask": (lambda x, c, i: x[x > 9], (3, 1, 0)),
    "to the device": (lambda x, c, i: c.to("cuda"), (0, 0, 1)),
    "a list": (lambda x, c, i: x[[0, 2]], (1, 0, 1)),
    "written from the CPU": (lambda x, c, i: x.copy_(c), (0, 0, 1)),
    "within the device": (lambda x, c, i: x.copy_(x + 1), (2, 0, 0)),
    "the CPU alone": (lambda x, c, i: c[i].exp().tolist(), (0, 0, 0)),
}


@pytest.mark.parametrize("name", WORK)
def test_counts(gpu, name):
    x, c, i = three()
    before = gpu.counts
    call, expected = WORK[name]
    call(x, c, i)
    assert tuple(now - then for now, then in zip(gpu.counts, before)) == expected, (gpu.kernels, gpu.reads, gpu.copies)


def test_a_call_is_counted_without_its_inputs():
    result, counts = count_work(lambda x, more: (x * more["y"]).sum().item(), torch.ones(4), more={"y": torch.ones(4)})
    assert result == 4 and counts == Counts(kernels=2, reads=1, copies=0)


def test_traces_lines_of_the_package():
    from batchbald_nbdev.bald import compute_bald

    with PretendCuda(trace=True) as gpu: compute_bald(to_device(torch.rand(3, 4, 2).log_softmax(-1)))
    assert any(line.startswith("information.py:") for _, line in gpu.kernels)


@pytest.mark.parametrize("precision, least, most", [("highest", 0, 1e-6), ("high", 1e-5, 1e-3)])
def test_products_read_tf32_where_settings_allow_it(gpu, precision, least, most):
    x = torch.rand(20, 20, generator=torch.Generator().manual_seed(0))
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        off = ((x.cuda() @ x.cuda()).cpu().double() - x.double() @ x.double()).abs().max() / 20
    finally: torch.set_float32_matmul_precision(before)
    assert least <= off < most


def test_refuses_tensors_after_it_has_ended():
    with PretendCuda(): x = torch.rand(3, device="cuda")
    with pytest.raises(RuntimeError, match="outside"): x + 1
