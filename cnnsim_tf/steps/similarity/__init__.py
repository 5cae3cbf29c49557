"""Step 3: how alike the donors' filters and layers are, and which filters are chosen."""

from cnnsim_tf.steps.similarity.repeat import SimilarityResult as Result
from cnnsim_tf.steps.similarity.repeat import check, compute, passes, sizes
from cnnsim_tf.steps.similarity.summary import summarise
