"""A pretend CUDA device: tensors that say `cuda:0`, live in CPU memory, and refuse what CUDA refuses.

    with PretendCuda() as gpu:
        x = torch.rand(3, device="cuda")  # or x.cuda(), x.to("cuda")
        x.sum().item()
    gpu.counts  # Counts(kernels=2, reads=1, copies=0)

    result, counts = count_work(get_batchbald_batch, log_probs_N_K_C, 10)  # its tensors are put on the device first

A kernel is an operator that is no view; behind one there may be several of CUDA's. A read is where the host waits for the device: a
number, a copy to the CPU, a size that depends on values (a mask as an index, `nonzero`). A copy goes from the CPU to the device.
`PretendCuda(trace=True)` also tells the lines of the package that each comes from: `gpu.kernels`, `gpu.reads`, `gpu.copies`.

Products in float32 read their factors in TF32 where PyTorch's settings allow that. What it cannot show: how CUDA rounds otherwise,
speed, and CUDA's own memory. There is one device, for one thread. `backward()` on a CUDA build of PyTorch without a driver needs
`no_driver.cpp` in `LD_PRELOAD`, and `start_autograd()` first: see `build_driver`.
"""
import ctypes, shutil, subprocess, sys
from collections import Counter
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

CUDA = torch.device("cuda", 0)
PACKAGE = "/batchbald_nbdev/"

# Operators that want all tensors in one place. In all others, taken for pointwise, a CPU tensor without axes may join in
STRICT = set("""
    cat stack index_select gather scatter scatter_ scatter_add scatter_add_ index_add index_add_ index_copy index_copy_ masked_select
    searchsorted bucketize mm bmm mv dot addmm addmv baddbmm embedding nll_loss_forward convolution equal isin index_fill index_fill_
    repeat_interleave take take_along_dim linear native_batch_norm _fused_adam_
""".split())
INDEXING = set("index index_put index_put_ _index_put_impl_ _unsafe_index _unsafe_index_put".split())
COPYING = set("copy_ _copy_from _foreach_copy_ set_".split())  # between devices
# What returns numbers, or sizes that depend on numbers: the host waits
READING = set("""
    _local_scalar_dense nonzero _unique2 unique_consecutive unique_dim unique_dim_consecutive _linalg_svd masked_select equal is_nonzero
    bincount
""".split())
# No kernel: views, and what looks at shapes only
FREE = set("""
    view _unsafe_view reshape _reshape_alias t transpose permute select slice split split_with_sizes unsqueeze squeeze expand alias detach
    as_strided unbind diagonal empty empty_like new_empty empty_strided new_empty_strided lift_fresh is_pinned _local_scalar_dense
    view_as_real unfold is_same_size resize_ set_ squeeze_ unsqueeze_ transpose_ t_
""".split())
PRODUCTS = set("mm bmm addmm baddbmm convolution".split())
# What `torch.cuda` says of it
SAID = {
    "_lazy_init": None, "is_available": True, "is_initialized": True, "device_count": 1, "current_device": 0, "synchronize": None,
    "is_bf16_supported": True, "is_current_stream_capturing": False, "manual_seed_all": None, "empty_cache": None,
    "mem_get_info": (2**36, 2**36), "memory_allocated": 0, "memory_reserved": 0,
}


class Counts(NamedTuple):
    "What a call asked of the device."

    kernels: int  # operators that are no views
    reads: int  # where the host waits for the device
    copies: int  # from the CPU to the device


# Tensors and generators that say where they are


def is_cuda(device):
    return device is not None and torch.device(device).type == "cuda"


def is_pretend(x):
    return isinstance(x, PretendTensor)


def unwrap(x):
    "What is behind a tensor, or behind tensors in lists."
    if isinstance(x, (list, tuple)): return [unwrap(a) for a in x]
    return x.elem if is_pretend(x) else x


class PretendTensor(torch.Tensor):
    "A tensor on `cuda:0` whose numbers are in `elem`, on the CPU."

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, elem):
        layout = dict(strides=elem.stride(), storage_offset=elem.storage_offset(), dtype=elem.dtype, layout=elem.layout)
        return torch.Tensor._make_wrapper_subclass(cls, elem.size(), device=CUDA, **layout)

    def __init__(self, elem):
        self.elem = elem

    def __repr__(self):
        return f"pretend({self.elem!r})"

    def tolist(self):
        return self.cpu().tolist()

    def numpy(self, *, force=False):
        if force: return self.detach().cpu().numpy()
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first. (pretend)")

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if not PretendCuda.entered: raise RuntimeError("a pretend CUDA tensor outside of `with PretendCuda()`")
        return PretendCuda.entered[-1].run(func, args, kwargs or {})


class PretendGenerator(torch.Generator):
    "A generator on `cuda:0`."

    device = property(lambda self: CUDA)


# What PyTorch does before its operators are dispatched: numbers become tensors, devices get their index


def place(device):
    "`device`, with the index that PyTorch would ask the driver for."
    return CUDA if isinstance(device, (str, torch.device)) and is_cuda(device) and torch.device(device).index is None else device


def make(func, args, kwargs):
    "A tensor from Python's numbers: PyTorch hides from dispatch that it is copied to the device."
    return func(*args, **kwargs | {"device": "cpu"}).to(place(torch.device(kwargs["device"])))


def index(at):
    "Lists among indices become tensors on the device."
    if isinstance(at, tuple): return tuple(index(a) if isinstance(a, list) else a for a in at)
    return torch.tensor(at, dtype=None if at else torch.long, device=CUDA) if isinstance(at, list) else at


class _BeforeDispatch(TorchFunctionMode):
    def __init__(self, gpu):
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and is_cuda(kwargs.get("device")):
            with self: return make(func, args, kwargs)
        if func is torch.Tensor.new_tensor and is_pretend(args[0]) and kwargs.get("device") is None:
            with self: return torch.tensor(*args[1:], **{"dtype": args[0].dtype} | kwargs | {"device": CUDA})
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and is_pretend(args[0]):
            with self: args = (args[0], index(args[1]), *args[2:])
        if func is torch.Tensor.cuda: func, args = torch.Tensor.to, (args[0], CUDA, *args[2:])
        if func is torch.Tensor.to: args = (args[0], *map(place, args[1:]))
        if func is torch.Tensor.to and "device" in kwargs: kwargs = kwargs | {"device": place(kwargs["device"])}
        # On its way to dispatch a generator is made anew, and would not say any more where it is
        self.gpu.drawing = isinstance(kwargs.get("generator"), PretendGenerator)
        try: return func(*args, **kwargs)
        finally: self.gpu.drawing = False


# What CUDA refuses


def flat(values):
    "Arguments, those in lists among them."
    return [a for value in values for a in (value if isinstance(value, (list, tuple)) else (value,))]


class Operator(NamedTuple):
    "What its schema says, which takes longer to ask than most operators take."

    name: str
    writes: list[int]  # positions of the arguments that it writes into
    returns: int  # how many results
    is_view_in_place: bool  # such as `squeeze_`
    is_ragged: bool  # `repeat_interleave` by a tensor


@cache
def look_up(func):
    schema, name = func._schema, func._schema.name.split("::")[-1]
    writes = [n for n, o in enumerate(schema.arguments) if o.alias_info is not None and o.alias_info.is_write]
    ragged = name == "repeat_interleave" and "Tensor" in func._overloadname
    return Operator(name, writes, len(schema.returns), torch.Tag.inplace_view in func.tags, ragged)


def written(func, args):
    "The arguments that an operator writes into."
    return [args[n] for n in look_up(func).writes if n < len(args)]


def check_places(func, name, args, tensors):
    on_cpu = [t for t in tensors if not is_pretend(t)]
    if len(on_cpu) in (0, len(tensors)): return
    if name in STRICT or any(t.dim() or any(t is a for a in written(func, args)) for t in on_cpu):
        raise RuntimeError(f"Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! (pretend, {func})")


def check_indexing(name, args):
    x, indices, values = args[0], args[1], args[2:3]
    if not is_pretend(x) and any(map(is_pretend, indices)):
        raise RuntimeError(f"indices should be either on cpu or on the same device as the indexed tensor (cpu) (pretend, {name})")
    if values and is_pretend(values[0]) != is_pretend(x) and values[0].dim():
        raise RuntimeError(f"expected value to be on the same device as the indexed tensor (pretend, {name})")


def check_generator(func, args, kwargs, wanted, found):
    if wanted != found and any(isinstance(a, torch.Generator) for a in (*args, *kwargs.values())):
        wanted, found = ("cuda" if on_device else "cpu" for on_device in (wanted, found))
        raise RuntimeError(f"Expected a '{wanted}' device type for generator but found '{found}' (pretend, {func})")


# What it computes


def moves(name, args, to_device):
    "Does it copy from one device to the other?"
    if name == "copy_": return is_pretend(args[0]) != is_pretend(args[1])
    return name == "_to_copy" and is_pretend(args[0]) != to_device


def as_tf32(x):
    "What a product reads: 10 bits after the leading one, halves to the even neighbour."
    if not isinstance(x, torch.Tensor) or x.dtype != torch.float32: return x
    bits = x.contiguous().view(torch.int32)
    return (bits + 0xFFF + (bits >> 13 & 1) & ~0x1FFF).view(torch.float32)


def compute(func, name, args, kwargs, to_device):
    "The operator on what is behind the tensors; its results are on the device, or not."
    inner, options = unwrap(args), {k: unwrap(v) for k, v in kwargs.items()}
    if kwargs.get("device") is not None: options["device"] = torch.device("cpu")
    if name in PRODUCTS and torch.get_float32_matmul_precision() != "highest": inner = [as_tf32(a) for a in inner]
    out = func(*inner, **options)
    if moves(name, args, to_device) and name == "_to_copy" and out.data_ptr() == inner[0].data_ptr():
        out = out.clone()  # two devices share no memory
    if look_up(func).is_view_in_place:  # a wrapper changes its shape as what it holds did
        with no_dispatch(): func(*args, **kwargs)
        return args[0]
    targets = written(func, args)
    if len(targets) == look_up(func).returns == 1 and isinstance(targets[0], torch.Tensor): return targets[0]
    known = {id(t.elem): t for t in flat((*args, *kwargs.values())) if is_pretend(t)}
    return wrap(out, known) if to_device else out


def wrap(x, known):
    "Tensors say that they are on the device: those that are `known` already as what they were."
    if isinstance(x, (list, tuple)): return [wrap(a, known) for a in x]
    return x if not isinstance(x, torch.Tensor) else known[id(x)] if id(x) in known else PretendTensor(x)


# The device


class PretendCuda(TorchDispatchMode):
    "Within it there is one CUDA device, which counts what it is asked."

    entered = []

    @classmethod
    def _should_skip_dynamo(cls): return False  # else PyTorch imports its compiler, which takes seconds

    def __init__(self, trace=False):
        super().__init__()
        self.trace, self.drawing = trace, False  # drawing: with a generator of the device
        self.kernels, self.reads, self.copies = Counter(), Counter(), Counter()

    @property
    def counts(self):
        return Counts(*(sum(o.values()) for o in (self.kernels, self.reads, self.copies)))

    def __enter__(self):
        torch._C._ensureCUDADeviceGuardSet()  # as `FakeTensorMode` does: without a driver, one that guards nothing
        with suppress(ValueError): ctypes.c_int.in_dll(ctypes.CDLL(None), "pretend_devices").value = 64  # of no_driver.cpp
        self.patches = ExitStack()
        for name, value in SAID.items():
            self.patches.enter_context(mock.patch.object(torch.cuda, name, lambda *_, value=value, **__: value))
        # Else `model.cpu()` would put plain numbers into a wrapper
        swapping = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)
        self.patches.callback(torch.__future__.set_swap_module_params_on_conversion, swapping)
        self.patches.enter_context(torch.autograd.set_multithreading_enabled(False))  # no thread there for this device
        self.patches.enter_context(torch.backends.cudnn.flags(enabled=False))  # its operators have no twin on the CPU
        self.patches.enter_context(_BeforeDispatch(self))
        self.entered.append(self)
        return super().__enter__()

    def __exit__(self, *exc):
        try: return super().__exit__(*exc)
        finally:
            self.entered.pop()
            self.patches.close()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return self.run(func, args, kwargs or {})

    def run(self, func, args, kwargs):
        name, device = look_up(func).name, kwargs.get("device")
        tensors = [t for t in flat((*args, *kwargs.values())) if isinstance(t, torch.Tensor)]
        here = any(map(is_pretend, tensors))
        if not here and not is_cuda(device) and not self.drawing: return func(*args, **kwargs)
        if is_cuda(device) and torch.device(device).index: raise RuntimeError("CUDA error: invalid device ordinal (pretend)")
        if name in INDEXING: check_indexing(name, args)
        elif name not in COPYING: check_places(func, name, args, tensors)
        check_generator(func, args, kwargs, here or is_cuda(device), self.drawing)
        if name == "is_pinned": return False
        to_device = is_cuda(device) if device is not None else here
        self.count(func, name, args, kwargs, to_device)
        return compute(func, name, args, kwargs, to_device)

    def count(self, func, name, args, kwargs, to_device):
        if name in INDEXING and is_pretend(args[0]): self.count_indices(name, args[1])
        ragged = look_up(func).is_ragged and kwargs.get("output_size") is None
        if name in READING or ragged: self.note(self.reads, name)
        if moves(name, args, to_device):
            there = is_pretend(args[0]) if name == "copy_" else to_device
            self.note(self.copies if there else self.reads, name)
        elif name not in FREE: self.note(self.kernels, name)

    def count_indices(self, name, indices):
        for i in indices:
            if i is None: continue
            if not is_pretend(i): self.note(self.copies, name)
            if i.dtype in (torch.bool, torch.uint8):
                self.note(self.reads, f"{name} with a mask")
                self.note(self.kernels, "nonzero of a mask")

    def note(self, counter, what):
        counter[(what, site()) if self.trace else what] += 1


def site():
    "The line of the package that runs."
    frame = sys._getframe()
    while frame and PACKAGE not in frame.f_code.co_filename: frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}" if frame else "elsewhere"


# To use in tests


def to_device(x):
    "Tensors, alone or in lists and dicts, on the device; all else as it is."
    if isinstance(x, (list, tuple)) and not hasattr(x, "_fields"): return type(x)(map(to_device, x))
    if isinstance(x, dict): return {key: to_device(value) for key, value in x.items()}
    return x.to(CUDA) if isinstance(x, torch.Tensor) else x


def count_work(function, *args, **kwargs):
    "What a call returns, and its `Counts`. Tensors among the arguments are put on the device before."
    with PretendCuda() as gpu:
        args, kwargs = to_device(args), to_device(kwargs)
        before = gpu.counts
        result = function(*args, **kwargs)
        return result, Counts(*(now - then for now, then in zip(gpu.counts, before)))


def why_not():
    "Why this PyTorch cannot pretend, or nothing if it can."
    try:
        with PretendCuda(): (torch.ones(2, device="cuda") + 1).tolist()
    except Exception as e: return f"this PyTorch ({torch.__version__}) cannot pretend that there is a CUDA device: {type(e).__name__}, {e}"
    return ""


def start_autograd():
    "To be called before the first `backward()` of a process, which is when autograd counts devices, once and for all."
    with PretendCuda(): torch.ones(1, device="cuda", requires_grad=True).sum().backward()


def build_driver(folder):
    "A library for `LD_PRELOAD`, with which tensors on the device can be trained. Skips where it cannot be built."
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if not compiler: pytest.skip("no C++ compiler (c++, g++ or clang++), and without a driver `backward()` needs no_driver.cpp")
    library = Path(folder) / "no_driver.so"
    options = ["-std=c++17", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"]
    done = subprocess.run([compiler, *options, "-o", library, Path(__file__).with_name("no_driver.cpp")], capture_output=True, text=True)
    if done.returncode: pytest.skip(f"{compiler} cannot build no_driver.cpp, which `backward()` needs: {done.stderr.strip()}")
    return library
