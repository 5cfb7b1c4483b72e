"""Fake quantization forward and backward, ours beside torch's and Brevitas' operators in one run.

    pip install brevitas torchao
    python benchmarks/bench_quantize.py [--rounds 30] [--compile]

An activation of 64 x 32 x 16 x 16 at 4 bits, unsigned, one thread, process CPU time; minimum and
median over rounds in which all take turns, and the median of the per-round ratio to ours. Warm: the
best of five runs in a row on the same tensors, which then lie in the processor's cache. Cold: one
run after 64 MB of other data went through it, as between the layers of a network too large for it.
--compile adds the composed operations under torch.compile, which takes a C++ compiler and a minute.
"""

import argparse
import statistics
import time
import warnings

import torch
from torch import nn

from apq.quantize import fused
from apq.quantize.uniform import UniformActivations
from apq.supernet.memory import keep_memory

SHAPE, BITS = (64, 32, 16, 16), 4


def contenders(x, compiled=False):
    """Name -> module from x to its rounded form."""
    low, high, step = 0, 2**BITS - 1, float(x.max()) / (2**BITS - 1)
    scale = nn.Parameter(torch.tensor([step]))
    zero = nn.Parameter(torch.tensor([0.0]))
    found = {
        "ReLU6 (for scale)": nn.ReLU6(),
        "apq LSQ": UniformActivations(x, BITS, False, "lsq"),
        "apq PACT": UniformActivations(x, BITS, False, "pact"),
        "composed operations, LSQ": lambda v: compose(v, scale, low, high),
        "torch.fake_quantize_per_tensor_affine": lambda v: torch.fake_quantize_per_tensor_affine(
            v, step, 0, low, high
        ),
        "torch._fake_quantize_learnable": lambda v: (
            torch._fake_quantize_learnable_per_tensor_affine(v, scale, zero, low, high, 1.0)
        ),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.ao.quantization import FakeQuantize, FusedMovingAvgObsFakeQuantize
        from torch.ao.quantization._learnable_fake_quantize import _LearnableFakeQuantize
        from torch.ao.quantization.observer import MovingAverageMinMaxObserver

        options = {"quant_min": low, "quant_max": high, "dtype": torch.quint8}
        for name, make in (
            ("FakeQuantize", FakeQuantize),
            ("Fused", FusedMovingAvgObsFakeQuantize),
        ):
            module = make(observer=MovingAverageMinMaxObserver, **options)
            module(x)
            found[f"torch.ao {name}"] = module
            fixed = make(observer=MovingAverageMinMaxObserver, **options)
            fixed(x)
            fixed.disable_observer()
            found[f"torch.ao {name}, range fixed"] = fixed
        learnable = _LearnableFakeQuantize(
            observer=MovingAverageMinMaxObserver, use_grad_scaling=True, **options
        )
        learnable.enable_static_observation()
        learnable(x)
        learnable.enable_param_learning()
        found["torch.ao _LearnableFakeQuantize"] = learnable
    if compiled:
        found["composed operations, torch.compile"] = torch.compile(
            lambda v: compose(v, scale, low, high)
        )
    try:
        from torchao.quantization.qat import IntxFakeQuantizeConfig, IntxFakeQuantizer

        config = IntxFakeQuantizeConfig(torch.uint4, "per_token", is_symmetric=False)
        found["torchao IntxFakeQuantizer, per token"] = IntxFakeQuantizer(config)
    except ImportError:
        print("torchao is not installed: pip install torchao")
    try:
        from brevitas.nn import QuantIdentity, QuantReLU
        from brevitas.quant import Uint8ActPerTensorFloat

        for name, make in (("QuantReLU", QuantReLU), ("QuantIdentity", QuantIdentity)):
            collecting = make(
                act_quant=Uint8ActPerTensorFloat, bit_width=BITS, collect_stats_steps=10**9
            )
            found[f"Brevitas {name}, collecting statistics"] = collecting
            module = make(act_quant=Uint8ActPerTensorFloat, bit_width=BITS)
            with torch.no_grad():
                for _ in range(310):  # past the batches in which it collects statistics
                    module(x[:1])
            found[f"Brevitas {name}"] = module
    except ImportError:
        print("Brevitas is not installed: pip install brevitas")
    return found


def compose(x, scale, low, high):
    """The same from differentiable pieces, as most tutorials write it."""
    v = (x / scale).clamp(low, high)
    return (v + (v.round() - v).detach()) * scale


def timed(module, x, upstream):
    """CPU ms of forward, and of forward and backward."""
    y = x.detach().requires_grad_()
    began = time.process_time()
    out = module(y)
    middle = time.process_time()
    out.backward(upstream)
    return (middle - began) * 1e3, (time.process_time() - began) * 1e3


def compare(modules, x, upstream, rounds, cold):
    """Print a table; returns the fastest library operator and its time in ours, median and min."""
    other = torch.zeros(2**24)
    took = {name: [] for name in modules}
    for _ in range(rounds):
        for name, module in modules.items():
            timed(module, x, upstream)
            if cold:
                other.add_(1)
            runs = [timed(module, x, upstream) for _ in range(1 if cold else 5)]
            took[name].append(min(runs, key=sum))
    ours = [t[1] for t in took["apq LSQ"]]
    print(f"{'cold' if cold else 'warm':<46} forward ms     forward+backward ms   times apq LSQ")
    ratios = {}
    for name, times in took.items():
        f, b = [t[0] for t in times], [t[1] for t in times]
        ratio = statistics.median(v / o for v, o in zip(b, ours, strict=True))
        if name.startswith(("torch", "Brevitas")):
            ratios[name] = (ratio, min(b) / min(ours))
        print(
            f"{name:<46} {min(f):5.2f} / {statistics.median(f):5.2f}  "
            f"{min(b):6.2f} / {statistics.median(b):6.2f}       {ratio:6.1f}"
        )
    print()
    best = min(ratios, key=lambda name: ratios[name])
    return best, *ratios[best]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--compile", action="store_true")
    told = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()  # as every training of apq does
    torch.manual_seed(0)
    x = torch.randn(SHAPE).mul(2).clamp(0, 6)
    upstream = torch.randn(SHAPE)
    modules = contenders(x, told.compile)
    if not fused.usable(x):
        print("numba is not installed: the slower form is measured (pip install 'apq-nas[fast]')")
    for cold in (False, True):
        name, median, least = compare(modules, x, upstream, told.rounds, cold)
        print(
            f"{'caches emptied' if cold else 'same tensors again and again'}: the fastest library "
            f"operator, {name}, takes {median:.1f} times our time (median of rounds; "
            f"{least:.1f} by the minima)\n"
        )


if __name__ == "__main__":
    main()
