#!/bin/sh
# Do Laplace's "nn" samples work where its "glm" samples do, and are "glm" samples of two inputs one function?
#
# A good guess: `functional_samples(x, pred_type="nn")` works for a last-layer approximation, which is the default, as it does for one of all
# weights; and the "glm" samples of several inputs, made in one call, are joint draws, so that unlike inputs get draws that correlate little.
# Seen with laplace-torch 0.3: "nn" raises an error that speaks of shapes for the last layer, since the last layer's weights are written over
# those of the whole network. And "glm" draws one normal vector for each sample and uses it for every input, through that input's own
# factor: the first class of any two inputs correlates at 1.00, where weights that are drawn (`la.sample`) give other correlations.
# Whatever compares inputs by these samples, a batch for active learning, say, sees all of them move up and down together.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet laplace-torch==0.3 torch scikit-learn==1.9.1 numpy
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import copy, warnings
import torch
from importlib.metadata import version
from laplace import Laplace
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

warnings.simplefilter("ignore")
X, y = (torch.tensor(o) for o in load_digits(return_X_y=True))
X = X.float() / 16
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
for _ in range(100):
    optimizer.zero_grad(); nn.functional.cross_entropy(net(X[:300]), y[:300]).backward(); optimizer.step()
loader, inputs = DataLoader(TensorDataset(X[:300], y[:300]), batch_size=100), X[300:320]
la = Laplace(copy.deepcopy(net), "classification", subset_of_weights="last_layer", hessian_structure="full")
la.fit(loader)
print("laplace-torch", version("laplace-torch"), "torch", torch.__version__)
try:
    la.functional_samples(inputs, pred_type="nn", n_samples=5)
    raised = None
except RuntimeError as e:
    raised = str(e)
print("last layer, nn:", raised)
whole = Laplace(copy.deepcopy(net), "classification", subset_of_weights="all", hessian_structure="diag")
whole.fit(loader)
print("all weights, nn:", tuple(whole.functional_samples(inputs, pred_type="nn", n_samples=5).shape))

def correlations(samples_K_N): return torch.corrcoef(samples_K_N.T)[torch.triu_indices(20, 20, 1).unbind()]

glm = la.functional_samples(inputs, pred_type="glm", n_samples=2000)[:, :, 0]
weights = la.sample(2000)
features = nn.Sequential(*net[:2])(inputs).detach()
W, b = weights[:, :320].view(-1, 10, 32), weights[:, 320:]
drawn = (torch.einsum("kcf,nf->knc", W, features) + b[:, None])[:, :, 0]
print(f"class 0 of two inputs: glm {correlations(glm).min():.3f} at least, weights {correlations(drawn).min():.3f} at least")
assert raised and "invalid for input of size" in raised
assert correlations(glm).min() > 0.999 and correlations(drawn).min() < 0.99
print("as seen")
PYTHON
