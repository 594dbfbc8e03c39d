"Every public name of the package: `from batchbald_nbdev.all import *`. Kept by hand; a new module joins here."

from batchbald_nbdev.active_learning import *
from batchbald_nbdev.bald import *
from batchbald_nbdev.batchbald import *
from batchbald_nbdev.bayesian_models import *
from batchbald_nbdev.collect import *
from batchbald_nbdev.command_line import *
from batchbald_nbdev.datasets import *
from batchbald_nbdev.distributed import *
from batchbald_nbdev.epig import *
from batchbald_nbdev.experiments import *
from batchbald_nbdev.image_sets import *
from batchbald_nbdev.information import *
from batchbald_nbdev.joint_entropy import *
from batchbald_nbdev.kbald import *
from batchbald_nbdev.label_panel import *
from batchbald_nbdev.labelling import *
from batchbald_nbdev.methods import *
from batchbald_nbdev.networks import *
from batchbald_nbdev.plain_batchbald import *
from batchbald_nbdev.plots import *
from batchbald_nbdev.records import *
from batchbald_nbdev.stochastic import *
