"""Step 4: CNNs that start from the chosen filters, against one that starts from random weights."""

from cnnsim_tf.steps.warmstart.repeat import WarmstartResult as Result
from cnnsim_tf.steps.warmstart.repeat import check, compute, passes, sizes
from cnnsim_tf.steps.warmstart.summary import models, summarise
