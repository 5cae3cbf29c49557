import keras
import numpy as np
import pytest

from cnnsim_tf.filters import (
    MOST_SHOWN,
    ConvKernel,
    filter_names,
    first_filters,
    groups_of,
    kind_of,
    to_filters,
    with_filters,
)
from cnnsim_tf.models import build, conv_kernels, fresh_weights

PUBLISHED_ORDER = [
    *("conv1[out 0]", "conv1[out 1]"),
    *("conv2[out 0][in 0]", "conv2[out 0][in 1]", "conv2[out 1][in 0]", "conv2[out 1][in 1]"),
    *("conv2[out 2][in 0]", "conv2[out 2][in 1]", "conv2[out 3][in 0]", "conv2[out 3][in 1]"),
]


def wide(side, classes):
    """Return a user's CNN with kernels of several sizes, one of them without bias, one not square."""
    layers = keras.layers
    image = keras.Input((side, side, 1))
    x = layers.Conv2D(3, 5, use_bias=False, name="first")(image)
    x = layers.Dense(2, name="between")(x)
    x = layers.Conv2D(4, (2, 3), name="second")(x)
    x = layers.Conv2D(2, 1, name="third")(x)
    return keras.Model(image, layers.Dense(classes)(layers.Flatten()(x)))


CNNS = ["reference", f"{__name__}:wide"]


def kernels_of(cnn):
    return conv_kernels(build(cnn, 12, 10))


def numbered(kernels, weights):
    """Return weights whose conv kernels say where each of their numbers stands: out, in, row, column."""
    result = [np.array(w) for w in weights]
    for kernel in kernels:
        row, column, channel_in, channel_out = np.indices(kernel.shape)
        result[kernel.position] = 1000 * channel_out + 100 * channel_in + 10 * row + column
    return result


def test_the_reference_cnn_has_ten_filters_in_two_kernels():
    assert kernels_of("reference") == [ConvKernel("conv1", 0, (3, 3, 1, 2)), ConvKernel("conv2", 2, (3, 3, 2, 4))]
    assert [k.filters for k in kernels_of("reference")] == [2, 8]


def test_filters_are_named_in_the_published_order():
    assert filter_names(kernels_of("reference")) == PUBLISHED_ORDER


def test_kernels_are_found_among_other_weights_whatever_their_size():
    assert kernels_of(CNNS[1]) == [
        ConvKernel("first", 0, (5, 5, 1, 3)),
        ConvKernel("second", 3, (2, 3, 2, 4)),
        ConvKernel("third", 5, (1, 1, 4, 2)),
    ]


@pytest.mark.parametrize("cnn", CNNS)
def test_filters_stand_in_the_published_order_with_rows_and_columns_in_place(cnn):
    kernels = kernels_of(cnn)
    layers = to_filters(numbered(kernels, fresh_weights(cnn, 12, 10, 0)), kernels)
    assert [layer.shape for layer in layers] == [(k.filters, *k.shape[:2]) for k in kernels]
    for kernel, layer in zip(kernels, layers, strict=True):
        height, width, channels_in, channels_out = kernel.shape
        places = [(o, i) for o in range(channels_out) for i in range(channels_in)]
        for (o, i), array in zip(places, layer, strict=True):
            for row in range(height):
                for column in range(width):
                    assert array[row, column] == 1000 * o + 100 * i + 10 * row + column


@pytest.mark.parametrize("cnn", CNNS)
def test_every_filter_is_the_slice_of_the_kernel_that_its_name_says(cnn):
    kernels, weights = kernels_of(cnn), fresh_weights(cnn, 12, 10, 1)
    names = iter(filter_names(kernels))
    for kernel, layer in zip(kernels, to_filters(weights, kernels), strict=True):
        several = kernel.shape[2] > 1
        for array in layer:
            name = next(names)
            out = int(name.split("[out ")[1].split("]")[0])
            channel_in = int(name.split("[in ")[1].split("]")[0]) if several else 0
            assert name.startswith(f"{kernel.layer}[")
            np.testing.assert_array_equal(array, weights[kernel.position][:, :, channel_in, out])
    assert next(names, None) is None


@pytest.mark.parametrize("leading", [(), (6,), (3, 6)])
@pytest.mark.parametrize("cnn", CNNS)
def test_filters_and_back_is_the_same_bit_for_bit(cnn, leading):
    kernels, rng = kernels_of(cnn), np.random.default_rng(0)
    shapes = [w.shape for w in fresh_weights(cnn, 12, 10, 0)]
    weights = [rng.standard_normal((*leading, *shape)).astype(np.float32) for shape in shapes]
    layers = to_filters(weights, kernels)
    assert [layer.shape for layer in layers] == [(*leading, k.filters, *k.shape[:2]) for k in kernels]
    back = with_filters([np.zeros_like(w) for w in weights], kernels, layers)
    positions = [k.position for k in kernels]
    for i, (old, new) in enumerate(zip(weights, back, strict=True)):
        assert (new.shape, new.dtype) == (old.shape, old.dtype)
        assert new.tobytes() == (old if i in positions else np.zeros_like(old)).tobytes()


def test_leading_axes_are_as_good_as_a_loop():
    kernels = kernels_of("reference")
    donors = [fresh_weights("reference", 12, 10, seed) for seed in range(4)]
    together = to_filters([np.stack(w) for w in zip(*donors, strict=True)], kernels)
    for d, weights in enumerate(donors):
        for layer, alone in zip(together, to_filters(weights, kernels), strict=True):
            np.testing.assert_array_equal(layer[d], alone)


def test_weights_that_are_given_are_not_changed_nor_shared():
    kernels, weights = kernels_of("reference"), fresh_weights("reference", 12, 10, 0)
    before = [w.copy() for w in weights]
    made = with_filters(weights, kernels, [np.ones_like(layer) for layer in to_filters(weights, kernels)])
    for old, new, original in zip(weights, made, before, strict=True):
        assert not np.shares_memory(old, new)
        np.testing.assert_array_equal(old, original)


def test_a_model_takes_weights_made_of_filters_and_gives_them_back():
    model = build("reference", 12, 10)
    kernels = conv_kernels(model)
    filters = [np.random.default_rng(1).random((k.filters, 3, 3), np.float32) for k in kernels]
    model.set_weights(with_filters(model.get_weights(), kernels, filters))
    for name, layer in zip(("conv1", "conv2"), filters, strict=True):
        kernel = model.get_layer(name).kernel.numpy()
        np.testing.assert_array_equal(kernel[:, :, -1, 1], layer[1 if name == "conv1" else 3])


# --- what is shown of many ------------------------------------------------------------------------------------------


def of_sizes(*filters):
    return [ConvKernel(f"conv{i}", i, (3, 3, 1, count)) for i, count in enumerate(filters, 1)]


def test_few_filters_are_shown_one_by_one():
    kernels = of_sizes(2, MOST_SHOWN - 2)
    assert first_filters(kernels) == list(range(MOST_SHOWN))
    groups = groups_of(kernels, MOST_SHOWN)
    assert [name for name, _ in groups] == filter_names(kernels)
    assert [at for _, at in groups] == [slice(f, f + 1) for f in range(MOST_SHOWN)]
    assert kind_of(groups) == "filter"


@pytest.mark.parametrize("sizes", [(24, 676), (1, 80), (4, 4, 4, 1000, 7), (2,) * 100])
def test_of_many_filters_the_first_of_every_layer_are_shown_and_layers_as_a_whole(sizes):
    kernels, ends = of_sizes(*sizes), np.cumsum(sizes)
    which = first_filters(kernels)
    in_layers = [[f for f in which if end - size <= f < end] for size, end in zip(sizes, ends, strict=True)]
    each = max(map(len, in_layers))
    assert in_layers == [list(range(e - s, e))[:each] for s, e in zip(sizes, ends, strict=True)]
    assert len(which) <= max(MOST_SHOWN, len(sizes)) and (len(which) > MOST_SHOWN - len(sizes) or each == 1)
    groups = groups_of(kernels, MOST_SHOWN)
    assert [(at.start, at.stop) for _, at in groups] == list(zip(ends - sizes, ends, strict=True))
    assert groups[0][0] == f"conv1, {sizes[0]} filter{'s' * (sizes[0] > 1)}"
    assert kind_of(groups) == "layer"
