#!/bin/sh
# Does a model that adds in place, `y += x`, compute the same after `torch.fx.symbolic_trace`?
#
# A good guess: yes, or tracing refuses it. The graph says `iadd` where the model says `+=`, as it says `relu_` and `add_` for methods, so
# that whatever else holds the tensor sees the change.
# Seen with PyTorch 2.14.1: the stand-in that is traced has no `__iadd__`, so Python takes `y = y + x`, and the graph holds a plain `add`.
# Where another name holds the same tensor (`y = z; y += x`, then both are read), the traced model gives other numbers, without a word.
# `y.add_(x)` is traced as it is and right. So graphs made by tracing (quantisation, fusing, pruning) have to be compared with the model.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 numpy
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch import fx, nn

class Model(nn.Module):
    def __init__(self, method):
        super().__init__()
        self.method = method
    def forward(self, x):
        z = 2 * x
        y = z  # another name for the same tensor
        if self.method: y.add_(x)
        else: y += x
        return y - z  # always 0

x = torch.arange(3.0)
seen = {}
for method in (True, False):
    traced = fx.symbolic_trace(Model(method))
    targets = [getattr(node.target, "__name__", node.target) for node in traced.graph.nodes]
    seen[method] = Model(method)(x).tolist(), traced(x).tolist(), targets
    print("add_" if method else "+=  ", "model", seen[method][0], "traced", seen[method][1], targets)
print("torch", torch.__version__)
assert seen[True][:2] == ([0, 0, 0], [0, 0, 0]) and "add_" in seen[True][2]
assert seen[False][:2] == ([0, 0, 0], [0, 1, 2]) and not any("iadd" in str(o) for o in seen[False][2])
print("as seen")
PYTHON
