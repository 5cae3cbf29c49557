"""Schemes: how initial weights are made out of donors; and variants, which name a measure and a scheme."""

from cnnsim_tf.schemes import calibration, controls, filterwise, whole_networks  # they register
from cnnsim_tf.schemes.controls import donor_of, random_init, transplant
from cnnsim_tf.schemes.entries import (
    PUBLISHED_SCHEME,
    SCHEMES,
    Scheme,
    get_scheme,
    make_weights,
)
from cnnsim_tf.schemes.ingredients import Choice, Ingredients, Layer, drawn_filters, one_donors_weights, pair_filters
from cnnsim_tf.schemes.variants import (
    GROUPS,
    Variant,
    expand_variants,
    expanded,
    parse_variant,
    schemes_of,
    variants_of,
)
