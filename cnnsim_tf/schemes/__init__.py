"""Schemes: how initial weights are made out of donors; and variants, which name a measure and a scheme."""

from cnnsim_tf.schemes import calibration, controls, filterwise, whole_networks  # noqa: F401 - they register
from cnnsim_tf.schemes.controls import random_init, transplant
from cnnsim_tf.schemes.entries import (
    PUBLISHED_SCHEME,
    SCHEMES,
    Kind,
    Scheme,
    SchemeFunction,
    get_scheme,
    make_weights,
)
from cnnsim_tf.schemes.ingredients import Choice, Ingredients, drawn_filters, one_donors_weights, pair_filters
from cnnsim_tf.schemes.variants import (
    GROUPS,
    Variant,
    expand_variants,
    expanded,
    parse_variant,
    schemes_of,
    variants_of,
)

__all__ = [
    "GROUPS",
    "PUBLISHED_SCHEME",
    "SCHEMES",
    "Choice",
    "Ingredients",
    "Kind",
    "Scheme",
    "SchemeFunction",
    "Variant",
    "drawn_filters",
    "expand_variants",
    "expanded",
    "get_scheme",
    "make_weights",
    "one_donors_weights",
    "pair_filters",
    "parse_variant",
    "random_init",
    "schemes_of",
    "transplant",
    "variants_of",
]
