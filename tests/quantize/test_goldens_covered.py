"""No golden value of the quantization sheet is forgotten: a test reads it, or it stands here with
the reason why none does. (QKeras' cases: ``LEFT_OUT`` in ``test_goldens_levels``.)"""

import inspect
import re

import pytest
import test_goldens_levels
import test_goldens_uniform

LEFT_OUT = {
    r"\.about": "says what the file is",
    r"\.kl_thresholds.*\.(n_bins|bin_width|abs_max)": "on the way to the threshold",
    r".*_?roundmask": "torch's gradient mask; apq's is the published one, on what is not rounded",
    r"\.lsq.*\.torch_op_.*": "compared with the operator itself",
    r"\.lsq.*\.step_init": "LSQ's start, behind the others in the sheet's comparison, not offered",
    r"\.kmeans_1d.*\.library_.*": "scikit-learn's, further off than the optimum",
    r"\.(lsq|po2).*\.(bits|narrow)|\.lsq_per_channel.*\.q[np]": "other fields say the same",
    r"\.pact.*\.input": "says what the input is",
}


class Read(dict):
    """A mapping that notes which of its leaves were read."""

    def __init__(self, data, path, seen):
        super().__init__({k: noting(v, f"{path}.{k}", seen) for k, v in data.items()})
        self.path, self.seen = path, seen

    def __getitem__(self, key):
        self.seen.add(f"{self.path}.{key}")
        return super().__getitem__(key)

    def get(self, key, default=None):
        self.seen.add(f"{self.path}.{key}")
        return super().get(key, default)


def noting(value, path, seen):
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [Read(v, f"{path}[{i}]", seen) for i, v in enumerate(value)]
    return Read(value, path, seen) if isinstance(value, dict) else value


def leaves(value, path=""):
    if isinstance(value, dict):
        return [leaf for k, v in value.items() for leaf in leaves(v, f"{path}.{k}")]
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [leaf for i, v in enumerate(value) for leaf in leaves(v, f"{path}[{i}]")]
    return [path]


@pytest.mark.parametrize("file", ["haq", "definitions"])
def test_every_golden_value_is_read(file, request):
    cases, arrays = request.getfixturevalue(file)
    seen = set()
    golden = Read(cases, "", seen), Read(dict(arrays), "array", seen)
    for module in (test_goldens_levels, test_goldens_uniform):
        for name, test in inspect.getmembers(module, inspect.isfunction):
            if name.startswith("test_") and list(inspect.signature(test).parameters) == [file]:
                test(golden)
    unread = {*leaves(cases), *(f"array.{name}" for name in arrays)} - seen
    forgotten = [x for x in unread if not any(re.fullmatch(why, x) for why in LEFT_OUT)]
    assert not forgotten


def test_every_reason_is_needed(haq, definitions):
    known = [leaf for cases, _ in (haq, definitions) for leaf in leaves(cases)]
    for pattern in LEFT_OUT:
        assert any(re.fullmatch(pattern, leaf) for leaf in known), pattern
