"""What people who use the package call: `from batchbald_nbdev.all import *`. Chosen by hand, at most seventy names.

Every other public name comes from its own module, `from batchbald_nbdev.information import compute_atoms`."""

from batchbald_nbdev.active_learning import evaluate, train_models, acquire, run_trials
from batchbald_nbdev.bald import (
    compute_bald,
    compute_variation_ratios,
    compute_mean_std,
    CandidateBatch,
    get_top_k_batch,
    get_bald_batch,
)
from batchbald_nbdev.batchbald import get_batchbald_batch
from batchbald_nbdev.bayesian_models import ConsistentDropout, ConsistentDropout2d, make_consistent
from batchbald_nbdev.collect import collect_log_probs, collect_ensemble_log_probs
from batchbald_nbdev.command_line import batchbald_compare, select_batch, batchbald_select
from batchbald_nbdev.datasets import (
    mnist_initial_indices,
    ActiveLearningData,
    make_active_learning_data,
    get_repeated_digits,
    get_balanced_indices,
    make_imbalanced,
    flip_labels,
    example_log_probs,
)
from batchbald_nbdev.distributed import get_distributed_batchbald_batch
from batchbald_nbdev.epig import (
    compute_epig,
    get_epig_batch,
    compute_epig_bald,
    get_batchepig_batch,
    get_batchepigbald_batch,
    get_softmaxepig_batch,
)
from batchbald_nbdev.experiments import presets, compare_methods
from batchbald_nbdev.image_sets import load_images
from batchbald_nbdev.information import check_log_probs, as_log_probs, compute_entropy, compute_conditional_entropy
from batchbald_nbdev.joint_entropy import (
    JointEntropy,
    ExactJointEntropy,
    SampledJointEntropy,
    DynamicJointEntropy,
    WeightedJointEntropy,
)
from batchbald_nbdev.kbald import (
    get_kbald_batch,
    get_dynamic_kbald_batch,
    get_dynamic_batchbald_batch,
    get_conservativebald_batch,
    get_budgetbald_batch,
    get_largebatchbald_batch,
)
from batchbald_nbdev.label_panel import label_by_hand
from batchbald_nbdev.methods import methods, Round, Method, register, get_method
from batchbald_nbdev.networks import make_mlp, make_mnist_cnn
from batchbald_nbdev.plain_batchbald import CeilingWarning
from batchbald_nbdev.plots import plot_i_diagram, plot_learning_curves
from batchbald_nbdev.stochastic import (
    get_softmax_batch,
    get_power_batch,
    get_softrank_batch,
    get_random_batch,
    get_softmaxbald_batch,
    get_powerbald_batch,
    get_softrankbald_batch,
)
