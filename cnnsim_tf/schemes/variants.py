"""Variants: names for combinations of a measure and a scheme, and for groups of them."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cnnsim_tf.errors import ParameterError
from cnnsim_tf.measures import MEASURES, get_measure
from cnnsim_tf.pipeline import donor_labels
from cnnsim_tf.registry import unknown_name
from cnnsim_tf.schemes.controls import donor_of, donor_scheme
from cnnsim_tf.schemes.entries import PUBLISHED_SCHEME, SCHEMES, Kind, Scheme, get_scheme
from cnnsim_tf.study import Study

# What a group's name stands for in a list of variants: the schemes of some kinds, with every measure.
GROUPS: dict[str, tuple[Kind, ...]] = {
    "published": ("baseline", "published"),
    "controls": ("control",),
    "candidates": ("candidate",),
    "all": ("baseline", "published", "control", "candidate"),
}
EACH_DONOR = "each_donor"  # a group, too: all weights of donor 1, of donor 2, …


@dataclass(frozen=True)
class Variant:
    """A named combination of a measure and a scheme; the measure is None for a scheme that needs none."""

    name: str
    measure: str | None
    scheme: str


def expand_variants(names: Iterable[str], measures: Sequence[str], donors: int = 0) -> tuple[str, ...]:
    """Return names of variants with the groups among them written out, in order, each variant once.

    Groups are `published` (random_init and every measure), `controls`, `candidates` and `all` of them: each scheme of
    that kind, with every measure where it needs one; and `each_donor`, `donor_1` to the number of donors. Other names
    stay as they are, known or not.
    """
    expanded: dict[str, str] = {}
    each = {group: _members(group, measures) for group in GROUPS}
    each[EACH_DONOR] = [f"donor_{d}" for d in range(1, donors + 1)]
    for name in names:
        for one in each.get(name, [name]):
            expanded.setdefault(one.removesuffix(f"+{PUBLISHED_SCHEME}"), one)  # two names of the same variant
    return tuple(expanded.values())


def _members(group: str, measures: Sequence[str]) -> list[str]:
    members = []
    for kind in GROUPS[group]:
        for name in SCHEMES:
            entry = get_scheme(name)
            if entry.kind != kind:
                continue
            if not entry.needs_measure:
                members.append(name)
            elif name == PUBLISHED_SCHEME:
                members += measures
            else:
                members += [f"{measure}+{name}" for measure in measures]
    return members


def parse_variant(name: str, measures: Sequence[str]) -> Variant:
    """Return what a variant's name stands for.

    It is a measure alone (with the published scheme), `measure+scheme`, or the name alone of a scheme that needs no
    measure, such as `random_init`.

    Raises:
        ParameterError: its measure or scheme is unknown, the scheme needs a measure and has none or the other way
            round, or the measure is not among the study's measures.
    """
    if number := donor_of(name):
        donor_scheme(number)  # which is not registered before it is named
    measure_name, plus, scheme_name = name.partition("+")
    if not plus and _is_scheme(name):
        if get_scheme(name).needs_measure:
            example = measures[0] if measures else next(iter(MEASURES))
            also = f", or {example}" if name == PUBLISHED_SCHEME else ""
            raise ParameterError(f"the variant {name!r} needs a measure: write {example}+{name}{also}")
        return Variant(name, None, name)
    if not plus:
        scheme_name = PUBLISHED_SCHEME
    try:
        get_measure(measure_name)
    except ParameterError as error:
        if plus or ":" in name:
            raise
        alone = [s for s in SCHEMES if not get_scheme(s).needs_measure]
        raise unknown_name(
            "variant", name, [*alone, *MEASURES, *GROUPS, EACH_DONOR], f"measure+scheme, {_schemes()}"
        ) from error
    if not get_scheme(scheme_name).needs_measure:
        raise ParameterError(
            f"the variant {name!r} has a measure, of which {scheme_name} makes no use: write {scheme_name}"
        )
    if measure_name not in measures:
        raise ParameterError(
            f"the variant {name!r} needs the measure {measure_name!r}, but measures is {','.join(measures)}: "
            "add it there or leave the variant out"
        )
    return Variant(name, measure_name, scheme_name)


def variants_of(study: Study) -> list[Variant]:
    """Return a study's variants, in order.

    Raises:
        ParameterError: one is unknown, at odds with the measures, or another one under a second name.
    """
    variants = [parse_variant(name, study.measures) for name in study.variants]
    first: dict[tuple[str | None, str], Variant] = {}
    for one in variants:
        if (other := first.setdefault((one.measure, one.scheme), one)) is not one:
            raise ParameterError(f"the variants {other.name!r} and {one.name!r} are the same: leave one out")
    return variants


def schemes_of(study: Study) -> list[str]:
    """Return the schemes of a study's variants, each once.

    Raises:
        ParameterError: as variants_of.
    """
    return list(dict.fromkeys(variant.scheme for variant in variants_of(study)))


def expanded(study: Study, *, with_variants: bool = True) -> Study:
    """Return the study with the names that groups of measures and variants stand for.

    Args:
        study: the study.
        with_variants: whether its variants mean something and have to be known.

    Raises:
        ParameterError: a name is unknown, as far as no module of the user's own has to be imported to tell.
    """
    for given in study.measures:
        if given != "all":
            MEASURES.check(given)  # before the variants, whose measures would be missed first
    written_out = [name for given in study.measures for name in (MEASURES if given == "all" else [given])]
    measures = tuple(dict.fromkeys(written_out))
    variants = expand_variants(study.variants, measures, len(donor_labels(study)))
    for name in variants if with_variants else ():
        if ":" not in name:
            parse_variant(name, measures)
    return dataclasses.replace(study, measures=measures, variants=variants)


def _is_scheme(name: str) -> bool:
    """Tell whether a name without a measure is a scheme's: a user's own is one if it is an instance of Scheme."""
    if name in SCHEMES:
        return True
    try:
        return ":" in name and isinstance(SCHEMES.found(name), Scheme)
    except ParameterError:  # the measure's error says more: a name alone is a measure's
        return False


def _schemes() -> str:
    names = [s for s in SCHEMES if get_scheme(s).needs_measure]
    return f"where a scheme is one of {', '.join(names)}"
