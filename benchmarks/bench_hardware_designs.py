"""Accelerator designs: element types compared, and how well a polynomial stands in for the model.

    python benchmarks/bench_hardware_designs.py

Workload: MobileNetV2 at 224 px with 4-bit weights and 8-bit activations. The truth is our own
row-stationary simulator, not synthesis; the papers' 4.9x (QAPPA) and 5.7x (QADAM, QUIDAM) of
LightPE over INT16 are printed for comparison only.
"""

import time
from dataclasses import replace

from apq.hardware.importing import mobilenet_v2_layers
from apq.hardware.row_stationary import PE_TYPES, figures
from apq.hardware.surrogate import fit_surrogate, sample_designs
from apq.space.layer import to_array


def main():
    layers = to_array(
        [replace(x, weight_bits=4, activation_bits=8) for x in mobilenet_v2_layers(1000)]
    )
    best = {}
    designs = sample_designs(2000, seed=1)
    start = time.perf_counter()
    for design in designs:
        got = figures(design, layers)
        speed, energy = best.get(design.pe, (0.0, float("inf")))
        best[design.pe] = (
            max(speed, got["performance_per_area"]), min(energy, got["energy_mj"])
        )  # fmt: skip
    simulated = (time.perf_counter() - start) / len(designs)
    base = best["INT16"]
    print(
        "best of 2,000 designs over the best INT16: perf/area, energy (papers, LightPE: 4.9-5.7x)"
    )
    for pe in PE_TYPES:
        print(f"  {pe:<10} {best[pe][0] / base[0]:5.2f}x  {base[1] / best[pe][1]:5.2f}x")
    fitted = fit_surrogate(layers)
    start = time.perf_counter()
    fitted.predict(designs)
    predicted = (time.perf_counter() - start) / len(designs)
    print("polynomial fitted on 300 designs, 200 held out")
    for metric, error in fitted.error.items():
        print(
            f"  {metric:<22} degree {fitted.degree[metric]}  median error {error['median']:.1%}  "
            f"worst {error['worst']:.0%}  Spearman {error['spearman']:.3f}"
        )
    print(f"  {simulated / predicted:.0f}x faster per design than simulating it")


if __name__ == "__main__":
    main()
