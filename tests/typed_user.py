"""A user's program, as mypy sees it (pyproject.toml lists it); tests/test_library.py says of what.

The first part is the example of docs/library.md.
"""

import apq
from apq import (  # noqa: F401  (each must be there)
    ApqError,
    Candidate,
    FinetuneRecipe,
    Quantization,
    Space,
    SupernetRecipe,
    Task,
    build_table,
    collect_samples,
    export,
    fair_baselines,
    finetune,
    load_cost_model,
    load_images,
    load_model,
    load_predictor,
    load_space,
    load_supernet,
    price_space,
    read_lut,
    read_measurements,
    read_onnx,
    read_samples,
    save_supernet,
    search_front,
    shipped,
    trace,
    train_predictor,
    train_supernet,
    verify,
)

space = apq.load_space("digits")
images = apq.load_images("digits", space.resolution, space.in_channels)
recipe = apq.SupernetRecipe(epochs=40, batch=64)
supernet = apq.train_supernet(space, images, "mine/supernet.safetensors", recipe)
apq.collect_samples(supernet, images, "mine/fp32", 300)
apq.collect_samples(supernet, images, "mine/quantized", 80, apq.Quantization(finetune_steps=20))
samples = apq.read_samples("mine/fp32"), apq.read_samples("mine/quantized")
predictor = apq.train_predictor(*samples)
table = apq.build_table(space, apq.load_cost_model("bitfusion-apq"))
priced = apq.price_space(space, table)
found = apq.search_front(priced, predictor.predict, {"latency_ms": 0.02})
model, report = apq.finetune(found, supernet, images, "mine/model.safetensors")
file = apq.export(model, "mine/model.onnx")
print(found.accuracy, report.after, apq.verify(model, file.path, images).accuracy)

candidate: apq.Candidate = found.candidate
size: int = file.file_bytes
after: float = report.after
wrong: int = apq.load_space("digits")  # type: ignore[assignment]
