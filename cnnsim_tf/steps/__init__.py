"""The four steps of a study: noising, subset training, similarity, warm start."""
